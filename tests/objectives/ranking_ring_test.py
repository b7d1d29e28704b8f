"""The losses on distances over a ring, beside the dense form."""

import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.objectives.metric import Margin, Triplet

OBJECTIVES = {
    "hardest": (Triplet, {}),
    "semi_hard": (Triplet, {"negatives": "semi_hard", "distance": "euclidean", "margin": 0.1}),
    "all": (Triplet, {"negatives": "all", "distance": "squared_euclidean"}),
    "sum": (Margin, {"distance": "euclidean"}),
}
MESHES = {"hardest": (2, 2, 2), "semi_hard": (4, 2, 1), "all": (8, 1, 1), "sum": (2, 2, 2)}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_value_gradients_and_metrics_are_those_of_the_dense_form(
    name, make_hard_batch, scalars, score
):
    make, fields = OBJECTIVES[name]
    ring = make(positives=("group",), comparison="ring", **fields)
    dense = make(positives=("group",), comparison="gather", **fields)
    for kind in ("random grouped", "half aligned", "half aligned grouped"):
        embeddings, _, _ = make_hard_batch(kind)
        value, gradients, loss = score(ring, embeddings, scalars, devices=MESHES[name])
        expected, dense_gradients, dense_loss = score(dense, embeddings, scalars)
        assert value == pytest.approx(expected, rel=2e-6)
        for side in ("image", "text"):
            found, wanted = np.asarray(gradients[side]), np.asarray(dense_gradients[side])
            assert np.abs(found - wanted).max() <= 2e-6 * np.abs(wanted).max(), (kind, side)
        assert loss.metrics.keys() == dense_loss.metrics.keys()
        for metric, (total, count) in dense_loss.metrics.items():
            assert float(loss.metrics[metric][0]) == float(total) > 0, (kind, metric)
            assert float(loss.metrics[metric][1]) == float(count)


def test_of_equally_near_negatives_the_first_in_the_batch_is_taken(make_hard_batch, scalars, score):
    embeddings, _, _ = make_hard_batch("random")
    embeddings["valid"] = jnp.ones(104, bool)
    embeddings["image"] = embeddings["image"].at[50].set(embeddings["text"][90])
    embeddings["text"] = embeddings["text"].at[10].set(embeddings["text"][90])  # on other devices
    ring = Triplet(positives=("group",), comparison="ring")
    _, gradients, _ = score(ring, embeddings, scalars, devices=(2, 2, 2))
    dense = Triplet(positives=("group",), comparison="gather")
    _, dense_gradients, _ = score(dense, embeddings, scalars)
    np.testing.assert_allclose(gradients["image"], dense_gradients["image"], atol=1e-7)
    pair, dense_pair = (np.asarray(x["text"])[[10, 90]] for x in (gradients, dense_gradients))
    np.testing.assert_allclose(pair.sum(0), dense_pair.sum(0), atol=1e-7)
    taken, shared = np.abs(pair - dense_pair) > 1e-6
    assert taken.any()
    assert shared.any()


def test_a_batch_without_negatives_costs_nothing(make_hard_batch, scalars, score):
    embeddings, _, _ = make_hard_batch("random")
    embeddings["group"] = jnp.zeros_like(embeddings["group"])
    ring = Triplet(positives=("group",), comparison="ring")
    value, gradients, loss = score(ring, embeddings, scalars, devices=(2, 2, 2))
    assert value == 0
    assert all(not np.any(gradient) for gradient in gradients.values())
    assert float(loss.metrics["active/image_to_text"][0]) == 0
