"""Which sample stands at which index: shuffled epochs of each source, mixed by weight.

The answer is arithmetic, a function of (seed, index) alone, so any process can ask for any index
and a resumed run asks on where it stopped.
"""

import dataclasses
import functools

import numpy as np

from mmjax.data.shuffle import round_keys, shuffled

PERIOD = 1000  # weights are kept to a thousandth


@dataclasses.dataclass(frozen=True)
class Order:
    """Index → (which source, which position in it).

    The shuffles and the turn-taking are ours: grain's take up to a millisecond an index.

    Attributes:
      sizes: number of samples of each source.
      weights: share of each source; only their ratios count.
      seed: decides the shuffles.

    Raises:
      ValueError: a weight that gives its source no turn in 1000.
    """

    sizes: tuple[int, ...]
    weights: tuple[float, ...]
    seed: int

    def __post_init__(self) -> None:
        _ = self._turns  # refused here, not in the thread that first asks for an index

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
        source, before, turns = self._turns
        rounds, place = divmod(index, len(source))
        number = int(source[place])
        visit = rounds * int(turns[number]) + int(before[place])
        epoch, position = divmod(visit, self.sizes[number])
        keys = round_keys(self.seed * 1_000_003 + number, epoch)
        return number, shuffled(position, self.sizes[number], keys)

    def __getstate__(self) -> dict[str, object]:
        return {"sizes": self.sizes, "weights": self.weights, "seed": self.seed}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
