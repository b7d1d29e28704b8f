"""CLIP as open_clip and OpenAI publish it: packed projections, right-multiplied ones.

Source: open_clip 3.3.0, src/open_clip/model.py (CLIP, CLIPVisionCfg, CLIPTextCfg) and
src/open_clip/transformer.py (VisionTransformer, TextTransformer).
"""

from collections.abc import Mapping
from typing import Any

from mmjax.interop.families.open_clip_resnet import resnet_config, resnet_rows, resnet_tower
from mmjax.interop.family import Family, dense, known, norm
from mmjax.interop.forms import SAME, TRANSPOSED, patches
from mmjax.interop.rows import Aside, Row, Table, layers
from mmjax.interop.tensors import WeightsError
from mmjax.models.dual.two_tower import TwoTower
from mmjax.models.encoders.clip_resnet import ClipResNet
from mmjax.models.encoders.text_transformer import TextTransformer
from mmjax.models.encoders.vit import ViT

__all__ = ["FAMILY", "text_rows", "text_tower"]

NORM_EPSILON = 1e-5  # of torch's LayerNorm, which open_clip leaves as it is
BLOCK = (
    *norm("ln_1", "attention_norm"),
    (
        "attn.in_proj_weight",
        tuple(f"attention/{part}/kernel" for part in ("query", "key", "value")),
        TRANSPOSED,
    ),
    (
        "attn.in_proj_bias",
        tuple(f"attention/{part}/bias" for part in ("query", "key", "value")),
        SAME,
    ),
    *dense("attn.out_proj", "attention/output"),
    *norm("ln_2", "mlp_norm"),
    *dense("mlp.c_fc", "mlp/up"),
    *dense("mlp.c_proj", "mlp/down"),
)
# Fields of a config and the values of them that are built, the default first.
TOP = {"custom_text": (False, None), "init_logit_bias": (None,), "nonscalar_logit_scale": (False,)}
VISION = {
    "ls_init_value": (None,),
    "attentional_pool": (False,),
    "pos_embed_type": ("learnable",),
    "no_ln_pre": (False,),
    "final_ln_after_pool": (False,),
    "pool_type": ("tok",),
    "input_patchnorm": (False,),
    "timm_model_name": (None, ""),
    "act_kwargs": (None, {}),
    "norm_kwargs": (None, {}),
    "attn_type": (None,),
    "qk_norm": (False,),
}
TEXT = {
    "ls_init_value": (None,),
    "pool_type": ("argmax",),
    "embed_cls": (False,),
    "proj_type": ("linear",),
    "proj_bias": (False,),
    "hf_model_name": (None, ""),
    "hf_tokenizer_name": (None, ""),  # which cleans and fills up otherwise than open_clip's own
    "tokenizer_kwargs": (None, {}),
    "act_kwargs": (None, {}),
    "norm_kwargs": (None, {}),
    "attn_type": (None,),
    "qk_norm": (False,),
}


def _model_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The model's part of an open_clip_config.json, or the config itself."""
    return config.get("model_cfg", config)


def text_tower(config: Mapping[str, Any]) -> TextTransformer:
    """Our text tower of the model's config."""
    text = config["text_cfg"]
    known(text, TEXT, "text_cfg")
    width = text.get("width", 512)
    return TextTransformer(
        vocab_size=text.get("vocab_size", 49_408),
        length=text.get("context_length", 77),
        dim=width,
        depth=text.get("layers", 12),
        num_heads=text.get("heads", 8),
        mlp_dim=int(width * text.get("mlp_ratio", 4.0)),
        activation="quick_gelu" if config.get("quick_gelu") else "gelu",
        norm_epsilon=NORM_EPSILON,
        causal=not text.get("no_causal_mask", False),
        pooling="highest_id",
    )


def _vision_tower(config: Mapping[str, Any]) -> ViT | ClipResNet:
    """Our picture tower of the model's config."""
    vision = config["vision_cfg"]
    known(vision, VISION, "vision_cfg")
    size, depth = _side(vision.get("image_size", 224), "image_size"), vision.get("layers", 12)
    if not isinstance(depth, int):
        return resnet_tower(vision, size, config["embed_dim"])
    width, head_width = vision.get("width", 768), vision.get("head_width", 64)
    return ViT(
        image_size=size,
        patch_size=_side(vision.get("patch_size", 16), "patch_size"),
        dim=width,
        depth=depth,
        num_heads=width // head_width,
        mlp_dim=int(width * vision.get("mlp_ratio", 4.0)),
        activation="quick_gelu" if config.get("quick_gelu") else "gelu",
        norm_epsilon=NORM_EPSILON,
        pooling="class",
        pre_norm=True,
        patch_bias=False,
    )


def _side(size: Any, field: str) -> int:
    """One side of what has to be square."""
    sides = (size, size) if isinstance(size, int) else tuple(size)
    if len(set(sides)) != 1:
        raise WeightsError(f"vision_cfg: {field}={size} is not square, which is not built.")
    return sides[0]


def model(config: Mapping[str, Any]) -> TwoTower:
    """Our model of their config."""
    config = _model_config(config)
    known(config, TOP, "model_cfg")
    image = _vision_tower(config)
    projects = {"project_image": "none"} if isinstance(image, ClipResNet) else {}
    text, embed_dim = text_tower(config), config["embed_dim"]
    return TwoTower(image=image, text=text, embed_dim=embed_dim, **projects)


def _ratio(mlp_dim: int, dim: int) -> dict[str, float]:
    """The field for another width of the perceptrons than four times the tower's."""
    if mlp_dim == 4 * dim:
        return {}
    ratio = mlp_dim / dim
    # It is multiplied and rounded down again.
    return {"mlp_ratio": ratio if int(dim * ratio) == mlp_dim else (mlp_dim + 0.5) / dim}


def _vision_config(image: ViT) -> dict[str, Any]:
    """The vision_cfg of our ViT."""
    return {
        "image_size": image.image_size,
        "layers": image.depth,
        "width": image.dim,
        "head_width": image.dim // image.num_heads,
        "patch_size": image.patch_size,
        **_ratio(image.mlp_dim, image.dim),
    }


def config(model: TwoTower) -> dict[str, Any]:
    """Their config of our model."""
    image, text = model.image, model.text
    is_resnet = isinstance(image, ClipResNet)
    vision_cfg = resnet_config(image) if is_resnet else _vision_config(image)
    text_cfg = {
        "context_length": text.length,
        "vocab_size": text.vocab_size,
        "width": text.dim,
        "heads": text.num_heads,
        "layers": text.depth,
        **_ratio(text.mlp_dim, text.dim),
        **({} if text.causal else {"no_causal_mask": True}),
    }
    quick = {"quick_gelu": True} if text.activation == "quick_gelu" else {}
    made = {"embed_dim": model.embed_dim, **quick, "vision_cfg": vision_cfg, "text_cfg": text_cfg}
    return {"model_cfg": made}


def text_rows(text: TextTransformer) -> tuple[Row, ...]:
    """Rows of the text tower, its projection and the scale."""
    entries = (
        ("logit_scale", "log_scale", SAME),
        ("token_embedding.weight", "text/token_embedding", SAME),
        ("positional_embedding", "text/position_embedding", SAME),
        *norm("ln_final", "text/norm"),
        ("text_projection", "text_projection/kernel", SAME),
    )
    blocks = layers("transformer.resblocks.{n}", "text/blocks", text.depth, BLOCK)
    return (*(Row(*entry) for entry in entries), *blocks)


def _vision_rows(image: ViT | ClipResNet) -> tuple[Row | Aside, ...]:
    """Rows of the picture tower and its projection."""
    if isinstance(image, ClipResNet):
        return resnet_rows(image)
    entries = (
        ("class_embedding", "image/class_token", SAME),
        ("positional_embedding", "image/position_embedding", SAME),
        ("conv1.weight", "image/patches/embedding/kernel", patches(image.patch_size)),
        *norm("ln_pre", "image/input_norm"),
        *norm("ln_post", "image/norm"),
        ("proj", "image_projection/kernel", SAME),
    )
    blocks = layers("visual.transformer.resblocks.{n}", "image/blocks", image.depth, BLOCK)
    return (*(Row(f"visual.{name}", *rest) for name, *rest in entries), *blocks)


ASIDE = (
    Aside("attn_mask", "the causal mask, which our tower makes itself"),
    Aside("input_resolution|context_length|vocab_size", "a number that the config holds"),
)


def table(model: TwoTower) -> Table:
    """Rows of the whole model."""
    return Table((*text_rows(model.text), *_vision_rows(model.image), *ASIDE))


FAMILY = Family("open_clip", model, table, config)
