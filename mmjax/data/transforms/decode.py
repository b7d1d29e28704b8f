"""Encoded pictures: their size from the header, their pixels only when asked."""

import abc
import dataclasses
import functools
import io
import threading

import numpy as np
import simplejpeg
from jaxtyping import UInt8
from PIL import Image

from mmjax.data.sources.base import BadSample
from mmjax.data.transforms.header import MAX_PIXELS, MAX_SIDE, Header, read_header

__all__ = ["DENOMINATORS", "EncodedImage", "PendingImage", "pixels"]

DENOMINATORS = (8, 4, 2)  # libjpeg-turbo's odd eighths take longer than a full decode
MAX_SCRATCH_BYTES = 16 * 2**20

_scratch = threading.local()


def _scratch_buffer(size: int) -> UInt8[np.ndarray, "bytes"] | None:
    """This thread's own memory for a picture that is used up at once.

    Fresh memory of this size comes page by page from the kernel: a tenth of the decoding time.
    """
    if size > MAX_SCRATCH_BYTES:
        return None
    buffer = getattr(_scratch, "buffer", None)
    if buffer is None or buffer.size < size:
        buffer = _scratch.buffer = np.empty(max(size, 2**20), np.uint8)
    return buffer


def upright(
    image: UInt8[np.ndarray, "height width 3"], orientation: int
) -> UInt8[np.ndarray, "upright_height upright_width 3"]:
    """A view of the pixels as EXIF wants them shown.

    Source: EXIF 2.32, tag 0x0112.
    """
    if orientation >= 5:
        image = image.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    return image


def _on_background(
    picture: Image.Image, background: tuple[int, int, int]
) -> UInt8[np.ndarray, "height width 3"]:
    """RGB pixels of any mode that Pillow reads from the allowed formats."""
    if picture.mode.startswith("I"):  # 16 bits of grey; Pillow's own conversion clips them
        values = np.asarray(picture)
        grey = Image.fromarray((values >> 8).astype(np.uint8))
        clear = picture.info.get("transparency")
        if clear is not None:
            alpha = np.where(values == clear, 0, 255).astype(np.uint8)
            grey = Image.merge("LA", (grey, Image.fromarray(alpha)))
        picture = grey
    if picture.has_transparency_data:
        canvas = Image.new("RGBA", picture.size, (*background, 255))
        canvas.alpha_composite(picture.convert("RGBA"))
        picture = canvas
    return np.array(picture.convert("RGB"))


@dataclasses.dataclass(frozen=True)
class EncodedImage:
    """The bytes of a picture file, decoded only when asked.

    A crop is drawn from the header's size, and the picture then decoded no larger than needed.

    Args:
      data: the file's bytes: JPEG, PNG, WebP or GIF (of animations the first frame).
      name: what to call the picture in errors, e.g. 'shard-000.tar/000123.jpg'.
      background: the colour that transparent pixels are laid on, 0 to 255 each.
      max_pixels: larger pictures are refused from their header.
      max_side: the same for one side, in pixels.
      may_pend: whether what is cut from it may be a `PendingImage`; who makes batches asks for it.
    """

    data: bytes = dataclasses.field(repr=False)
    name: str
    background: tuple[int, int, int] = (255, 255, 255)
    max_pixels: int = MAX_PIXELS
    max_side: int = MAX_SIDE
    may_pend: bool = False

    @functools.cached_property
    def header(self) -> Header:
        """What the picture says of itself; nothing is decoded.

        Raises:
          BadSample: 'format', 'too_large' or 'decode' (a broken header).
        """
        try:
            return read_header(self.data, self.max_pixels, self.max_side)
        except BadSample as error:
            raise BadSample(error.cause, f"{self.name}: {error.message}") from None

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels after EXIF rotation, from the header alone.

        Raises:
          BadSample: as `header`.
        """
        header = self.header
        if header.orientation >= 5:
            return header.width, header.height
        return header.height, header.width

    @property
    def reducible(self) -> bool:
        """Whether `decode` follows a denominator: a JPEG in grey or colour, not CMYK."""
        return self.header.channels in (1, 3)

    def decode(
        self, denominator: int = 1, scratch: bool = False
    ) -> UInt8[np.ndarray, "height width 3"]:
        """RGB pixels, upright and free of transparency.

        A JPEG that is cut or damaged is refused, not filled with grey: the decoder's warnings are
        errors here.

        Args:
          denominator: 1, 2, 4 or 8; sides become ceil(side / denominator). Only where `reducible`.
          scratch: the result may lie in memory that this thread's next such call overwrites.

        Raises:
          BadSample: as `header`, and 'decode' where the pixels cannot be read.
          ValueError: a denominator that this picture cannot be decoded at.
        """
        header = self.header
        if denominator != 1 and not (denominator in DENOMINATORS and self.reducible):
            raise ValueError(
                f"{self.name} cannot be decoded at 1/{denominator}: JPEGs in grey or colour can, "
                f"at 1/1 or one of {', '.join(f'1/{d}' for d in DENOMINATORS)}."
            )
        try:
            image = self._jpeg(denominator, scratch) if self.reducible else self._by_pillow()
        except BadSample:
            raise
        except Exception as error:  # decoders raise what they like on hostile bytes
            raise BadSample("decode", f"{self.name}: {error}") from None
        return upright(image, header.orientation)

    def _jpeg(self, denominator: int, scratch: bool) -> UInt8[np.ndarray, "height width 3"]:
        height = -(-self.header.height // denominator)
        width = -(-self.header.width // denominator)
        return simplejpeg.decode_jpeg(
            self.data,
            # With these three libjpeg-turbo has no factor to choose but 1 / denominator.
            min_height=height,
            min_width=width,
            min_factor=denominator,
            buffer=_scratch_buffer(3 * height * width) if scratch else None,
        )

    def _by_pillow(self) -> UInt8[np.ndarray, "height width 3"]:
        header = self.header
        with Image.open(io.BytesIO(self.data), formats=(header.format,)) as picture:
            if picture.size != (header.width, header.height):
                raise BadSample(
                    "decode",
                    f"{self.name}: its header says {header.width} × {header.height} pixels, its "
                    f"picture {picture.size[0]} × {picture.size[1]}",
                )
            return _on_background(picture, self.background)


class PendingImage(abc.ABC):
    """A picture that is settled but not made yet: its pixels come when somebody asks for them.

    So the rows of a batch are drawn one after another, and then their pictures are made one after
    another, straight into the batch: between two decodings the interpreter's own code has left
    the processor's cache, and a row drawn between them takes nearly twice as long. A transform that
    has `leaves_pending = True` either asks `pixels` for them or leaves the picture alone; before
    any other the pixels are made.

    Attributes:
      shape: (height, width, 3) of the pixels.
    """

    shape: tuple[int, int, int]

    @abc.abstractmethod
    def render(
        self, out: UInt8[np.ndarray, "height width 3"] | None = None
    ) -> UInt8[np.ndarray, "height width 3"]:
        """The pixels, in `out` where it is given.

        Raises:
          BadSample: the picture cannot be decoded.
        """

    @abc.abstractmethod
    def mirrored(self) -> "PendingImage":
        """The picture with left and right exchanged."""


def pixels(image: EncodedImage | PendingImage | np.ndarray) -> UInt8[np.ndarray, "height width 3"]:
    """A sample's picture as uint8 RGB, decoded whole if it still is encoded, made if pending.

    Raises:
      BadSample: it cannot be decoded, or is an array of another type or shape.
    """
    if isinstance(image, EncodedImage):
        return image.decode()
    if isinstance(image, PendingImage):
        return image.render()
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise BadSample(
            "format", f"a picture is uint8 [height, width, 3], got {image.dtype} {image.shape}"
        )
    return image
