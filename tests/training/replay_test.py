"""Two computations are compared on each device, by each device's own copy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from mmjax.parallel.mesh import make_mesh
from mmjax.training.failing import Failed
from mmjax.training.replay import Replay


def placed(mesh, value, *axes):
    return jax.device_put(jnp.asarray(value), NamedSharding(mesh, PartitionSpec(*axes)))


def state(mesh):
    return {
        "params": {
            "whole": placed(mesh, np.arange(6, dtype=np.float32)),
            "cut": placed(mesh, np.arange(16, dtype=np.float32).astype(jnp.bfloat16), "data"),
        },
        "nan": placed(mesh, np.float32("nan")),
        "count": placed(mesh, np.int32(3)),
    }


def flipped(array, device):
    """`array` with another bit in its first element on one device alone."""
    pieces = []
    for number, shard in enumerate(array.addressable_shards):
        data = np.array(shard.data)
        if number == device:
            data.view(np.uint8).reshape(-1)[0] ^= 1
        pieces.append(jax.device_put(data, shard.device))
    return jax.make_array_from_single_device_arrays(array.shape, array.sharding, pieces)


class Step:
    """A step that gives its state back; in the call named, with a bit flipped."""

    def __init__(self, call=0, name="whole", device=0):
        self.calls, self.call, self.name, self.device = 0, call, name, device

    def __call__(self, state, batches, stop):
        self.calls += 1
        if self.calls == self.call:
            params = {**state["params"]}
            params[self.name] = flipped(params[self.name], self.device)
            state = {**state, "params": params}
        return state, {"loss": state["nan"]}


def run(step, every, steps=8):
    mesh = make_mesh()
    current, take = state(mesh), Replay(every, mesh).wrap(step, 0)
    for _ in range(steps):
        current, _ = take(current, None, None)
    return step.calls


def test_equal_bits_are_equal_not_a_number_included():
    assert run(Step(), every=4) == 8 + 2
    assert run(Step(), every=0) == 8


@pytest.mark.parametrize("name", ["whole", "cut"])
@pytest.mark.parametrize("device", [0, 5])
def test_a_bit_on_one_device_is_noticed_and_the_device_named(name, device):
    with pytest.raises(Failed, match=r"step 4, .* differs in 1 of 5 arrays on ") as error:
        run(Step(call=5, name=name, device=device), every=4)
    wanted = str(jax.devices()[device])
    assert f"on {wanted} of process 0: params/{name} (1 of " in str(error.value)


def test_a_negative_number_of_steps_is_refused():
    with pytest.raises(ValueError, match="--replay-check=-1"):
        Replay(-1, make_mesh())


def test_a_step_that_is_not_checked_is_taken_once():
    assert run(Step(call=6), every=100) == 8
