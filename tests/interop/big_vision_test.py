"""big_vision's .npz of SigLIP, made here of the arrays that Hugging Face's SigLIP has."""

import json
import pathlib
import re

import numpy as np
import pytest
from jax import dtypes

import mmjax
from mmjax import paths
from mmjax.interop.families import big_vision, siglip, siglip2
from mmjax.interop.family import compare
from mmjax.interop.reading import fill
from mmjax.interop.rows import write
from mmjax.interop.tensors import Arrays, Npz, Safetensors, WeightsError

PUBLISHED = pathlib.Path(__file__).parents[1] / "golden" / "published"
GOLDEN = PUBLISHED / "siglip_projected"
NAFLEX = PUBLISHED / "siglip2_naflex"
LAYER = re.compile(r"(vision|text)_model\.encoder\.layers\.(\d+)\.(.*)\.(weight|bias)")
TOWERS = {"vision": "img/Transformer", "text": "txt/Encoder_0"}
LAYERS = {
    "layer_norm1": "LayerNorm_0",
    "layer_norm2": "LayerNorm_1",
    "layernorm": "LayerNorm_0",
    "mlp.fc1": "MlpBlock_0/Dense_0",
    "mlp.fc2": "MlpBlock_0/Dense_1",
    "self_attn.q_proj": "MultiHeadDotProductAttention_0/query",
    "self_attn.k_proj": "MultiHeadDotProductAttention_0/key",
    "self_attn.v_proj": "MultiHeadDotProductAttention_0/value",
    "self_attn.out_proj": "MultiHeadDotProductAttention_0/out",
}


def layer(name, weight, bias, heads):
    """One layer's two arrays as flax has them."""
    name = LAYERS.get(name, name)
    if weight.ndim == 1:
        return {f"{name}/scale": weight, f"{name}/bias": bias}
    kernel = weight.T
    if name.endswith(("query", "key", "value")):
        kernel = kernel.reshape(len(kernel), heads, -1)
        bias = bias.reshape(heads, -1)
    elif name.endswith("out"):
        kernel = kernel.reshape(heads, -1, kernel.shape[1])
    return {f"{name}/kernel": kernel, f"{name}/bias": bias}


def converted(state, stacked=False, heads=2):
    """{big_vision's name: array} of a Hugging Face SigLIP, its picture tower of so many heads."""
    heads = {"vision": heads, "text": 4}
    made = {"t": state["logit_scale"], "b": state["logit_bias"]}
    for name in state:
        found = LAYER.fullmatch(name)
        if found and name.endswith("weight"):
            tower, number, inner, _ = found.groups()
            parts = layer(inner, state[name], state[name.replace(".weight", ".bias")], heads[tower])
            block = f"{TOWERS[tower]}/encoderblock_{number}"
            made |= {f"{block}/{part}": array for part, array in parts.items()}
    outside = {
        "img/Transformer/encoder_norm": "vision_model.post_layernorm",
        "txt/Encoder_0/encoder_norm": "text_model.final_layer_norm",
        "txt/head": "text_model.head",
    }
    head = "vision_model.head"
    pool = {"layernorm": f"{head}.layernorm"} | {
        inner: f"{head}.{inner}" for inner in ("mlp.fc1", "mlp.fc2")
    }
    for theirs, name in outside.items():
        parts = layer("", state[f"{name}.weight"], state[f"{name}.bias"], 0)
        made |= {f"{theirs}{part}": array for part, array in parts.items()}
    packed = zip(
        ("q", "k", "v"),
        np.split(state[f"{head}.attention.in_proj_weight"], 3),
        np.split(state[f"{head}.attention.in_proj_bias"], 3),
        strict=True,
    )
    attention = {f"self_attn.{part}_proj": arrays for part, *arrays in packed}
    attention["self_attn.out_proj"] = [
        state[f"{head}.attention.out_proj.{kind}"] for kind in ("weight", "bias")
    ]
    attention |= {
        inner: [state[f"{name}.weight"], state[f"{name}.bias"]] for inner, name in pool.items()
    }
    for inner, (weight, bias) in attention.items():
        parts = layer(inner, weight, bias, heads["vision"])
        made |= {f"img/MAPHead_0/{part}": array for part, array in parts.items()}
    embeddings = "vision_model.embeddings"
    kernel = state[f"{embeddings}.patch_embedding.weight"]
    kernel = kernel.transpose(2, 3, 1, 0) if kernel.ndim == 4 else kernel.T
    positions = state[f"{embeddings}.position_embedding.weight"]
    positions = positions[None] if kernel.ndim == 4 else positions.reshape(3, 3, -1)
    made |= {
        "img/MAPHead_0/probe": state[f"{head}.probe"],
        "img/embedding/kernel": kernel,
        "img/embedding/bias": state[f"{embeddings}.patch_embedding.bias"],
        "img/pos_embedding": positions,
        "txt/Embed_0/embedding": state["text_model.embeddings.token_embedding.weight"],
        "txt/pos_embedding": state["text_model.embeddings.position_embedding.weight"][None],
    }
    if stacked:
        for first in [name for name in made if "/encoderblock_0/" in name]:
            layers = [made.pop(first.replace("block_0/", f"block_{n}/")) for n in range(2)]
            made[first.replace("encoderblock_0/", "encoderblock/")] = np.stack(layers)
    return {f"params/{name}": array for name, array in made.items()}


@pytest.fixture(scope="module")
def state():
    """The arrays of Hugging Face's tiny SigLIP."""
    tensors = Safetensors([GOLDEN / "state.safetensors"])
    return {name: tensors.get(name) for name in tensors.names()}


def flat(filled):
    return {path: np.asarray(value) for path, value in paths.flatten(filled.variables).items()}


@pytest.mark.parametrize("stacked", [False, True])
def test_a_file_makes_the_model_that_hugging_face_s_makes_and_is_written_back(
    state, stacked, tmp_path
):
    stored = converted(state, stacked)
    np.savez(tmp_path / "siglip.npz", **stored)
    tensors = Npz(tmp_path / "siglip.npz")
    config = json.loads(json.dumps(big_vision.config_of(tensors, image_size=19)))
    filled = fill(big_vision.family_of(tensors), config, tensors)

    theirs = json.loads((GOLDEN / "config.json").read_text())
    reference = fill(siglip.FAMILY, theirs, Safetensors([GOLDEN / "state.safetensors"]))
    assert not compare(filled.model, reference.model)
    ours, wanted = flat(filled), flat(reference)
    assert set(ours) == set(wanted)
    for path, array in wanted.items():
        np.testing.assert_array_equal(ours[path], array)

    written = write(filled.table, ours, filled.read.aside)
    assert set(written) == set(stored)
    for name, array in stored.items():
        np.testing.assert_array_equal(written[name], array)
        assert written[name].shape == array.shape
        assert written[name].dtype == array.dtype
    assert filled.family.expressed(filled.model) == config


def test_pictures_that_keep_their_shape_are_seen_by_the_kernel(tmp_path):
    tensors = Safetensors([NAFLEX / "state.safetensors"])
    state = {name: tensors.get(name) for name in tensors.names()}
    stored = converted(state, stacked=True, heads=4)
    np.savez(tmp_path / "naflex.npz", **stored)
    loaded = mmjax.load(tmp_path / "naflex.npz")
    reference = fill(siglip2.FAMILY, json.loads((NAFLEX / "config.json").read_text()), tensors)
    assert not compare(loaded.model, reference.model)
    ours, wanted = (
        {path: np.asarray(x) for path, x in paths.flatten(one).items()}
        for one in (loaded.variables, reference.variables)
    )
    for path, array in wanted.items():
        np.testing.assert_array_equal(ours[path], array)
    written = write(big_vision.STACKED.table(loaded.model), ours)
    assert set(written) == set(stored)
    for name, array in stored.items():
        np.testing.assert_array_equal(written[name], array)
    assert loaded.pixels(np.zeros((9, 20, 3), np.uint8))["patches"].shape == (1, 9, 48)
    assert not compare(big_vision.STACKED.model(loaded.origin.config), loaded.model)
    assert big_vision.STACKED.expressed(loaded.model) == loaded.origin.config


def test_a_file_without_the_first_word_of_its_names_is_the_same(state):
    stored = converted(state)
    bare = Arrays({name.removeprefix("params/"): array for name, array in stored.items()})
    config = big_vision.config_of(bare)
    assert config == big_vision.config_of(Arrays(stored))
    assert config["image"]["image_size"] == 18  # what the patches cover
    filled = fill(big_vision.FAMILY, config, bare)
    assert filled.read.found["params/t"] == "t"
    assert set(write(filled.table, flat(filled))) == set(stored)


def test_it_is_loaded_by_its_file_alone(state, tmp_path):
    np.savez(tmp_path / "siglip.npz", **converted(state))
    loaded = mmjax.load(tmp_path / "siglip.npz")
    made = loaded.encode_image(np.zeros((2, 30, 20, 3), np.uint8))
    assert made.shape == (2, 20)
    assert loaded.contract.mean == (0.5, 0.5, 0.5)
    with pytest.raises(WeightsError, match="tokenizer"):
        loaded.encode_text("a")


def test_a_projection_of_pictures_is_seen_and_read(state):
    stored = converted(state)
    stored["params/img/head/kernel"] = np.ones((20, 20), np.float32)
    stored["params/img/head/bias"] = np.zeros(20, np.float32)
    filled = fill(big_vision.FAMILY, big_vision.config_of(Arrays(stored)), Arrays(stored))
    assert filled.model.project_image == "linear_bias"
    assert set(write(filled.table, flat(filled))) == set(stored)


def test_arrays_of_objects_are_refused(state, tmp_path):
    stored = converted(state)
    stored["params/t"] = np.array([{}], object)
    np.savez(tmp_path / "siglip.npz", **stored)
    tensors = Npz(tmp_path / "siglip.npz")
    config = big_vision.config_of(tensors)
    with pytest.raises(WeightsError, match=r"params/t: it holds objects"):
        fill(big_vision.FAMILY, config, tensors)
    stored["params/img/pos_embedding"] = np.array([{}], object)
    np.savez(tmp_path / "siglip.npz", **stored)
    with pytest.raises(WeightsError, match="pos_embedding"):
        big_vision.config_of(Npz(tmp_path / "siglip.npz"))


def test_heads_of_another_width_are_refused(state):
    stored = converted(state)
    name = "params/img/Transformer/encoderblock_1/MultiHeadDotProductAttention_0/query/kernel"
    stored[name] = stored[name].reshape(20, 4, 5)
    with pytest.raises(WeightsError, match=r"encoderblock_1.* has the shape \(20, 4, 5\)"):
        fill(big_vision.FAMILY, big_vision.config_of(Arrays(stored)), Arrays(stored))
    name = "params/img/MAPHead_0/MultiHeadDotProductAttention_0/query/kernel"
    stored[name] = stored[name].reshape(20, 4, 5)
    with pytest.raises(WeightsError, match="a pooling head of 4 heads over blocks of 2"):
        big_vision.config_of(Arrays(stored))


def test_a_file_of_something_else_is_told_what_it_lacks(state):
    stored = converted(state)
    del stored["params/img/pos_embedding"]
    with pytest.raises(WeightsError, match=r"it lacks params/img/pos_embedding, so it is no SigL"):
        big_vision.config_of(Arrays(stored))
    del stored["params/img/embedding/kernel"]
    stored["params/img/pos_embedding"] = np.zeros((1, 9, 20), np.float32)
    with pytest.raises(WeightsError, match="it lacks params/img/embedding/kernel"):
        big_vision.config_of(Arrays(stored))
    with pytest.raises(WeightsError, match="it lacks params/img/Transformer/encoderblock/Multi"):
        big_vision.config_of(Arrays({"params/t": np.zeros(1)}))


def test_bfloat16_which_the_file_has_no_name_for_is_read_as_such(tmp_path):
    stored = np.arange(6).astype(dtypes.bfloat16).reshape(2, 3)
    np.savez(tmp_path / "x.npz", x=stored)
    tensors = Npz(tmp_path / "x.npz")
    assert tensors.shape("x") == (2, 3)
    assert tensors.get("x").dtype == dtypes.bfloat16
    np.testing.assert_array_equal(tensors.get("x"), stored)
