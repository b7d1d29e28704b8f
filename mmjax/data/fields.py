"""What the members of a record mean: which is the picture, which the captions, which the group."""

import dataclasses
from typing import Any

import numpy as np

from mmjax.data.places import LONGEST_TEXT, Reader, places_of
from mmjax.data.sources.base import BadSample, Record, Source
from mmjax.data.transforms.decode import EncodedImage

__all__ = ["Fields", "check_first"]

_SPLITS = ("lines", "none")
_TRIES = 64


@dataclasses.dataclass(frozen=True)
class Fields:
    """Turns a record (members of one sample) into a sample (what transforms work on).

    A place is a member's name ('txt'), or a member that holds JSON and the field in it
    ('json:caption', nested as 'json:photo.title'), or a member that is a `.npz` and the array in it
    ('npz:label'); several with ';' between them are tried in order. '' leaves a field out.

    Attributes:
      image_from: the picture: an encoded file, or RGB pixels as a uint8 array.
      caption_from: the captions; a JSON list holds several.
      caption_split: 'lines': each line of a text is a caption of its own; 'none': a text is one.
      group_from: what pictures of one thing share, a text or number; such rows are positives of
        each other. '__key__' is the record's own name.
      label_from: the class number.
      background: the colour that transparent pixels are laid on, red, green, blue, 0 to 255.

    Raises:
      ValueError: an option outside of these.
    """

    image_from: str = "jpg;jpeg;png;webp"
    caption_from: str = "txt"
    caption_split: str = "lines"
    group_from: str = ""
    label_from: str = ""
    background: tuple[int, int, int] = (255, 255, 255)

    def __post_init__(self) -> None:
        if self.caption_split not in _SPLITS:
            raise ValueError(
                f"caption_split={self.caption_split!r}; it is one of {', '.join(_SPLITS)}."
            )
        if len(self.background) != 3 or not all(0 <= level <= 255 for level in self.background):
            raise ValueError(f"background={self.background}; give red, green, blue from 0 to 255.")
        for option in ("image_from", "caption_from", "group_from", "label_from"):
            for member, path in places_of(getattr(self, option)):
                if not member or path == "":
                    raise ValueError(
                        f"{option}={getattr(self, option)!r}; write it as 'txt', 'json:field' or "
                        "'jpg;png', or '' to do without."
                    )

    def __call__(self, record: Record) -> dict[str, Any]:
        """The sample: 'image', 'captions', 'group' and 'label' as far as asked for.

        Args:
          record: of a source.

        Returns:
          'image' (`EncodedImage` or uint8 [height, width, 3]), 'captions' (one at least), 'group',
          'label', and always 'key' and the 'record' itself.

        Raises:
          BadSample: 'missing', with the members that were found; 'format' or 'caption' where a
            member holds something else than the option says.
        """
        sample: dict[str, Any] = {"key": str(record.get("__key__", "")), "record": record}
        read = Reader(record)
        if self.image_from:
            name, value = read.find("image_from", self.image_from)
            sample["image"] = self._image(value, read.where(name))
        if self.caption_from:
            name, value = read.find("caption_from", self.caption_from)
            sample["captions"] = self._captions(value, read.where(name))
        if self.group_from:
            name, value = read.find("group_from", self.group_from)
            sample["group"] = _group(value, read.where(name))
        if self.label_from:
            name, value = read.find("label_from", self.label_from)
            sample["label"] = _label(value, read.where(name))
        return sample

    def _image(self, value: Any, where: str) -> EncodedImage | np.ndarray:
        if isinstance(value, bytes):
            return EncodedImage(value, where, self.background)
        if getattr(value, "dtype", None) == np.uint8 and np.shape(value)[2:] == (3,) and value.size:
            return value
        what = getattr(value, "shape", type(value).__name__)
        raise BadSample("format", f"{where} is no picture but {what}.")

    def _captions(self, value: Any, where: str) -> tuple[str, ...]:
        if isinstance(value, np.ndarray):
            value = value.tolist()
        if isinstance(value, list | tuple):
            texts = [_text(item, where) for item in value]
        else:
            text = _text(value, where)
            texts = [text]
            if self.caption_split == "lines":
                texts = text.replace("\r", "\n").split("\n")
        captions = tuple(stripped for text in texts if (stripped := text.strip()))
        if not captions:
            raise BadSample("caption", f"{where} is empty.")
        return captions


def check_first(source: Source, fields: Fields) -> dict[str, Any]:
    """The first usable sample, so that a wrong option stops a run before it trains.

    Args:
      source: where records come from.
      fields: what their members mean.

    Raises:
      ValueError: none of the first 64 samples gives the fields; says what the first one held.
    """
    problem = None
    for position in range(min(_TRIES, len(source))):
        try:
            return fields(source[position])
        except BadSample as error:
            problem = problem or error
    raise ValueError(
        f"{source.describe()}: none of the first {min(_TRIES, len(source))} samples can be used: "
        f"{problem}"
    )


def _text(value: Any, where: str) -> str:
    if isinstance(value, bytes | str) and len(value) > LONGEST_TEXT:
        raise BadSample("caption", f"{where} has {len(value):,} bytes of text.")
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise BadSample("caption", f"{where} is not UTF-8: {error}") from None
    if not isinstance(value, str):
        raise BadSample("caption", f"{where} is no text but {type(value).__name__}.")
    return value


def _group(value: Any, where: str) -> str:
    if isinstance(value, bytes | str):
        text = _text(value, where).strip()
        if text:
            return text
    elif isinstance(value, int | float | np.number) and not isinstance(value, bool):
        return str(value)
    raise BadSample("format", f"{where} is no group: a text or a number is.")


def _label(value: Any, where: str) -> int:
    if isinstance(value, bytes | str):
        text = _text(value, where).strip()
        if text.isascii() and text.isdigit() and len(text) <= 10:
            value = int(text)
    if isinstance(value, np.integer) or (isinstance(value, np.ndarray) and value.ndim == 0):
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 31:
        raise BadSample("format", f"{where} is no class number: 0 or more is.")
    return value
