"""Rows by number, from whichever device has them, and their gradients back."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.parallel.mesh import make_mesh
from mmjax.parallel.rows import take_rows
from mmjax.parallel.sharding import batch_sharding

BATCH, LENGTH, DIM = 104, 7, 5
MESHES = [None, (8, 1, 1), (4, 2, 1), (2, 2, 2)]


@functools.cache
def taken(mesh):
    """(rows, loss's gradient by the tokens), compiled."""
    mesh = None if mesh is None else make_mesh(*mesh)

    def loss(tokens, mask, rows, weights):
        made = take_rows({"tokens": tokens, "mask": mask}, rows, mesh)
        return jnp.sum(made["tokens"] * weights), made

    function = jax.value_and_grad(loss, has_aux=True)
    return jax.jit(function, in_shardings=None if mesh is None else batch_sharding(mesh))


def given():
    rng = np.random.default_rng(0)
    tokens, weights = rng.normal(size=(2, BATCH, LENGTH, DIM)).astype(np.float32)
    return tokens, rng.random((BATCH, LENGTH)) < 0.5, weights


def expected(tokens, mask, rows, weights):
    there = rows >= 0
    by_tokens = np.zeros_like(tokens)
    np.add.at(by_tokens, rows[there], weights[there])
    return (
        np.where(there[:, None, None], tokens[rows], 0),
        np.where(there[:, None], mask[rows], False),
        by_tokens,
    )


@pytest.mark.parametrize("mesh", MESHES)
@pytest.mark.parametrize("wishes", ["spread", "all of one device", "one row", "none"])
def test_rows_arrive_and_gradients_go_back(mesh, wishes):
    rng = np.random.default_rng(1)
    rows = {
        "spread": rng.integers(-1, BATCH, BATCH),
        "all of one device": rng.integers(13, 26, BATCH),  # more rounds than one
        "one row": np.full(BATCH, 77),
        "none": np.full(BATCH, -1),
    }[wishes].astype(np.int32)
    tokens, mask, weights = given()
    (_, made), by_tokens = taken(mesh)(tokens, mask, rows, weights)
    wanted = expected(tokens, mask, rows, weights)
    np.testing.assert_array_equal(made["tokens"], wanted[0])
    np.testing.assert_array_equal(made["mask"], wanted[1])
    np.testing.assert_allclose(by_tokens, wanted[2], rtol=1e-5, atol=1e-5)


def test_no_device_holds_all_tokens_nor_sends_more_than_a_few():
    shape = jax.ShapeDtypeStruct
    tokens = shape((BATCH, LENGTH, DIM), jnp.float32)
    mask, rows = shape((BATCH, LENGTH), bool), shape((BATCH,), jnp.int32)
    text = taken((8, 1, 1)).lower(tokens, mask, rows, tokens).compile().as_text()
    assert "all-to-all" in text
    assert "all-gather" not in text
    assert f"[{BATCH},{LENGTH},{DIM}]" not in text
    assert f"[4,{LENGTH},{DIM}]" in text or f"[8,4,{LENGTH},{DIM}]" in text  # 32 rows a round
