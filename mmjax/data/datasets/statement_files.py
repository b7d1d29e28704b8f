"""Files of statements about pictures, one JSON object a line, as NLVR and NLVR2 come."""

import json
import os
from typing import Any

from mmjax.data.sources import patterns

__all__ = ["statements"]


def statements(path: str | tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """{identifier: its line} of all lines of all files.

    Each has 'sentence', 'identifier' and, but for a test split, 'label', which becomes a bool.

    Args:
      path: one file or several.

    Raises:
      ValueError: another layout, or an identifier that stands there twice; names file and line.
      FileNotFoundError: no such file.
    """
    found: dict[str, dict[str, Any]] = {}
    for name in patterns.expand(path):
        with open(os.path.expanduser(name), encoding="utf-8") as file:
            for number, text in enumerate(file, 1):
                if text.strip():
                    row = _parse(text, f"{name}: line {number}")
                    if row["identifier"] in found:
                        raise ValueError(
                            f"{name}: line {number}: identifier {row['identifier']!r} was there "
                            "before; give each file once."
                        )
                    found[row["identifier"]] = row
    if not found:
        raise ValueError(f"{path!r} holds no statements.")
    return found


def _parse(text: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where} is not JSON: {error}; each line is one object.") from None
    for name in ("sentence", "identifier"):
        if not isinstance(row, dict) or not isinstance(row.get(name), str) or not row[name].strip():
            raise ValueError(f"{where} has no text {name!r}: {text[:80]!r}.")
    if "label" in row:
        truth = {"true": True, "false": False}.get(str(row["label"]).lower())
        if truth is None:
            raise ValueError(f"{where}: label {row['label']!r} is neither true nor false.")
        row["label"] = truth
    return row
