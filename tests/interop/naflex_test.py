"""SigLIP 2 NaFlex from a folder with its processor's settings: pictures of any shape in."""

import json
import pathlib
import shutil

import jax.numpy as jnp
import numpy as np
import pytest

import mmjax
from mmjax.interop.export import export_weights
from mmjax.interop.tensors import WeightsError
from mmjax.preprocess import preprocess

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
PROCESSOR = {
    "image_processor_type": "Siglip2ImageProcessor",
    "do_resize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "max_num_patches": 12,
    "patch_size": 4,
    "resample": 2,
    "rescale_factor": 1 / 255,
}


def folder_of(place, **processor):
    """A published folder of the tiny model."""
    fixture = GOLDEN / "published" / "siglip2_naflex"
    shutil.copy(fixture / "config.json", place / "config.json")
    shutil.copy(fixture / "state.safetensors", place / "model.safetensors")
    told = json.dumps({**PROCESSOR, **processor})
    (place / "preprocessor_config.json").write_text(told)
    return place


@pytest.fixture(scope="module")
def theirs():
    with np.load(GOLDEN / "naflex.npz") as file:
        return {name: file[name] for name in file.files}


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    return mmjax.load(folder_of(tmp_path_factory.mktemp("naflex")))


def test_pictures_are_prepared_as_the_reference_does(loaded, theirs):
    words = loaded.pixels([theirs[f"image{n}"] for n in range(6)])
    np.testing.assert_array_equal(words["patch_grid"], theirs["spatial_shapes"])
    made = preprocess({name: jnp.asarray(x) for name, x in words.items()}, loaded.contract)
    np.testing.assert_allclose(made["patches"], theirs["pixel_values"], atol=2e-6)
    assert {name: array.shape[0] for name, array in loaded.pixels([]).items()} == dict.fromkeys(
        words, 0
    )


def test_pictures_of_several_shapes_are_encoded_together_as_alone(loaded, theirs):
    images = [theirs[f"image{n}"] for n in range(3)]
    together = loaded.encode_image(images)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(loaded.encode_image(images[1])[0], together[1], atol=2e-5)


def test_it_is_written_back_with_its_processor(loaded, theirs, tmp_path):
    export_weights(loaded, tmp_path / "out", "hf")
    again = mmjax.load(tmp_path / "out")
    assert again.contract == loaded.contract
    assert again.model == loaded.model
    stored = json.loads((tmp_path / "out" / "preprocessor_config.json").read_text())
    assert {name: stored[name] for name in PROCESSOR} == PROCESSOR


def test_patches_of_another_size_than_the_model_s_are_refused(tmp_path):
    with pytest.raises(WeightsError, match="patches of 8 pixels and its model takes 4"):
        mmjax.load(folder_of(tmp_path, patch_size=8))
