"""Regions of drawn scenes, as a detector would give them: boxes, features and class probabilities.

Where a model reads regions in place of pixels, these stand in for a file of a detector's output. A
feature tells an object's shape, colour, size and texture, with noise; so what a model has to learn
is what words and relations mean, not how to see.
"""

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from mmjax.data.datasets.scene_grammar import COLOURS, SHAPES, SIZES, TEXTURES

__all__ = ["FEATURE_DIM", "KINDS", "kind_of", "regions"]

KINDS = tuple((shape, colour) for shape in SHAPES for colour in COLOURS)
_ATTRIBUTES = (("shape", SHAPES), ("colour", COLOURS), ("size", SIZES), ("texture", TEXTURES))
FEATURE_DIM = sum(len(known) for _, known in _ATTRIBUTES)
CONFIDENCE = 6.0  # logit of the right class over the others, before noise


def kind_of(item: Mapping[str, Any]) -> int:
    """The number of an object's (shape, colour) in `KINDS`."""
    return KINDS.index((item["shape"], item["colour"]))


def regions(record: Mapping[str, Any], noise: float = 0.1) -> dict[str, Any]:
    """The regions of a scene, one an object, in the order of its objects.

    Args:
      record: a scene's full record; the noise is a function of its seed, split and position.
      noise: standard deviation of what is added to each number of the features, of which one in
        each group is 1, and ten times that to each logit of the classes.

    Returns:
      'boxes' (float32 [objects, 4]: x1, y1, x2, y2 in pixels), 'features' (float32
      [objects, `FEATURE_DIM`]: shape, colour, size, texture, one-hot and then noisy), 'classes'
      (float32 [objects, 48]: probabilities of `KINDS`), 'objects' and 'object_confidence' (the
      likeliest kind and its probability), 'attributes' (the texture, a number into `TEXTURES`),
      'width' and 'height' of the picture.
    """
    objects = record["objects"]
    name = f"regions/{record['seed']}/{record['split']}/{record['position']}"
    key = hashlib.blake2b(name.encode(), digest_size=8).digest()
    rng = np.random.default_rng(int.from_bytes(key))
    features = np.zeros((len(objects), FEATURE_DIM), np.float32)
    logits = np.zeros((len(objects), len(KINDS)), np.float32)
    for number, item in enumerate(objects):
        begin = 0
        for attribute, known in _ATTRIBUTES:
            features[number, begin + known.index(item[attribute])] = 1.0
            begin += len(known)
        logits[number, kind_of(item)] = CONFIDENCE
    features += noise * rng.standard_normal(features.shape, np.float32)
    logits += 10 * noise * rng.standard_normal(logits.shape, np.float32)
    chances = np.exp(logits - logits.max(1, keepdims=True))
    chances /= chances.sum(1, keepdims=True)
    return {
        "boxes": np.array([item["box"] for item in objects], np.float32),
        "features": features,
        "classes": chances,
        "objects": chances.argmax(1).astype(np.int32),
        "object_confidence": chances.max(1),
        "attributes": np.array([TEXTURES.index(item["texture"]) for item in objects], np.int32),
        "width": record["image_size"],
        "height": record["image_size"],
    }
