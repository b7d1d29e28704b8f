"""Where a run's first weights came from, kept beside its checkpoints and read again on export."""

import io
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from mmjax.interop.tensors import WeightsError

__all__ = ["FILES", "from_folder", "to_files"]

ORIGIN, ASIDE = "origin.json", "aside.npz"
FILES = (ORIGIN, ASIDE)


def to_files(
    source: str, family: str, config: Mapping[str, Any], aside: Mapping[str, np.ndarray]
) -> dict[str, bytes]:
    """{file name: content} of an origin.

    Args:
      source: as given, an hf:// address with its commit.
      family: kind of published model.
      config: theirs.
      aside: arrays that our model has no use for.
    """
    told = {"source": source, "family": family, "config": dict(config)}
    made = {ORIGIN: (json.dumps(told, indent=1, sort_keys=True) + "\n").encode()}
    if aside:
        kept = io.BytesIO()
        np.savez(kept, **{name.replace("/", "|"): array for name, array in aside.items()})
        made[ASIDE] = kept.getvalue()
    return made


def from_folder(folder: pathlib.Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """(what origin.json says, what was set aside); ({}, {}) where there is none.

    Raises:
      WeightsError: the files are damaged.
    """
    try:
        path = folder / ORIGIN
        told = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        if not (folder / ASIDE).exists():
            return told, {}
        with np.load(folder / ASIDE, allow_pickle=False) as file:
            return told, {name.replace("|", "/"): file[name] for name in file.files}
    except (OSError, ValueError) as error:
        raise WeightsError(f"{folder}: {error}.") from None
