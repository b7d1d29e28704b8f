"""ViLT's published files: their names, what tells their heads, what is refused."""

import json
import pathlib
import shutil

import jax
import numpy as np
import pytest

import mmjax
from mmjax import paths
from mmjax.interop.families.vilt import FAMILY
from mmjax.interop.fixtures.labels import binary_cross_entropy
from mmjax.interop.reading import fill
from mmjax.interop.rows import write
from mmjax.interop.tensors import Arrays, Safetensors, WeightsError

PUBLISHED = pathlib.Path(__file__).parents[1] / "golden" / "published"


def opened(folder, weights):
    """(config, arrays) of a folder."""
    tensors = Safetensors([folder / weights])
    config = json.loads((folder / "config.json").read_text())
    return config, {name: tensors.get(name) for name in tensors.names()}


@pytest.mark.parametrize("folder", ["vilt", "vilt_mlm"])
def test_a_saved_file_is_read_as_the_one_in_memory_and_its_names_are_written(folder):
    memory = opened(PUBLISHED / folder, "state.safetensors")
    saved = opened(PUBLISHED / folder / "saved", "model.safetensors")
    read = [fill(FAMILY, config, Arrays(arrays)) for config, arrays in (memory, saved)]
    assert read[0].model == read[1].model
    one, other = (paths.flatten(filled.variables) for filled in read)
    assert set(one) == set(other)
    for path, array in one.items():
        np.testing.assert_array_equal(other[path], array)
    assert set(write(read[0].table, one)) == set(saved[1])


def test_copies_and_numbers_of_older_files_are_read():
    config, arrays = opened(PUBLISHED / "vilt_mlm" / "saved", "model.safetensors")
    plain = fill(FAMILY, config, Arrays(arrays))
    words = "vilt.embeddings.text_embeddings"
    old = {
        **arrays,
        "mlm_score.bias": arrays["mlm_score.decoder.bias"],
        "mlm_score.decoder.weight": arrays[f"{words}.word_embeddings.weight"],
        f"{words}.position_ids": np.arange(12)[None],
    }
    filled = fill(FAMILY, config, Arrays(old))
    assert list(filled.read.aside) == [f"{words}.position_ids"]
    for path, array in paths.flatten(plain.variables).items():
        np.testing.assert_array_equal(paths.flatten(filled.variables)[path], array)
    old["mlm_score.bias"] = old["mlm_score.bias"] + 1
    with pytest.raises(WeightsError, match=r"mlm_score\.bias should be a copy"):
        fill(FAMILY, config, Arrays(old))


@pytest.mark.parametrize(
    ("folder", "heads"),
    [
        ("vilt", ()),
        ("vilt_itm", ("matching",)),
        ("vilt_mlm", ("masked_lm",)),
        ("vilt_vqa", ("answer",)),
        ("vilt_nlvr", ("reasoning",)),
    ],
)
def test_a_file_tells_its_heads(folder, heads):
    config, arrays = opened(PUBLISHED / folder, "state.safetensors")
    config = {**config, "architectures": None}
    assert FAMILY.model(FAMILY.fitted(config, Arrays(arrays))).heads == heads


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"image_size": [12, 16]}, r"image_size=\[12, 16\] is not built; one number is"),
        ({"qkv_bias": False}, "qkv_bias=False is not built"),
        ({"architectures": ["ViltForTokenClassification"]}, "TokenClassification is not built"),
        (
            {"architectures": ["ViltForImagesAndTextClassification"], "id2label": {"0": "a"}},
            "1 labels of ViltForImagesAndTextClassification are not built; 2 are",
        ),
    ],
)
def test_what_is_not_built_is_named(fields, message):
    config, _ = opened(PUBLISHED / "vilt_nlvr", "state.safetensors")
    with pytest.raises(WeightsError, match=message):
        FAMILY.model({**config, **fields})


def test_what_the_format_cannot_hold_is_named():
    config, _ = opened(PUBLISHED / "vilt", "state.safetensors")
    model = FAMILY.model(config)
    with pytest.raises(WeightsError, match=r"heads=\('masked_lm', 'matching'\) are of no class"):
        FAMILY.expressed(model.clone(heads=("masked_lm", "matching")))
    with pytest.raises(WeightsError, match=r"stream\.pooling='class', not 'tanh'"):
        FAMILY.expressed(model.clone(stream=model.stream.clone(pooling="class")))
    most = model.clone(stream=model.stream.clone(max_patches=8))
    assert FAMILY.model(FAMILY.expressed(most)) == most


def test_a_saved_folder_is_loaded_and_its_processor_is_not_taken_for_another(tmp_path):
    folder = shutil.copytree(PUBLISHED / "vilt_mlm" / "saved", tmp_path / "saved")
    processor = {"image_processor_type": "ViltImageProcessor", "size": {"shortest_edge": 12}}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    loaded = mmjax.load(folder)
    assert loaded.calls == ()
    assert "image" in loaded.missing
    assert loaded.contract.image_size == loaded.model.stream.image_size
    assert loaded.contract.sequence_length == 12
    _, scores = jax.eval_shape(loaded.model.apply, loaded.variables, **loaded.model.example())
    assert scores["masked_lm"].shape == (1, 12, 40)


def test_a_binary_cross_entropy_is_a_sum_over_classes_and_a_mean_over_rows():
    rng = np.random.default_rng(0)
    logits, shares = rng.normal(size=(3, 5)), rng.random((3, 5))
    likely = 1 / (1 + np.exp(-logits))
    wanted = -(shares * np.log(likely) + (1 - shares) * np.log(1 - likely)).sum() / 3
    np.testing.assert_allclose(binary_cross_entropy(logits, shares), wanted, rtol=1e-6)
