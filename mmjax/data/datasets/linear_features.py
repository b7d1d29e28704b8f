"""Made-up features of pictures and texts: two noisy linear views of one hidden vector.

They stand in for features that a user brings, where a run has to work without files.
"""

import dataclasses
import functools

import numpy as np

from mmjax.data.sources.base import Record, Source, digest


@dataclasses.dataclass(frozen=True)
class LinearFeatures(Source):
    """Pairs of features as a source of records; pair i is a function of (seed, split, i) alone.

    Attributes:
      split: 'train' or 'held_out': other pairs under the same two linear maps.
      num_pairs: how many.
      image_dim: width of a picture's features.
      text_dim: width of a text's features.
      hidden_dim: width of the vector that both are views of.
      noise: standard deviation of what is added to each number; the views' own is 1.
      seed: decides the maps and the pairs.
    """

    split: str = "train"
    num_pairs: int = 1024
    image_dim: int = 48
    text_dim: int = 32
    hidden_dim: int = 8
    noise: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.split not in ("train", "held_out") or self.num_pairs < 1:
            raise ValueError(
                f"split={self.split!r} is 'train' or 'held_out', num_pairs={self.num_pairs} is 1 "
                "or more."
            )

    def __len__(self) -> int:
        return self.num_pairs

    @functools.cached_property
    def _maps(self) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng((self.seed, 7))
        shapes = ((self.hidden_dim, self.image_dim), (self.hidden_dim, self.text_dim))
        first, second = (rng.normal(size=shape) / np.sqrt(self.hidden_dim) for shape in shapes)
        return first, second

    def __getitem__(self, position: int) -> Record:
        """'image_features' and 'text_features', float32 vectors."""
        if not 0 <= position < self.num_pairs:
            raise IndexError(f"pair {position} of {self.num_pairs}")
        rng = np.random.default_rng((self.seed, self.split == "train", position))
        hidden = rng.normal(size=self.hidden_dim)
        image, text = (
            (hidden @ view + self.noise * rng.normal(size=view.shape[1])).astype(np.float32)
            for view in self._maps
        )
        return {"__key__": f"pair-{position}", "image_features": image, "text_features": text}

    def fingerprint(self) -> str:
        """See `Source.fingerprint`."""
        return digest(["linear features", dataclasses.asdict(self)])

    def describe(self) -> str:
        """See `Source.describe`."""
        return f"{self.num_pairs:,} made-up pairs of features ({self.split})"
