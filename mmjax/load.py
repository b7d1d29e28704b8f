"""`mmjax.load(source)`: a model with its weights, ready to be asked, from one line.

    import mmjax
    clip = mmjax.load("hf://laion/CLIP-ViT-B-32-laion2B-s34B-b79K")
    clip.classify("photo.jpg", ["cat", "dog"])

Weights are a workdir or checkpoint of ours, a folder in Hugging Face or open_clip layout, a
big_vision .npz, or hf://owner/name[@revision].
"""

import dataclasses
import json
import os
import pathlib
import sys
import types
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding

from mmjax import paths
from mmjax.config import build, from_json
from mmjax.data.sources.patterns import is_address
from mmjax.interop import hub
from mmjax.interop.errors import line
from mmjax.interop.loaded import Loaded, Origin
from mmjax.interop.origin import from_folder
from mmjax.interop.reading import fill
from mmjax.interop.sources import Source, contract_of, is_published, open_source
from mmjax.interop.tensors import WeightsError
from mmjax.interop.tokenizing import FILES, open_file
from mmjax.parallel.accelerator import leave_out_tpu
from mmjax.parallel.layout import lay_out
from mmjax.preprocess import Contract
from mmjax.training.checkpoint import find_checkpoint
from mmjax.training.home import local_source
from mmjax.training.streaming import stream_params

__all__ = ["load"]

DTYPES = ("float32", "bfloat16")


def load(
    source: str | os.PathLike[str],
    *,
    mesh: Mesh | None = None,
    dtype: str = "float32",
    step: int | None = None,
    ema: bool = False,
    allow: tuple[str, ...] = (),
) -> Loaded:
    """A model with its weights, preprocessing and tokenizer.

    Args:
      source: a workdir or checkpoint of ours; a folder in Hugging Face layout (config.json and
        .safetensors) or open_clip layout (open_clip_config.json and .safetensors); a big_vision
        .npz; or hf://owner/name[@revision].
      mesh: of `mmjax.parallel.mesh.make_mesh`; parameters are put in their parts onto its devices
        as they are read, and rows are divided over it. None takes one device.
      dtype: 'float32', or 'bfloat16' for half the memory: towers compute in it and matrices are
        kept in it.
      step: of a workdir of ours; None takes the newest checkpoint that is whole.
      ema: take the moving average of a run of ours.
      allow: packages whose classes a run's config may name, beside those always trusted.

    Raises:
      WeightsError: nothing there, damaged, of a kind that is not built, or arrays left over.
    """
    leave_out_tpu()
    if dtype not in DTYPES:
        raise WeightsError(f"dtype={dtype!r} is none of {', '.join(DTYPES)}.")
    if is_published(source):
        if step is not None or ema:
            raise WeightsError(f"{source}: step and ema are for runs of ours.")
        return _published(open_source(source), mesh, dtype)
    name = os.fspath(source)
    if not is_address(name) and not pathlib.Path(name).exists():
        raise WeightsError(f"{name!r}: no such file or folder.{hub.meant(name)}")
    try:
        with local_source(name) as local:
            return _ours(name, local, mesh, dtype, step, ema, allow)
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        if isinstance(error, WeightsError):
            raise
        raise WeightsError(_told(name, error)) from None


def _told(name: str, error: Exception) -> str:
    """What is wrong with a source that is taken for a run of ours."""
    path = pathlib.Path(name)
    if path.is_dir() and not (path / "config.json").exists():
        return (
            f"{name}: no weights are known by what lies there: {error} A folder in Hugging Face "
            "layout has a config.json, one of open_clip an open_clip_config.json."
        )
    if isinstance(error, KeyError | AttributeError | TypeError):  # a config.json of another kind
        return f"{name}: {type(error).__name__}: {line(error)}."
    return str(error)


def _published(source: Source, mesh: Mesh | None, dtype: str) -> Loaded:
    filled = fill(source.family, source.config, source.tensors, _placing(mesh), _kind(dtype))
    contract = contract_of(source, filled.model)
    origin = Origin(source.name, source.family.name, filled.config, filled.read.aside)
    return Loaded(
        _computing(filled.model, dtype),
        filled.variables,
        contract,
        source.words and source.words.tokenizer,
        origin,
        source.missing,
        mesh,
    )


def _ours(
    name: str,
    local: str,
    mesh: Mesh | None,
    dtype: str,
    step: int | None,
    ema: bool,
    allow: tuple[str, ...],
) -> Loaded:
    folder = find_checkpoint(local, step)
    config = from_json((folder / "config.json").read_text(encoding="utf-8"))
    model = build(config.model, allow)
    place, kind = _placing(mesh), _kind(dtype)
    flat: dict[str, dict[str, Any]] = {}
    for collection, path, array in stream_params(folder, "ema" if ema else "params", kind):
        flat.setdefault(collection, {})[path] = place(f"{collection}/{path}", array)
        del array
    variables = {collection: paths.unflatten(found) for collection, found in flat.items()}
    contract = Contract.from_json((folder / "preprocess.json").read_text(encoding="utf-8"))
    file = next((folder / file for file in FILES if (folder / file).is_file()), None)
    tokenizer = file and open_file(file, dict(config.get("tokenizer") or {}))
    missing = {} if tokenizer is not None else {"text": " or ".join(FILES)}
    told, aside = from_folder(folder)  # of the published weights that the run began with
    theirs = told.get("config") or json.loads(config.to_json_best_effort())
    return Loaded(
        _computing(model, dtype),
        variables,
        contract,
        tokenizer,
        Origin(name, told.get("family", ""), theirs, aside, int(folder.name)),
        missing,
        mesh,
    )


def _computing(model: Any, dtype: str) -> Any:
    """The model with its towers computing in a type, and nothing kept for a backward pass."""
    changes: dict[str, Any] = {}
    for field in dataclasses.fields(model):
        value = getattr(model, field.name, None)
        if field.name == "dtype":
            changes["dtype"] = dtype
        elif field.name not in ("parent", "name") and hasattr(value, "apply"):
            changes[field.name] = _computing(value, dtype)
    return model.clone(**changes) if changes else model


def _kind(dtype: str) -> Callable[[tuple[int, ...]], Any]:
    """What gives an array's element type by its shape."""
    matrices = jnp.bfloat16 if dtype == "bfloat16" else jnp.float32
    return lambda shape: matrices if len(shape) > 1 else jnp.float32


def _placing(mesh: Mesh | None) -> Callable[[str, np.ndarray], Any]:
    """What puts an array on the devices as soon as it is read, and is done when it returns."""

    def place(path: str, array: np.ndarray) -> Any:
        sharding = None
        if mesh is not None:
            spec = lay_out(paths.unflatten({path: array}), mesh, (), sys.maxsize)[path].spec
            sharding = NamedSharding(mesh, spec)
        # Waited for, so that the next array is not read while this one is still in both memories.
        return jax.block_until_ready(jax.device_put(array, sharding))

    return place


class _Callable(types.ModuleType):
    """This module is what `mmjax.load` is, and the name is also the function's."""

    def __call__(self, *arguments: Any, **options: Any) -> Loaded:
        return load(*arguments, **options)


sys.modules[__name__].__class__ = _Callable
