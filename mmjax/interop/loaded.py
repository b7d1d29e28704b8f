"""A model with its weights, preprocessing and tokenizer: pictures and texts in, embeddings out."""

import dataclasses
import functools
import inspect
import io
import math
import os
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Bool, Float, Int32, UInt8
from PIL import Image, ImageOps

from mmjax import preprocess
from mmjax.data.sources.base import BadSample
from mmjax.data.tokenizers.base import Tokenizer
from mmjax.data.transforms.decode import EncodedImage, pixels
from mmjax.data.transforms.naflex import PATCHES, NaFlex
from mmjax.data.transforms.resize import Resize
from mmjax.data.transforms.text import Tokenize
from mmjax.evaluation.base import unit
from mmjax.evaluation.templates import check, fill
from mmjax.interop.reading import words_of
from mmjax.interop.tensors import WeightsError
from mmjax.parallel.sharding import activations, batch_sharding, specs_of
from mmjax.typing import PyTree

__all__ = ["Loaded", "Origin"]

LARGEST = 64  # rows that go through the model at once
TOKENS, EMBEDDING = slice(0, 3), slice(3, 4)  # of what the model returns
METHODS = {"image": "encode_image", "text": "encode_text"}
# What can be made of pictures and of texts; a method that needs more is not called here.
MADE = {
    "image": ({"image"}, {*PATCHES}),
    "text": ({"token_ids", "text_mask"},),
}

Picture = Any  # a PIL picture, an array [height, width, 3] of uint8, a path, or a file's bytes


@dataclasses.dataclass(frozen=True)
class Origin:
    """Where a model came from.

    Attributes:
      source: as given; an hf:// address with its commit.
      family: kind of published model; of a run of ours that which it began with, or ''.
      config: theirs; the run's where it began with nothing published.
      aside: {their name: array} that our model has no use for.
      step: of a run of ours.
    """

    source: str
    family: str = ""
    config: Mapping[str, Any] = dataclasses.field(default_factory=dict, repr=False)
    aside: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict, repr=False)
    step: int | None = None


@dataclasses.dataclass(frozen=True)
class Loaded:
    """A model that is ready to be asked.

    Attributes:
      model: a flax module.
      variables: {'params': ..., 'batch_stats': ...}.
      contract: how pictures and texts must look.
      tokenizer: text to numbers, or None.
      origin: where it came from.
      missing: {'image' or 'text': what is not there for such calls}.
      mesh: devices over which parameters and rows are divided, or None.
    """

    model: Any
    variables: Mapping[str, PyTree] = dataclasses.field(repr=False)
    contract: preprocess.Contract
    tokenizer: Tokenizer | None
    origin: Origin
    missing: Mapping[str, str] = dataclasses.field(default_factory=dict)
    mesh: Mesh | None = None

    @property
    def params(self) -> PyTree:
        """The parameters, a nested dict of arrays."""
        return self.variables["params"]

    @property
    def calls(self) -> tuple[str, ...]:
        """The calls that this model has."""
        made: list[str] = []
        for kind, method in METHODS.items():
            if hasattr(type(self.model), method):
                made.append(method)
            if self._method(kind):
                made.append(f"tokens_{kind}")
        both = all(method in made for method in METHODS.values())
        return (*made, "similarity", "classify") if both else tuple(made)

    def encode_image(
        self, images: Picture | Sequence[Picture]
    ) -> Float[np.ndarray, "pictures dim"]:
        """Embeddings of pictures, at unit length.

        Args:
          images: PIL pictures, arrays [height, width, 3] of uint8, paths or files' bytes; one or
            any number of them.

        Raises:
          WeightsError: the model has no such call, or its files do not say how pictures must look.
          ValueError: a picture that cannot be read.
        """
        self._need("encode_image", "image")
        return self._encode("image", self.pixels(images), tokens=False)[0]

    def encode_text(self, texts: str | Sequence[str]) -> Float[np.ndarray, "texts dim"]:
        """Embeddings of texts, at unit length.

        Raises:
          WeightsError: the model has no such call, or no tokenizer lies beside its weights.
        """
        self._need("encode_text", "text")
        seen = getattr(getattr(self.model, "text", None), "sees_padding", True)
        return self._encode("text", self.token_ids(texts), tokens=False, shorten=not seen)[0]

    def tokens_image(
        self, images: Picture | Sequence[Picture]
    ) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
        """(tokens, mask of the real ones or None, pooled vector before unit length) of pictures."""
        self._need("tokens_image", "image")
        return self._encode("image", self.pixels(images), tokens=True)

    def tokens_text(
        self, texts: str | Sequence[str]
    ) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
        """(tokens, mask of the real ones or None, pooled vector before unit length) of texts."""
        self._need("tokens_text", "text")
        return self._encode("text", self.token_ids(texts), tokens=True)

    def similarity(
        self, images: Picture | Sequence[Picture], texts: str | Sequence[str]
    ) -> Float[np.ndarray, "pictures texts"]:
        """Cosine of the angle between each picture and each text, -1 to 1."""
        self._need("similarity", "image")
        return self.encode_image(images) @ self.encode_text(texts).T

    def classify(
        self,
        images: Picture | Sequence[Picture],
        labels: Iterable[str],
        templates: Sequence[str] = ("a photo of a {}.",),
    ) -> list[dict[str, float]]:
        """For each picture {label: probability}, the likeliest first.

        Probabilities are of the model's own kind: they sum to 1 for one trained to pick among
        texts (CLIP), and are each label's own for one trained on pairs (SigLIP).

        Args:
          images: as in `encode_image`.
          labels: names of the classes.
          templates: sentences with {} for the name; embeddings are averaged over them.
        """
        self._need("classify", "image")
        check(tuple(templates))
        named = [] if isinstance(labels, str) else list(labels)
        if not named:
            raise ValueError(f"labels={labels!r}: give the names of the classes, at least one.")
        if len(set(named)) < len(named):
            twice = next(label for n, label in enumerate(named) if label in named[:n])
            raise ValueError(f"labels: {twice!r} is there twice; give each class once.")
        labels = named
        texts = [fill(template, label) for label in labels for template in templates]
        encoded = self.encode_text(texts).reshape(len(labels), len(templates), -1)
        classes = unit(encoded.mean(axis=1))  # [classes, templates, dim] -> [classes, dim]
        scalars = self._scalars()
        scores = np.exp(scalars["log_scale"]) * self.encode_image(images) @ classes.T
        if "bias" in scalars:
            likely = 1 / (1 + np.exp(-(scores + scalars["bias"])))
        else:
            likely = np.exp(scores - scores.max(axis=1, keepdims=True))
            likely /= likely.sum(axis=1, keepdims=True)
        return [
            {labels[n]: float(row[n]) for n in np.argsort(-row, kind="stable")} for row in likely
        ]

    def pixels(self, images: Picture | Sequence[Picture]) -> dict[str, np.ndarray]:
        """Pictures as the model takes them, before normalisation.

        Returns:
          {'image': [pictures, size, size, 3]} of uint8; 'patches', 'patch_mask' and 'patch_grid'
          instead where pictures keep their shape.
        """
        several = [_picture(one) for one in _several(images)]
        # Where there are none, the first dimension alone differs.
        made = [self._transform.apply(one) for one in several or [np.zeros((1, 1, 3), np.uint8)]]
        if isinstance(self._transform, NaFlex):
            columns = dict(zip(PATCHES, zip(*made, strict=True), strict=True))
        else:
            columns = {"image": made}
        return {word: np.stack(column)[: len(several)] for word, column in columns.items()}

    def token_ids(
        self, texts: str | Sequence[str]
    ) -> dict[str, Int32[np.ndarray, "texts length"] | Bool[np.ndarray, "texts length"]]:
        """Texts as {'token_ids': numbers, 'text_mask': True where one is real}."""
        if self.tokenizer is None:
            raise WeightsError(self._lack("text"))
        made = []
        for text in [texts] if isinstance(texts, str | bytes) else texts:
            if not isinstance(text, str):
                raise TypeError(f"a text is a str, not {type(text).__name__}.")
            try:
                made.append(self._tokenize.encode(text))
            except BadSample as error:
                raise ValueError(f"{text[:40]!r}: {error}") from None
        length = self.contract.sequence_length
        return {
            "token_ids": np.stack([ids for ids, _ in made])
            if made
            else np.zeros((0, length), np.int32),
            "text_mask": np.stack([mask for _, mask in made])
            if made
            else np.zeros((0, length), bool),
        }

    @functools.cached_property
    def _transform(self) -> Resize | NaFlex:
        if "image" in self.missing:
            raise WeightsError(self._lack("image"))
        c = self.contract
        if c.resize == "naflex":
            return NaFlex(c.patch_size, c.max_patches, c.interpolation)
        return Resize(
            c.image_size, c.resize, c.interpolation, c.pad_value, c.resize_size, c.crop_rounding
        )

    @functools.cached_property
    def _tokenize(self) -> Tokenize:
        c = self.contract
        return Tokenize(
            self.tokenizer,
            length=c.sequence_length,
            bos=c.bos,
            eos=c.eos,
            pad_id=c.pad_id,
            cleaning=c.text_cleaning,
            allow_empty=True,
        )

    def _method(self, kind: str) -> str | None:
        """The model's method that takes pictures or texts."""
        for method in (METHODS[kind], "encode", "__call__"):
            if hasattr(type(self.model), method):
                takes = set(words_of(self.model, method))
                if takes and any(takes <= made for made in MADE[kind]):
                    return method
        return None

    def _need(self, call: str, kind: str) -> None:
        """Raises WeightsError where the model has no such call, or lacks what it needs."""
        if call not in self.calls:
            there = ", ".join(self.calls) or "none"
            raise WeightsError(f"{self.origin.source} has no {call}; it has {there}.")
        if kind in self.missing:
            raise WeightsError(self._lack(kind))

    def _lack(self, kind: str) -> str:
        what = "pictures" if kind == "image" else "texts"
        return (
            f"{self.origin.source}: no {self.missing.get(kind, 'tokenizer')} lies beside the "
            f"weights, so {what} cannot be prepared; add the file, or call the model with arrays: "
            "loaded.model.apply(loaded.variables, ...)."
        )

    def _scalars(self) -> dict[str, float]:
        made = self.model.apply(self.variables, method="scalars")
        return {name: float(value) for name, value in made.items()}

    @functools.cached_property
    def _compiled(self) -> dict[tuple[str, bool], Callable[..., Any]]:
        return {
            (kind, tokens): self._compile(kind, tokens)
            for kind in METHODS
            for tokens in (False, True)
            if self._method(kind)
        }

    def _compile(self, kind: str, tokens: bool) -> Callable[..., Any]:
        method = self._method(kind)
        takes = inspect.signature(getattr(type(self.model), method)).parameters
        how = {"tokens": False} if "tokens" in takes and not tokens else {}
        wanted = TOKENS if tokens else EMBEDDING

        def encode(variables: Any, words: dict[str, Any]) -> Any:
            words = preprocess.preprocess(words, self.contract)
            made = tuple(self.model.apply(variables, **words, **how, method=method))[wanted]
            return tuple(x if x is None or x.dtype == bool else x.astype(jnp.float32) for x in made)

        if self.mesh is None:
            return jax.jit(encode)

        def laid_out(variables: Any, words: dict[str, Any]) -> Any:
            with activations(self.mesh, params=specs_of(self.params)):
                return encode(variables, words)

        return jax.jit(laid_out)

    def _encode(
        self, kind: str, words: dict[str, np.ndarray], tokens: bool, shorten: bool = False
    ) -> tuple[Any, ...]:
        """What the model returns for rows, on the host: the tokens' part, or the embedding.

        Rows go through in powers of two up to `LARGEST`, so a handful of programs serve any number;
        where padding may be left out (`shorten`), in one of three lengths.
        """
        rows = len(next(iter(words.values())))
        least = 1
        if self.mesh is not None:
            least = self.mesh.shape["data"] * self.mesh.shape["fsdp"]
        parts = []
        for start in range(0, max(rows, 1), LARGEST * least):
            some = {w: value[start : start + LARGEST * least] for w, value in words.items()}
            if shorten:
                some = _shortened(some)
            there = len(next(iter(some.values())))
            filled = least * 1 << max(0, (-(-there // least) - 1).bit_length())
            some = {word: _filled(value, filled) for word, value in some.items()}
            if self.mesh is not None:
                some = jax.device_put(some, batch_sharding(self.mesh))
            made = self._compiled[kind, tokens](self.variables, some)
            parts.append([None if x is None else np.asarray(x)[:there] for x in made])
        columns = zip(*parts)
        return tuple(None if column[0] is None else np.concatenate(column) for column in columns)


def _shortened(texts: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Texts with less padding: a quarter, half or all of their length, what holds the longest."""
    real = np.flatnonzero(texts["text_mask"].any(axis=0))
    length = texts["text_mask"].shape[1]
    longest = real[-1] + 1 if len(real) else 1
    kept = (8 * math.ceil(length / parts / 8) for parts in (4, 2))
    cut = next((least for least in kept if longest <= least < length), length)
    return {word: value[:, :cut] for word, value in texts.items()}


def _filled(value: np.ndarray, rows: int) -> np.ndarray:
    """The array with rows of zeros up to `rows`."""
    return np.concatenate([value, np.zeros((rows - len(value), *value.shape[1:]), value.dtype)])


def _several(images: Any) -> list[Any]:
    """A list of pictures of one or several."""
    if isinstance(images, str | bytes | os.PathLike | Image.Image):
        return [images]
    if isinstance(images, np.ndarray) and images.ndim == 3:
        return [images]
    return list(images)


def _picture(image: Picture) -> UInt8[np.ndarray, "height width 3"]:
    """RGB pixels of one picture, upright.

    Raises:
      ValueError: it cannot be read, or is nothing of what is taken.
    """
    try:
        if isinstance(image, Image.Image):
            return np.array(image.convert("RGB"))
        if isinstance(image, np.ndarray):
            return pixels(image)
        if isinstance(image, str | os.PathLike):
            path = pathlib.Path(image)
            return _decoded(EncodedImage(path.read_bytes(), str(path)))
        if isinstance(image, bytes):
            return _decoded(EncodedImage(image, "a picture"))
    except BadSample as error:
        raise ValueError(str(error)) from None
    raise TypeError(
        f"a picture is a PIL picture, an array, a path or a file's bytes, not "
        f"{type(image).__name__}."
    )


def _decoded(encoded: EncodedImage) -> UInt8[np.ndarray, "height width 3"]:
    """The pixels of a file; transparency is dropped, as the published models' own code does."""
    if encoded.reducible:  # a JPEG
        return encoded.decode()
    with Image.open(io.BytesIO(encoded.data), formats=(encoded.header.format,)) as picture:
        return np.array(ImageOps.exif_transpose(picture).convert("RGB"))
