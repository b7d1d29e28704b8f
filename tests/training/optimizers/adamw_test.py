import math

import jax
import numpy as np
import optax

from mmjax import paths
from mmjax.training import schedules
from mmjax.training.optimizers.adamw import AdamW


def reference(params, gradients, rate, b1, b2, eps, decay, clip, rates, decays):
    """AdamW in numpy float64, array by array."""
    params = {path: np.asarray(leaf, np.float64) for path, leaf in paths.flatten(params).items()}
    mean = {path: np.zeros_like(leaf) for path, leaf in params.items()}
    square = {path: np.zeros_like(leaf) for path, leaf in params.items()}
    for count, gradient in enumerate(gradients):
        gradient = {p: np.asarray(g, np.float64) for p, g in paths.flatten(gradient).items()}
        norm = math.sqrt(sum(np.sum(g**2) for g in gradient.values()))
        for path, g in gradient.items():
            g = g * min(1.0, clip / norm)
            mean[path] = b1 * mean[path] + (1 - b1) * g
            square[path] = b2 * square[path] + (1 - b2) * g**2
            m = mean[path] / (1 - b1 ** (count + 1))
            v = square[path] / (1 - b2 ** (count + 1))
            step = m / (np.sqrt(v) + eps) + decay * decays(path) * params[path]
            params[path] = params[path] - rate(count) * rates(path) * step
    return params


def test_updates_equal_a_numpy_adamw_with_decay_clipping_rates_and_schedule(parameters, run):
    schedule = schedules.cosine(3e-2, 8, warmup_steps=2)
    optimizer = AdamW(
        schedule,
        b1=0.8,
        b2=0.9,
        eps=1e-3,
        weight_decay=0.3,
        rate_rules=(("text/.*", 0.5), (".*", 1.0)),
        decay_rules=((".*/kernel", 1.0), (".*embedding", 0.25), (".*", 0.0)),
        clip_norm=5.0,
    )
    params = parameters()
    gradients = [parameters(seed) for seed in (1, 2, 3, 4)]
    gradients[2] = jax.tree.map(lambda leaf: leaf * 1e-3, gradients[2])  # below the clip norm
    assert optax.tree.norm(gradients[0]) > 5.0 > optax.tree.norm(gradients[2])
    found, _ = run(optimizer, params, gradients)
    expected = reference(
        params,
        gradients,
        rate=lambda count: float(schedule(count)),
        b1=0.8,
        b2=0.9,
        eps=1e-3,
        decay=0.3,
        clip=5.0,
        rates=lambda path: 0.5 if path.startswith("text/") else 1.0,
        decays=lambda path: (
            1.0 if path.endswith("kernel") else 0.25 if path.endswith("embedding") else 0.0
        ),
    )
    for path, leaf in paths.flatten(found).items():
        np.testing.assert_allclose(leaf, expected[path], rtol=2e-5, atol=2e-6, err_msg=path)
