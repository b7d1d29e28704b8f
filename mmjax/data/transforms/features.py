"""Features that users bring, out of a record and into the batch."""

import dataclasses
import io
import json
from typing import Any

import numpy as np

from mmjax.data.sources.base import BadSample


@dataclasses.dataclass(frozen=True)
class Features:
    """Reads 'image_features' and 'text_features' from the sample's record, as float32 vectors.

    A place is a member that holds an array ('image_features'), a `.npy` file ('image.npy'), or
    JSON and the field in it that holds a list of numbers ('json:image_features'). Several with ';'
    between them are tried in order.

    Attributes:
      image_from: place of the picture's features, '' for none.
      text_from: place of the text's features, '' for none.
    """

    image_from: str = "image_features;json:image_features;image.npy"
    text_from: str = "text_features;json:text_features;text.npy"

    def __call__(self, sample: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        """`sample` with the two words; draws nothing.

        Raises:
          BadSample: 'missing' with the members found, or 'format' where it is no finite vector.
        """
        for word, places in (
            ("image_features", self.image_from),
            ("text_features", self.text_from),
        ):
            if places:
                sample[word] = _vector(sample["record"], places, sample["key"])
        return sample


def _vector(record: dict[str, Any], places: str, key: str) -> np.ndarray:
    for place in places.split(";"):
        member, _, field = place.partition(":")
        if member not in record:
            continue
        value = record[member]
        try:
            if field:
                value = json.loads(value) if isinstance(value, str | bytes) else value
                if field not in value:
                    continue
                value = value[field]
            elif isinstance(value, bytes):
                value = np.load(io.BytesIO(value), allow_pickle=False)
            vector = np.asarray(value, np.float32)
        except (ValueError, TypeError) as error:
            raise BadSample("format", f"{key}: {place} holds no numbers ({error}).") from None
        if vector.ndim != 1 or not np.isfinite(vector).all():
            raise BadSample("format", f"{key}: {place} is {vector.shape}, not a finite vector.")
        return vector
    raise BadSample("missing", f"{key}: none of {places}; it has {', '.join(sorted(record))}.")
