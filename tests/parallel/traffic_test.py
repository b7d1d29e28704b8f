"""What a compiled program moves, read from the text that XLA makes for simulated devices."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from mmjax.parallel.hlo import array_bytes, read
from mmjax.parallel.mesh import make_mesh
from mmjax.parallel.traffic import collectives, memory_bytes

ROWS, DIM, DEPTH = 64, 32, 5


@pytest.fixture(scope="module")
def mesh():
    return make_mesh(data=2, fsdp=2, tensor=2)


def tower(mesh):
    """Five layers cut by `tensor`, in a loop, and a mean over the rows of all devices."""

    def step(kernels, x):
        def layer(x, kernel):
            x = jnp.tanh(x) @ kernel
            return jax.lax.with_sharding_constraint(x, rows), None

        return jax.lax.scan(layer, x, kernels)[0].sum()

    rows = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
    kernels = NamedSharding(mesh, PartitionSpec(None, "tensor"))
    shapes = (
        jax.ShapeDtypeStruct((DEPTH, DIM, DIM), jnp.float32, sharding=kernels),
        jax.ShapeDtypeStruct((ROWS, DIM), jnp.float32, sharding=rows),
    )
    return read(jax.jit(step).lower(*shapes).compile().as_text())


def test_a_loop_counts_as_often_as_it_goes_round(mesh):
    program = tower(mesh)
    assert program.unknown_loops == 0
    assert DEPTH in program.times.values()


def test_collectives_have_their_axes_and_bytes(mesh):
    found = {(one.kind, one.axes): one for one in collectives(tower(mesh), mesh)}
    inside = found["all-reduce", ("tensor",)]  # the partial products of each layer
    # 2 (n - 1) / n of it, n = 2; and once of the sum, a number.
    assert inside.times == DEPTH + 1
    assert inside.sent_bytes == DEPTH * (ROWS // 4) * DIM * 4 + 4
    last = found["all-reduce", ("data", "fsdp")]
    assert (last.times, last.sent_bytes) == (1, 2 * 3 / 4 * 4)
    assert inside.network_bytes == 0


def test_a_slice_of_a_stack_counts_and_not_the_stack(mesh):
    stack = DEPTH * DIM * DIM * 4 // 2
    moved = memory_bytes(tower(mesh))
    once = stack + 2 * DEPTH * (ROWS // 4) * DIM * 4
    assert once / 2 < moved < 8 * once


def test_a_loop_of_unknown_length_is_told():
    def halve(x):
        return jax.lax.while_loop(lambda x: x.sum() > 1, lambda x: x / 2, x)

    program = read(jax.jit(halve).lower(jnp.ones(8)).compile().as_text())
    assert program.unknown_loops == 1


def test_bytes_of_a_shape_with_layouts_and_memory_spaces():
    shape = "(f32[8,128]{1,0:T(8,128)}, bf16[4]{0:T(128)(2,1)S(1)}, pred[], token[])"
    assert array_bytes(shape) == 8 * 128 * 4 + 4 * 2 + 1
    assert array_bytes(shape, memory=True) == 8 * 128 * 4 + 1


def test_a_text_that_is_no_program_is_refused():
    with pytest.raises(ValueError, match="no ENTRY"):
        read("HloModule nothing")
