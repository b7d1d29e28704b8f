"""The softmax loss over a ring, beside the same in float64 and beside the dense form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.objectives.contrastive import Contrastive
from mmjax.objectives.pairs import lay_out_ring
from mmjax.objectives.softmax_ring import softmax_ring

MESHES = [(8, 1, 1), (4, 2, 1), (2, 2, 2)]
RING = Contrastive(positives=("group",), comparison="ring")
DENSE = Contrastive(positives=("group",), comparison="gather")


def one_way(logits, positive, negative):
    """(losses of the rows, slopes by the logits) in float64; nothing small from what is large."""
    valid = positive.any(1)

    def log_sum_exp(these):
        x = np.where(these, logits, -np.inf)
        highest = np.where(valid, x.max(1, initial=-1e300), 0)
        return highest + np.log(np.exp(x - highest[:, None]).sum(1))

    count = np.maximum(positive.sum(1), 1)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        right, wrong = log_sum_exp(positive), log_sum_exp(negative)
        losses = right - np.where(positive, logits, 0).sum(1) / count
        losses = np.where(count > 1, losses, 0) + np.logaddexp(0, wrong - right)
        share = 1 / (1 + np.exp(right - wrong))[:, None]
        inside = np.exp(np.where(positive, logits, -np.inf) - right[:, None])
        uneven = np.where(count > 1, 1, 0)[:, None] * (inside - 1 / count[:, None])
        slopes = np.where(positive, uneven - inside * share, 0)
        outside = np.exp(np.where(negative, logits, -np.inf) - wrong[:, None]) * share
    return np.where(valid, losses, 0), np.where(positive, slopes, np.where(negative, outside, 0))


def reference(embeddings, log_scale, positive, negative):
    """(mean loss, gradients) in float64."""
    image, text = (np.float64(embeddings[name]) for name in ("image", "text"))
    scale, count = np.exp(np.float64(log_scale)), np.sum(embeddings["valid"])
    similarities = image @ text.T
    losses, slopes = one_way(scale * similarities, positive, negative)
    back, slopes_back = one_way(scale * similarities.T, positive.T, negative.T)
    slopes = (slopes + slopes_back.T) / 2 / count
    gradients = {
        "image": scale * slopes @ text,
        "text": scale * slopes.T @ image,
        "log_scale": scale * np.sum(slopes * similarities),
    }
    return (losses.sum() + back.sum()) / 2 / count, gradients


def off(found, expected):
    """The largest difference over the largest number."""
    return np.abs(np.float64(found) - expected).max() / np.abs(expected).max()


@pytest.mark.parametrize("mesh", MESHES)
def test_value_and_gradients_are_those_of_float64(mesh, make_hard_batch, score):
    for kind in ("random grouped", "aligned", "aligned grouped"):
        embeddings, positive, negative = make_hard_batch(kind)
        for scale in (1, 10, 100):
            scalars = {"log_scale": jnp.float32(np.log(scale))}
            value, gradients, loss = score(RING, embeddings, scalars, devices=mesh)
            expected = reference(embeddings, scalars["log_scale"], positive, negative)
            assert off(value, expected[0]) <= 2e-6, (kind, scale)
            for name, gradient in expected[1].items():
                assert off(gradients[name], gradient) <= 2e-6, (kind, scale, name)
            assert float(loss.count) == np.sum(embeddings["valid"])


def test_the_ring_counts_what_the_dense_form_counts(make_hard_batch, scalars, score):
    for kind in ("random grouped", "aligned grouped"):
        embeddings, _, _ = make_hard_batch(kind)
        _, _, ring = score(RING, embeddings, scalars, devices=MESHES[2])
        value, _, dense = score(DENSE, embeddings, scalars, devices=8)
        assert float(ring.mean()) == pytest.approx(value, rel=1e-6)
        assert ring.metrics.keys() == dense.metrics.keys()
        for name in ("accuracy/image_to_text", "accuracy/text_to_image"):
            assert float(ring.metrics[name][0]) == float(dense.metrics[name][0]) > 0
            assert float(ring.metrics[name][1]) == float(dense.metrics[name][1])


def test_a_solved_batch_still_has_a_gradient_where_the_dense_form_has_none(make_hard_batch, score):
    embeddings, positive, negative = make_hard_batch("aligned")
    scalars = {"log_scale": jnp.float32(np.log(100))}
    _, expected = reference(embeddings, scalars["log_scale"], positive, negative)
    assert 0 < np.abs(expected["image"]).max() < 1e-6
    _, gradients, _ = score(RING, embeddings, scalars, devices=8)
    assert off(gradients["image"], expected["image"]) <= 2e-6
    _, gradients, _ = score(DENSE, embeddings, scalars, devices=8)
    assert off(gradients["image"], expected["image"]) > 0.01


def test_chunks_that_fill_up_change_nothing_nor_does_the_lack_of_a_mesh(make_hard_batch, scalars):
    embeddings, positive, negative = make_hard_batch("random grouped", batch=13)
    vectors, sides = lay_out_ring(embeddings, ("group",))

    def mean(vectors, log_scale):
        total, *_ = softmax_ring(vectors, log_scale, sides, None, 5)
        return total / jnp.sum(sides.valid)

    value, gradients = jax.jit(jax.value_and_grad(mean, argnums=(0, 1)))(
        vectors, scalars["log_scale"]
    )
    expected = reference(embeddings, scalars["log_scale"], positive, negative)
    assert off(value, expected[0]) <= 2e-6
    for found, name in zip((*gradients[0], gradients[1]), ("image", "text", "log_scale")):
        assert off(found, expected[1][name]) <= 2e-6, name
