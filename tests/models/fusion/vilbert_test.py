import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding

from mmjax.models.encoders.bert import Bert
from mmjax.models.encoders.regions import RegionTower
from mmjax.models.fusion.task_bert import TaskBert
from mmjax.models.fusion.vilbert import EARLIER, TWELVE, Vilbert
from mmjax.parallel.layout import lay_out
from mmjax.parallel.mesh import make_mesh
from mmjax.parallel.sharding import activations, batch_sharding
from mmjax.paths import flatten, unflatten

SIZES = {"region_classes": 4, "answers": 7, "scene_answers": 6}


def make(heads=(), scaled_answers=False, lone=1, **fields):
    """A small model; fields are given to both streams."""
    text = {"vocab_size": 30, "length": 6, "dim": 16, "num_heads": 2, "mlp_dim": 32, **fields}
    image = {"feature_dim": 5, "box_dim": 5, "join": "sum", "dim": 24, "num_heads": 4, "mlp_dim": 8}
    streams = Bert(depth=2, pooling="class", **text), RegionTower(depth=lone, **{**image, **fields})
    sizes = {**SIZES, "scaled_answers": scaled_answers}
    return Vilbert(*streams, 2, 8, 2, heads=heads, **sizes)


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
        "boxes": jnp.asarray(np.where(seen, rng.random((rows, 4, 5)), padding), jnp.float32),
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


@pytest.mark.optimised
def test_each_stream_looks_at_the_other_as_it_is_before_the_bridge(random_variables):
    model = make(lone=0)
    variables = random_variables(model, *words().values())
    assert "blocks" not in variables["params"]["image"]
    how = {"method": "fuse", "mutable": ["intermediates"]}
    out, kept = jax.jit(lambda: model.apply(variables, **words(), **how))()
    sown = flatten(kept["intermediates"]["crossings"])
    assert sown["text_bridge/attention/weights/0"].shape == (2, 3, 2, 6, 4)
    assert sown["image_bridge/attention/weights/0"].shape == (2, 3, 2, 4, 6)
    assert np.abs(sown["text_bridge/attention/weights/0"][:, 1, :, :, 3]).max() == 0
    for side in ("text", "image"):  # bridge, layer, bridge, layer
        before, after = (sown[f"{side}{name}/0"] for name in ("_bridge/output", "/input"))
        np.testing.assert_array_equal(after, before)
        np.testing.assert_array_equal(
            sown[f"{side}_bridge/input/0"][1], sown[f"{side}/output/0"][0]
        )
    of_text, of_image = model.apply(variables, out.text, out.image, method="pool")
    np.testing.assert_allclose(out.pooled, of_text * of_image, atol=1e-6)
    assert min(of_text.min(), of_image.min()) == 0


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


def test_a_statement_about_two_pictures_is_scored_from_both(random_variables):
    model = make(("reasoning",))
    one = words()
    variables = random_variables(model, *one.values())
    other = {**one, "regions": one["regions"][::-1]}
    both = {"region_mask": jnp.stack([one["region_mask"]] * 2, 1)}
    both |= {"boxes": jnp.stack([one["boxes"]] * 2, 1)}
    both |= {"regions": jnp.stack([one["regions"], other["regions"]], 1)}

    @jax.jit
    def run():
        first, second, pair = (
            model.apply(variables, **given, method="fuse")
            for given in (one, other, {**one, **both})
        )
        return first, second, pair, model.apply(variables, pair, method="reasoning_logits")

    first, second, pair, scores = run()
    pooled = jnp.concatenate([first.pooled, second.pooled], axis=-1)
    np.testing.assert_allclose(pair.pooled, pooled, atol=2e-6)
    assert scores.shape == (3, 2)
    with pytest.raises(ValueError, match="over two pictures, and a row has 1"):
        model.apply(variables, first, method="reasoning_logits")
    begun, alone = (  # a run begins with what its data holds
        jax.eval_shape(lambda given=given: model.init(jax.random.key(0), **given))
        for given in ({**one, **both}, one)
    )
    assert begun == alone


@pytest.mark.parametrize(("heads", "scaled"), [(TWELVE, False), (EARLIER, True)])
def test_scores_are_float32_and_padding_is_never_pointed_at(random_variables, heads, scaled):
    model = make(heads, scaled, dtype="bfloat16")
    variables = random_variables(model, *words().values())
    out, scores = jax.jit(model.apply)(variables, **words())
    shapes = {path: x.shape for path, x in flatten(scores).items()}
    wanted = {"masked_lm": (3, 6, 30), "matching": (3, 2), "regions/object": (3, 4, 4)}
    wanted |= {"answer": (3, 7), "ranking": (3,), "grounding": (3, 4), "tagging": (3, 6)}
    if not scaled:
        wanted |= {"scene_answer": (3, 6), "entailment": (3, 3), "reasoning": (3, 2)}
    assert shapes == wanted
    assert {x.dtype for x in flatten(scores).values()} == {jnp.dtype("float32")}
    hidden = ~np.asarray(out.image_mask)
    assert np.asarray(scores["grounding"])[hidden].max() < -9_000
    odds = model.apply(variables, out, method="matching_logits")
    logs = jax.nn.log_softmax(scores["matching"])
    np.testing.assert_allclose(odds, logs[:, 0] - logs[:, 1], atol=1e-5)


def test_a_task_is_told_by_a_token_that_the_text_does_not_keep(random_variables):
    plain = make()
    fields = {
        name: getattr(plain.text, name) for name in ("vocab_size", "length", "dim", "mlp_dim")
    }
    text = TaskBert(**fields, depth=2, num_heads=2, pooling="class", tasks=4)
    model = plain.clone(text=text)
    variables = random_variables(model, *words().values())
    task = jnp.asarray([0, 3, 0])

    @jax.jit
    def run(task):
        return model.apply(variables, **words(), task=task, method="fuse")

    out, zero = run(task), run(None)
    assert out.text.shape == (3, 6, 16)
    assert out.text_mask.shape == (3, 6)
    changed = np.abs(out.pooled - zero.pooled).max(axis=-1)
    assert changed[1] > 1e-3
    assert max(changed[0], changed[2]) < 2e-6
    with pytest.raises(ValueError, match="does not take it; use a TaskBert"):
        plain.apply({"params": {}}, **words(), task=task, method="fuse")


def test_numbers_are_dropped_in_training_alone(random_variables):
    model, plain = make(dropout=0.3), make()
    variables = random_variables(plain, *words().values())
    rngs = {"dropout": jax.random.key(0)}

    @jax.jit
    def run():
        drawn = model.apply(variables, **words(), train=True, method="fuse", rngs=rngs)
        return drawn, *(one.apply(variables, **words(), method="fuse") for one in (model, plain))

    trained, out, expected = run()
    np.testing.assert_array_equal(out.pooled, expected.pooled)
    assert not np.allclose(trained.image, out.image, atol=0.05)


def test_the_defaults_are_the_published_sizes():
    image = RegionTower(box_dim=5, join="sum", dim=1024, depth=0, num_heads=8, mlp_dim=1024)
    model = Vilbert(Bert(depth=6, pooling="class"), image)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), **model.example()))["params"]
    flat = flatten(shapes)
    assert flat["crossings/text_bridge/attention/query/kernel"].shape == (6, 768, 1024)
    assert flat["crossings/text/mlp/up/kernel"].shape == (6, 768, 3072)
    assert flat["regions_head/object/kernel"].shape == (1024, 1601)
    # The published file has 12 arrays more, of layers that are not called.
    text, image, both = 768, 1024, 1024
    layers = sum(
        number * (4 * (dim + 1) * dim + 2 * dim * inner + inner + 5 * dim)
        for number, dim, inner in ((12, text, 3072), (6, image, 1024))
    )
    bridge = 3 * both * (text + image + 2) + sum(
        (both + 1) * dim + 2 * dim + 2 * dim * inner + inner + 3 * dim
        for dim, inner in ((text, 3072), (image, 1024))
    )
    embedded = (30_522 + 512 + 2 + 2) * text + (2048 + 1 + 5 + 1 + 2) * image
    pools = (text + 1) * both + (image + 1) * both
    heads = 30_522 + (text + 3) * text + 2 * (both + 1) + (image + 3) * image + 1025 * 1601
    total = layers + 6 * bridge + embedded + pools + heads
    assert sum(math.prod(x.shape) for x in flat.values()) == total


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"heads": ("vqa",)}, "'vqa' is none of masked_lm, matching"),
        ({"text": Bert(30, 6, dim=16, depth=1, num_heads=2, mlp_dim=8)}, "text.pooling='class'"),
        ({"image": RegionTower(5, 4, dim=8, num_heads=2, mlp_dim=8)}, "boxes of 5 numbers; the"),
    ],
)
def test_what_does_not_fit_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(make().clone(**change).init, jax.random.key(0), *words().values())
    with pytest.raises(ValueError, match="no 'masked_lm' head; add it to heads="):
        make().apply({"params": {}}, jnp.zeros((1, 2, 16)), method="masked_lm_logits")


def test_parameters_in_parts_give_the_gradients_of_whole_ones(random_variables):
    model = make(TWELVE, scaled_answers=True)  # the earlier release's heads are among them
    params = random_variables(model, *words().values())["params"]
    params["answer_head"] = jax.tree.map(lambda x: x + 0.5, params["answer_head"])
    given = words(8)

    def loss(params, given):
        _, scores = model.apply({"params": params}, **given)
        return sum(jnp.sin(x).mean() for x in jax.tree.leaves(scores))

    wanted = jax.jit(jax.value_and_grad(loss))(params, given)
    mesh = make_mesh(2, 2, 2)
    placed = lay_out(params, mesh)
    for path in ("crossings/image_bridge/attention/query/kernel", "answer_head/up/kernel"):
        assert placed[path].ways == 4
    shardings = {path: NamedSharding(mesh, one.spec) for path, one in placed.items()}
    with activations(mesh, params={path: one.spec for path, one in placed.items()}):
        step = jax.jit(
            jax.value_and_grad(lambda *arguments: loss(*arguments)),
            in_shardings=(unflatten(shardings), batch_sharding(mesh)),
        )
        found = step(params, given)
    np.testing.assert_allclose(found[0], wanted[0], rtol=1e-5)
    for path, gradient in flatten(found[1]).items():
        np.testing.assert_allclose(gradient, flatten(wanted[1])[path], atol=2e-5, err_msg=path)
