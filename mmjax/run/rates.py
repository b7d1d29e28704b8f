"""Rates of a fine-tuning: lower from layer to layer downwards, higher for a new head."""

from collections.abc import Iterator
from typing import Any

from mmjax.models.dual.two_tower import TwoTower
from mmjax.models.encoders.classifier import Classifier
from mmjax.models.fusion.general import GeneralFusion
from mmjax.models.fusion.lxmert import Lxmert
from mmjax.models.fusion.pictured import Pictured
from mmjax.models.fusion.vilbert import Vilbert

__all__ = ["rate_rules"]

HEADS = r"(?#optional)(fusion/)?((answer|reasoning|class)_)?head/.*"  # of tasks, not of a tower
# What lies before a tower's first block.
FIRST = r"[^/]*(embedding|class_token|patches|regions|features|boxes)[^/]*(/.*)?"


def rate_rules(
    model: Any, layer_rate: float = 1.0, head_rate: float = 1.0
) -> tuple[tuple[str, float], ...]:
    """`rate_rules` of an optimizer.

    The highest block has `layer_rate`, the one below it `layer_rate` squared, and so on down to
    what embeds words and pictures. Blocks over both streams lie above those of each.

    Args:
      model: that is trained.
      layer_rate: factor from a layer to the one below, above 0 and at most 1.
      head_rate: factor of a task's head.

    Raises:
      ValueError: a factor out of range, or a tower without stacked blocks where layers have one.

    Source: Clark et al. 2020 (ELECTRA), appendix B, for layer-wise rates.
    """
    if not 0 < layer_rate <= 1 or head_rate < 0:
        raise ValueError(
            f"layer_rate={layer_rate}, head_rate={head_rate}: a layer's factor is above 0 and at "
            "most 1, a head's 0 or more."
        )
    rules: list[tuple[str, float]] = []
    if layer_rate < 1:
        for stack, depth, above in _stacks(model):
            for layer in range(depth):
                rules.append((f"{stack}[{layer}]/.*", layer_rate ** (above + depth - layer)))
            tower, _, last = stack.rpartition("/")
            if last == "blocks":
                lowest = layer_rate ** (above + depth + 1)
                rules.append((f"(?#optional){tower}/{FIRST}", lowest))
    return (*rules, (HEADS, head_rate), (".*", 1.0))


def _stacks(model: Any, before: str = "", above: int = 0) -> Iterator[tuple[str, int, int]]:
    """(path, depth, layers above) of each stack of blocks."""
    if isinstance(model, Pictured):
        within = list(_stacks(model.fusion, f"{before}fusion/", above))
        yield from within
        yield from _tower(model.image, f"{before}image", max(d + a for _, d, a in within))
        return
    if isinstance(model, Lxmert | Vilbert):
        yield f"{before}crossings", model.depth, above
        above += model.depth
    if isinstance(model, GeneralFusion) and model.form != "late":
        early = model.form == "early"
        depth = model.depth if early else model.depth // model.look_every
        yield f"{before}fusion/{'blocks' if early else 'layers'}", depth, above
        above += depth
    if isinstance(model, TwoTower | Lxmert | Vilbert):
        yield from _tower(model.text, f"{before}text", above)
    if isinstance(model, TwoTower | Lxmert | Vilbert | Classifier):
        yield from _tower(model.image, f"{before}image", above)
    elif hasattr(model, "stream"):
        yield from _tower(model.stream, f"{before}stream", above)


def _tower(tower: Any, path: str, above: int) -> Iterator[tuple[str, int, int]]:
    if not hasattr(tower, "depth"):
        raise ValueError(
            f"layer_rate is for towers of stacked blocks, and {type(tower).__name__} has none; "
            "leave it at 1, or write optimizer.rate_rules."
        )
    yield f"{path}/blocks", tower.depth, above
