"""What of a model's preprocessing another library's files cannot hold."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from mmjax.interop.errors import WeightsError
from mmjax.interop.loaded import Loaded
from mmjax.preprocess import Contract

__all__ = ["ALLOWED", "check_preprocessing"]

# What happens where a difference in one of these is allowed.
THEN = {
    "crop_rounding": "the centre that is cut out of a picture may lie a pixel beside ours",
    "text_cleaning": "texts with HTML entities or wrongly decoded letters get other tokens there",
}
ALLOWED = tuple(THEN)
# Fields that a reader leaves at these values where it does not name them.
READ_AS = {"pad_value": 0, "resize_size": 0, "crop_rounding": "even"}


def _alike(ours: Any, theirs: Any) -> bool:
    both = isinstance(ours, tuple) and isinstance(theirs, tuple)
    return np.allclose(ours, theirs, rtol=1e-9, atol=0) if both else ours == theirs


def _unused(contract: Contract) -> set[str]:
    """Fields that say nothing of a picture that is treated so."""
    if contract.resize == "naflex":
        return {"image_size", "pad_value", "resize_size", "crop_rounding"}
    made = set() if contract.resize == "longest" else {"pad_value"}
    cut = contract.resize == "shortest" or contract.resize_size
    return made if cut else made | {"crop_rounding"}


def check_preprocessing(
    loaded: Loaded,
    pictures: Mapping[str, Any] | None,
    does: tuple[str, ...],
    allow: tuple[str, ...],
) -> None:
    """Raises WeightsError where what is written means something else than the contract.

    Args:
      loaded: the model.
      pictures: the contract's fields of pictures as they are read back; None where none are
        written.
      does: rules by which the other library cleans texts.
      allow: fields that may differ.
    """
    ours, lost = loaded.contract, {}
    if pictures is not None:
        theirs = dataclasses.replace(ours, **{**READ_AS, **pictures})
        for field in sorted({*READ_AS, *pictures} - _unused(ours)):
            mine, other = getattr(ours, field), getattr(theirs, field)
            if not _alike(mine, other):
                lost[field] = f"preprocess.{field}={mine!r}, it has {other!r}"
    if loaded.tokenizer is not None and ours.text_cleaning not in does:
        theirs = " or ".join(map(repr, does))
        lost["text_cleaning"] = f"preprocess.text_cleaning={ours.text_cleaning!r}, it has {theirs}"
    if set(lost) <= set(allow):
        return
    told = f"the format cannot express {'; '.join(lost.values())}."
    if set(lost) <= set(ALLOWED):
        then = "; ".join(THEN[field] for field in lost)
        told += f" --allow={','.join(lost)} writes it all the same; then {then}."
    raise WeightsError(told)
