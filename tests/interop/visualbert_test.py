"""VisualBERT's published files: their names, what tells their heads, what is refused."""

import json
import pathlib

import jax
import numpy as np
import pytest

import mmjax
from mmjax import paths
from mmjax.interop.families.visualbert import FAMILY
from mmjax.interop.fixtures.labels import divergence
from mmjax.interop.reading import fill
from mmjax.interop.rows import write
from mmjax.interop.tensors import Arrays, Safetensors, WeightsError

PUBLISHED = pathlib.Path(__file__).parents[1] / "golden" / "published"


def opened(folder, weights):
    """(config, arrays) of a folder."""
    tensors = Safetensors([folder / weights])
    config = json.loads((folder / "config.json").read_text())
    return config, {name: tensors.get(name) for name in tensors.names()}


@pytest.mark.parametrize("folder", ["visualbert", "visualbert_pretrain", "visualbert_vqa"])
def test_a_saved_file_is_read_as_the_one_in_memory_and_its_names_are_written(folder):
    memory = opened(PUBLISHED / folder, "state.safetensors")
    saved = opened(PUBLISHED / folder / "saved", "model.safetensors")
    read = [fill(FAMILY, config, Arrays(arrays)) for config, arrays in (memory, saved)]
    assert read[0].model == read[1].model
    one, other = (paths.flatten(filled.variables) for filled in read)
    assert set(one) == set(other)
    for path, array in one.items():
        np.testing.assert_array_equal(other[path], array)
    written = write(read[0].table, one)
    assert set(written) == set(saved[1])


def test_a_tower_is_read_with_its_prefix_or_without_and_with_old_names():
    config, arrays = opened(PUBLISHED / "visualbert" / "saved", "model.safetensors")
    plain = fill(FAMILY, config, Arrays(arrays))
    old = {
        f"visual_bert.{name}".replace("LayerNorm.weight", "LayerNorm.gamma"): array
        for name, array in arrays.items()
    }
    old["visual_bert.embeddings.position_ids"] = np.arange(12)[None]
    filled = fill(FAMILY, config, Arrays(old))
    assert list(filled.read.aside) == ["embeddings.position_ids"]
    for path, array in paths.flatten(plain.variables).items():
        np.testing.assert_array_equal(paths.flatten(filled.variables)[path], array)


@pytest.mark.parametrize(
    ("folder", "named", "heads"),
    [
        ("visualbert_pretrain", None, ("masked_lm", "matching")),
        ("visualbert_phrases", "VisualBertForPreTraining", ("masked_lm", "matching", "alignment")),
        ("visualbert_vqa", None, ("answer",)),
        ("visualbert_nlvr", "VisualBertForVisualReasoning", ("reasoning",)),
        ("visualbert", "VisualBertForPreTraining", ()),
    ],
)
def test_a_file_holds_what_it_holds_and_its_config_decides_where_that_is_silent(
    folder, named, heads
):
    config, arrays = opened(PUBLISHED / folder, "state.safetensors")
    config = {**config, "architectures": named and [named]}
    assert FAMILY.model(FAMILY.fitted(config, Arrays(arrays))).heads == heads


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"bypass_transformer": True}, "bypass_transformer=True is not built"),
        ({"architectures": ["VisualBertForMultipleChoice"]}, "MultipleChoice is not built"),
        (
            {"architectures": ["VisualBertForVisualReasoning"], "id2label": dict.fromkeys("abc")},
            "3 labels of VisualBertForVisualReasoning are not built; 2 are",
        ),
    ],
)
def test_what_is_not_built_is_named(fields, message):
    config, arrays = opened(PUBLISHED / "visualbert_nlvr", "state.safetensors")
    with pytest.raises(WeightsError, match=message):
        FAMILY.model(FAMILY.fitted({**config, **fields}, Arrays(arrays)))


def test_heads_that_no_class_has_together_cannot_be_expressed():
    config, _ = opened(PUBLISHED / "visualbert", "state.safetensors")
    model = FAMILY.model(config).clone(heads=("answer", "matching"))
    with pytest.raises(WeightsError, match=r"heads=\('answer', 'matching'\) are of no class"):
        FAMILY.expressed(model)


def test_a_saved_folder_is_loaded():
    loaded = mmjax.load(PUBLISHED / "visualbert_vqa" / "saved")
    assert loaded.calls == ()
    _, scores = jax.eval_shape(loaded.model.apply, loaded.variables, **loaded.model.example())
    assert scores["answer"].shape == (1, 7)


def test_a_divergence_is_a_sum_over_classes_and_a_mean_over_rows():
    rng = np.random.default_rng(0)
    logits, shares = rng.normal(size=(3, 5)), rng.random((3, 5))
    shares[:, 1] = 0
    logs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    apart = [s * (np.log(s) - log) for s, log in zip(shares.ravel(), logs.ravel()) if s]
    np.testing.assert_allclose(divergence(logits, shares), np.sum(apart) / 3, rtol=1e-6)
