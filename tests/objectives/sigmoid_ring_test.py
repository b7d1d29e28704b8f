"""The sigmoid loss over a ring, beside the same in float64 and beside the dense form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.objectives.pairs import lay_out_ring
from mmjax.objectives.sigmoid import Sigmoid
from mmjax.objectives.sigmoid_ring import sigmoid_ring

MESHES = [(8, 1, 1), (4, 2, 1), (2, 2, 2)]
RING = Sigmoid(positives=("group",), comparison="ring")
DENSE = Sigmoid(positives=("group",), comparison="gather")


def reference(embeddings, scalars, positive, negative):
    """(mean loss, gradients) in float64."""
    image, text = (np.float64(embeddings[name]) for name in ("image", "text"))
    scale, count = np.exp(np.float64(scalars["log_scale"])), np.sum(embeddings["valid"])
    similarities = image @ text.T
    wrong = np.where(positive, -1, 1) * (scale * similarities + np.float64(scalars["bias"]))
    known = positive | negative
    slopes = np.where(positive, -1, 1) / (1 + np.exp(-wrong)) * known / count
    gradients = {
        "image": scale * slopes @ text,
        "text": scale * slopes.T @ image,
        "log_scale": scale * np.sum(slopes * similarities),
        "bias": np.sum(slopes),
    }
    return np.sum(np.logaddexp(0, wrong)[known]) / count, gradients


def off(found, expected):
    """The largest difference over the largest number."""
    return np.abs(np.float64(found) - expected).max() / np.abs(expected).max()


@pytest.mark.parametrize("mesh", MESHES)
def test_value_and_gradients_are_those_of_float64(mesh, make_hard_batch, score):
    for kind in ("random grouped", "aligned", "aligned grouped"):
        embeddings, positive, negative = make_hard_batch(kind)
        for scale, bias in ((1, -10), (10, -10), (100, -10), (100, -80)):
            scalars = {"log_scale": jnp.float32(np.log(scale)), "bias": jnp.float32(bias)}
            value, gradients, loss = score(RING, embeddings, scalars, devices=mesh)
            expected = reference(embeddings, scalars, positive, negative)
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


def test_chunks_that_fill_up_change_nothing_nor_does_the_lack_of_a_mesh(make_hard_batch, scalars):
    embeddings, positive, negative = make_hard_batch("random grouped", batch=13)
    vectors, sides = lay_out_ring(embeddings, ("group",))

    def mean(vectors, log_scale, bias):
        total, *_ = sigmoid_ring(vectors, (log_scale, bias), sides, None, 5)
        return total / jnp.sum(sides.valid)

    given = vectors, scalars["log_scale"], scalars["bias"]
    both = jax.jit(jax.value_and_grad(mean, argnums=(0, 1, 2)))
    value, (by_vectors, *by_scalars) = both(*given)
    expected = reference(embeddings, scalars, positive, negative)
    assert float(jax.jit(mean)(*given)) == pytest.approx(
        float(value), rel=1e-6
    )  # where no gradient is made
    assert off(value, expected[0]) <= 2e-6
    for found, name in zip((*by_vectors, *by_scalars), ("image", "text", "log_scale", "bias")):
        assert off(found, expected[1][name]) <= 2e-6, name
