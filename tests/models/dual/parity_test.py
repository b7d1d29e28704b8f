"""`TwoTower` beside the reference CLIP and SigLIP, same weights, same inputs."""

import functools
import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.models.dual.two_tower import TwoTower
from mmjax.models.encoders.text_transformer import TextTransformer
from mmjax.models.encoders.vit import ViT
from mmjax.models.layers.transformer import Block
from mmjax.paths import flatten, unflatten

GOLDEN = pathlib.Path(__file__).parents[2] / "golden"

# Ours, within a block or a pooling head -> theirs; {} is 'weight' or 'bias'.
BLOCK = {
    "attention_norm": "layer_norm1",
    "attention/query": "self_attn.q_proj",
    "attention/key": "self_attn.k_proj",
    "attention/value": "self_attn.v_proj",
    "attention/output": "self_attn.out_proj",
    "mlp_norm": "layer_norm2",
    "mlp/up": "mlp.fc1",
    "mlp/down": "mlp.fc2",
}
POOL = {"attention/output": "attention.out_proj", "norm": "layernorm"} | {
    ours: BLOCK[ours] for ours in ("mlp/up", "mlp/down")
}
NORMS = ("norm", "attention_norm", "mlp_norm", "input_norm")


class State:
    """A reference's weights, each to be taken once."""

    def __init__(self, arrays):
        self.left = {
            name.removeprefix("state/"): array
            for name, array in arrays.items()
            if name.startswith("state/")
        }

    def take(self, name):
        return self.left.pop(name)

    def layer(self, ours, theirs):
        """{our path: array} of a dense layer (torch keeps [out, in]) or a layer norm."""
        weight = self.take(f"{theirs}.weight")
        if ours.split("/")[-1] in NORMS:
            out = {f"{ours}/scale": weight}
        else:
            out = {f"{ours}/kernel": weight.T}
        if f"{theirs}.bias" in self.left:
            out[f"{ours}/bias"] = self.take(f"{theirs}.bias")
        return out

    def blocks(self, ours, theirs, depth):
        """{our path: array} of `depth` blocks, stacked."""
        stacks = {}
        for number in range(depth):
            for here, there in BLOCK.items():
                layer = self.layer(f"{ours}/{here}", f"{theirs}.encoder.layers.{number}.{there}")
                for path, array in layer.items():
                    stacks.setdefault(path, []).append(array)
        return {path: np.stack(arrays) for path, arrays in stacks.items()}

    def towers(self):
        """{our path: array} of what CLIP and SigLIP have in common."""
        vision, text = "vision_model", "text_model"
        kernel = self.take(f"{vision}.embeddings.patch_embedding.weight")
        kernel = kernel.transpose(2, 3, 1, 0)  # [dim, c, height, width] -> [height, width, c, dim]
        positions = "embeddings.position_embedding.weight"
        return {
            "image/patches/embedding/kernel": kernel.reshape(-1, kernel.shape[-1]),
            "image/position_embedding": self.take(f"{vision}.{positions}"),
            "text/position_embedding": self.take(f"{text}.{positions}"),
            "text/token_embedding": self.take(f"{text}.embeddings.token_embedding.weight"),
            **self.blocks("image/blocks", vision, 2),
            **self.blocks("text/blocks", text, 2),
            **self.layer("image/norm", f"{vision}.post_layernorm"),
            **self.layer("text/norm", f"{text}.final_layer_norm"),
            "log_scale": self.take("logit_scale").reshape(()),
        }


def clip(arrays):
    """Our model of make_clip.py's configuration, its parameters, its inputs."""
    shared = {"depth": 2, "num_heads": 4, "activation": "quick_gelu", "norm_epsilon": 1e-5}
    image = {"image_size": 24, "patch_size": 8, "dim": 32, "mlp_dim": 64, "pooling": "class"}
    text = {"vocab_size": 60, "length": 10, "dim": 24, "mlp_dim": 48, "pooling": "end_of_text"}
    model = TwoTower(
        image=ViT(**shared, **image, pre_norm=True, patch_bias=False),
        text=TextTransformer(**shared, **text, eos_id=58, causal=True, mask_padding=True),
        embed_dim=16,
    )
    state = State(arrays)
    params = {
        **state.towers(),
        "image/class_token": state.take("vision_model.embeddings.class_embedding"),
        **state.layer("image/input_norm", "vision_model.pre_layrnorm"),
        **state.layer("image_projection", "visual_projection"),
        **state.layer("text_projection", "text_projection"),
    }
    assert not state.left
    return model, params, arrays["attention_mask"] == 1


def siglip(arrays):
    """Our model of make_siglip.py's configuration, its parameters, its inputs."""
    shared = {"depth": 2, "num_heads": 4, "dim": 32}
    model = TwoTower(
        image=ViT(**shared, image_size=26, patch_size=8, mlp_dim=72, pooling="attention"),
        text=TextTransformer(**shared, vocab_size=60, length=8, mlp_dim=64, pooling="last"),
        embed_dim=32,
        project_image="none",
        project_text="linear_bias",
        log_scale_init=math.log(10.0),
        bias_init=-10.0,
    )
    state = State(arrays)
    head = "vision_model.head"
    weights = np.split(state.take(f"{head}.attention.in_proj_weight"), 3)
    biases = np.split(state.take(f"{head}.attention.in_proj_bias"), 3)
    params = {
        **state.towers(),
        "image/patches/embedding/bias": state.take("vision_model.embeddings.patch_embedding.bias"),
        "image/pool/probe": state.take(f"{head}.probe").reshape(-1),
        **state.layer("text_projection", "text_model.head"),
        "bias": state.take("logit_bias").reshape(()),
    }
    for ours, theirs in POOL.items():
        params |= state.layer(f"image/pool/{ours}", f"{head}.{theirs}")
    for name, weight, bias in zip(("query", "key", "value"), weights, biases, strict=True):
        params[f"image/pool/attention/{name}/kernel"] = weight.T
        params[f"image/pool/attention/{name}/bias"] = bias
    assert not state.left
    return model, params, arrays["input_ids"] >= 0


def clip_loss(logits):
    """Mean cross-entropy of both ways."""
    picked = jnp.arange(len(logits))
    rows = -jax.nn.log_softmax(logits, axis=1)[picked, picked].mean()
    return (rows - jax.nn.log_softmax(logits, axis=0)[picked, picked].mean()) / 2


def siglip_loss(logits):
    """Sum over pairs, mean over rows, of -log sigmoid(±logit)."""
    signs = 2 * jnp.eye(len(logits)) - 1
    return -jax.nn.log_sigmoid(signs * logits).sum() / len(logits)


@pytest.mark.parametrize(
    ("name", "ours", "loss"), [("clip", clip, clip_loss), ("siglip", siglip, siglip_loss)]
)
def test_outputs_equal_the_reference(name, ours, loss):
    with np.load(GOLDEN / f"{name}.npz", allow_pickle=False) as file:
        arrays = dict(file)
    model, params, mask = ours(arrays)
    pixels = jnp.asarray(arrays["pixel_values"].transpose(0, 2, 3, 1))
    inputs = (pixels, jnp.asarray(arrays["input_ids"], jnp.int32), jnp.asarray(mask))
    shapes = flatten(jax.eval_shape(model.init, jax.random.key(0), *inputs)["params"])
    assert {path: x.shape for path, x in shapes.items()} == {
        path: x.shape for path, x in params.items()
    }

    variables = {"params": unflatten({path: jnp.asarray(x) for path, x in params.items()})}
    with jax.default_matmul_precision("highest"):
        run = functools.partial(
            model.apply,
            capture_intermediates=lambda module, _: isinstance(module, Block),
            mutable=["intermediates"],
        )
        (image, text, scalars), kept = jax.jit(run)(variables, *inputs)
        logits = jnp.exp(scalars["log_scale"]) * image.embedding @ text.embedding.T
    if "bias" in scalars:
        logits = logits + scalars["bias"]

    def same(value, wanted):
        np.testing.assert_allclose(value, arrays[f"out/{wanted}"], atol=2e-5, rtol=1e-5)

    same(image.embedding, "image_embeds")
    same(text.embedding, "text_embeds")
    same(logits, "logits_per_image")
    same(loss(logits), "loss")
    for ours_name, theirs_name in (("image", "vision"), ("text", "text")):
        (states, _), *_ = kept["intermediates"][ours_name]["blocks"]["__call__"]
        reference = arrays[f"out/{theirs_name}_hidden_states"]
        for number in range(2):
            np.testing.assert_allclose(states[number], reference[number + 1], atol=2e-5, rtol=1e-5)
    if name == "siglip":
        same(image.tokens, "vision_last_hidden_state")
        same(text.tokens, "text_last_hidden_state")
