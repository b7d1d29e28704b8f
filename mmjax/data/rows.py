"""One row of a batch from its index: read, cut, tokenise, and replace what cannot be used."""

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from mmjax.data.dataset import Dataset
from mmjax.data.mixture import Order
from mmjax.data.sources.base import CAUSES, BadSample, Source
from mmjax.data.transforms.decode import EncodedImage, PendingImage
from mmjax.typing import WORDS

ATTEMPTS = 8  # replacements for one row before it stays empty
# Words that rows give themselves; all others are as a transform or the fields made them.
_OWN = ("row", "valid", "sample_id", "caption_id", "group", "bad_samples")
_WORDS = tuple(word for word in WORDS if word not in _OWN)
_MASK = (1 << 64) - 1
Shapes = dict[str, tuple[tuple[int, ...], np.dtype]]


def mix_bits(*numbers: int) -> int:
    """64 well-mixed bits of some integers (SplitMix64's finaliser over their running sum)."""
    state = 0
    for number in numbers:
        state = (state + 0x9E3779B97F4A7C15 + (number & _MASK)) & _MASK
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
        state ^= state >> 31
    return state


def text_identity(text: str) -> np.ndarray:
    """64 bits of a text's hash as two int32 words (JAX computes in 32 bits)."""
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return np.frombuffer(digest, np.int32)


class Rows:
    """Rows of a stream, each a function of (seed, index) alone.

    Args:
      datasets: what is mixed.
      seed: of the run.
      stream: the stream's name; streams of one seed draw differently.
      order: index → (dataset, position), and the blocks near an index.
      replace: whether an unusable sample is replaced by another of the same source (training) or
        leaves an empty row (evaluation: each sample once).
    """

    def __init__(
        self,
        datasets: tuple[Dataset, ...],
        seed: int,
        stream: str,
        order: Any,
        replace: bool,
    ):
        self.datasets = datasets
        self.order = order
        self.replace = replace
        self._key = mix_bits(seed, *stream.encode())

    def load(
        self, index: int, shapes: Shapes | None = None, first: int = 0
    ) -> tuple[dict[str, Any] | None, np.ndarray]:
        """The row at an index, or None where no sample could be used; and counts by cause.

        Args:
          index: 0 or more.
          shapes: shape and type of each word; a sample of another shape cannot be used ('format').
            None takes any.
          first: attempts that were made and failed.

        Returns:
          Words of a Batch without the batch axis; how many samples were thrown away, by cause.
        """
        bad = np.zeros(len(CAUSES), np.int32)
        while True:
            row, more, attempt = self.draw(index, shapes, first)
            bad += more
            if row is None:
                return None, bad
            try:
                return finished(row), bad
            except BadSample as problem:
                bad[CAUSES.index(problem.cause)] += 1
                first = attempt + 1

    def draw(
        self, index: int, shapes: Shapes | None = None, first: int = 0
    ) -> tuple[dict[str, Any] | None, np.ndarray, int]:
        """As `load`, with a picture that may be pending; and the number of the attempt.

        Where the picture then cannot be made, `load` with `first` one higher goes on.
        """
        bad = np.zeros(len(CAUSES), np.int32)
        number, position = self.order(index)
        dataset = self.datasets[number]
        lane, near = self.order.near(index)
        if near:
            dataset.source.expect(lane, near)
        for attempt in range(first, ATTEMPTS + 1 if self.replace else 1):
            if attempt:
                bits = mix_bits(self._key, index, attempt)
                position = _substitute(dataset.source, near, bits)
            try:
                row = self._row(dataset, number, position, index, attempt)
                _check_shapes(row, shapes or {})
                return row, bad, attempt
            except BadSample as problem:
                bad[CAUSES.index(problem.cause)] += 1
        return None, bad, ATTEMPTS

    def _row(
        self, dataset: Dataset, number: int, position: int, index: int, attempt: int
    ) -> dict[str, Any]:
        # Philox is keyed, not seeded: no hashing pass, 4 µs instead of 20.
        # As uint64, for numpy takes a list of numbers above 2**63 through float64.
        key = np.array([self._key, index], np.uint64)
        bits = np.random.Philox(counter=np.array([0, 0, 0, attempt], np.uint64), key=key)
        rng = np.random.Generator(bits)
        sample = dataset.fields(dataset.source[position])
        image = sample.get("image")
        if isinstance(image, EncodedImage):
            sample["image"] = dataclasses.replace(image, may_pend=True)
        for transform in dataset.transforms:
            if not getattr(transform, "leaves_pending", False):
                sample = finished(sample)
            sample = transform(sample, rng)
            if sample is None:
                raise ValueError(
                    f"{type(transform).__name__} gives NoneType, no sample; a transform ends with "
                    "'return sample'."
                )
        row = {word: sample[word] for word in _WORDS if word in sample}
        row["sample_id"] = np.array([number, position], np.int32)
        if "caption" in sample:
            row["caption_id"] = text_identity(sample["caption"])
        if "group" in sample:
            row["group"] = text_identity(str(sample["group"]))
        return row


class Picked(Rows):
    """Rows of some samples alone, in any order; each is as the rows that it is taken from have it.

    Args:
      rows: of an evaluation.
      positions: the samples' indices in `rows`, from 0; the n-th row is that of `positions[n]`.
    """

    def __init__(self, rows: Rows, positions: Sequence[int]):
        self.datasets = rows.datasets
        self.order = InOrder((len(positions),))
        self.replace = rows.replace
        self._key = rows._key
        self._rows = rows
        self._positions = tuple(int(position) for position in positions)

    def load(
        self, index: int, shapes: Shapes | None = None, first: int = 0
    ) -> tuple[dict[str, Any] | None, np.ndarray]:
        """See `Rows.load`."""
        return self._rows.load(self._positions[index], shapes, first)

    def draw(
        self, index: int, shapes: Shapes | None = None, first: int = 0
    ) -> tuple[dict[str, Any] | None, np.ndarray, int]:
        """See `Rows.draw`."""
        return self._rows.draw(self._positions[index], shapes, first)


def finished(row: dict[str, Any]) -> dict[str, Any]:
    """The row or sample with its picture made, where that was pending.

    Raises:
      BadSample: it cannot be decoded.
    """
    if isinstance(row.get("image"), PendingImage):
        row["image"] = row["image"].render()
    return row


def _substitute(source: Source, near: tuple[int, ...], bits: int) -> int:
    """A position drawn by some bits, from blocks that are at hand where there are blocks."""
    if not near:
        return bits % len(source)
    blocks = source.blocks
    bits, choice = divmod(bits, len(near))
    size = blocks.sizes[near[choice]]
    return blocks.ends[near[choice]] - size + bits % size


def _check_shapes(row: dict[str, Any], shapes: Shapes) -> None:
    for word, value in row.items():
        if word in shapes and np.shape(value) != shapes[word][0]:
            raise BadSample(
                "format",
                f"sample {row['sample_id']}: {word!r} is {np.shape(value)}, the first was "
                f"{shapes[word][0]}. Put a transform of fixed size into the dataset.",
            )


class InOrder:
    """The order of evaluation: each sample of each dataset once, then none."""

    def __init__(self, sizes: tuple[int, ...]):
        self.sizes = sizes

    def __len__(self) -> int:
        return sum(self.sizes)

    def __call__(self, index: int) -> tuple[int, int]:
        """(dataset number, position) of the index-th sample."""
        for number, size in enumerate(self.sizes):
            if index < size:
                return number, index
            index -= size
        raise IndexError(f"index {index} is past the last sample.")

    def near(self, index: int) -> tuple[int, tuple[int, ...]]:
        """No blocks: they come one after the other anyway."""
        return 0, ()


def training_rows(
    datasets: tuple[Dataset, ...], seed: int, stream: str, batch_size: int = 1
) -> Rows:
    """Endless shuffled rows of a training stream; the batch's size matters for lanes alone."""
    sizes = tuple(len(dataset.source) for dataset in datasets)
    weights = tuple(dataset.weight for dataset in datasets)
    blocks = tuple(dataset.source.blocks for dataset in datasets)
    order = Order(sizes, weights, seed, blocks, batch_size)
    return Rows(datasets, seed, stream, order, replace=True)


def evaluation_rows(datasets: tuple[Dataset, ...], seed: int) -> Rows:
    """Each held-out sample once, in order."""
    sizes = tuple(len(dataset.source) for dataset in datasets)
    return Rows(datasets, seed, "evaluation", InOrder(sizes), replace=False)
