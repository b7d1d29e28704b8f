"""On v5e chips a ring's loss and gradient need the same memory, however many chips there are."""

import jax
import jax.numpy as jnp
import pytest

from mmjax.objectives.contrastive import Contrastive
from mmjax.objectives.metric import Margin
from mmjax.objectives.sigmoid import Sigmoid
from mmjax.parallel.mesh import make_mesh
from mmjax.parallel.rows import take_rows
from mmjax.parallel.sharding import activations, batch_sharding, replicated

LOCAL, DIM = 128, 256
TOPOLOGIES = ("v5e:4x4", "v5e:8x8", "v5e:16x16")


def compiled(objective, devices):
    """Loss and gradient for one local batch on each of the devices."""
    mesh = make_mesh(devices=devices)
    batch = LOCAL * len(devices)

    def mean(learned, scalars, given):
        with activations(mesh):
            return objective.compare({**learned, **given}, scalars, ()).mean()

    rows, whole = batch_sharding(mesh), replicated(mesh)
    function = jax.jit(
        jax.value_and_grad(mean, argnums=(0, 1)),
        in_shardings=(rows, whole, rows),
        out_shardings=(whole, (rows, whole)),
    )
    shape = jax.ShapeDtypeStruct
    vectors = {name: shape((batch, DIM), jnp.float32) for name in ("image", "text")}
    scalars = {name: shape((), jnp.float32) for name in ("log_scale", "bias")}
    who = {"valid": shape((batch,), bool), "sample_id": shape((batch, 2), jnp.int32)}
    return function.lower(vectors, scalars, who).compile()


@pytest.mark.parametrize("objective", [Contrastive, Sigmoid, Margin])
def test_16_64_and_256_chips_need_the_same_memory(objective, chips):
    programs = [compiled(objective(comparison="ring"), chips(name)) for name in TOPOLOGIES]
    for kind in ("peak_memory_in_bytes", "temp_size_in_bytes"):
        sizes = [getattr(program.memory_analysis(), kind) for program in programs]
        assert max(sizes) <= 1.05 * min(sizes)
        assert max(sizes) < 16 * LOCAL * (DIM + LOCAL) * 4  # far from LOCAL by the global batch
    text = programs[-1].as_text()
    assert "all-gather" not in text
    # Sent while the chip computes, which XLA does only where every hop is to a neighbour.
    assert "collective-permute-start(" in text
    assert " collective-permute(" not in text


def test_the_tokens_of_chosen_rows_need_the_same_memory_on_16_and_64_chips(chips):
    def taken(tokens, rows):
        return take_rows(tokens, rows, mesh)

    programs = []
    for name in TOPOLOGIES[:2]:  # an all-to-all of 256 takes a minute to compile
        mesh = make_mesh(devices=chips(name))
        batch = LOCAL * mesh.devices.size
        tokens = jax.ShapeDtypeStruct((batch, 16, DIM), jnp.bfloat16)
        rows = jax.ShapeDtypeStruct((batch,), jnp.int32)
        sharding = batch_sharding(mesh)
        function = jax.jit(taken, in_shardings=sharding, out_shardings=sharding)
        programs.append(function.lower(tokens, rows).compile())
    sizes = [program.memory_analysis().peak_memory_in_bytes for program in programs]
    assert max(sizes) <= 1.05 * min(sizes)
    assert max(sizes) < 16 * LOCAL * 16 * DIM * 2  # what all rows are on the fewest chips
    assert "all-gather" not in programs[-1].as_text()
