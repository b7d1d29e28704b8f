"""BERT's older files, and files that hold other heads than their config names."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mmjax
from mmjax import paths
from mmjax.interop.families.bert import FAMILY
from mmjax.interop.reading import fill
from mmjax.interop.rows import write
from mmjax.interop.tensors import Arrays, Safetensors, WeightsError
from mmjax.models.encoders.bert import Bert
from mmjax.models.encoders.bert_pretraining import BertPretraining

PUBLISHED = pathlib.Path(__file__).parents[1] / "golden" / "published"


@pytest.fixture(scope="module")
def config():
    return json.loads((PUBLISHED / "bert_pretrain" / "saved" / "config.json").read_text())


@pytest.fixture(scope="module")
def arrays():
    """What BertForPreTraining's published file holds."""
    tensors = Safetensors([PUBLISHED / "bert_pretrain" / "saved" / "model.safetensors"])
    return {name: tensors.get(name) for name in tensors.names()}


def without(arrays, *parts):
    return {name: x for name, x in arrays.items() if not any(part in name for part in parts)}


def same(one, other):
    one, other = (paths.flatten(filled.variables) for filled in (one, other))
    assert set(one) == set(other)
    for path, array in one.items():
        np.testing.assert_array_equal(other[path], array)


def test_old_names_of_norms_and_stored_positions_are_read(config, arrays):
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ): array
        for name, array in arrays.items()
    }
    assert len(old.keys() - arrays.keys()) == 2 * (2 * 2 + 2)
    old["bert.embeddings.position_ids"] = np.arange(12)[None]
    words = arrays["bert.embeddings.word_embeddings.weight"]
    old |= {"cls.predictions.decoder.weight": words}
    filled = fill(FAMILY, config, Arrays(old))
    same(filled, fill(FAMILY, config, Arrays(arrays)))
    written = write(filled.table, paths.flatten(filled.variables), filled.read.aside)
    assert set(written) == {*arrays, "bert.embeddings.position_ids"}


def test_a_bias_of_the_head_that_stands_twice_has_to_be_the_same(config, arrays):
    twice = {**arrays, "cls.predictions.decoder.bias": arrays["cls.predictions.bias"] + 1}
    with pytest.raises(WeightsError, match=r"decoder\.bias should be a copy of cls\.predictions"):
        fill(FAMILY, config, Arrays(twice))


def test_a_file_holds_what_it_holds_whatever_its_config_names(config, arrays):
    named = {**config, "architectures": ["BertForMaskedLM"]}  # as bert-base-uncased does
    filled = fill(FAMILY, named, Arrays(arrays))
    assert isinstance(filled.model, BertPretraining)
    assert filled.model.next_sentence
    same(filled, fill(FAMILY, config, Arrays(arrays)))


@pytest.mark.parametrize(
    ("left_out", "following", "pooling"),
    [(("seq_relationship",), False, "tanh"), (("seq_relationship", "pooler"), False, "class")],
)
def test_a_masked_lm_head_may_come_with_a_pooler_or_without(
    config, arrays, left_out, following, pooling
):
    filled = fill(FAMILY, config, Arrays(without(arrays, *left_out)))
    assert (filled.model.next_sentence, filled.model.text.pooling) == (following, pooling)
    assert FAMILY.model(FAMILY.expressed(filled.model)) == filled.model


def test_a_tower_is_read_with_its_prefix_or_without_and_with_its_pooler_or_without(config, arrays):
    tower = without(arrays, "cls.")
    filled = fill(FAMILY, config, Arrays(tower))
    assert isinstance(filled.model, Bert)
    bare = {name.removeprefix("bert."): array for name, array in tower.items()}
    same(filled, fill(FAMILY, config, Arrays(bare)))
    assert set(write(filled.table, paths.flatten(filled.variables))) == set(bare)
    headless = fill(FAMILY, config, Arrays(without(tower, "pooler")))
    assert headless.model.pooling == "class"
    assert FAMILY.model(FAMILY.expressed(headless.model)) == headless.model


def test_heads_that_the_tower_does_not_read_are_kept_aside(config, arrays):
    kept = without(arrays, "predictions")
    filled = fill(FAMILY, config, Arrays(kept))
    assert isinstance(filled.model, Bert)
    assert set(filled.read.aside) == {"cls.seq_relationship.weight", "cls.seq_relationship.bias"}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"position_embedding_type": "relative_key"}, "position_embedding_type='relative_key'"),
        ({"is_decoder": True}, "is_decoder=True is not built"),
        ({"hidden_act": "silu"}, "the activation 'silu' is not built"),
        ({"architectures": ["BertLMHeadModel"]}, "BertLMHeadModel is not built; BertModel"),
    ],
)
def test_what_is_not_built_is_named(config, fields, message):
    with pytest.raises(WeightsError, match=message):
        FAMILY.model({**config, **fields})


def test_a_mean_cannot_be_expressed(config, arrays):
    model = fill(FAMILY, config, Arrays(without(arrays, "cls."))).model
    with pytest.raises(WeightsError, match="pooling='mean'"):
        FAMILY.expressed(model.clone(pooling="mean"))


@pytest.mark.parametrize(
    ("folder", "calls"),
    [("bert", ("tokens_text",)), ("bert_pretrain", ("encode_text", "tokens_text"))],
)
def test_a_saved_folder_is_loaded_with_the_calls_that_it_has(folder, calls):
    loaded = mmjax.load(PUBLISHED / folder / "saved")
    assert loaded.calls == calls
    with np.load(PUBLISHED / folder / "inputs.npz") as file:
        words = [
            jnp.asarray(file["input_ids"], jnp.int32),
            jnp.asarray(file["attention_mask"] == 1),
        ]
        kinds = jnp.asarray(file["token_type_ids"], jnp.int32)
    made = loaded.model.apply(loaded.variables, *words, token_type=kinds)
    with np.load(PUBLISHED / folder / "outputs.npz") as file:
        if folder == "bert":
            np.testing.assert_allclose(made.tokens, file["last_hidden_state"], atol=2e-5)
        else:
            np.testing.assert_allclose(made[0], file["prediction_logits"], atol=2e-5)


def test_words_that_the_head_does_not_share_make_an_untied_model(config, arrays):
    name, words = "cls.predictions.decoder.weight", "bert.embeddings.word_embeddings.weight"
    apart = fill(FAMILY, config, Arrays({**arrays, name: arrays[words] + 1}))
    assert not apart.model.tied
    assert FAMILY.expressed(apart.model)["tie_word_embeddings"] is False
    flat = {path: np.asarray(x) for path, x in paths.flatten(apart.variables).items()}
    written = write(apart.table, flat)
    np.testing.assert_array_equal(written[name], arrays[words] + 1)
    ids, mask = jnp.ones((1, 4), int), jnp.ones((1, 4), bool)
    tied = fill(FAMILY, config, Arrays({**arrays, name: arrays[words]}))
    assert tied.model.tied
    moved = _logits(apart, ids, mask) - _logits(tied, ids, mask)
    assert np.abs(moved).max() > 1e-2  # each word's score by the sum of the state
    np.testing.assert_allclose(moved, moved[..., :1] * np.ones_like(moved), atol=1e-4)


def test_an_untied_head_adds_the_bias_of_its_decoder(config, arrays):
    head, words = "cls.predictions", arrays["bert.embeddings.word_embeddings.weight"]
    table, bias = {f"{head}.decoder.weight": words + 1}, arrays[f"{head}.bias"]
    both = {**arrays, **table, f"{head}.bias": bias - 1, f"{head}.decoder.bias": bias + 2}
    apart = fill(FAMILY, config, Arrays(both))
    np.testing.assert_array_equal(apart.variables["params"]["masked_lm"]["bias"], bias + 2)
    flat = {path: np.asarray(x) for path, x in paths.flatten(apart.variables).items()}
    written = write(apart.table, flat, apart.read.aside)
    np.testing.assert_array_equal(written[f"{head}.bias"], bias - 1)
    np.testing.assert_array_equal(written[f"{head}.decoder.bias"], bias + 2)
    of_old = {name: x for name, x in {**arrays, **table}.items() if "decoder.bias" not in name}
    alone = fill(FAMILY, config, Arrays(of_old))  # a file that holds the two as one
    np.testing.assert_array_equal(alone.variables["params"]["masked_lm"]["bias"], bias)
    assert {f"{head}.bias", f"{head}.decoder.bias"} <= set(write(alone.table, flat))


def _logits(filled, ids, mask):
    variables = jax.tree.map(jnp.asarray, filled.variables)
    return np.asarray(filled.model.apply(variables, ids, mask)[0])
