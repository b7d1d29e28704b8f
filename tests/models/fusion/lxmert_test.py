import json
import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding

from mmjax.models.encoders.bert import Bert
from mmjax.models.encoders.regions import RegionTower
from mmjax.models.fusion.lxmert import HEADS, Lxmert
from mmjax.parallel.layout import lay_out
from mmjax.parallel.mesh import make_mesh
from mmjax.parallel.sharding import activations, batch_sharding
from mmjax.paths import flatten, unflatten

GOLDEN = pathlib.Path(__file__).parents[2] / "golden"
COUNTS = json.loads((GOLDEN / "parameter_counts.json").read_text())["towers"]
BLOCKS = {"dim": 16, "num_heads": 2, "mlp_dim": 32}


def make(heads=(), **fields):
    """A small model; fields are given to both towers."""
    text = Bert(vocab_size=30, length=6, depth=2, pooling="class", **{**BLOCKS, **fields})
    image = RegionTower(feature_dim=5, depth=1, **{**BLOCKS, **fields})
    return Lxmert(text, image, 2, heads, (("object", 4), ("feature", 5)), 7)


def words(rows=3, padding=0.0):
    """Texts with regions, of different lengths, and padding after them."""
    rng = np.random.default_rng(0)
    text_mask = np.arange(6) < 2 + np.arange(rows)[:, None] % 5
    region_mask = np.arange(4) < 4 - np.arange(rows)[:, None] % 3
    seen = region_mask[..., None]
    return {
        "token_ids": jnp.asarray(np.where(text_mask, rng.integers(1, 30, (rows, 6)), int(padding))),
        "text_mask": jnp.asarray(text_mask),
        "regions": jnp.asarray(np.where(seen, rng.normal(size=(rows, 4, 5)), padding), jnp.float32),
        "boxes": jnp.asarray(np.where(seen, rng.random((rows, 4, 4)), padding), jnp.float32),
        "region_mask": jnp.asarray(region_mask),
    }


def test_padding_changes_neither_words_nor_regions(random_variables):
    model = make()
    variables = random_variables(model, *words().values())
    run = jax.jit(lambda **given: model.apply(variables, **given, method="fuse"))
    out, other = run(**words()), run(**words(padding=3.0))
    real = np.asarray(out.text_mask)
    np.testing.assert_array_equal(np.asarray(other.text)[real], np.asarray(out.text)[real])
    real = np.asarray(out.image_mask)
    np.testing.assert_array_equal(np.asarray(other.image)[real], np.asarray(out.image)[real])
    np.testing.assert_array_equal(other.pooled, out.pooled)


def test_one_attention_serves_both_directions(random_variables):
    model = make()
    variables = random_variables(model, *words().values())
    shapes = {path: x.shape for path, x in flatten(variables["params"]["crossings"]).items()}
    assert shapes["cross/query/kernel"] == (2, 16, 16)
    assert not [path for path in shapes if path.startswith("cross_") and "norm" not in path]
    how = {"method": "fuse", "mutable": ["intermediates"]}
    _, kept = model.apply(variables, **words(), **how)
    over_regions, over_words = kept["intermediates"]["crossings"]["cross"]["weights"]
    assert (over_regions.shape, over_words.shape) == ((2, 3, 2, 6, 4), (2, 3, 2, 4, 6))
    assert np.abs(over_regions[:, 1, :, :, 3]).max() == 0  # padding is not looked at


def test_scan_and_remat_change_no_gradient(random_variables):
    model = make()
    variables = random_variables(model, *words().values())

    def gradient(model):
        def loss(params):
            out = model.apply({"params": params}, **words(), method="fuse")
            return jnp.sin(out.pooled).sum() + jnp.sin(out.image).sum()

        return flatten(jax.jit(jax.grad(loss))(variables["params"]))

    wanted = gradient(make(remat="none"))
    found = gradient(make(scan=False, remat="full"))
    assert set(found) == set(wanted)
    for path, value in found.items():
        np.testing.assert_allclose(value, wanted[path], atol=2e-5, rtol=1e-5, err_msg=path)


def test_two_pictures_of_a_text_are_each_looked_at_with_it(random_variables):
    model = make(("reasoning",))
    one = words()
    variables = random_variables(model, *one.values())
    other = {**one, "regions": one["regions"][::-1], "region_mask": one["region_mask"][::-1]}
    both = {name: jnp.stack([one[name], other[name]], 1) for name in one if "region" in name}
    both["boxes"] = jnp.stack([one["boxes"]] * 2, 1)
    run = jax.jit(lambda **given: model.apply(variables, **given, method="fuse"))
    first, second, pair = run(**one), run(**other), run(**{**one, **both})
    pooled = jnp.concatenate([first.pooled, second.pooled], axis=-1)
    np.testing.assert_allclose(pair.pooled, pooled, atol=2e-6)
    places = jnp.concatenate([first.image, second.image], axis=1)
    np.testing.assert_allclose(pair.image, places, atol=2e-6)
    assert pair.text_mask.shape == (3, 12)
    assert model.apply(variables, pair, method="reasoning_logits").shape == (3, 2)
    with pytest.raises(ValueError, match=r"over two pictures, and a row has 1; give regions"):
        model.apply(variables, first, method="reasoning_logits")
    begun, alone = (  # a run begins with what its data holds
        jax.eval_shape(lambda given=given: model.init(jax.random.key(0), **given))
        for given in ({**one, **both}, one)
    )
    assert begun == alone


def test_scores_are_float32_and_a_missing_head_is_named(random_variables):
    model = make(HEADS, dtype="bfloat16")
    variables = random_variables(model, *words().values())
    out, scores = jax.jit(model.apply)(variables, **words())
    shapes = {path: x.shape for path, x in flatten(scores).items()}
    assert shapes == {
        "masked_lm": (3, 6, 30),
        "matching": (3, 2),
        "regions/object": (3, 4, 4),
        "regions/feature": (3, 4, 5),
        "answer": (3, 7),
        "reasoning": (3, 2),
    }
    assert {x.dtype for x in flatten(scores).values()} == {jnp.dtype("float32")}
    odds = model.apply(variables, out, method="matching_logits")
    wanted = jax.nn.log_softmax(scores["matching"])
    np.testing.assert_allclose(odds, wanted[:, 1] - wanted[:, 0], atol=1e-5)
    with pytest.raises(ValueError, match="no 'answer' head; add it to heads="):
        make(("matching",)).apply({"params": {}}, out, method="answer_logits")


def test_numbers_are_dropped_in_training_alone(random_variables):
    model, plain = make(dropout=0.3), make()
    variables = random_variables(plain, *words().values())
    rngs = {"dropout": jax.random.key(0)}

    @jax.jit
    def run():
        drawn = model.apply(variables, **words(), train=True, method="fuse", rngs=rngs)
        return drawn, *(one.apply(variables, **words(), method="fuse") for one in (model, plain))

    trained, out, expected = (one.pooled for one in run())
    np.testing.assert_array_equal(out, expected)
    assert not np.allclose(trained, out, atol=0.05)


def test_the_defaults_have_the_published_number_of_parameters():
    model = Lxmert(Bert(depth=9, pooling="class"), RegionTower())
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), **model.example()))
    assert sum(math.prod(x.shape) for x in jax.tree.leaves(shapes)) == COUNTS["lxmert"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"heads": ("vqa",)}, "'vqa' is none of masked_lm, matching"),
        ({"text": Bert(vocab_size=30, length=6, depth=2, **BLOCKS)}, "so text.pooling='class'"),
        ({"image": RegionTower(feature_dim=5, box_dim=5, **BLOCKS)}, "boxes of 4 numbers; the"),
        ({"image": RegionTower(feature_dim=5, join="max", **BLOCKS)}, "'max' is none of mean, sum"),
    ],
)
def test_what_does_not_fit_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(make().clone(**change).init, jax.random.key(0), *words().values())


def test_parameters_in_parts_give_the_scores_and_gradients_of_whole_ones(random_variables):
    model = make(HEADS)
    params = random_variables(model, *words().values())["params"]
    given = words(8)

    def loss(params, given):
        _, scores = model.apply({"params": params}, **given)
        return sum(jnp.sin(x).mean() for x in jax.tree.leaves(scores))

    wanted = jax.jit(jax.value_and_grad(loss))(params, given)
    mesh = make_mesh(2, 2, 2)
    placed = lay_out(params, mesh)
    assert placed["crossings/cross/query/kernel"].ways == 4
    shardings = {path: NamedSharding(mesh, one.spec) for path, one in placed.items()}
    with activations(mesh, params={path: one.spec for path, one in placed.items()}):
        step = jax.jit(
            jax.value_and_grad(lambda *arguments: loss(*arguments)),
            in_shardings=(unflatten(shardings), batch_sharding(mesh)),
        )
        found = step(params, given)
    np.testing.assert_allclose(found[0], wanted[0], rtol=1e-5)
    for path, gradient in flatten(found[1]).items():
        np.testing.assert_allclose(gradient, flatten(wanted[1])[path], atol=2e-6, err_msg=path)
