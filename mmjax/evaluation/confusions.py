"""Which class is taken for which, as much of it as a report can show."""

from typing import Any

import numpy as np
from jaxtyping import Int

from mmjax.evaluation import pictures

__all__ = ["confusions"]

LARGEST_MATRIX = 64


def confusions(
    counts: Int[np.ndarray, "classes classes"], names: tuple[str, ...]
) -> dict[str, Any]:
    """The whole matrix of up to 64 classes; the largest confusions of any number.

    Args:
      counts: by (right class, class it was taken for).
      names: of the classes.
    """
    wrong = counts - np.diag(np.diag(counts))
    order = np.argsort(-wrong, axis=None, kind="stable")[:20]
    pairs = [(*divmod(int(place), len(counts)), int(wrong.flat[place])) for place in order]
    return {
        "classes": [pictures.shorten(name) for name in names],
        "totals": counts.sum(axis=1),
        "right": np.diag(counts),
        "confused": [pair for pair in pairs if pair[2]],
        "matrix": counts if len(counts) <= LARGEST_MATRIX else None,
    }
