import jax
import jax.numpy as jnp
import numpy as np

from mmjax.models.encoders.classifier import Classifier
from mmjax.models.encoders.resnet import ResNet

IMAGE = jnp.asarray(np.random.default_rng(0).normal(size=(3, 16, 16, 3)), jnp.float32)


def test_scores_are_float32_and_come_from_the_pooled_vector(random_variables):
    tower = ResNet(channels=(4,), depths=(1,), stem_channels=4, dtype="bfloat16")
    model = Classifier(tower, 5)
    variables = random_variables(model, IMAGE)
    scores = jax.jit(model.apply)(variables, IMAGE)
    assert scores.dtype == jnp.float32
    pooled = tower.apply({kind: tree["image"] for kind, tree in variables.items()}, IMAGE).pooled
    head = variables["params"]["head"]
    wanted = pooled.astype(jnp.float32) @ head["kernel"] + head["bias"]
    np.testing.assert_allclose(scores, wanted, atol=2e-5, rtol=1e-5)


def test_training_moves_the_towers_statistics():
    model = Classifier(ResNet(channels=(4,), depths=(1,), stem_channels=4), 5)
    variables = jax.jit(model.init)(jax.random.key(0), IMAGE)
    _, after = model.apply(variables, IMAGE, train=True, method="classify", mutable=["batch_stats"])
    assert np.any(after["batch_stats"]["image"]["stem_norm"]["mean"])
