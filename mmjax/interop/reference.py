"""A published model run by its own library, where that is installed: the other side of parity.

The libraries are looked for by name when they are asked for; nothing here needs them otherwise.
"""

import importlib
import importlib.util
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mmjax.interop.errors import line
from mmjax.interop.loaded import Loaded
from mmjax.interop.reading import words_of
from mmjax.interop.sources import OPEN_CLIP
from mmjax.interop.tensors import WeightsError

__all__ = ["both_sides"]

ROWS = 3


def both_sides(
    loaded: Loaded, theirs: pathlib.Path
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """(our outputs, the reference's) of the same random pictures and texts.

    Args:
      loaded: ours.
      theirs: a folder in Hugging Face or open_clip layout, which its library loads strictly.

    Raises:
      WeightsError: the library is not installed, or does not take the folder as it is.
    """
    inputs = _inputs(loaded)
    is_open_clip = (theirs / OPEN_CLIP).is_file()
    answers = _open_clip(theirs, inputs) if is_open_clip else _transformers(theirs, inputs)
    return _ours(loaded, inputs), answers


def _inputs(loaded: Loaded) -> dict[str, np.ndarray]:
    """Random words of a batch; texts end where the model looks for their end."""
    rng = np.random.default_rng(0)
    image = getattr(loaded.model, "image", loaded.model)
    text = getattr(loaded.model, "text", loaded.model)
    size = getattr(image, "image_size", None) or loaded.contract.image_size
    made: dict[str, np.ndarray] = {"image": rng.normal(size=(ROWS, size, size, 3)).astype("f4")}
    if hasattr(text, "vocab_size"):
        end = getattr(text, "eos_id", None)
        end = text.vocab_size - 1 if end is None else end
        ids = rng.integers(3, max(4, min(end, text.vocab_size - 1)), (ROWS, text.length))
        mask = np.ones((ROWS, text.length), bool)
        for row in range(ROWS):
            length = max(2, text.length - 2 * row)
            ids[row, length - 1 :] = end
            mask[row, length:] = False
        made |= {"token_ids": ids.astype(np.int32), "text_mask": mask}
    return made


def _ours(loaded: Loaded, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    model, made = loaded.model, {}
    methods = [m for m in ("encode_image", "encode_text") if hasattr(type(model), m)]
    with jax.default_matmul_precision("highest"):
        for method in methods or ["__call__"]:
            words = {
                word: jnp.asarray(inputs[word])
                for word in words_of(model, method)
                if word in inputs
            }
            output = jax.jit(
                lambda variables, words, method=method: model.apply(
                    variables, **words, method=method
                )
            )(loaded.variables, words)
            kind = "text" if "token_ids" in words else "image"
            made[f"{kind}.pooled"] = output.pooled
            if methods:
                made[f"{kind}.embedding"] = output.embedding
            else:
                made[f"{kind}.tokens"] = output.tokens
    return {name: np.asarray(value) for name, value in made.items() if value is not None}


def _library(name: str) -> Any:
    if importlib.util.find_spec(name) is None or importlib.util.find_spec("torch") is None:
        raise WeightsError(
            f"the reference needs torch and {name}, which are not installed; give a stored "
            "fixture's folder, or run this where they are."
        )
    try:
        return importlib.import_module(name)
    except ImportError as error:  # of something that it needs itself
        raise WeightsError(f"the reference {name} cannot be imported: {error}.") from None


def _transformers(folder: pathlib.Path, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    library, torch = _library("transformers"), importlib.import_module("torch")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    kind = getattr(library, (config.get("architectures") or ["AutoModel"])[0])
    model, told = kind.from_pretrained(str(folder), output_loading_info=True)
    left = {key: sorted(told[key]) for key in told if told[key]}
    if left:
        raise WeightsError(f"{folder}: the reference leaves arrays over: {left}.")
    model = model.eval()
    tensors = {
        "pixel_values": torch.tensor(inputs["image"].transpose(0, 3, 1, 2)),
        **(
            {
                "input_ids": torch.tensor(inputs["token_ids"], dtype=torch.long),
                "attention_mask": torch.tensor(inputs["text_mask"], dtype=torch.long),
            }
            if "token_ids" in inputs
            else {}
        ),
    }
    takes = importlib.import_module("inspect").signature(model.forward).parameters
    sees_padding = config.get("model_type", "").startswith("siglip")
    given = {
        name: value
        for name, value in tensors.items()
        if name in takes and not (name == "attention_mask" and sees_padding)
    }
    try:
        with torch.no_grad():
            out = model(**given)
    except Exception as error:  # of a class that takes more than pictures and texts
        told = f"{type(error).__name__}: {line(error)}"
        raise WeightsError(_not_asked(folder, kind, told)) from None
    if "image_embeds" not in out and "last_hidden_state" not in out:
        raise WeightsError(_not_asked(folder, kind, f"it gives {', '.join(out)}"))
    if "image_embeds" not in out:
        kind_of = "text" if "input_ids" in given else "image"
        made = {f"{kind_of}.tokens": out.last_hidden_state}
        if out.get("pooler_output") is not None:
            made[f"{kind_of}.pooled"] = out.pooler_output
    else:
        made = {
            "image.embedding": out.image_embeds,
            "text.embedding": out.text_embeds,
        }
    return {name: value.numpy() for name, value in made.items()}


def _not_asked(folder: pathlib.Path, kind: type, why: str) -> str:
    return (
        f"{folder}: {kind.__name__} is not compared by random pictures and texts ({why}); give a "
        "stored fixture's folder, or save the tower or dual encoder by itself."
    )


def _open_clip(folder: pathlib.Path, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    library, torch = _library("open_clip"), importlib.import_module("torch")
    read = importlib.import_module("safetensors.torch").load_file
    config = json.loads((folder / OPEN_CLIP).read_text(encoding="utf-8"))["model_cfg"]
    kind = library.CustomTextCLIP if config.pop("custom_text", False) else library.CLIP
    model = kind(**config).eval()
    names = ("open_clip_model.safetensors", "model.safetensors")
    file = next(folder / name for name in names if (folder / name).is_file())
    model.load_state_dict(read(str(file)), strict=True)
    with torch.no_grad():
        image = model.encode_image(torch.tensor(inputs["image"].transpose(0, 3, 1, 2)))
        text = model.encode_text(torch.tensor(inputs["token_ids"], dtype=torch.long))
    made = {"image.pooled": image, "text.pooled": text}
    for tower, value in (("image", image), ("text", text)):
        made[f"{tower}.embedding"] = value / value.norm(dim=-1, keepdim=True)
    return {name: value.numpy() for name, value in made.items()}
