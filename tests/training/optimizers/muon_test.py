import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mmjax import paths
from mmjax.models.dual.two_tower import TwoTower
from mmjax.models.encoders.bert import Bert
from mmjax.models.encoders.regions import RegionTower
from mmjax.models.encoders.text_transformer import TextTransformer
from mmjax.models.encoders.vit import ViT
from mmjax.models.fusion.lxmert import Lxmert
from mmjax.training import schedules
from mmjax.training.optimizers.muon import HIDDEN, Muon


def arrays(seed):
    rng = np.random.default_rng(seed)
    made = {"hidden": {"kernel": rng.normal(size=(24, 10))}, "bias": rng.normal(size=(10,))}
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), made)


@pytest.mark.parametrize(("nesterov", "match_rms"), [(True, 0.2), (False, None)])
def test_updates_equal_optaxs_muon(run, nesterov, match_rms):
    optimizer = Muon(
        schedules.constant(0.1),
        weight_decay=0.3,
        clip_norm=None,
        decay_rules=((".*", 1.0),),
        matrix_rules=(("hidden/kernel", True), (".*", False)),
        b2=0.9,
        nesterov=nesterov,
        match_rms=match_rms,
    )
    gradients = [arrays(seed) for seed in (1, 2, 3)]
    found, _ = run(optimizer, arrays(0), gradients)
    theirs = {
        "hidden/kernel": optax.contrib.muon(
            0.1, weight_decay=0.3, nesterov=nesterov, consistent_rms=match_rms
        ),
        "bias": optax.adamw(0.1, b2=0.9, weight_decay=0.3),
    }
    for path, transform in theirs.items():
        param = paths.flatten(arrays(0))[path]
        state, update = transform.init(param), jax.jit(transform.update)
        for gradient in gradients:
            step, state = update(paths.flatten(gradient)[path], state, param)
            param = optax.apply_updates(param, step)
        np.testing.assert_allclose(paths.flatten(found)[path], param, rtol=1e-5, atol=1e-6)


def test_the_step_of_a_matrix_is_nearly_orthogonal_and_as_large_as_asked(run):
    rng = np.random.default_rng(0)
    params = {"blocks": {"kernel": jnp.zeros((2, 48, 32))}}
    gradient = {"blocks": {"kernel": jnp.asarray(rng.normal(size=(2, 48, 32)), jnp.float32)}}
    rules = ((".*", True),)
    for match_rms, length in ((None, 1.0), (0.2, 0.2 * 48**0.5)):
        optimizer = Muon(schedules.constant(1.0), match_rms=match_rms, matrix_rules=rules)
        found, _ = run(optimizer, params, [gradient])
        for step in found["blocks"]["kernel"]:
            values = np.linalg.svd(np.asarray(step), compute_uv=False) / length
            assert 0.6 < values.min() < values.max() < 1.3


def test_by_default_muon_takes_the_hidden_matrices_of_the_towers_alone():
    sizes = {"dim": 8, "depth": 2, "num_heads": 2, "mlp_dim": 16}
    model = TwoTower(
        ViT(image_size=16, patch_size=8, pooling="attention", **sizes),
        TextTransformer(vocab_size=30, length=4, **sizes),
        embed_dim=8,
    )
    inputs = (jnp.zeros((1, 16, 16, 3)), jnp.zeros((1, 4), jnp.int32), jnp.ones((1, 4), bool))
    params = jax.eval_shape(model.init, jax.random.key(0), *inputs)["params"]
    taken = paths.choose(HIDDEN, paths.flatten(params), "matrix_rules")
    inside = {f"attention/{name}" for name in ("query", "key", "value", "output")}
    inside |= {"mlp/up", "mlp/down"}
    places = ("image/blocks", "image/pool", "text/blocks")
    assert {path for path, muon in taken.items() if muon} == {
        f"{place}/{name}/kernel" for place in places for name in inside
    }
    Muon(schedules.constant(1.0)).transform(params)


def test_by_default_muon_takes_the_layers_in_which_two_streams_meet():
    sizes = {"dim": 8, "depth": 1, "num_heads": 2, "mlp_dim": 16}
    model = Lxmert(
        Bert(vocab_size=30, length=4, pooling="class", **sizes),
        RegionTower(feature_dim=5, **sizes),
        2,
    )
    params = jax.eval_shape(model.init, jax.random.key(0), **model.example())["params"]
    taken = paths.choose(HIDDEN, paths.flatten(params), "matrix_rules")
    met = {path for path in taken if path.startswith("crossings/") and path.endswith("/kernel")}
    assert len(met) == 4 + 2 * 4 + 2 * 2  # one attention over the other, two of their own, two MLPs
    assert all(taken[path] for path in met)
    Muon(schedules.constant(1.0)).transform(params)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"momentum": 1.0}, r"momentum=1\.0"),
        ({"newton_schulz_steps": 0}, "newton_schulz_steps=0"),
        ({"match_rms": 0.0}, r"match_rms=0\.0"),
        ({"eps": 0.0}, r"eps=0\.0"),
        ({"match_rms": float("inf")}, "match_rms=inf"),
        ({"eps": float("inf")}, "eps=inf"),
    ],
)
def test_numbers_out_of_range_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Muon(schedules.constant(0.1), **fields)


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        (((".*", True),), r"give 'bias' \(10,\) to Muon"),
        ((("hiden/.*", True), (".*", False)), "'hiden/.*' decides nothing"),
        ((("hidden/.*", True),), "matrix_rules: no rule matches"),
        (HIDDEN, "leave Muon nothing of bias, hidden/kernel"),
        (((".*[0:2]/kernel", True), (".*", False)), "addresses layers"),
    ],
)
def test_matrix_rules_that_do_not_fit_the_parameters_are_refused(rules, message):
    with pytest.raises(ValueError, match=message):
        Muon(schedules.constant(0.1), matrix_rules=rules).transform(arrays(0))
