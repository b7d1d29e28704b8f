"""The wrong pairs that look right, chosen over the whole batch."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.objectives.hard_negatives import hard_negatives
from mmjax.objectives.pairs import lay_out_ring
from mmjax.parallel.mesh import make_mesh
from mmjax.parallel.sharding import batch_sharding, replicated

MESHES = [(8, 1, 1), (4, 2, 1), (2, 2, 2)]


@functools.cache
def compiled(choice, mesh):
    mesh = None if mesh is None else make_mesh(*mesh)

    def choose(embeddings, scale, key):
        vectors, sides = lay_out_ring(embeddings, ("group",))
        return hard_negatives(vectors, sides, mesh, choice, scale, key, chunk=5)

    if mesh is None:
        return jax.jit(choose)
    rows, whole = batch_sharding(mesh), replicated(mesh)
    return jax.jit(choose, in_shardings=(rows, whole, whole))


def choose(embeddings, choice, mesh, scale=20.0, seed=0):
    chosen = compiled(choice, mesh)(embeddings, jnp.float32(scale), jax.random.key(seed))
    return [(np.asarray(one.row), np.asarray(one.found)) for one in chosen]


@pytest.mark.parametrize("mesh", [None, *MESHES])
def test_the_hardest_is_that_of_numpy(mesh, make_hard_batch):
    embeddings, _, negative = make_hard_batch("half aligned grouped")
    scores = np.float64(embeddings["image"]) @ np.float64(embeddings["text"]).T
    chosen = choose(embeddings, "hardest", mesh)
    for (row, found), these, similar in zip(chosen, (negative, negative.T), (scores, scores.T)):
        np.testing.assert_array_equal(found, these.any(1))
        np.testing.assert_array_equal(found, embeddings["valid"])
        expected = np.where(these, similar, -np.inf).argmax(1)
        np.testing.assert_array_equal(row, np.where(found, expected, -1))


def test_any_number_of_devices_draws_alike(make_hard_batch):
    embeddings, _, negative = make_hard_batch("half aligned grouped")
    alone = choose(embeddings, "sampled", None)
    for mesh in MESHES:
        for (row, found), (row_alone, _) in zip(choose(embeddings, "sampled", mesh), alone):
            np.testing.assert_array_equal(row, row_alone)
            np.testing.assert_array_equal(found, embeddings["valid"])
    for (row, found), these in zip(alone, (negative, negative.T)):
        assert these[np.flatnonzero(found), row[found]].all()
    other = choose(embeddings, "sampled", None, seed=1)
    assert np.mean(other[0][0] == alone[0][0]) < 0.9


def test_draws_follow_the_softmax_of_the_similarities(make_hard_batch):
    embeddings, _, negative = make_hard_batch("random grouped", batch=16)
    vectors, sides = lay_out_ring(embeddings, ("group",))
    scale, draws = 6.0, 8000
    keys = jax.random.split(jax.random.key(0), draws)
    choose = functools.partial(hard_negatives, vectors, sides, None, "sampled", scale)
    chosen = jax.jit(jax.vmap(choose))(keys)
    scores = scale * np.float64(embeddings["image"]) @ np.float64(embeddings["text"]).T
    for one, these, similar in zip(chosen, (negative, negative.T), (scores, scores.T)):
        for row in np.flatnonzero(embeddings["valid"]):
            odds = np.where(these[row], np.exp(similar[row]), 0)
            expected = odds / odds.sum()
            share = np.bincount(np.asarray(one.row)[:, row], minlength=16) / draws
            sigma = np.sqrt(expected * (1 - expected) / draws)
            assert np.all(np.abs(share - expected) <= 5 * sigma + 1e-3)
            assert np.all(share[~these[row]] == 0)
    pictures, texts = (np.asarray(one.row) for one in chosen)
    valid = np.flatnonzero(embeddings["valid"])
    back = np.mean(texts[:, valid[0]] == valid[1])
    both = np.mean((pictures[:, valid[1]] == valid[0]) & (texts[:, valid[0]] == valid[1]))
    alone = np.mean(pictures[:, valid[1]] == valid[0])
    assert abs(both - alone * back) < 0.02  # the two directions draw apart


@pytest.mark.parametrize("choice", ["hardest", "sampled"])
def test_a_row_without_a_negative_is_reported(choice, make_hard_batch):
    embeddings, _, _ = make_hard_batch("random")
    group = np.array(embeddings["group"])
    valid = np.asarray(embeddings["valid"])
    group[:] = 7  # all belong together, but for one real row
    odd = np.flatnonzero(valid)[20]
    group[odd] = 8
    embeddings["group"] = jnp.asarray(group)
    for row, found in choose(embeddings, choice, (2, 2, 2)):
        np.testing.assert_array_equal(found, valid)
        assert np.all(row[valid & (np.arange(104) != odd)] == odd)
        assert row[odd] != odd
    embeddings["group"] = jnp.full_like(embeddings["group"], 7)
    for row, found in choose(embeddings, choice, (2, 2, 2)):
        assert not found.any()
        assert np.all(row == -1)


def test_what_cannot_be_chosen_is_refused(make_hard_batch):
    vectors, sides = lay_out_ring(make_hard_batch("random")[0], ())
    with pytest.raises(ValueError, match="choice='nearest' is none of hardest, sampled"):
        hard_negatives(vectors, sides, None, "nearest")
    with pytest.raises(ValueError, match="needs a key"):
        hard_negatives(vectors, sides, None, "sampled")
