"""Shuffled epochs for sources that are read in blocks: blocks in a drawn order, samples in windows.

A full shuffle would ask for another shard with nearly every sample. Here an epoch is a permutation
of the blocks, and only within a window of a few neighbours of that order are the samples permuted.
So a few blocks at a time are needed, and which are next is known. It is arithmetic too: a position
follows from (seed, visit) alone, for any number of processes and workers.

A batch may be cut into lanes, each with a stretch of the epoch to itself: hosts that make other
rows then read other blocks. The number of lanes belongs to the order, not to the hosts.
"""

import bisect
import dataclasses
import functools

import numpy as np

from mmjax.data.shuffle import round_keys, shuffled
from mmjax.data.sources.base import Blocks

__all__ = ["BlockOrder"]

_WITHIN = 0x5851F42D4C957F2D  # parts the shuffles within windows from those of the blocks


@dataclasses.dataclass(frozen=True)
class _Epoch:
    """One epoch's layout; places count through the blocks in their drawn order."""

    shift: int  # visits into a cycle of lanes at which the epoch begins
    blocks: list[int]  # by place in the order
    ends: list[int]  # one past the last place of each of them
    cuts: list[int]  # where windows begin, and the epoch's end


class BlockOrder:
    """Visit → position, an epoch after the other, each sample once in each.

    Args:
      blocks: of the source.
      seed: decides the shuffles.
      batch_size: rows of a batch, which lanes divide; only they depend on it.

    Raises:
      ValueError: lanes that do not divide the batch, or more of them than blocks.
    """

    def __init__(self, blocks: Blocks, seed: int, batch_size: int):
        if batch_size % blocks.lanes:
            raise ValueError(
                f"lanes={blocks.lanes} do not divide the batch of {batch_size}; give a divisor, "
                "such as the number of hosts."
            )
        if blocks.lanes > len(blocks.sizes):
            raise ValueError(
                f"lanes={blocks.lanes} for {len(blocks.sizes)} blocks; there are at most as many "
                "lanes as blocks."
            )
        self._blocks, self._seed = blocks, seed
        self._size = blocks.ends[-1]
        self._run = batch_size // blocks.lanes if blocks.lanes > 1 else 1
        self._cycle = self._run * blocks.lanes
        # Bound to the object, so that it goes with it.
        self._epoch = functools.lru_cache(maxsize=3)(self._lay_out)
        self._near = functools.lru_cache(maxsize=4 * blocks.lanes)(self._find_near)

    def position(self, visit: int) -> int:
        """The sample at a visit, 0 or more."""
        epoch, window, place = self._find(visit)
        layout = self._epoch(epoch)
        begin, end = layout.cuts[window], layout.cuts[window + 1]
        keys = round_keys(self._seed ^ _WITHIN, (epoch << 32) + window)
        place = begin + shuffled(place - begin, end - begin, keys)
        number = bisect.bisect_right(layout.ends, place)
        block = layout.blocks[number]
        return self._blocks.ends[block] - (layout.ends[number] - place)

    def near(self, visit: int) -> tuple[int, tuple[int, ...]]:
        """A visit's lane; and the blocks of its window, then those of the lane's next one."""
        epoch, window, _ = self._find(visit)
        return self._near(epoch, window)

    def _find(self, visit: int) -> tuple[int, int, int]:
        """(epoch, window, place before the shuffle in it)."""
        epoch, count = divmod(visit, self._size)
        layout = self._epoch(epoch)
        now = layout.shift + count
        lane = now // self._run % self._blocks.lanes
        # Visits of this lane since the epoch's beginning, behind all of the lanes before it.
        place = self._start(lane, layout.shift)
        place += self._below(now, lane + 1) - self._below(now, lane)
        place -= self._below(layout.shift, lane + 1) - self._below(layout.shift, lane)
        return epoch, bisect.bisect_right(layout.cuts, place) - 1, place

    def _start(self, lane: int, shift: int) -> int:
        """The first place of a lane: those before it have their visits of the epoch."""
        return self._below(shift + self._size, lane) - self._below(shift, lane)

    def _below(self, visits: int, lane: int) -> int:
        """How many of the first visits belong to lanes below one."""
        cycles, rest = divmod(visits, self._cycle)
        return cycles * self._run * lane + min(rest, self._run * lane)

    def _lay_out(self, epoch: int) -> _Epoch:
        count, keys = len(self._blocks.sizes), round_keys(self._seed, epoch)
        order = [shuffled(place, count, keys) for place in range(count)]
        ends = np.cumsum(np.array(self._blocks.sizes, np.int64)[order]).tolist()
        shift = epoch * self._size % self._cycle
        cuts = {self._start(lane, shift) for lane in range(self._blocks.lanes)}
        cuts |= {0, self._size, *ends[self._blocks.window - 1 :: self._blocks.window]}
        return _Epoch(shift, order, ends, sorted(cuts))

    def _find_near(self, epoch: int, window: int) -> tuple[int, tuple[int, ...]]:
        layout = self._epoch(epoch)
        found = self._members(layout, window)
        starts = [self._start(lane, layout.shift) for lane in range(self._blocks.lanes)]
        lane = bisect.bisect_right(starts, layout.cuts[window]) - 1
        following = layout.cuts[window + 1]
        if following != self._size and following not in starts:
            found += self._members(layout, window + 1)
        else:  # the lane goes on at its beginning in the next epoch
            after = self._epoch(epoch + 1)
            start = min(self._start(lane, after.shift), self._size - 1)
            found += self._members(after, bisect.bisect_right(after.cuts, start) - 1)
        return lane, tuple(dict.fromkeys(found))

    def _members(self, layout: _Epoch, window: int) -> list[int]:
        begin, end = layout.cuts[window], layout.cuts[window + 1]
        first = bisect.bisect_right(layout.ends, begin)
        return layout.blocks[first : bisect.bisect_right(layout.ends, end - 1) + 1]
