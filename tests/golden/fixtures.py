"""Writes a reference's config, weights, inputs and outputs as a folder that `parity.run` takes.

Used by the scripts make_*.py beside this file, where torch and the reference are installed.
"""

import importlib.abc
import importlib.machinery
import inspect
import json
import pathlib
import sys

import numpy as np
import torch
from safetensors.torch import save_file

PUBLISHED = pathlib.Path(__file__).parent / "published"


class _Anything(type):
    """A class that has every attribute."""

    def __getattr__(cls, attribute):
        if attribute.startswith("__"):
            raise AttributeError(attribute)
        return attribute


def _nothing(attribute: str) -> type:
    if attribute.startswith("__"):
        raise AttributeError(attribute)
    return _Anything(attribute, (), {})


class _StandIn(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds an empty module under every name of torchvision."""

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "torchvision":
            return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def exec_module(self, module):
        module.__getattr__ = _nothing


def without_torchvision() -> None:
    """Lets open_clip and timm be imported where torchvision is not installed.

    They ask for it for picture transforms and data sets that no golden uses.
    """
    sys.meta_path.insert(0, _StandIn())


def shake(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Random numbers on every array, so that none can be mapped wrongly unseen."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for array in model.parameters():
            if array.ndim:
                spread = 0.1 if array.ndim == 1 else 0.5 / array[0].numel() ** 0.5
                array.add_(spread * torch.randn(array.shape, generator=generator))
        for name, array in model.named_buffers():
            if name.endswith("running_mean"):
                array.add_(0.1 * torch.randn(array.shape, generator=generator))
            if name.endswith("running_var"):
                array.mul_(1 + 0.2 * torch.rand(array.shape, generator=generator))
    return model.eval()


def flat(output, prefix: str = "") -> dict:
    """{dotted name: array} of what a reference returned."""
    made = {}
    items = output.items() if hasattr(output, "items") else enumerate(output)
    for key, value in items:
        if isinstance(value, torch.Tensor):
            made[f"{prefix}{key}"] = value.detach().numpy()
        elif value is not None and not isinstance(value, (int, float, bool, str)):
            made |= flat(value, f"{prefix}{key}.")
    return made


def write(name, model, config, inputs, outputs, kwargs=None, loss=None, reference=None) -> None:
    """One folder below tests/golden/published.

    Args:
      name: the folder's.
      model: the reference.
      config: its config, a dict.
      inputs: {name: tensor}.
      outputs: {name: array}.
      kwargs: flags that its forward was called with.
      loss: a scalar tensor whose gradient's norms are stored.
      reference: its class, where it is not the model's own.
    """
    folder = PUBLISHED / name
    folder.mkdir(parents=True, exist_ok=True)
    state = {key: value.clone().contiguous() for key, value in model.state_dict().items()}
    save_file(state, folder / "state.safetensors")
    (folder / "config.json").write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")
    inputs = {key: value.numpy() for key, value in inputs.items()}
    np.savez_compressed(folder / "inputs.npz", **inputs)
    np.savez_compressed(folder / "outputs.npz", **outputs)
    kind = type(model)
    meta = {
        "name": name,
        "reference_class": reference or f"{kind.__module__}.{kind.__name__}",
        "forward_kwargs": {key: str(value) for key, value in (kwargs or {}).items()},
        "forward_signature": str(inspect.signature(model.forward)),
        "inputs": {key: [list(v.shape), str(v.dtype)] for key, v in inputs.items()},
        "outputs": {key: [list(v.shape), str(v.dtype)] for key, v in outputs.items()},
        "state_keys": {key: list(value.shape) for key, value in state.items()},
    }
    (folder / "meta.json").write_text(json.dumps(meta, indent=1) + "\n")
    if loss is None:
        return
    model.zero_grad()
    loss.backward()
    norms = {
        key: float(array.grad.norm())
        for key, array in model.named_parameters()
        if array.grad is not None
    }
    (folder / "grad_norms.json").write_text(json.dumps(norms, indent=1) + "\n")
