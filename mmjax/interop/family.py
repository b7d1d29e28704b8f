"""What a family of published models is: config to model, model to table, and back."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from mmjax.interop.forms import SAME, TRANSPOSED, Form
from mmjax.interop.rows import Table
from mmjax.interop.tensors import Tensors, WeightsError

__all__ = [
    "POOLER",
    "Family",
    "activation_of",
    "activation_to",
    "compare",
    "dense",
    "known",
    "norm",
]

# An argument of BERT's and ViT's classes; in a config, on reading, it says what the file holds.
POOLER = "add_pooling_layer"

# How a model computes, not what: these fields need not be the same on both sides.
COMPUTING = ("dtype", "scan", "remat", "attention", "patch_dropout", "parent", "name")
INITIAL = ("log_scale_init",)

ACTIVATIONS = {
    "gelu": "gelu",
    "quick_gelu": "quick_gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "relu": "relu",
}


def _as_it_is(config: Mapping[str, Any], tensors: Tensors) -> Mapping[str, Any]:
    del tensors
    return config


@dataclasses.dataclass(frozen=True)
class Family:
    """One kind of published model.

    Attributes:
      name: as in messages and stored origins, e.g. 'hf/clip'.
      model: their config to our model; raises WeightsError for what is not built.
      table: our model to the table of its arrays.
      config: our model to their config; `compare` says what it could not express.
      fitted: their config and a file to the config with what the file alone tells, such as which
        heads it holds.
    """

    name: str
    model: Callable[[Mapping[str, Any]], Any]
    table: Callable[[Any], Table]
    config: Callable[[Any], dict[str, Any]]
    fitted: Callable[[Mapping[str, Any], Tensors], Mapping[str, Any]] = _as_it_is

    def expressed(self, model: Any) -> dict[str, Any]:
        """Their config of our model.

        Raises:
          WeightsError: the format cannot express the model; the fields are listed.
          TypeError: it is of another class than the format's models.
        """
        config = self.config(model)
        theirs = self.model(config)
        if type(theirs) is not type(model):
            raise TypeError(f"{self.name} is of {type(theirs).__name__}.")
        lost = compare(model, theirs)
        if lost:
            told = "; ".join(f"{field}={ours!r}, not {theirs!r}" for field, ours, theirs in lost)
            raise WeightsError(f"the format {self.name} cannot express this model: {told}.")
        return config


def compare(ours: Any, theirs: Any, below: str = "") -> list[tuple[str, Any, Any]]:
    """[(field, our value, their value)] in which two models differ, but for how they compute.

    Args:
      ours: a flax module.
      theirs: another.
      below: dotted path of the two, for the names of fields.
    """
    if type(ours) is not type(theirs):
        return [(below.rstrip(".") or "model", type(ours).__name__, type(theirs).__name__)]
    found = []
    for field in dataclasses.fields(ours):
        if field.name in COMPUTING + INITIAL or _same_embedding(ours, theirs, field.name):
            continue
        mine, other = getattr(ours, field.name), getattr(theirs, field.name)
        if dataclasses.is_dataclass(mine) and dataclasses.is_dataclass(other):
            found += compare(mine, other, f"{below}{field.name}.")
        elif field.name == "bias_init":
            if (mine is None) != (other is None):
                found.append((f"{below}bias_init", mine, other))
        elif mine != other:
            found.append((f"{below}{field.name}", mine, other))
    return found


def _same_embedding(ours: Any, theirs: Any, field: str) -> bool:
    """Whether two text towers that differ in a field give the same embedding of every text.

    A causal tower's end of text does not see the padding after it; and where end-of-text is the
    last of the vocabulary, it is the highest number of a text.
    """
    if field == "mask_padding":
        return ours.causal and theirs.causal
    if field in ("pooling", "eos_id") and hasattr(ours, "vocab_size"):
        return all(
            one.pooling == "highest_id"
            or (one.pooling == "end_of_text" and one.eos_id == one.vocab_size - 1)
            for one in (ours, theirs)
        )
    return False


def known(config: Mapping[str, Any], built: Mapping[str, Any], where: str) -> None:
    """Raises WeightsError where a config asks for what is not built.

    Args:
      config: theirs.
      built: {field: the values that are built, the default first}; a missing field is its default.
      where: what to call the config.
    """
    for field, values in built.items():
        given = config.get(field, values[0])
        if given not in values:
            allowed = " or ".join(map(repr, values))
            raise WeightsError(f"{where}: {field}={given!r} is not built; {allowed} is.")


def label_count(config: Mapping[str, Any]) -> int:
    """How many labels a config of Hugging Face has: 2 where it says nothing."""
    named = config.get("id2label")
    number = config.get("num_labels") if named is None else len(named)
    return 2 if number is None else number


def labels(number: int) -> dict[str, dict[str, Any]]:
    """'id2label' and 'label2id' of so many labels without names."""
    names = [f"LABEL_{n}" for n in range(number)]
    return {
        "id2label": {str(n): name for n, name in enumerate(names)},
        "label2id": {name: n for n, name in enumerate(names)},
    }


def activation_of(name: str, where: str) -> str:
    """Our name of a published activation.

    Raises:
      WeightsError: it is not built.
    """
    if name not in ACTIVATIONS:
        raise WeightsError(
            f"{where}: the activation {name!r} is not built; {', '.join(ACTIVATIONS)} are."
        )
    return ACTIVATIONS[name]


def activation_to(name: str) -> str:
    """The published name of an activation of ours."""
    return next(theirs for theirs, ours in ACTIVATIONS.items() if ours == name)


def dense(theirs: str, ours: str, bias: bool = True) -> list[tuple[str, str, Form]]:
    """Entries of a dense layer in torch's form."""
    made = [(f"{theirs}.weight", f"{ours}/kernel", TRANSPOSED)]
    return [*made, (f"{theirs}.bias", f"{ours}/bias", SAME)] if bias else made


def norm(theirs: str, ours: str) -> list[tuple[str, str, Form]]:
    """Entries of a layer norm in torch's form."""
    return [(f"{theirs}.weight", f"{ours}/scale", SAME), (f"{theirs}.bias", f"{ours}/bias", SAME)]
