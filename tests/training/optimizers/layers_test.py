import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from mmjax import paths
from mmjax.parallel.layout import lay_out
from mmjax.parallel.mesh import make_mesh
from mmjax.training import schedules
from mmjax.training.optimizers.adafactor import Adafactor
from mmjax.training.optimizers.adamw import AdamW
from mmjax.training.optimizers.lamb import LAMB
from mmjax.training.optimizers.layers import STACKS, by_layer, layer_shape
from mmjax.training.optimizers.lion import Lion
from mmjax.training.optimizers.muon import Muon
from mmjax.training.optimizers.sgd import SGD

HOW = {"schedule": schedules.constant(1e-2), "weight_decay": 0.1, "clip_norm": 1.0}
ORIGINAL = {"b2_cap": 1.0, "clipping_threshold": 0.5, "multiply_by_parameter_scale": True}
MATRICES = ((".*block.*/kernel", True), (".*", False))
EVERY = {
    "sgd": SGD(**HOW),
    "adamw": AdamW(**HOW),
    "lion": Lion(**HOW),
    "lamb": LAMB(**HOW),
    "adafactor": Adafactor(mu_dtype="float32", **HOW),
    "adafactor as published": Adafactor(momentum=0.0, **ORIGINAL, **HOW),
    "muon": Muon(matrix_rules=MATRICES, **HOW),
}
DEPTH = 3


def tree(seed):
    """Layers of very unlike size, so that a rule over all of them at once shows."""
    rng = np.random.default_rng(seed)
    size = 10.0 ** np.arange(DEPTH)
    made = {
        "blocks": {
            "up": {"kernel": rng.normal(size=(DEPTH, 40, 36)) * size[:, None, None]},
            "norm": {"scale": rng.normal(size=(DEPTH, 40)) * size[:, None]},
        },
        "head": {"kernel": rng.normal(size=(40, 36))},
        "log_scale": abs(rng.normal()),  # one number: gradients of both signs might cancel
    }
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), made)


def apart(stacked):
    """The same numbers with each layer's arrays at a path of its own."""
    rest = {name: leaf for name, leaf in stacked.items() if name != "blocks"}
    return rest | {
        f"block{layer}": jax.tree.map(lambda leaf, layer=layer: leaf[layer], stacked["blocks"])
        for layer in range(DEPTH)
    }


GRADIENTS = (1, 2, 3)  # their seeds


@pytest.fixture(scope="module")
def plain(run):
    """(name) -> parameters and state after three updates of stacks, on one device."""
    return functools.cache(lambda name: run(EVERY[name], tree(0), [tree(n) for n in GRADIENTS]))


@pytest.mark.parametrize("name", EVERY)
def test_a_stacked_update_equals_that_of_each_layer_by_itself(name, plain, run):
    gradients = [apart(tree(seed)) for seed in GRADIENTS]
    separate = paths.flatten(run(EVERY[name], apart(tree(0)), gradients)[0])
    for path, leaf in paths.flatten(apart(plain(name)[0])).items():
        np.testing.assert_allclose(leaf, separate[path], rtol=1e-5, atol=1e-6, err_msg=path)


@pytest.mark.parametrize("name", ["lamb", "adafactor as published", "muon"])
def test_what_an_optimizer_knows_does_not_depend_on_the_number_of_devices(name, plain, run):
    mesh = make_mesh(data=2, fsdp=4)
    rules = ((".*/kernel", ("fsdp", None)), (".*", ()))

    def spread(seed):
        placed = lay_out(tree(seed), mesh, rules, whole_above_bytes=0)
        return paths.map_with_path(
            lambda path, leaf: jax.device_put(leaf, NamedSharding(mesh, placed[path].spec)),
            tree(seed),
        )

    found = run(EVERY[name], spread(0), [spread(seed) for seed in GRADIENTS])
    kernel = found[0]["blocks"]["up"]["kernel"]
    assert kernel.sharding.spec == PartitionSpec(None, "fsdp")
    wanted = paths.flatten(plain(name))
    for path, leaf in paths.flatten(found).items():
        np.testing.assert_allclose(leaf, wanted[path], rtol=1e-5, atol=1e-6, err_msg=path)


@pytest.mark.parametrize("name", [name for name in EVERY if name != "adafactor as published"])
def test_a_first_moment_in_bfloat16_hardly_changes_the_updates(name, plain, run):
    optimizer = dataclasses.replace(EVERY[name], mu_dtype="bfloat16")
    after, state = run(optimizer, tree(0), [tree(seed) for seed in GRADIENTS])
    for path, leaf in paths.flatten(state).items():
        first = bool({"mu", "trace", "ema"} & set(path.split("/")))
        assert (leaf.dtype == jnp.bfloat16) is first, path
    assert "bfloat16" not in {leaf.dtype.name for leaf in jax.tree.leaves(plain(name))}
    before, wanted = paths.flatten(tree(0)), paths.flatten(plain(name)[0])
    for path, leaf in paths.flatten(after).items():
        step, exact = (np.asarray(end - before[path]) for end in (leaf, wanted[path]))
        if name == "lion":  # a sign may change where the mean is nearly zero
            assert np.mean(np.abs(step - exact) > 1e-6) < 0.02, path
        else:
            assert np.linalg.norm(step - exact) < 0.005 * np.linalg.norm(exact), path


@pytest.mark.parametrize("stack", sorted(STACKS))
def test_layers_of_a_stack_are_arrays_of_their_own_wherever_they_lie(stack):
    assert layer_shape(f"text/{stack}/mlp/up/kernel", (6, 8, 32)) == (8, 32)
    assert layer_shape("text/mlp/up/kernel", (8, 32)) == (8, 32)
    params = {stack: {"kernel": jnp.ones((2, 4, 3))}, "kernel": jnp.ones((4, 3))}
    norm = optax.GradientTransformation(
        lambda _: (), lambda u, s, p=None: (jax.tree.map(lambda x: x / jnp.sum(x), u), s)
    )
    transform = by_layer(norm)
    made, _ = transform.update(params, transform.init(params), params)
    np.testing.assert_allclose(made[stack]["kernel"].sum(axis=(1, 2)), 1, rtol=1e-6)
