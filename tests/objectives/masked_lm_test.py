"""Masked language modelling beside numpy, on parts of a batch, and on models of ours."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.models.encoders.bert import Bert
from mmjax.models.encoders.bert_pretraining import BertPretraining
from mmjax.models.fusion.vilt import Vilt, ViltStream
from mmjax.models.interfaces import Fused
from mmjax.objectives.base import Forward, check_needs
from mmjax.objectives.masked_lm import MaskedLm
from mmjax.training.step import apply_model
from mmjax.typing import Encoded, View

ROWS, LENGTH, DIM, VOCAB = 6, 7, 4, 9
TEXT = View("encode_text", ("token_ids", "text_mask"))


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, VOCAB, (ROWS, LENGTH))
    labels[rng.random((ROWS, LENGTH)) < 0.6] = -100
    labels[4] = -100
    labels[5, :4] = 3
    return {
        "token_ids": jnp.asarray(rng.integers(1, VOCAB, (ROWS, LENGTH))),
        "masked_ids": jnp.asarray(rng.integers(1, VOCAB, (ROWS, LENGTH))),
        "text_mask": jnp.ones((ROWS, LENGTH), bool),
        "mlm_labels": jnp.asarray(labels, jnp.int32),
        "valid": jnp.asarray([1, 1, 0, 1, 1, 1], bool),
    }


@pytest.fixture(scope="module")
def tables():
    rng = np.random.default_rng(1)
    return rng.normal(size=(VOCAB, DIM)), rng.normal(size=(DIM, VOCAB))


def scored(objective, batch, tables):
    """The loss where a token's vector is a row of a table and its scores are a product."""
    seen = []

    def apply(method, variables, inputs, train, rngs):
        if method == "masked_lm_logits":
            seen.append(inputs["tokens"].shape[1])
            return inputs["tokens"] @ tables[1], {}
        return Encoded(jnp.asarray(tables[0])[inputs["token_ids"]], None, None, None), {}

    return objective(Forward(apply, {}, {}, False, None), batch, ()), seen


def reference(batch, tables, rows=range(ROWS)):
    """(total, places, right ones), a place at a time."""
    total = places = right = 0
    for row in rows:
        for place in range(LENGTH):
            label = int(batch["mlm_labels"][row, place])
            if label < 0 or not batch["valid"][row]:
                continue
            logits = tables[0][int(batch["masked_ids"][row, place])] @ tables[1]
            total += np.log(np.exp(logits).sum()) - logits[label]
            places += 1
            right += int(logits.argmax() == label)
    return total, places, right


def test_it_is_the_mean_over_masked_places_of_real_rows(batch, tables):
    best = (tables[0][np.asarray(batch["masked_ids"][1])] @ tables[1]).argmax(axis=1)
    batch = {**batch, "mlm_labels": batch["mlm_labels"].at[1, 2:4].set(best[2:4])}
    made, seen = scored(MaskedLm(TEXT), batch, tables)
    total, places, right = reference(batch, tables)
    assert 0 < right < places
    assert float(made.count) == places
    np.testing.assert_allclose(made.total, total, rtol=1e-5)
    np.testing.assert_allclose(made.mean(), total / places, rtol=1e-5)
    assert [float(x) for x in made.metrics["accuracy"]] == [right, places]
    assert seen == [LENGTH]


def test_scoring_the_masked_places_alone_gives_the_same(batch, tables):
    most = int((batch["mlm_labels"] >= 0).sum(axis=1).max())
    assert most < LENGTH
    made, seen = scored(MaskedLm(TEXT, places=most), batch, tables)
    wanted, _ = scored(MaskedLm(TEXT), batch, tables)
    assert seen == [most]
    np.testing.assert_allclose(made.total, wanted.total, rtol=1e-6)
    assert float(made.count) == float(wanted.count)
    fewer, _ = scored(MaskedLm(TEXT, places=1), batch, tables)
    assert float(fewer.count) == (batch["valid"] & (batch["mlm_labels"] >= 0).any(axis=1)).sum()


def test_parts_of_a_batch_give_parts_of_its_sums(batch, tables):
    whole, _ = scored(MaskedLm(TEXT, places=5), batch, tables)
    parts = [
        scored(MaskedLm(TEXT, places=5), {word: x[rows] for word, x in batch.items()}, tables)[0]
        for rows in (slice(0, 2), slice(2, 6))
    ]
    np.testing.assert_allclose(sum(part.total for part in parts), whole.total, rtol=1e-6)
    assert sum(float(part.count) for part in parts) == float(whole.count)


def test_where_nothing_is_masked_the_loss_is_zero_and_so_is_its_gradient(batch, tables):
    empty = {**batch, "mlm_labels": jnp.full((ROWS, LENGTH), -100)}

    def loss(table):
        return scored(MaskedLm(TEXT), empty, (table, tables[1]))[0].mean()

    value, gradient = jax.value_and_grad(loss)(jnp.asarray(tables[0]))
    assert value == 0
    assert (gradient == 0).all()


def test_a_label_beyond_the_vocabulary_does_not_pass_unseen(batch, tables):
    wrong = {**batch, "mlm_labels": batch["mlm_labels"].at[0, 0].set(VOCAB)}
    assert np.isnan(scored(MaskedLm(TEXT), wrong, tables)[0].total)


def test_what_it_needs_is_named():
    objective = MaskedLm()
    assert objective.needs == ("text_mask", "regions", "region_mask", "masked_ids", "mlm_labels")
    with pytest.raises(ValueError, match=r"needs 'masked_ids'.*Add the MaskWords transform"):
        check_needs({"mlm": objective}, ("text_mask", "regions", "region_mask"))
    with pytest.raises(ValueError, match="places=0; give at least 1"):
        MaskedLm(places=0)


SIZES = {"vocab_size": VOCAB, "dim": 8, "depth": 1, "num_heads": 2, "mlp_dim": 8}
STREAM = ViltStream(**SIZES, length=LENGTH, image_size=4, patch_size=2)
SEEN = View("fuse", ("token_ids", "text_mask", "image"))


@pytest.mark.parametrize(
    ("model", "view"),
    [
        (BertPretraining(Bert(**SIZES, length=LENGTH, pooling="class"), False), TEXT),
        (Vilt(STREAM, ("masked_lm",)), SEEN),
    ],
    ids=["text alone", "text and picture"],
)
def test_a_model_learns_from_its_masked_words_and_never_sees_the_text_itself(batch, model, view):
    batch = {**batch, "image": jnp.ones((ROWS, 4, 4, 3))}
    words = [batch[word] for word in view.words]
    shapes = jax.eval_shape(model.init, jax.random.key(0), *words)["params"]
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: jnp.asarray(rng.normal(0, 0.3, x.shape), x.dtype), shapes)

    @jax.jit
    def run(params, batch):
        def loss(params):
            forward = Forward(apply_model(model), params, {}, False, None)
            return MaskedLm(view, places=4)(forward, batch, ()).mean()

        return jax.value_and_grad(loss)(params)

    value, gradients = run(params, batch)
    other, _ = run(params, {**batch, "token_ids": batch["token_ids"] * 0})
    assert np.isfinite(value)
    assert value == other
    tower = "stream" if view is SEEN else "text"
    assert float(jnp.abs(gradients[tower]["token_embedding"]).max()) > 1e-3


def test_words_that_are_looked_at_with_several_pictures_are_refused():
    def twice(method, variables, inputs, train, rngs):
        seen = jnp.zeros((2, 8, 4))  # the words with each of two pictures
        return Fused(seen, jnp.ones((2, 8), bool), seen, None, seen[:, 0]), {}

    words = {"masked_ids": jnp.zeros((2, 4), jnp.int32), "mlm_labels": jnp.zeros((2, 4), jnp.int32)}
    words |= {"text_mask": jnp.ones((2, 4), bool), "image": jnp.zeros((2, 2, 8, 8, 3))}
    words |= {"valid": jnp.ones(2, bool)}
    forward = Forward(twice, {}, {}, False, jax.random.key(0))
    with pytest.raises(ValueError, match="masked words need one picture a row"):
        MaskedLm(View("fuse", ("token_ids", "text_mask", "image")))(forward, words, ())
