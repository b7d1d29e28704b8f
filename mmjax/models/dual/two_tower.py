"""An image tower and a text tower into one space: CLIP, SigLIP and LiT are all this class."""

import inspect
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from mmjax.models.encoders import clip_resnet, text_transformer, vit
from mmjax.models.interfaces import TowerOutput
from mmjax.models.layers.dense import Dense
from mmjax.typing import Array, Bool, Encoded, Float, Int

PROJECTIONS = ("none", "linear", "linear_bias")
SCALES = ("log_scale", "temperature")


def unit_length(x: Float[Array, "batch dim"]) -> Float[Array, "batch dim"]:
    """Each row divided by its Euclidean length, in float32; a row of zeros stays zeros."""
    x = x.astype(jnp.float32)
    return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(x * x, axis=-1, keepdims=True), 1e-24))


def _asked(tower: nn.Module, tokens: bool) -> dict[str, bool]:
    """How a tower is told that tokens are not wanted, if it can leave them out."""
    can = "tokens" in inspect.signature(type(tower).__call__).parameters
    return {} if tokens or not can else {"tokens": False}


class TwoTower(nn.Module):
    """Two towers, a dense layer each into the shared space, and the scalars of the comparison.

    Parameters lie under 'image', 'text', 'image_projection', 'text_projection' (where there is
    one), 'log_scale' or 'temperature', and 'bias' (where there is one).

    Attributes:
      image: the image tower, such as `ViT`.
      text: the text tower, such as `TextTransformer`.
      embed_dim: width of the shared space.
      project_image: 'linear' (no bias: CLIP), 'linear_bias' or 'none' (the tower's width must be
        `embed_dim`: SigLIP).
      project_text: the same for texts; SigLIP has 'linear_bias'.
      log_scale_init: logarithm of the first scale of similarities: log(1/0.07) for CLIP, log(10)
        for SigLIP, 0 for ALIGN.
      learned_scale: which number is the parameter: 'log_scale', or the 'temperature' that
        similarities are divided by (ALIGN); `scalars` gives 'log_scale' either way.
      bias_init: first bias added to scaled similarities (-10 for SigLIP), or None for no bias.

    Source: Radford et al. 2021 (CLIP), figure 3; Zhai et al. 2023 (SigLIP), algorithm 1; Jia et al.
    2021 (ALIGN), section 4.1.
    """

    image: nn.Module
    text: nn.Module
    embed_dim: int = 512
    project_image: str = "linear"
    project_text: str = "linear"
    log_scale_init: float = math.log(1 / 0.07)
    learned_scale: str = "log_scale"
    bias_init: float | None = None

    def setup(self):
        """Makes projections and scalars; they and the shared space are float32."""
        self.image_projection = self._projection(self.project_image, "image")
        self.text_projection = self._projection(self.project_text, "text")
        constant = nn.initializers.constant
        if self.learned_scale not in SCALES:
            raise ValueError(
                f"learned_scale={self.learned_scale!r} is none of {', '.join(SCALES)}."
            )
        if self.learned_scale == "temperature":
            first = constant(math.exp(-self.log_scale_init))
            self.log_scale = -jnp.log(self.param("temperature", first, ()))
        else:
            self.log_scale = self.param("log_scale", constant(self.log_scale_init), ())
        if self.bias_init is not None:
            self.bias = self.param("bias", constant(self.bias_init), ())

    def _projection(self, kind: str, tower: str) -> nn.Module | None:
        """The dense layer of one tower, or None."""
        if kind not in PROJECTIONS:
            raise ValueError(f"project_{tower}={kind!r} is none of {', '.join(PROJECTIONS)}.")
        if kind == "none":
            return None
        init = nn.initializers.lecun_normal()
        return Dense(self.embed_dim, kernel_init=init, use_bias=kind == "linear_bias")

    def encode_image(
        self,
        image: Float[Array, "batch height width channels"],
        row: Int[Array, " batch"] | None = None,
        train: bool = False,
        tokens: bool = True,
    ) -> Encoded:
        """Normalised pictures in the shared space.

        Args:
          image: as the tower takes it.
          row: the rows' global numbers.
          train: whether the tower draws what it draws in training.
          tokens: whether the tokens are wanted too. If not they may be None, and of the last block
            no more is run than the pooled vector needs, in a tower that can leave the rest out.
        """
        how = _asked(self.image, tokens)
        return self._encode(self.image(image, row=row, train=train, **how), self.image_projection)

    def encode_text(
        self,
        token_ids: Int[Array, "batch length"],
        text_mask: Bool[Array, "batch length"],
        row: Int[Array, " batch"] | None = None,
        train: bool = False,
        token_type: Int[Array, "batch length"] | None = None,
        tokens: bool = True,
    ) -> Encoded:
        """Texts in the shared space.

        Args:
          token_ids: as the tower takes them.
          text_mask: True where a token is real.
          row: as in `encode_image`.
          train: as in `encode_image`.
          token_type: for towers that know kinds of tokens.
          tokens: as in `encode_image`.
        """
        how: dict[str, Any] = {} if token_type is None else {"token_type": token_type}
        how |= _asked(self.text, tokens)
        output = self.text(token_ids, text_mask, row=row, train=train, **how)
        return self._encode(output, self.text_projection)

    def _encode(self, output: TowerOutput, projection: nn.Module | None) -> Encoded:
        """A tower's output with its pooled vector projected and at unit length."""
        pooled = output.pooled.astype(jnp.float32)
        if projection is not None:
            pooled = projection(pooled)
        if pooled.shape[-1] != self.embed_dim:
            raise ValueError(
                f"a tower without projection is {pooled.shape[-1]} wide, embed_dim is "
                f"{self.embed_dim}; make them equal or project with 'linear'."
            )
        return Encoded(output.tokens, output.mask, pooled, unit_length(pooled))

    def scalars(self) -> dict[str, Float[Array, ""]]:
        """'log_scale' and, where the model has one, 'bias'."""
        scalars = {"log_scale": self.log_scale}
        if self.bias_init is not None:
            scalars["bias"] = self.bias
        return scalars

    def __call__(
        self,
        image: Float[Array, "batch height width channels"],
        token_ids: Int[Array, "batch length"],
        text_mask: Bool[Array, "batch length"],
        row: Int[Array, " batch"] | None = None,
        train: bool = False,
    ) -> tuple[Encoded, Encoded, dict[str, Float[Array, ""]]]:
        """Both towers and the scalars; this is what `init` runs."""
        encoded_image = self.encode_image(image, row=row, train=train)
        return encoded_image, self.encode_text(token_ids, text_mask, row, train), self.scalars()


_CLIP = {"activation": "quick_gelu", "norm_epsilon": 1e-5}  # in both towers


def _clip(image: dict[str, Any], text: dict[str, Any], embed_dim: int) -> dict[str, Any]:
    """Fields of OpenAI's CLIP models with a ViT."""
    image = {**image, **_CLIP, "pooling": "class", "pre_norm": True, "patch_bias": False}
    return {"image": image, "text": _clip_text(text), "model": {"embed_dim": embed_dim}}


def _clip_resnet(image: dict[str, Any], text: dict[str, Any]) -> dict[str, Any]:
    """Fields of OpenAI's CLIP models with a ResNet."""
    model = {"embed_dim": image["embed_dim"], "project_image": "none"}
    return {"image": image, "text": _clip_text(text), "model": model}


def _clip_text(text: dict[str, Any]) -> dict[str, Any]:
    """Fields of the text towers of OpenAI's CLIP models."""
    return {
        **text,
        **_CLIP,
        "vocab_size": 49_408,
        "length": 77,
        "pooling": "end_of_text",
        "eos_id": 49_407,
        "causal": True,
    }


def _siglip(
    image: dict[str, Any], text: dict[str, Any], image_size: int, length: int
) -> dict[str, Any]:
    """Fields of Google's SigLIP models."""
    model = {
        "embed_dim": image["dim"],
        "project_image": "none",
        "project_text": "linear_bias",
        "log_scale_init": math.log(10.0),
        "bias_init": -10.0,
    }
    image = {**image, "image_size": image_size, "pooling": "attention"}
    text = {**text, "vocab_size": 32_000, "length": length, "pooling": "last"}
    return {"image": image, "text": text, "model": model}


def clip_vit_b32() -> dict[str, Any]:
    """Fields of CLIP ViT-B/32: 'image' for ViT, 'text' for TextTransformer, 'model' for TwoTower.

    Source: Radford et al. 2021 (CLIP), table 20.
    """
    return _clip(vit.vit_b32(), text_transformer.text_clip_b(), 512)


def clip_vit_b16() -> dict[str, Any]:
    """Fields of CLIP ViT-B/16; see `clip_vit_b32`."""
    return _clip(vit.vit_b16(), text_transformer.text_clip_b(), 512)


def clip_vit_l14() -> dict[str, Any]:
    """Fields of CLIP ViT-L/14; see `clip_vit_b32`."""
    return _clip(vit.vit_l14(), text_transformer.text_clip_l(), 768)


def clip_rn50() -> dict[str, Any]:
    """Fields of CLIP RN50: 'image' for ClipResNet, 'text' and 'model' as in `clip_vit_b32`.

    Source: Radford et al. 2021 (CLIP), table 19.
    """
    return _clip_resnet(clip_resnet.clip_resnet50(), text_transformer.text_clip_b())


def clip_rn101() -> dict[str, Any]:
    """Fields of CLIP RN101; see `clip_rn50`."""
    return _clip_resnet(clip_resnet.clip_resnet101(), text_transformer.text_clip_b())


def clip_rn50x4() -> dict[str, Any]:
    """Fields of CLIP RN50x4; see `clip_rn50`."""
    text = {**text_transformer.text_clip_b(), "dim": 640, "num_heads": 10, "mlp_dim": 2560}
    return _clip_resnet(clip_resnet.clip_resnet50x4(), text)


def clip_rn50x16() -> dict[str, Any]:
    """Fields of CLIP RN50x16; see `clip_rn50`."""
    return _clip_resnet(clip_resnet.clip_resnet50x16(), text_transformer.text_clip_l())


def clip_rn50x64() -> dict[str, Any]:
    """Fields of CLIP RN50x64; see `clip_rn50`."""
    text = {**text_transformer.text_clip_b(), "dim": 1024, "num_heads": 16, "mlp_dim": 4096}
    return _clip_resnet(clip_resnet.clip_resnet50x64(), text)


def siglip_b16() -> dict[str, Any]:
    """Fields of SigLIP B/16 at 224, grouped as in `clip_vit_b32`.

    Source: Zhai et al. 2023 (SigLIP), section 4.
    """
    return _siglip(vit.vit_b16(), text_transformer.text_b(), 224, 64)


def siglip_l16() -> dict[str, Any]:
    """Fields of SigLIP L/16 at 256; see `siglip_b16`."""
    return _siglip(vit.vit_l16(), text_transformer.text_l(), 256, 64)


def siglip_so400m14() -> dict[str, Any]:
    """Fields of SigLIP So400m/14 at 384; see `siglip_b16`."""
    return _siglip(vit.vit_so400m14(), text_transformer.text_so400m(), 384, 64)
