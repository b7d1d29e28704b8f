"""Shuffled epochs by arithmetic: any position of any epoch, without a table of the others.

A few microseconds for each of any number of samples. grain's own shuffle draws from blocks of
65,536 until one fits, which costs 300 draws (0.7 ms) an index where a source has 200 samples.
"""

import functools
import math

ROUNDS = 10  # with 6 the orders of fewer than ten samples are visibly uneven
_MASK = (1 << 64) - 1


@functools.lru_cache(maxsize=64)
def round_keys(seed: int, epoch: int) -> tuple[int, ...]:
    """What makes one epoch's order another than the next one's.

    Args:
      seed: of the source; its lower 64 bits count.
      epoch: 0 or more.

    Source: Steele et al. 2014, "Fast splittable pseudorandom number generators", figure 16.
    """
    state, keys = (seed * 0xD1342543DE82EF95 + epoch) & _MASK, []
    for _ in range(ROUNDS):
        state = (state + 0x9E3779B97F4A7C15) & _MASK
        word = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) & _MASK
        state = word ^ (word >> 31)
        keys.append(state)
    return tuple(keys)


def shuffled(position: int, size: int, keys: tuple[int, ...]) -> int:
    """Which sample stands at a position of a shuffled epoch.

    A Feistel network over pairs of numbers below √size; what falls outside the epoch goes through
    it again, which keeps the whole a permutation.

    Args:
      position: 0 ... size - 1.
      size: samples of the epoch, at least 1.
      keys: of `round_keys`.

    Returns:
      A sample, 0 ... size - 1; another one for each position.

    Source: Black and Rogaway 2002, "Ciphers with arbitrary finite domains", sections 3 and 5.
    """
    side = math.isqrt(size - 1) + 1
    while True:
        left, right = divmod(position, side)
        for key in keys:
            word = ((right + key) * 0xBF58476D1CE4E5B9) & _MASK
            word = ((word ^ (word >> 29)) * 0x94D049BB133111EB) & _MASK
            left, right = right, (left + (word >> 32)) % side
        position = left * side + right
        if position < size:
            return position
