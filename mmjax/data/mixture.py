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

PERIOD = 1000  # after so many samples turns repeat, where that keeps the shares well enough
LONGEST = 1_000_000  # samples of a longer period; 12 bytes each
CLOSE = 0.01  # how far a source's share may be from what its weight asks, as part of that
_FEWEST = 101  # turns of each source, from which on rounding alone keeps the shares as close


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
      ValueError: weights so unlike that no period of a million samples keeps their shares, or lanes
        that do not go with the batch.
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
        if len(shares) == 1:
            return np.zeros(1, np.int32), np.zeros(1, np.int64), np.ones(1, np.int64)
        found = _take_turns(shares)
        return found if _are_close(found[2], shares) else _spread_turns(shares)

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


_Turns = tuple[np.ndarray, np.ndarray, np.ndarray]


def _are_close(turns: np.ndarray, shares: np.ndarray) -> bool:
    off = np.abs(turns / turns.sum() - shares)
    return bool(turns.all() and np.all(off <= CLOSE * shares))


def _take_turns(shares: np.ndarray) -> _Turns:
    """A period of `PERIOD` samples, each of the source that is furthest behind its share."""
    source = np.zeros(PERIOD, np.int32)
    before = np.zeros(PERIOD, np.int64)
    turns = np.zeros(len(shares), np.int64)
    for index in range(PERIOD):
        chosen = int(np.argmax(shares * (index + 1) - turns))
        source[index], before[index] = chosen, turns[chosen]
        turns[chosen] += 1
    return source, before, turns


def _spread_turns(shares: np.ndarray) -> _Turns:
    """The shortest period that keeps the shares, in which each source's turns are spread evenly.

    Raises:
      ValueError: it is longer than `LONGEST`.
    """
    # So many turns of the smallest make a period that is not too long; 0 may be.
    most = min(_FEWEST, int(LONGEST * shares.min()))
    for least in range(1, most + 1):
        turns = np.rint(least * shares / shares.min()).astype(np.int64)
        if _are_close(turns, shares):
            source = np.repeat(np.arange(len(turns), dtype=np.int32), turns)
            before = np.concatenate([np.arange(number) for number in turns])
            # One sort: what _take_turns does would take seconds for so many.
            order = np.argsort((before + 0.5) / turns[source], kind="stable")
            return source[order], before[order], turns
    raise ValueError(
        f"weights: the smallest of {len(shares)} gives its source {shares.min():.1e} of the "
        f"samples, too few to keep all shares within {CLOSE:.0%} in {LONGEST:,} samples. "
        "Raise it, or leave its dataset out."
    )
