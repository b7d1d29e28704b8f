"""NLVR2: statements about two photos, true or false."""

import re
from typing import Any

from mmjax.data.datasets.statement_files import statements
from mmjax.data.sources.base import Record, Source, digest
from mmjax.data.sources.named import NamedPictures, some
from mmjax.data.sources.packed import PackedRows

__all__ = ["NLVR2"]

_IDENTIFIER = re.compile(r"(.+-\d+-\d+)-\d+")
_SIDES = ("left", "right")


class NLVR2(Source):
    """One statement about two pictures a record, of NLVR2's official files.

    A record holds 'left' and 'right' (encoded pictures), 'statement', 'identifier'
    ('dev-850-0-0': split, set, pair, sentence; consistency is told by it) and, where the file has
    labels, 'truth' (bool). The official balanced and unbalanced files have the same layout.

    Licence: annotations CC-BY-4.0 (Suhr et al. 2019); the photos belong to their owners. Source of
    the data: github.com/lil-lab/nlvr, the pictures from its authors or by their addresses.

    Args:
      path: the official file, one JSON object a line ('train.json', 'dev.json', 'test1.json').
      pictures: a folder (with subfolders) or `.tar` shards, named by NLVR2's rule:
        'dev-850-0-img0.png' and 'dev-850-0-img1.png' for all sentences of 'dev-850-0'.

    Raises:
      ValueError: another layout, statements whose pictures are not there, or pictures of one name;
        names some.
      FileNotFoundError: a file or folder that is not there.
    """

    def __init__(self, path: str | tuple[str, ...], pictures: str | tuple[str, ...]):
        told = statements(path)
        self._pictures = NamedPictures(pictures)
        found = self._pictures.places()
        rows = [_row(row, found) for row in told.values()]
        missing = [row["identifier"] for row in rows if None in row["at"]]
        if missing:
            raise ValueError(
                f"{path!r}: {len(missing):,} of {len(rows):,} statements have no two pictures in "
                f"{pictures!r}, such as {some(missing)}. The pictures of 'dev-850-0-0' are named "
                "'dev-850-0-img0.png' and 'dev-850-0-img1.png'."
            )
        self._rows = PackedRows(rows)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, position: int) -> Record:
        row = self._rows[position]
        record: Record = {"__key__": row["identifier"]}
        for side, place in zip(_SIDES, row.pop("at")):
            _, record[side], where = self._pictures.read(place)
            record |= where
        return record | row

    def fingerprint(self) -> str:
        return digest(["NLVR2", len(self), self._rows.checksum, self._pictures.fingerprint()])

    def describe(self) -> str:
        without = "" if "truth" in self._rows[0] else ", without labels"
        return f"NLVR2, {len(self):,} statements about two pictures{without}"


def _row(row: dict[str, Any], found: dict[str, int]) -> dict[str, Any]:
    pair = _IDENTIFIER.fullmatch(row["identifier"])
    if pair is None:
        raise ValueError(
            f"{row['identifier']!r} is no identifier of NLVR2; they read 'split-set-pair-sentence'."
        )
    told = {"truth": row["label"]} if "label" in row else {}
    return {
        "at": [found.get(f"{pair[1]}-img{number}") for number in range(2)],
        "statement": row["sentence"],
        "identifier": row["identifier"],
        **told,
    }
