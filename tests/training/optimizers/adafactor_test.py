import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest

from mmjax import paths
from mmjax.training import schedules
from mmjax.training.optimizers.adafactor import Adafactor

PLAIN = {"clip_norm": None, "decay_rules": ((".*", 1.0),)}


def arrays(seed):
    """One that is factored and one that is not."""
    rng = np.random.default_rng(seed)
    made = {"wide": rng.normal(size=(40, 36)), "narrow": rng.normal(size=(64, 3))}
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), made)


def test_the_default_equals_a_numpy_form_of_the_variant_for_vision(run):
    optimizer = Adafactor(schedules.constant(0.1), weight_decay=0.2, b2_cap=0.5, **PLAIN)
    gradients = [arrays(seed) for seed in (1, 2, 3, 4)]
    found, state = run(optimizer, arrays(0), gradients)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(state["momentum"].ema)} == {"bfloat16"}
    for path, leaf in found.items():
        weight, mean = np.float64(arrays(0)[path]), 0.0
        square = np.zeros(weight.shape)
        for count, gradient in enumerate(gradients, start=1):
            g = np.float64(gradient[path])
            b2 = min(0.5, 1 - count**-0.8)
            square = b2 * square + (1 - b2) * g**2
            second = square
            if path == "wide":  # rank one: the mean over rows times that over columns
                second = np.outer(square.mean(1), square.mean(0)) / square.mean()
            mean = 0.9 * mean + 0.1 * g / np.sqrt(second)
            weight = weight - 0.1 * (mean + 0.2 * weight)
            mean = np.float64(mean.astype(ml_dtypes.bfloat16))
        # The mean is rounded to bfloat16 from a slightly other number than here.
        np.testing.assert_allclose(leaf, weight, atol=2e-3, err_msg=path)


def test_the_original_form_equals_optaxs(run):
    optimizer = Adafactor(
        schedules.constant(0.1),
        b2_cap=1.0,
        momentum=0.0,
        clipping_threshold=0.5,
        multiply_by_parameter_scale=True,
        weight_decay=0.0,
        **PLAIN,
    )
    gradients = [arrays(seed) for seed in (1, 2, 3)]
    found, _ = run(optimizer, arrays(0), gradients)
    theirs = optax.adafactor(0.1, min_dim_size_to_factor=32, clipping_threshold=0.5)
    params = arrays(0)
    state, update = theirs.init(params), jax.jit(theirs.update)
    for gradient in gradients:
        updates, state = update(gradient, state, params)
        params = optax.apply_updates(params, updates)
    for path, leaf in found.items():
        np.testing.assert_allclose(leaf, params[path], rtol=1e-5, atol=1e-6)


def test_the_second_moments_of_a_stack_of_matrices_are_vectors_for_each_layer():
    params = {"blocks": {"kernel": jnp.zeros((3, 48, 64))}}
    optimizer = Adafactor(schedules.constant(0.1), momentum=0.0)
    state = paths.flatten(jax.eval_shape(optimizer.transform(params).init, params))
    assert state["factored/blocks/kernel/v_row"].shape == (3, 48)
    assert state["factored/blocks/kernel/v_col"].shape == (3, 64)
    assert sum(leaf.size for leaf in state.values()) < 48 * 64


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"b2_cap": 0.0}, r"b2_cap=0\.0"),
        ({"b2_exponent": 0.0}, r"b2_exponent=0\.0"),
        ({"min_dim_size_to_factor": 0}, "min_dim_size_to_factor=0"),
        ({"clipping_threshold": 0.0}, r"clipping_threshold=0\.0"),
        ({"clipping_threshold": float("inf")}, "clipping_threshold=inf"),
        ({"eps": float("inf")}, "eps=inf"),
        ({"momentum": -0.1}, r"momentum=-0\.1"),
    ],
)
def test_numbers_out_of_range_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Adafactor(schedules.constant(0.1), **fields)
