"""The model of a source with the one head that a task asks for, and which arrays it begins with."""

import dataclasses
from typing import Any, NamedTuple

from mmjax.config import ConfigError
from mmjax.interop.reading import words_of
from mmjax.models.dual.naflex import NaFlexTwoTower
from mmjax.models.dual.two_tower import TwoTower
from mmjax.models.encoders.classifier import Classifier
from mmjax.models.fusion.general import GeneralFusion
from mmjax.models.fusion.lxmert import Lxmert
from mmjax.models.fusion.pictured import Pictured
from mmjax.models.fusion.vilbert import Vilbert
from mmjax.models.fusion.vilt import Vilt
from mmjax.models.fusion.visualbert import VisualBert
from mmjax.run.written import fields_of

__all__ = ["FUSED", "Headed", "with_class_head", "with_head"]

FUSED = (Vilt, VisualBert, Lxmert, Vilbert, GeneralFusion)  # with `heads` of their own
PICTURES = 2  # that a statement is about
# A model's own heads, and what belongs to objectives.
HEADS = r"(masked_lm|alignment|[a-z_]+_head)/.*"
OWNED = ("objectives/.*", "")


class Headed(NamedTuple):
    """A model to be fine-tuned.

    Attributes:
      model: with the one head.
      rules: of the source's arrays, as `init_rules`.
      fresh: of the model's arrays, as `init_fresh`.
      kept: whether the source's own head goes on.
    """

    model: Any
    rules: tuple[tuple[str, str], ...]
    fresh: tuple[str, ...]
    kept: bool


def with_head(model: Any, head: str, name: str, answers: int, same: bool) -> Headed:
    """A model that looks at text and picture together, with a head of that name alone.

    Two towers get blocks in which the words look at the picture's tokens (`GeneralFusion`). A head
    of the source is kept where its scores mean the same: of truth always, of answers if the
    vocabulary is the source's own.

    Args:
      model: of the source.
      head: 'answer' or 'reasoning'.
      name: of the source.
      answers: of the vocabulary, for 'answer'.
      same: whether it is the source's own.

    Raises:
      ConfigError: a model that looks at pictures, or texts, alone.
    """
    outer, inner, before = None, model, ""
    if isinstance(model, Pictured):
        outer, inner, before = model, model.fusion, "fusion/"
    fresh: tuple[str, ...] = ()
    if type(inner) is TwoTower:
        inner = GeneralFusion(**fields_of(inner), form="hierarchical", heads=())
        fresh = ("fusion/.*",)
    if not isinstance(inner, FUSED):
        raise ConfigError(_refusal(name, model, "looks at text and picture together"))
    kept = head in inner.heads and (head == "reasoning" or same)
    kept &= head != "reasoning" or getattr(inner, "pictures", PICTURES) == PICTURES
    fields = {**fields_of(inner), "heads": (head,)}
    if head == "answer":
        fields["answers"] = answers
    elif "pictures" in fields:
        fields["pictures"] = PICTURES
    if isinstance(inner, Vilt) and head == "reasoning":  # a row for each picture and the text
        rows = max(inner.stream.modalities, PICTURES + 1)
        fields["stream"] = dataclasses.replace(inner.stream, modalities=rows)
    made = type(inner)(**fields)
    if outer is not None:
        made = type(outer)(**{**fields_of(outer), "fusion": made})
    own = f"{before}{head}_head/.*"
    rules = (OWNED, *(((f"({own})", r"\1"),) if kept else ()), (before + HEADS, ""))
    return Headed(made, (*rules, ("(.*)", r"\1")), fresh if kept else (*fresh, own), kept)


def with_class_head(model: Any, name: str, classes: int) -> Headed:
    """The picture tower of a source, and one score for each class; a class head is always new.

    Args:
      model: two towers, a tower, a `Classifier`, or a model of text and picture with a tower that
        sees pictures by themselves.
      name: of the source.
      classes: how many.

    Raises:
      ConfigError: no such tower.
    """
    has_tower = isinstance(model, TwoTower | Classifier | Pictured)
    tower = model.image if has_tower else model
    if words_of(tower) != ("image",):
        raise ConfigError(_refusal(name, model, "sees a picture by itself"))
    before = "image/" if has_tower else ""
    rules: tuple[tuple[str, str], ...] = ((f"{before}(.*)", r"image/\1"), (".*", ""))
    if getattr(tower, "head", "") == "linear":  # a classifier's scores
        tower = type(tower)(**{**fields_of(tower), "head": "none", "head_dim": None})
        rules = ((f"{before}head/.*", ""), *rules)
    return Headed(Classifier(tower, classes), rules, ("head/.*",), False)


def _refusal(name: str, model: Any, wanted: str) -> str:
    if isinstance(model, NaFlexTwoTower):
        return (
            f"init_from={name} takes pictures as patches; this config's data makes squares of them."
        )
    return (
        f"init_from={name}: a {type(model).__name__} has nothing that {wanted}. docs/finetuning.md "
        "lists what each config begins with."
    )
