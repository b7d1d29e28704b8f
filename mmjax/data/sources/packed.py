"""Many small JSON objects in little memory, as a dataset's annotations are.

A million Python dicts take gigabytes and are copied by every worker process that looks at them. One
text with its ends takes what the file took, and is pickled at once.
"""

import json
from collections.abc import Iterable
from typing import Any

import numpy as np
from isal.isal_zlib import crc32

__all__ = ["PackedRows"]


class PackedRows:
    """A list of JSON objects.

    Args:
      rows: what is kept.
    """

    def __init__(self, rows: Iterable[dict[str, Any]]):
        text, ends = bytearray(), [0]
        for row in rows:
            text += json.dumps(row, separators=(",", ":")).encode("ascii")
            ends.append(len(text))
        self._text, self._ends = bytes(text), np.array(ends, np.int64)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, position: int) -> dict[str, Any]:
        if not 0 <= position < len(self):
            raise IndexError(f"Sample {position} of {len(self):,} was asked for.")
        begin, end = self._ends[position : position + 2].tolist()
        return json.loads(self._text[begin:end])

    @property
    def checksum(self) -> int:
        """CRC-32 of all rows."""
        return crc32(self._text)
