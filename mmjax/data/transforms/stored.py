"""A word of a batch as a record holds it, filled up to one shape."""

import dataclasses
from typing import Any, ClassVar

import numpy as np

from mmjax.data.arrays import numbers
from mmjax.data.places import Reader, places_of
from mmjax.data.sources.base import BadSample
from mmjax.typing import WORDS

_OWN = ("row", "valid", "sample_id", "caption_id", "group", "bad_samples")
_KINDS = {"int32": "iub", "bool": "iub", "float32": "iubf"}


@dataclasses.dataclass(frozen=True)
class Stored:
    """Reads one word from the sample's record: what no other transform makes.

    A place is as in `Regions`: 'phrases.npy', 'npz:phrases', 'json:phrases', a column.

    Attributes:
      word: one of `mmjax.typing.WORDS` whose numbers are no picture.
      place: where it is; several with ';' between them are tried in order.
      shape: lengths of its axes without the batch; () for one number.
      filling: what stands where the record holds less.

    Raises:
      ValueError: an option outside of these.
    """

    word: str
    place: str
    shape: tuple[int, ...] = ()
    filling: float = 0.0
    leaves_pending: ClassVar[bool] = True

    def __post_init__(self) -> None:
        known = [name for name, word in WORDS.items() if word.dtype in _KINDS and name not in _OWN]
        if self.word not in known:
            raise ValueError(f"word={self.word!r} is none of {', '.join(known)}.")
        if not places_of(self.place) or any(not m or p == "" for m, p in places_of(self.place)):
            raise ValueError(f"place={self.place!r}; write it as 'npz:{self.word}'.")
        if any(length < 1 for length in self.shape):
            raise ValueError(f"shape={self.shape}: each length is 1 or more.")

    def __call__(self, sample: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        """Set sample[word]; draws nothing.

        Raises:
          BadSample: 'missing' with the members found, or 'format' where it holds other numbers, or
            more of them.
        """
        reader = Reader(sample["record"])
        place, value = reader.find("place", self.place)
        where, kind = reader.where(place), WORDS[self.word].dtype
        x = numbers(value, where)
        if x.dtype.kind not in _KINDS[kind]:
            raise BadSample("format", f"{where} holds {x.dtype}, and {self.word!r} is {kind}.")
        if x.ndim != len(self.shape) or any(a > b for a, b in zip(x.shape, self.shape)):
            raise BadSample("format", f"{where} is {x.shape}; at most shape={self.shape} fits.")
        made = np.full(self.shape, self.filling, kind)
        with np.errstate(over="ignore"):  # it becomes infinite, and is refused
            made[tuple(slice(length) for length in x.shape)] = x
        if kind == "int32" and x.size and not -(1 << 31) <= x.min() <= x.max() < 1 << 31:
            raise BadSample("format", f"{where} holds numbers beyond 32 bits.")
        if not np.isfinite(made).all():
            raise BadSample("format", f"{where} holds numbers that are not finite.")
        sample[self.word] = made
        return sample
