import pathlib

import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.objectives.sigmoid import Sigmoid

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "open_clip_losses.npz"


def reference(image, text, scale, bias, positive, valid):
    """The loss in numpy float64, pair by pair."""
    logits = scale * np.float64(image) @ np.float64(text).T + bias
    real = np.flatnonzero(valid)
    total = 0.0
    for row in real:
        for column in real:
            label = 1 if positive[row, column] else -1
            total += np.logaddexp(0, -label * logits[row, column])
    return total / len(real)


@pytest.mark.parametrize("case", ["siglip_start", "siglip_100"])
def test_it_equals_open_clips_loss_and_gradients(case, make_embeddings, score):
    with np.load(GOLDEN) as file:
        golden = dict(file)
    embeddings = make_embeddings(image=golden["image"], text=golden["text"])
    scalars = {name: jnp.float32(golden[f"{case}/{name}"]) for name in ("log_scale", "bias")}
    value, gradients, _ = score(Sigmoid(), embeddings, scalars)
    # A loss of 100 has a float32 grain of 8e-6 by itself.
    np.testing.assert_allclose(value, golden[f"{case}/loss"], rtol=2e-7, atol=2e-5)
    for name in ("image", "text", "log_scale", "bias"):
        np.testing.assert_allclose(
            gradients[name], golden[f"{case}/gradient/{name}"], rtol=2e-7, atol=2e-5, err_msg=name
        )


def test_it_equals_numpy_with_several_positives_and_padding(make_embeddings, scalars, score):
    groups = np.array([0, 1, 2, 0, 3, 3, 3, 4, 5, 6, 7, 8, 1, 9, 10, 0])
    group = np.stack([groups * 3, groups], axis=1).astype(np.int32)
    valid = np.ones(16, bool)
    valid[[3, 8]] = False
    embeddings = make_embeddings(group=group, valid=valid)
    value, _, _ = score(Sigmoid(positives=("group",)), embeddings, scalars)
    expected = reference(
        embeddings["image"],
        embeddings["text"],
        np.exp(np.float64(scalars["log_scale"])),
        np.float64(scalars["bias"]),
        groups[:, None] == groups[None, :],
        valid,
    )
    assert value == pytest.approx(expected, rel=1e-5)


def test_scale_and_bias_are_reported(make_embeddings, scalars):
    metrics = Sigmoid().compare(make_embeddings(), scalars, ()).metrics
    assert float(metrics["scale"][0]) == pytest.approx(1 / 0.07, rel=1e-5)
    assert (float(metrics["bias"][0]), float(metrics["bias"][1])) == (-3.0, 1.0)


def test_a_model_without_a_bias_is_refused(make_embeddings):
    with pytest.raises(ValueError, match="needs the model's 'bias'"):
        Sigmoid().compare(make_embeddings(), {"log_scale": jnp.float32(0)}, ())
