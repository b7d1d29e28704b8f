"""What a published model computes, computed by ours: a stored fixture in, named arrays out.

A fixture is a folder with a reference's config, weights and inputs, written by a script that ran
the reference. `run` decides by its meta.json what to compute and never looks at stored answers.
"""

import dataclasses
import functools
import importlib
import json
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mmjax import paths
from mmjax.interop.family import Family
from mmjax.interop.reading import Filled, fill
from mmjax.interop.rows import gradients
from mmjax.interop.tensors import Safetensors, Tensors, WeightsError

__all__ = ["ABSOLUTE", "RELATIVE", "Difference", "Fixture", "Run", "differences", "run"]

ABSOLUTE, RELATIVE, RELATIVE_GRADIENT = 2e-5, 1e-5, 1e-4
GRADIENT = "grad_norm."

# {the reference's class: module below mmjax.interop.fixtures whose `run` computes it}
RUNNERS = {
    "transformers.models.align.modeling_align.AlignModel": "align",
    "transformers.models.bert.modeling_bert.BertForMaskedLM": "bert",
    "transformers.models.bert.modeling_bert.BertForPreTraining": "bert",
    "transformers.models.bert.modeling_bert.BertModel": "bert",
    "transformers.models.chinese_clip.modeling_chinese_clip.ChineseCLIPModel": "chinese_clip",
    "transformers.models.clip.modeling_clip.CLIPModel": "clip",
    "open_clip.model.CLIP": "open_clip",
    "transformers.models.lxmert.modeling_lxmert.LxmertForPreTraining": "lxmert",
    "transformers.models.lxmert.modeling_lxmert.LxmertForQuestionAnswering": "lxmert",
    "transformers.models.lxmert.modeling_lxmert.LxmertModel": "lxmert",
    "timm.models.resnet.ResNet": "resnet",
    "transformers.models.siglip.modeling_siglip.SiglipModel": "siglip",
    "transformers.models.siglip2.modeling_siglip2.Siglip2Model": "siglip2",
    **{
        f"{release}.{name}": "vilbert"
        for release in ("vilbert_multi_task", "vilbert_beta")
        for name in ("BertModel", "BertForMultiModalPreTraining", "VILBertForVLTasks")
    },
    "transformers.models.vit.modeling_vit.ViTModel": "vit",
    "transformers.models.vit.modeling_vit.ViTForImageClassification": "vit",
}
VILT = "transformers.models.vilt.modeling_vilt.Vilt"
RUNNERS |= {
    f"{VILT}{name}": "vilt"
    for name in (
        "Model",
        "ForImageAndTextRetrieval",
        "ForImagesAndTextClassification",
        "ForMaskedLM",
        "ForQuestionAnswering",
    )
}
VISUALBERT = "transformers.models.visual_bert.modeling_visual_bert.VisualBert"
RUNNERS |= {
    f"{VISUALBERT}{name}": "visualbert"
    for name in (
        "Model",
        "ForPreTraining",
        "ForQuestionAnswering",
        "ForRegionToPhraseAlignment",
        "ForVisualReasoning",
    )
}


@dataclasses.dataclass(frozen=True)
class Fixture:
    """A folder of a reference's config, weights and inputs.

    Attributes:
      folder: where it lies.
      meta: what its meta.json says.
      config: the reference's own.
      inputs: {name: array}.
      tensors: weights that stand for the fixture's own, or None.
    """

    folder: pathlib.Path
    meta: Mapping[str, Any]
    config: Mapping[str, Any]
    inputs: Mapping[str, np.ndarray]
    tensors: Tensors | None = None

    @classmethod
    def open(cls, folder: str | os.PathLike[str], tensors: Tensors | None = None) -> "Fixture":
        """Reads all but the weights.

        Raises:
          WeightsError: a file is missing or none of its kind.
        """
        folder = pathlib.Path(folder)
        try:
            meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
            stored = folder / "config.json"
            config = json.loads(stored.read_text(encoding="utf-8")) if stored.exists() else {}
            with np.load(folder / "inputs.npz", allow_pickle=False) as file:
                inputs = {name: file[name] for name in file.files}
        except (OSError, ValueError) as error:
            raise WeightsError(f"{folder} is no fixture: {error}.") from None
        return cls(folder, meta, config, inputs, tensors)

    @property
    def reference(self) -> str:
        """The reference's class, or the fixture's name where it has none."""
        return self.meta.get("reference_class") or self.meta["name"]

    def asks(self, flag: str) -> bool:
        """Whether the reference was called with a flag that was true."""
        return (self.meta.get("forward_kwargs") or {}).get(flag) in (True, "True")

    def wants(self, name: str) -> bool:
        """Whether the outputs hold this one, or one below it."""
        return any(key == name or key.startswith(f"{name}.") for key in self.meta["outputs"])

    @functools.cached_property
    def state(self) -> Tensors:
        """The reference's weights, or those that stand for them."""
        if self.tensors is not None:
            return self.tensors
        return Safetensors([self.folder / "state.safetensors"])


@dataclasses.dataclass(frozen=True)
class Run:
    """A model with a fixture's weights: what runners compute with.

    Attributes:
      fixture: the fixture.
      filled: our model with its weights.
    """

    fixture: Fixture
    filled: Filled

    @classmethod
    def of(cls, fixture: Fixture, family: Family, config: Mapping[str, Any] | None = None) -> "Run":
        """The fixture's weights in our model.

        Args:
          fixture: the fixture.
          family: of its model.
          config: theirs, where the fixture's own needs something added.
        """
        config = fixture.config if config is None else config
        return cls(fixture, fill(family, config, fixture.state, lambda _, x: jnp.asarray(x)))

    def apply(self, method: str, **inputs: Any) -> Any:
        """A method's output."""
        return self.watch(method, **inputs)[0]

    def watch(self, method: str, **inputs: Any) -> tuple[Any, dict[str, Any]]:
        """(a method's output, {path: what was sown there})."""

        @jax.jit
        def run(variables: Any, inputs: Any) -> Any:
            how = {"method": method, "mutable": ["intermediates"]}
            return self.filled.model.apply(variables, **inputs, **how)

        output, kept = run(self.filled.variables, inputs)
        sown = paths.flatten(kept.get("intermediates", {}))  # each is a tuple of one
        return output, {path.removesuffix("/0"): value for path, value in sown.items()}

    def loss(self, loss: Callable[[Any], Any]) -> dict[str, Any]:
        """{'loss': its value, 'grad_norm.' + their name: L2 norm} of a loss of the parameters."""
        value, made = jax.jit(jax.value_and_grad(loss))(self.filled.variables["params"])
        flat = {f"params/{path}": array for path, array in paths.flatten(made).items()}
        norms = gradients(self.filled.table, flat, self.filled.read.found)
        return {"loss": value, **{f"{GRADIENT}{name}": norm for name, norm in norms.items()}}


def states(sown: Mapping[str, Any], tower: str) -> list[Any]:
    """The states before each block of a tower and after the last."""
    prefix = f"{tower}/blocks" if tower else "blocks"
    return [*sown[f"{prefix}/input"], sown[f"{prefix}/output"][-1]]


def run(folder: str | os.PathLike[str], tensors: Tensors | None = None) -> dict[str, np.ndarray]:
    """Computes a fixture's outputs with our models.

    Args:
      folder: with meta.json, config.json, state.safetensors and inputs.npz; nothing else is opened.
      tensors: weights by the reference's names that are taken for the fixture's own; None takes
        those.

    Returns:
      {name as in the fixture's outputs: array}, axes in the reference's order; for a fixture with a
      loss 'grad_norm.' + the reference's name of a parameter too.

    Raises:
      WeightsError: no fixture, or of a model that is not built.
    """
    fixture = Fixture.open(folder, tensors)
    module = runner(fixture)
    with jax.default_matmul_precision("highest"):
        made = module.run(fixture)
    kept = {
        name: value
        for name, value in made.items()
        if name.startswith(GRADIENT) or name in fixture.meta["outputs"]
    }
    return {name: np.asarray(value) for name, value in kept.items()}


def stored(folder: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """{output: array} that the reference gave, norms of its gradient too.

    Raises:
      WeightsError: the folder holds no outputs.
    """
    folder = pathlib.Path(folder)
    try:
        with np.load(folder / "outputs.npz", allow_pickle=False) as file:
            outputs = {name: file[name] for name in file.files}
        norms = folder / "grad_norms.json"
        found = json.loads(norms.read_text(encoding="utf-8")) if norms.exists() else {}
    except (OSError, ValueError) as error:
        raise WeightsError(f"{folder} holds no outputs: {error}.") from None
    return outputs | {f"{GRADIENT}{name}": np.asarray(value) for name, value in found.items()}


def runner(fixture: Fixture) -> Any:
    """The module of mmjax.interop.fixtures that computes a fixture: FAMILY and `run`.

    Raises:
      WeightsError: its reference is not built.
    """
    if fixture.reference not in RUNNERS:
        built = ", ".join(sorted(name.rpartition(".")[2] for name in RUNNERS))
        raise WeightsError(f"{fixture.folder}: {fixture.reference} is not built; {built} are.")
    return importlib.import_module(f"mmjax.interop.fixtures.{RUNNERS[fixture.reference]}")


@dataclasses.dataclass(frozen=True)
class Difference:
    """How one output differs from its reference.

    Attributes:
      name: of the output.
      largest: largest absolute difference; inf where one is missing or of another shape.
      place: index of the first value beyond the bound, or None where all are within.
      note: what is wrong beside numbers.
    """

    name: str
    largest: float
    place: tuple[int, ...] | None = None
    note: str = ""

    @property
    def within(self) -> bool:
        """Whether it is within the bound."""
        return self.place is None and not self.note


def differences(
    ours: Mapping[str, np.ndarray], theirs: Mapping[str, np.ndarray]
) -> Sequence[Difference]:
    """One for each output of theirs, in their order.

    The bound is 2e-5 + 1e-5 · |theirs|, for norms of gradients 2e-5 + 1e-4 · |theirs|.

    Args:
      ours: {name: array}.
      theirs: {name: array}.
    """
    return [_difference(name, ours.get(name), np.asarray(theirs[name])) for name in theirs]


def _difference(name: str, ours: np.ndarray | None, theirs: np.ndarray) -> Difference:
    if ours is None:
        return Difference(name, float("inf"), note="ours has no such output")
    if ours.shape != theirs.shape:
        return Difference(
            name, float("inf"), note=f"{ours.shape} of ours, {theirs.shape} of theirs"
        )
    apart = np.abs(ours.astype(np.float64) - theirs.astype(np.float64))
    relative = RELATIVE_GRADIENT if name.startswith(GRADIENT) else RELATIVE
    beyond = ~(apart <= ABSOLUTE + relative * np.abs(theirs))
    beyond &= ~(np.isnan(ours) & np.isnan(theirs))
    if not beyond.any():
        return Difference(name, float(apart.max(initial=0.0)))
    place = tuple(int(i) for i in np.argwhere(beyond)[0])
    return Difference(name, float(np.nan_to_num(apart, nan=np.inf).max()), place)


def image_of(pixel_values: np.ndarray) -> Any:
    """[batch, channels, height, width] of torch as [batch, height, width, channels]."""
    return jnp.asarray(pixel_values).transpose(0, 2, 3, 1)


def channels_first(tokens: Any, image: tuple[int, ...]) -> Any:
    """A ResNet's features, [batch, places, channels], as a map, [batch, channels, rows, columns].

    Args:
      tokens: the features in reading order.
      image: shape of the pictures, which were halved five times.
    """
    rows, columns = (-(-side // 32) for side in image[1:3])
    x = jnp.asarray(tokens).reshape(tokens.shape[0], rows, columns, -1)
    return x.transpose(0, 3, 1, 2)  # [b, h, w, c] -> [b, c, h, w]
