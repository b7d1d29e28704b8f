import numpy as np
import pytest

from mmjax import paths
from mmjax.training import schedules
from mmjax.training.optimizers.sgd import SGD


@pytest.mark.parametrize(("momentum", "nesterov"), [(0.9, False), (0.9, True), (0.0, False)])
def test_updates_equal_numpys_momentum_with_decay(parameters, run, momentum, nesterov):
    optimizer = SGD(
        schedules.constant(0.1),
        momentum=momentum,
        nesterov=nesterov,
        weight_decay=0.2,
        clip_norm=None,
        decay_rules=((".*", 1.0),),
    )
    gradients = [parameters(seed) for seed in (1, 2, 3)]
    found, state = run(optimizer, parameters(), gradients)
    assert any("trace" in path for path in paths.flatten(state)) is (momentum > 0)
    for path, leaf in paths.flatten(found).items():
        weight, total = np.float64(paths.flatten(parameters())[path]), 0.0
        for gradient in gradients:
            g = np.float64(paths.flatten(gradient)[path])
            total = momentum * total + g
            step = g + momentum * total if nesterov else total
            weight = weight - 0.1 * (step + 0.2 * weight)
        np.testing.assert_allclose(leaf, weight, rtol=1e-5, atol=1e-6, err_msg=path)


@pytest.mark.parametrize(
    ("fields", "message"),
    [({"momentum": 1.0}, "momentum=1.0"), ({"momentum": 0.0, "nesterov": True}, "nesterov")],
)
def test_momentum_that_cannot_be_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        SGD(schedules.constant(0.1), **fields)
