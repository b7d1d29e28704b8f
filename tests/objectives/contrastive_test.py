import pathlib

import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.objectives.contrastive import Contrastive

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "open_clip_losses.npz"


def reference(image, text, scale, positive, valid):
    """The loss in numpy float64, row by row."""
    logits = scale * np.float64(image) @ np.float64(text).T
    real = np.flatnonzero(valid)
    total = 0.0
    for similarity, targets in ((logits, positive), (logits.T, positive.T)):
        for row in real:
            answers = similarity[row, real]
            logs = answers - answers.max() - np.log(np.sum(np.exp(answers - answers.max())))
            total -= np.mean(logs[targets[row, real]])
    return total / 2 / len(real)


@pytest.mark.parametrize("case", ["clip_start", "clip_100"])
def test_it_equals_open_clips_loss_and_gradients(case, make_embeddings, score):
    with np.load(GOLDEN) as file:
        golden = dict(file)
    embeddings = make_embeddings(image=golden["image"], text=golden["text"])
    scalars = {"log_scale": jnp.float32(golden[f"{case}/log_scale"])}
    value, gradients, _ = score(Contrastive(), embeddings, scalars)
    np.testing.assert_allclose(value, golden[f"{case}/loss"], rtol=0, atol=2e-5)
    for name in ("image", "text", "log_scale"):
        np.testing.assert_allclose(
            gradients[name], golden[f"{case}/gradient/{name}"], rtol=0, atol=2e-5, err_msg=name
        )


def test_it_equals_numpy_with_several_positives_and_padding(make_embeddings, scalars, score):
    groups = np.array([0, 1, 2, 0, 3, 3, 3, 4, 5, 6, 7, 8, 1, 9, 10, 0])
    group = np.stack([groups, groups * 7 + 1], axis=1).astype(np.int32)
    valid = np.ones(16, bool)
    valid[[3, 8]] = False
    embeddings = make_embeddings(group=group, valid=valid)
    value, _, _ = score(Contrastive(positives=("group",)), embeddings, scalars)
    expected = reference(
        embeddings["image"],
        embeddings["text"],
        np.exp(np.float64(scalars["log_scale"])),
        groups[:, None] == groups[None, :],
        valid,
    )
    assert value == pytest.approx(expected, rel=1e-5)
    alone, _, _ = score(Contrastive(), embeddings, scalars)
    assert abs(alone - expected) > 0.01


def test_embeddings_that_are_all_the_same_cost_the_logarithm_of_the_batch(make_embeddings, scalars):
    embeddings = make_embeddings()
    for name in ("image", "text"):
        embeddings[name] = jnp.broadcast_to(embeddings[name][:1], embeddings[name].shape)
    loss = Contrastive().compare(embeddings, scalars, ())
    assert float(loss.mean()) == pytest.approx(np.log(16), rel=1e-5)


def test_one_caption_of_two_pictures_makes_both_right(make_embeddings, scalars, score):
    caption = np.stack([np.arange(16), np.zeros(16)], axis=1).astype(np.int32)
    caption[4] = caption[11]
    embeddings = make_embeddings(caption_id=caption)
    embeddings["text"] = embeddings["text"].at[4].set(embeddings["text"][11])
    objective = Contrastive(positives=("caption_id",))
    together, _, loss = score(objective, embeddings, scalars)
    positive = np.eye(16, dtype=bool)
    positive[4, 11] = positive[11, 4] = True
    expected = reference(
        embeddings["image"],
        embeddings["text"],
        np.exp(np.float64(scalars["log_scale"])),
        positive,
        np.ones(16, bool),
    )
    assert together == pytest.approx(expected, rel=1e-5)
    # Told apart, the two texts tie, and a tie is a miss.
    _, _, apart = score(Contrastive(), embeddings, scalars)
    hits = [found.metrics["accuracy/image_to_text"][0] for found in (apart, loss)]
    assert int(hits[0]) < int(hits[1])


def test_the_scale_is_reported(make_embeddings, scalars):
    scale, count = Contrastive().compare(make_embeddings(), scalars, ()).metrics["scale"]
    assert float(scale / count) == pytest.approx(1 / 0.07, rel=1e-5)


def test_half_precision_embeddings_are_compared_in_float32(make_embeddings, scalars, score):
    embeddings = make_embeddings()
    for name in ("image", "text"):
        embeddings[name] = embeddings[name].astype(jnp.bfloat16)
    value, _, loss = score(Contrastive(), embeddings, scalars)
    expected = reference(
        np.asarray(embeddings["image"], np.float64),
        np.asarray(embeddings["text"], np.float64),
        np.exp(np.float64(scalars["log_scale"])),
        np.eye(16, dtype=bool),
        np.ones(16, bool),
    )
    assert loss.total.dtype == jnp.float32
    assert value == pytest.approx(expected, rel=1e-5)
