"""Drawn scenes with class labels that occur in training, and with regions."""

import dataclasses

import numpy as np

from mmjax.data.datasets.scene_grammar import COLOURS, SHAPES
from mmjax.data.datasets.scene_regions import KINDS, kind_of, regions
from mmjax.data.datasets.scenes import Scenes
from mmjax.data.sources.base import Record, Source, digest

__all__ = ["SceneLabels", "label_names", "labels_names"]


def label_names() -> tuple[str, ...]:
    """Names of the 48 classes of 'label', such as 'red circle', in their order."""
    return tuple(f"{colour} {shape}" for shape, colour in KINDS)


def labels_names() -> tuple[str, ...]:
    """Names of the 14 places of 'labels': the shapes, then the colours."""
    return SHAPES + COLOURS


@dataclasses.dataclass(frozen=True)
class SceneLabels(Source):
    """Scenes with a class, several labels, and regions; record i is scene i.

    A record holds what a scene's does, and

    * 'label': the class of the scene's largest object, a number into `label_names`; 40 of the 48
      occur in training, the other 8 (one shape of each colour) in held-out scenes alone;
    * 'labels': float32 [14], 1 for each shape and each colour that the scene shows, else 0;
    * 'boxes', 'features', 'classes', 'width', 'height': see `scene_regions.regions`.

    Licence and source: those of the package; everything is drawn, nothing is downloaded.

    Attributes:
      scenes: whose pictures; its split and seed are those of the labels.
      noise: of the regions' features, a standard deviation; 0 or more.
    """

    scenes: Scenes = dataclasses.field(default_factory=Scenes)
    noise: float = 0.1

    def __post_init__(self) -> None:
        if not self.noise >= 0:
            raise ValueError(f"noise={self.noise}; it is 0 or more.")

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, position: int) -> Record:
        """One scene. See `Source.__getitem__`."""
        record = self.scenes.scene(position)
        objects = record["objects"]
        shown = {item["shape"] for item in objects} | {item["colour"] for item in objects}
        largest = max(objects, key=lambda item: item["diameter"])
        return {
            **self.scenes[position],
            "label": kind_of(largest),
            "labels": np.array([name in shown for name in labels_names()], np.float32),
            **regions(record, self.noise),
        }

    def fingerprint(self) -> str:
        """See `Source.fingerprint`."""
        return digest(["scene labels", self.scenes.fingerprint(), self.noise])

    def describe(self) -> str:
        """See `Source.describe`."""
        return f"{self.scenes.describe()}, with labels and regions"
