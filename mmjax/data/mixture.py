"""Which sample stands at which index: shuffled epochs of each source, mixed by weight.

The answer is arithmetic, a function of (seed, index) alone, so any process can ask for any index
and a resumed run asks on where it stopped.
"""

import dataclasses
import functools

import numpy as np

from mmjax.data.block_order import BlockOrder
from mmjax.data.shuffle import round_keys, shuffled
from mmjax.data.sources.base import Blocks

PERIOD = 1000  # weights are kept to a thousandth


@dataclasses.dataclass(frozen=True)
class Order:
    """Index → (which source, which position in it).

    The shuffles and the turn-taking are ours: grain's take up to a millisecond an index.

    Attributes:
      sizes: number of samples of each source.
      weights: share of each source; only their ratios count.
      seed: decides the shuffles.
      blocks: of the sources that are read in blocks, None for the others; () where none is.
      batch_size: rows of a batch, for `Blocks.lanes`.

    Raises:
      ValueError: a weight that gives its source no turn in 1000, or lanes that do not go with the
        batch.
    """

    sizes: tuple[int, ...]
    weights: tuple[float, ...]
    seed: int
    blocks: tuple[Blocks | None, ...] = ()
    batch_size: int = 1

    def __post_init__(self) -> None:
        # Refused here, not in the thread that first asks for an index.
        _ = self._turns, self._block_orders

    @functools.cached_property
    def _turns(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """For each index of a period: the source, and how many turns it had before; totals."""
        shares = np.asarray(self.weights, np.float64) / sum(self.weights)
        period = PERIOD if len(shares) > 1 else 1
        source = np.zeros(period, np.int32)
        before = np.zeros(period, np.int64)
        turns = np.zeros(len(shares), np.int64)
        for index in range(period):
            chosen = int(np.argmax(shares * (index + 1) - turns))  # the one furthest behind
            source[index], before[index] = chosen, turns[chosen]
            turns[chosen] += 1
        if not turns.all():
            raise ValueError(
                f"weights {self.weights}: each source needs at least 1/{PERIOD} of the samples. "
                "Raise the smallest, or leave its dataset out."
            )
        return source, before, turns

    def __call__(self, index: int) -> tuple[int, int]:
        """(source number, position) of the sample at an index, 0 or more."""
        number, visit = self._visit(index)
        if number in self._block_orders:
            return number, self._block_orders[number].position(visit)
        epoch, position = divmod(visit, self.sizes[number])
        keys = round_keys(self._source_seed(number), epoch)
        return number, shuffled(position, self.sizes[number], keys)

    def near(self, index: int) -> tuple[int, tuple[int, ...]]:
        """A lane, and blocks that the source of an index reads in it now and next; () for none."""
        number, visit = self._visit(index)
        order = self._block_orders.get(number)
        return order.near(visit) if order is not None else (0, ())

    @functools.cached_property
    def _block_orders(self) -> dict[int, BlockOrder]:
        return {
            number: BlockOrder(blocks, self._source_seed(number), self.batch_size)
            for number, blocks in enumerate(self.blocks)
            if blocks is not None
        }

    def _source_seed(self, number: int) -> int:
        return self.seed * 1_000_003 + number

    def _visit(self, index: int) -> tuple[int, int]:
        """(source number, how often that source had its turn before)."""
        source, before, turns = self._turns
        rounds, place = divmod(index, len(source))
        number = int(source[place])
        return number, rounds * int(turns[number]) + int(before[place])

    def __getstate__(self) -> dict[str, object]:
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
