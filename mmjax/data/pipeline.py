"""Rows to batches, decoded in threads or in worker processes by grain.

Row r of batch k is sample index k·B + r. Each process makes a contiguous block of rows, so pixels,
captions and order are the same for any number of processes and workers, and the state of the data
is one number: the step.
"""

import concurrent.futures
import dataclasses
import functools
import threading
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from typing import Any

import numpy as np

from mmjax.data import workers
from mmjax.data.rows import InOrder, Rows, Shapes, finished
from mmjax.data.sources.base import CAUSES, BadSample
from mmjax.data.transforms.decode import PendingImage
from mmjax.typing import WORDS, Batch

_SMALL_BYTES = 4096  # of a word of a batch: cheaper in a message than in shared memory
_PROBES = 256  # samples tried at the start to learn what a row holds
_TOGETHER = 64  # rows that are drawn before their pictures are made: 3 % faster than 16
_COMPARED = 8  # usable ones of them that are compared


@dataclasses.dataclass(frozen=True)
class Reading:
    """How batches are made ahead of the step.

    Attributes:
      workers: worker processes; 0 decodes in threads of this process.
      threads: rows of a batch decoded at once, in each worker.
      ahead: finished batches kept ready, on the devices and in each worker.
      stall_seconds: how long the step waits for a batch before the run ends with an error.
    """

    workers: int = 0
    threads: int = 2
    ahead: int = 2
    stall_seconds: float = 300.0

    def __post_init__(self) -> None:
        # A lock cannot wait for longer than that, 292 years on Linux.
        waits = 0 < self.stall_seconds <= threading.TIMEOUT_MAX
        if self.workers < 0 or self.threads < 1 or self.ahead < 1 or not waits:
            raise ValueError(
                f"reading: workers={self.workers} (0 or more), threads={self.threads} (1 or more), "
                f"ahead={self.ahead} (1 or more), stall_seconds={self.stall_seconds} "
                f"(above 0, at most {threading.TIMEOUT_MAX:.0f})."
            )


class Mismatch(ValueError):
    """A sample that can be read and does not suit the run; the message names it."""


class BatchMaker:
    """Batch number → this process's block of rows, as numpy arrays.

    Args:
      rows: index → row.
      batch_size: rows of the global batch.
      process: this process's number.
      processes: how many share the batch.
      threads: rows made at once.
      numbers: of this process's rows in the global batch, where they are not its share by number.
      classes: that the model tells apart, where labels name one of them.
    """

    def __init__(
        self,
        rows: Rows,
        batch_size: int,
        process: int,
        processes: int,
        threads: int,
        numbers: np.ndarray | None = None,
        classes: int | None = None,
    ):
        self.rows = rows
        self.classes = classes
        self.batch_size = batch_size
        share = batch_size // processes
        own = np.arange(process * share, (process + 1) * share) if numbers is None else numbers
        self.numbers = own.astype(np.int32)
        self.threads = threads
        self.shapes = _row_shapes(rows)
        self._pool: concurrent.futures.ThreadPoolExecutor | None = None
        self._lock = threading.Lock()

    @property
    def global_shapes(self) -> Shapes:
        """Shape and type of each word of the global batch."""
        shapes = {w: ((self.batch_size, *shape), kind) for w, (shape, kind) in self.shapes.items()}
        shapes["row"] = ((self.batch_size,), np.dtype(np.int32))
        shapes["valid"] = ((self.batch_size,), np.dtype(bool))
        shapes["bad_samples"] = ((self.batch_size, len(CAUSES)), np.dtype(np.int32))
        return shapes

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k not in ("_pool", "_lock")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _pool=None, _lock=threading.Lock())

    def __call__(self, number: int) -> Batch:
        """The block of batch `number`; rows without a usable sample are zero and not valid."""
        size = len(self.numbers)
        # Not zeroed: that would write each picture's bytes twice.
        batch = {
            word: np.empty((size, *shape), kind) for word, (shape, kind) in self.shapes.items()
        }
        batch["row"] = self.numbers.copy()
        batch["valid"] = np.zeros(size, bool)
        batch["bad_samples"] = np.zeros((size, len(CAUSES)), np.int32)
        indices = (number * self.batch_size + self.numbers.astype(np.int64)).tolist()
        together = min(_TOGETHER, -(-size // self.threads))
        parts = [range(row, min(row + together, size)) for row in range(0, size, together)]
        if self.threads == 1:
            for part in parts:
                self._fill(batch, part, indices)
        else:
            with self._lock:
                if self._pool is None:
                    self._pool = concurrent.futures.ThreadPoolExecutor(self.threads, "mmjax-decode")
            list(self._pool.map(lambda part: self._fill(batch, part, indices), parts))
        return batch

    def _fill(self, batch: Batch, part: range, indices: list[int]) -> None:
        """Draws some rows, then makes their pictures where they lie."""
        order, pending = self.rows.order, []
        for row in part:
            index, made = indices[row], None
            if not isinstance(order, InOrder) or index < len(order):  # else filling of the last one
                made, batch["bad_samples"][row], attempt = self.rows.draw(index, self.shapes)
            if made is not None and isinstance(made.get("image"), PendingImage):
                pending.append((row, made.pop("image"), attempt))
                self._put(batch, row, made, {"image"})
            else:
                self._put(batch, row, made)
        for row, picture, attempt in pending:
            try:
                picture.render(batch["image"][row])
            except BadSample as problem:
                made, bad = self.rows.load(indices[row], self.shapes, attempt + 1)
                bad[CAUSES.index(problem.cause)] += 1
                batch["bad_samples"][row] += bad
                self._put(batch, row, made)

    def _put(
        self,
        batch: Batch,
        row: int,
        made: dict[str, Any] | None,
        later: AbstractSet[str] = frozenset(),
    ) -> None:
        """Writes a row, or zeros where no sample could be used."""
        if made is not None:
            self._check(made, made.keys() | later)
        batch["valid"][row] = made is not None
        for word in self.shapes if made is None else made:
            batch[word][row] = 0 if made is None else made[word]

    def _check(self, made: dict[str, Any], words: AbstractSet[str]) -> None:
        """Raises Mismatch where a row has other words than the first, or a label of no class."""
        number, position = made["sample_id"].tolist()
        where = f"sample {position} of dataset {number}"
        if words != self.shapes.keys():
            raise Mismatch(
                f"{where} gives {sorted(words)}, the first one gave {sorted(self.shapes)}. All "
                "samples of a stream need the same fields."
            )
        if self.classes is None or "label" not in made:
            return
        if not 0 <= made["label"] < self.classes:
            raise Mismatch(
                f"{where} has label {made['label']}, and the model tells {self.classes} classes "
                f"apart, 0 to {self.classes - 1}. Set num_classes to the data's number, or count "
                "its labels from 0."
            )


def _row_shapes(rows: Rows) -> Shapes:
    """Shape and type of each word, as most of the first usable samples of every dataset have them.

    Raises:
      ValueError: no usable sample among the first ones, samples that are mostly unlike, or
        datasets of unlike rows.
    """
    found: Shapes = {}
    for number, dataset in enumerate(rows.datasets):
        problem, seen = "", []
        for position in range(min(len(dataset.source), _PROBES)):
            try:
                row = finished(rows._row(dataset, number, position, index=0, attempt=0))
            except BadSample as error:
                problem = problem or str(error)
                continue
            seen.append({w: (np.shape(value), np.asarray(value).dtype) for w, value in row.items()})
            if len(seen) == _COMPARED:
                break
        if not seen:
            raise ValueError(
                f"none of the first {min(len(dataset.source), _PROBES)} samples can be used "
                f"({dataset.source.describe()}). The first: {problem}"
            )
        shapes = max(seen, key=seen.count)
        for word, (_, dtype) in shapes.items():
            wanted = WORDS[word].dtype
            if wanted == "uint8" and dtype != np.uint8:  # it would be scaled once more
                raise ValueError(
                    f"{word} is {dtype}; it is {wanted} up to the step, which scales and normalises"
                    " as preprocess says. Leave that out of the transforms."
                )
        if len(seen) > 1 and 2 * seen.count(shapes) <= len(seen):
            raise ValueError(
                f"the first samples give rows of unlike shapes, such as {seen[0]} and {seen[1]}. "
                "Put a transform of fixed size into the dataset."
            )
        if found and shapes != found:
            raise ValueError(
                f"datasets of a mixture must give like rows; {dataset.source.describe()} gives "
                f"{shapes}, the first {found}."
            )
        found = shapes
    return found


def batches(maker: BatchMaker, start: int, stop: int, reading: Reading) -> Iterator[Batch]:
    """Batches start ... stop-1; close the iterator to end its workers.

    Workers make them ahead of use. Without workers each is made when it is asked for: who feeds
    the devices does so in a thread of its own, and a second one would only hand them on.

    Args:
      maker: makes one batch.
      start: number of the first batch (the step a run resumes at).
      stop: one past the last.
      reading: threads or processes.
    """
    if not reading.workers:
        return (maker(number) for number in range(start, stop))
    import grain  # with Orbax, half a second that a run without workers does not wait
    from absl import flags

    if not flags.FLAGS.is_parsed():  # grain's workers ask for absl flags, which we do not use
        flags.FLAGS.mark_as_parsed()
    source = grain.MapDataset.range(start, max(stop, start)).map(maker)
    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=1)
    ahead = grain.MultiprocessingOptions(
        num_workers=reading.workers, per_worker_buffer_size=reading.ahead
    )
    begin = functools.partial(workers.begin, workers.prepare())
    small = grain.experimental.DatasetOptions(min_shm_size=_SMALL_BYTES)
    made = grain.experimental.WithOptionsIterDataset(source.to_iter_dataset(options), small)
    return iter(made.mp_prefetch(ahead, worker_init_fn=begin))
