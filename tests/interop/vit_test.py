"""ViT's two spellings of its names, and what tells its head."""

import json
import pathlib

import jax.numpy as jnp
import numpy as np
import pytest

import mmjax
from mmjax import paths
from mmjax.interop.families.vit import FAMILY, fitted
from mmjax.interop.reading import fill
from mmjax.interop.rows import write
from mmjax.interop.tensors import Arrays, Safetensors

PUBLISHED = pathlib.Path(__file__).parents[1] / "golden" / "published"


def opened(folder):
    """(config, tensors) in memory, and as saved."""
    folder = PUBLISHED / folder
    saved = folder / "saved"
    return (
        (
            json.loads((folder / "config.json").read_text()),
            Safetensors([folder / "state.safetensors"]),
        ),
        (
            json.loads((saved / "config.json").read_text()),
            Safetensors([saved / "model.safetensors"]),
        ),
    )


def flat(filled):
    return {path: np.asarray(value) for path, value in paths.flatten(filled.variables).items()}


@pytest.mark.parametrize("folder", ["vit", "vit_classifier"])
def test_names_in_memory_and_published_ones_are_read_alike_and_the_latter_written(folder):
    memory, saved = (fill(FAMILY, *one) for one in opened(folder))
    assert memory.model == saved.model
    ours, theirs = flat(memory), flat(saved)
    assert set(ours) == set(theirs)
    for path, array in ours.items():
        np.testing.assert_array_equal(array, theirs[path])
    tensors = opened(folder)[1][1]
    written = write(memory.table, ours)
    assert set(written) == set(tensors.names())
    for name, array in written.items():
        np.testing.assert_array_equal(array, tensors.get(name))


def test_a_tower_saved_without_its_pooler_is_read_and_expressed():
    config, tensors = opened("vit")[1]
    arrays = {name: tensors.get(name) for name in tensors.names() if "pooler" not in name}
    arrays = Arrays({**arrays, "embeddings.mask_token": np.zeros((1, 1, 16), np.float32)})
    filled = fill(FAMILY, config, arrays)
    assert filled.model.head == "none"
    assert list(filled.read.aside) == ["embeddings.mask_token"]
    assert set(write(filled.table, flat(filled), filled.read.aside)) == set(arrays.names())
    assert FAMILY.model(FAMILY.expressed(filled.model)) == filled.model
    assert FAMILY.model(fitted(config, tensors)).head == "tanh"


def test_a_saved_folder_is_loaded_and_gives_tokens_and_what_its_head_makes():
    saved = PUBLISHED / "vit_classifier" / "saved"
    loaded = mmjax.load(saved)
    words = {"image": jnp.zeros((1, 18, 18, 3))}
    out = loaded.model.apply(loaded.variables, **words)
    assert out.pooled.shape == (1, 5)
    assert loaded.calls == ("tokens_image",)
