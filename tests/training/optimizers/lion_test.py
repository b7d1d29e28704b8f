import numpy as np
import pytest

from mmjax import paths
from mmjax.training import schedules
from mmjax.training.optimizers.lion import Lion


def test_updates_equal_a_numpy_lion(parameters, run):
    optimizer = Lion(
        schedules.constant(0.01),
        b1=0.8,
        b2=0.95,
        weight_decay=0.3,
        clip_norm=None,
        decay_rules=((".*", 1.0),),
    )
    gradients = [parameters(seed) for seed in (1, 2, 3)]
    found, _ = run(optimizer, parameters(), gradients)
    for path, leaf in paths.flatten(found).items():
        weight, mean = np.float64(paths.flatten(parameters())[path]), 0.0
        for gradient in gradients:
            g = np.float64(paths.flatten(gradient)[path])
            weight = weight - 0.01 * (np.sign(0.8 * mean + 0.2 * g) + 0.3 * weight)
            mean = 0.95 * mean + 0.05 * g
        np.testing.assert_allclose(leaf, weight, rtol=1e-5, atol=1e-6, err_msg=path)


def test_a_decay_out_of_range_is_refused():
    with pytest.raises(ValueError, match=r"b2=1\.5: 0 <= b2 < 1"):
        Lion(schedules.constant(0.1), b2=1.5)
