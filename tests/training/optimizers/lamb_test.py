import numpy as np
import pytest

from mmjax import paths
from mmjax.training import schedules
from mmjax.training.optimizers.lamb import LAMB


def test_updates_equal_a_numpy_lamb(parameters, run):
    optimizer = LAMB(
        schedules.constant(0.01), b1=0.8, b2=0.9, eps=1e-3, weight_decay=0.3, clip_norm=None
    )
    gradients = [parameters(seed) for seed in (1, 2, 3)]
    found, _ = run(optimizer, parameters(), gradients)
    for path, leaf in paths.flatten(found).items():
        if "blocks" in path:  # stacks: see layers_test.py
            continue
        kernel = path.endswith("kernel")
        weight, mean, square = np.float64(paths.flatten(parameters())[path]), 0.0, 0.0
        for count, gradient in enumerate(gradients, start=1):
            g = np.float64(paths.flatten(gradient)[path])
            mean, square = 0.8 * mean + 0.2 * g, 0.9 * square + 0.1 * g**2
            step = mean / (1 - 0.8**count) / (np.sqrt(square / (1 - 0.9**count)) + 1e-3)
            if kernel:
                step = step + 0.3 * weight
                step = step * np.linalg.norm(weight) / np.linalg.norm(step)
            weight = weight - 0.01 * step
        np.testing.assert_allclose(leaf, weight, rtol=1e-5, atol=1e-6, err_msg=path)


def test_a_rule_may_have_every_array_adapted(parameters, run):
    optimizer = LAMB(
        schedules.constant(0.01), clip_norm=None, weight_decay=0.0, adapt_rules=((".*", True),)
    )
    found, _ = run(optimizer, parameters(), [parameters(1)])
    before, after = paths.flatten(parameters()), paths.flatten(found)
    for path in ("log_scale", "image/class_token", "text/head/kernel"):
        length = np.linalg.norm(np.asarray(after[path] - before[path]))
        assert length == pytest.approx(0.01 * np.linalg.norm(np.asarray(before[path])), rel=1e-4)


def test_rules_that_name_layers_are_refused(parameters):
    optimizer = LAMB(schedules.constant(1.0), adapt_rules=((".*blocks[0]/.*", False), (".*", True)))
    with pytest.raises(ValueError, match=r"adapt_rules: .* addresses layers"):
        optimizer.transform(parameters())


def test_an_epsilon_of_zero_is_refused():
    with pytest.raises(ValueError, match=r"eps=0\.0: above 0"):
        LAMB(schedules.constant(1.0), eps=0.0)
    with pytest.raises(ValueError, match="eps=inf: above 0 and finite"):
        LAMB(schedules.constant(1.0), eps=float("inf"))
