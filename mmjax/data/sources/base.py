"""What a place that holds samples looks like to the rest of the data room.

A source is a read-only, random-access list of records. A record is what one sample's files or row
hold, by member name, undecoded; `mmjax.data.fields.Fields` makes a sample of it.
"""

import abc
import bisect
import dataclasses
import functools
import hashlib
import itertools
import json
from typing import Any

__all__ = ["CAUSES", "BadSample", "Blocks", "Record", "Source", "digest"]

Record = dict[str, Any]

# The order is stored in checkpoints (counts by cause): append only.
CAUSES = ("missing", "checksum", "read", "format", "too_large", "decode", "caption")


class BadSample(Exception):
    """One sample that cannot be used; it is counted by cause and replaced, the run goes on.

    Args:
      cause: one of `CAUSES`.
      message: what is wrong, naming the shard or file and the member.

    Raises:
      ValueError: `cause` is not one of `CAUSES`.
    """

    def __init__(self, cause: str, message: str):
        if cause not in CAUSES:
            raise ValueError(
                f"No cause {cause!r} for a bad sample; use one of {', '.join(CAUSES)}."
            )
        # File names and captions may hold what no terminal or log takes.
        message = message.encode("utf-8", "backslashreplace").decode("utf-8")
        # Both go to Exception so that worker processes can pickle it.
        super().__init__(cause, message)
        self.cause = cause
        self.message = message

    def __str__(self) -> str:
        return f"{self.cause}: {self.message}"


@dataclasses.dataclass(frozen=True)
class Blocks:
    """How a source wants to be read: block after block, as whole shards or row groups come.

    Attributes:
      sizes: samples in each block, 1 or more, in the order of the positions.
      window: neighbouring blocks of the shuffled order whose samples are mixed: those that have to
        be at hand at once.
      lanes: parts of a batch that walk through blocks of their own.

    Raises:
      ValueError: no block or an empty one, a window or lanes below 1.
    """

    sizes: tuple[int, ...]
    window: int
    lanes: int = 1

    def __post_init__(self) -> None:
        if not self.sizes or min(self.sizes) < 1:
            raise ValueError("each block holds at least one sample, and there is one at least.")
        if self.window < 1 or self.lanes < 1:
            raise ValueError(f"window={self.window} and lanes={self.lanes} are 1 or more.")

    @functools.cached_property
    def ends(self) -> list[int]:
        """One past the last position of each block."""
        return list(itertools.accumulate(self.sizes))

    def find(self, position: int) -> tuple[int, int]:
        """(block, sample within it) of a position."""
        number = bisect.bisect_right(self.ends, position)
        return number, position - self.ends[number] + self.sizes[number]


class Source(abc.ABC):
    """A list of records, read at random by any number of threads and processes.

    Sources are pickled into worker processes: no open handle may travel, and a read must not depend
    on what was read before.
    """

    @abc.abstractmethod
    def __len__(self) -> int:
        """How many records there are."""

    @abc.abstractmethod
    def __getitem__(self, position: int) -> Record:
        """The record at a position.

        Args:
          position: 0 ... len - 1.

        Returns:
          Member name (an extension in lower case such as 'jpg' or 'seg.png') to bytes, text, array
          or number; '__key__' is the record's own name.

        Raises:
          BadSample: this record cannot be read; others may well be.
          IndexError: `position` is out of range.
        """

    @abc.abstractmethod
    def fingerprint(self) -> str:
        """A short hash of what the data is, equal on every process and machine.

        A resumed run compares it: names, sizes and counts enter, times and absolute folders do not.
        """

    @abc.abstractmethod
    def describe(self) -> str:
        """One line for people, e.g. '5 shards, 6,000 samples of jpg json txt'."""

    @property
    def blocks(self) -> Blocks | None:
        """The blocks that reads should keep to; None where any position is as near as any other."""
        return None

    def expect(self, lane: int, blocks: tuple[int, ...]) -> None:
        """Hears which blocks are read now and next, in that order; called often, returns at once.

        Args:
          lane: whose they are, 0 ... lanes - 1; what it was to read two windows ago may go.
          blocks: numbers into `blocks.sizes`.
        """
        del lane, blocks  # most sources need no warning


def digest(facts: Any) -> str:
    """The first 16 hex digits of the SHA-256 of JSON-able facts, for `Source.fingerprint`."""
    text = json.dumps(facts, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("ascii")).hexdigest()[:16]
