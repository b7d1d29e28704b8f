"""SigLIP as big_vision saves it: a .npz of flax names, without a config.

What a config would say follows from the arrays' shapes (`config_of`); what has no array is as in
the published SigLIP models: gelu in its tanh form, texts pooled at their last token. Blocks lie
apart ('encoderblock_0', ...) or stacked ('encoderblock'); `family_of` sees which. A kernel of
patches with two axes is one of pictures that keep their shape (NaFlex).

Source: big_vision, models/vit.py, models/proj/image_text/two_towers.py, text_transformer.py and
naflex_vit.py;
what the arrays are called was read off transformers, models/siglip/convert_siglip_to_hf.py.
"""

import functools
import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from mmjax.interop.family import Family
from mmjax.interop.forms import SAME, Form, reshaped
from mmjax.interop.rows import Row, Table
from mmjax.interop.tensors import Tensors, WeightsError
from mmjax.models.dual.naflex import NaFlexTwoTower
from mmjax.models.dual.two_tower import TwoTower
from mmjax.models.encoders.naflex import NaFlexViT
from mmjax.models.encoders.text_transformer import TextTransformer
from mmjax.models.encoders.vit import ViT

__all__ = ["FAMILY", "STACKED", "config_of", "family_of"]

ENCODERS = {"image": "img/Transformer", "text": "txt/Encoder_0"}
MAP_HEAD = "img/MAPHead_0"
SIZES = ("dim", "depth", "num_heads", "mlp_dim")  # of both towers
HEADS = {"linear_bias": True, "none": False}  # {how a tower is projected: whether it has a 'head'}
RENAMES = ((r"^(?=(img|txt)/|[tb]$)", "params/"),)


def family_of(tensors: Tensors) -> Family:
    """The family whose blocks lie as those of a file."""
    stacked = any(re.search(r"/encoderblock/", name) for name in tensors.names())
    return STACKED if stacked else FAMILY


def config_of(tensors: Tensors, image_size: int | None = None) -> dict[str, Any]:
    """A config for `Family.model`, read off the shapes of a file's arrays.

    Args:
      tensors: the file.
      image_size: side of the pictures where the patches do not cover it (So400m/14 at 384 looks at
        378 pixels); the default is what they cover.

    Raises:
      WeightsError: an array is missing or has too few axes, or heads differ within a tower.
    """
    found = {re.sub(*RENAMES[0], name): name for name in tensors.names()}

    def shape(name: str, *axes: int) -> tuple[int, ...]:
        published = f"params/{name}"
        if published not in found:
            raise WeightsError(f"{tensors.name}: it lacks {published}, so it is no SigLIP.")
        made = tensors.shape(found[published])
        if len(made) not in axes:
            wanted = " or ".join(map(str, axes))
            raise WeightsError(f"{tensors.name}: {published} is {made}, not of {wanted} axes.")
        return made

    def tower(kind: str) -> dict[str, int]:
        encoder = f"params/{ENCODERS[kind]}/encoderblock"
        numbers = [re.match(rf"{encoder}_(\d+)/", name) for name in found]
        apart = {number.group(1) for number in numbers if number}
        block, extra = (f"{ENCODERS[kind]}/encoderblock_0", 0) if apart else (encoder[7:], 1)
        query = shape(f"{block}/MultiHeadDotProductAttention_0/query/kernel", 3 + extra)
        up = shape(f"{block}/MlpBlock_0/Dense_0/kernel", 2 + extra)
        depth = len(apart) if apart else query[0]
        values = (query[-3], depth, query[-2], up[-1])
        return dict(zip(SIZES, values, strict=True))

    image, text = tower("image"), tower("text")
    pooling = shape(f"{MAP_HEAD}/MultiHeadDotProductAttention_0/query/kernel", 3)[1]
    if pooling != image["num_heads"]:
        raise WeightsError(
            f"{tensors.name}: a pooling head of {pooling} heads over blocks of "
            f"{image['num_heads']} is not built."
        )
    positions = shape("img/pos_embedding", 3)
    kernel = shape("img/embedding/kernel", 2, 4)
    if len(kernel) == 2:
        patch_size = math.isqrt(kernel[0] // 3)
        pictures = {"positions": positions[0] * positions[1]}
    else:
        patch_size = kernel[0]
        pictures = {"image_size": image_size or math.isqrt(positions[1]) * patch_size}
    vocab_size, _ = shape("txt/Embed_0/embedding", 2)
    projected = {kind: f"params/{kind}/head/kernel" in found for kind in ("img", "txt")}
    return {
        "image": {**pictures, "patch_size": patch_size, **image},
        "text": {"vocab_size": vocab_size, "length": shape("txt/pos_embedding", 3)[1], **text},
        "embed_dim": shape("txt/head/kernel", 2)[1] if projected["txt"] else text["dim"],
        "project_image": "linear_bias" if projected["img"] else "none",
        "project_text": "linear_bias" if projected["txt"] else "none",
    }


def model(config: Mapping[str, Any]) -> TwoTower:
    """Our model of what `config_of` made."""
    naflex = "positions" in config["image"]
    kind = NaFlexTwoTower if naflex else TwoTower
    image = NaFlexViT if naflex else functools.partial(ViT, pooling="attention")
    return kind(
        image=image(**config["image"]),
        text=TextTransformer(pooling="last", **config["text"]),
        embed_dim=config["embed_dim"],
        project_image=config["project_image"],
        project_text=config["project_text"],
        log_scale_init=math.log(10.0),
        bias_init=-10.0,
    )


def config(model: TwoTower) -> dict[str, Any]:
    """What `config_of` would make of our model's file."""
    size = "positions" if isinstance(model, NaFlexTwoTower) else "image_size"
    fields = {
        "image": (size, "patch_size", *SIZES),
        "text": ("vocab_size", "length", *SIZES),
    }
    towers = {
        tower: {name: getattr(getattr(model, tower), name) for name in names}
        for tower, names in fields.items()
    }
    how = ("embed_dim", "project_image", "project_text")
    return {**towers, **{name: getattr(model, name) for name in how}}


def _exactly(ours: tuple[int, ...], theirs: tuple[int, ...]) -> Form:
    """The same numbers in another shape, and in no third one: how wide a head is matters."""

    def to_ours(array: np.ndarray) -> np.ndarray:
        if array.shape != theirs:
            raise ValueError(f"{array.shape} is not {theirs}")
        return array.reshape(ours)

    return Form(f"of shape {theirs}", to_ours, lambda array: array.reshape(theirs))


def _norm(theirs: str, ours: str) -> list[tuple[str, str, Form]]:
    return [(f"{theirs}/{kind}", f"{ours}/{kind}", SAME) for kind in ("scale", "bias")]


def _dense(theirs: str, ours: str) -> list[tuple[str, str, Form]]:
    return [(f"{theirs}/{kind}", f"{ours}/{kind}", SAME) for kind in ("kernel", "bias")]


def _attention(dim: int, heads: int, stack: tuple[int, ...]) -> list[tuple[str, str, Form]]:
    """Entries of an attention whose kernels have an axis for the heads.

    Args:
      dim: width of a token.
      heads: attention heads.
      stack: the axis of layers in each array, or ().
    """
    head, square = (heads, dim // heads), _shape(stack, dim, dim)
    made = []
    for part in ("query", "key", "value"):
        kernel = _exactly(square, _shape(stack, dim, *head))
        bias = _exactly(_shape(stack, dim), _shape(stack, *head))
        made += [(f"{part}/kernel", kernel), (f"{part}/bias", bias)]
    made += [("out/kernel", _exactly(square, _shape(stack, *head, dim))), ("out/bias", SAME)]
    return [
        (
            f"MultiHeadDotProductAttention_0/{name}",
            f"attention/{name.replace('out/', 'output/')}",
            form,
        )
        for name, form in made
    ]


def _shape(stack: tuple[int, ...], *axes: int) -> tuple[int, ...]:
    return (*stack, *axes)


def _mlp(theirs: str, ours: str) -> list[tuple[str, str, Form]]:
    return [
        *_dense(f"{theirs}/Dense_0", f"{ours}/up"),
        *_dense(f"{theirs}/Dense_1", f"{ours}/down"),
    ]


def _encoder(tower: str, module: Any, stacked: bool) -> list[Row]:
    """The blocks of a tower and the norm after them."""
    stack = (module.depth,) if stacked else ()
    entries = [
        *_norm("LayerNorm_0", "attention_norm"),
        *_attention(module.dim, module.num_heads, stack),
        *_norm("LayerNorm_1", "mlp_norm"),
        *_mlp("MlpBlock_0", "mlp"),
    ]
    encoder = f"params/{ENCODERS[tower]}"
    block, depth = ("encoderblock", 0) if stacked else ("encoderblock_{n}", module.depth)
    made = [
        Row(f"{encoder}/{block}/{name}", f"{tower}/blocks/{path}", form, depth)
        for name, path, form in entries
    ]
    return made + _rows(_norm(f"{ENCODERS[tower]}/encoder_norm", f"{tower}/norm"))


def _rows(entries: list[tuple[str, str, Form]]) -> list[Row]:
    return [Row(f"params/{name}", path, form) for name, path, form in entries]


def _table(model: TwoTower, stacked: bool) -> Table:
    """Rows of the whole model, with blocks apart or stacked."""
    image, text = model.image, model.text
    side = image.patch_size
    pool = [
        ("probe", "probe", reshaped((-1,), (1, 1, -1))),
        *_attention(image.dim, image.num_heads, ()),
        *_norm("LayerNorm_0", "norm"),
        *_mlp("MlpBlock_0", "mlp"),
    ]
    if isinstance(image, NaFlexViT):
        kernel, grid = SAME, math.isqrt(image.positions)
        positions = _exactly((image.positions, image.dim), (grid, grid, image.dim))
    else:
        kernel = _exactly((side * side * 3, image.dim), (side, side, 3, image.dim))
        positions = reshaped((-1, image.dim), (1, -1, image.dim))
    entries = [
        ("t", "log_scale", reshaped((), (1,))),
        ("b", "bias", reshaped((), (1,))),
        ("img/embedding/kernel", "image/patches/embedding/kernel", kernel),
        ("img/embedding/bias", "image/patches/embedding/bias", SAME),
        ("img/pos_embedding", "image/position_embedding", positions),
        ("txt/Embed_0/embedding", "text/token_embedding", SAME),
        (
            "txt/pos_embedding",
            "text/position_embedding",
            reshaped((-1, text.dim), (1, -1, text.dim)),
        ),
        *((f"{MAP_HEAD}/{name}", f"image/pool/{path}", form) for name, path, form in pool),
    ]
    if HEADS[model.project_image]:
        entries += _dense("img/head", "image_projection")
    if HEADS[model.project_text]:
        entries += _dense("txt/head", "text_projection")
    encoders = [*_encoder("image", image, stacked), *_encoder("text", text, stacked)]
    return Table((*_rows(entries), *encoders), RENAMES)


FAMILY = Family("big_vision", model, lambda model: _table(model, stacked=False), config)
STACKED = Family("big_vision, stacked", model, lambda model: _table(model, stacked=True), config)
