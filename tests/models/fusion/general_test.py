"""Fusion over any two towers: three forms, their heads, and what they share with the towers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding

from mmjax.models.dual.two_tower import TwoTower
from mmjax.models.encoders.bert import Bert
from mmjax.models.encoders.cnn import Cnn
from mmjax.models.encoders.resnet import ResNet
from mmjax.models.encoders.text_transformer import TextTransformer
from mmjax.models.encoders.vit import ViT
from mmjax.models.fusion.blocks import Blocks
from mmjax.models.fusion.general import FORMS, HEADS, GeneralFusion
from mmjax.models.fusion.hierarchical import Hierarchical
from mmjax.models.fusion.late import Late
from mmjax.objectives.base import Forward
from mmjax.parallel.layout import lay_out
from mmjax.parallel.mesh import make_mesh
from mmjax.parallel.sharding import activations, batch_sharding
from mmjax.paths import flatten, unflatten
from mmjax.training.step import apply_model
from mmjax.typing import View

BLOCKS = {"dim": 8, "num_heads": 2, "mlp_dim": 16}
# What the compiler would do for speed alone.
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


def make(form, **fields):
    heads = tuple(head for head in HEADS if form != "late" or head != "masked_lm")
    tower = {name: fields.pop(name) for name in ("dtype", "scan", "remat") if name in fields}
    told = {
        "image": Cnn((8, 16), 4, dtype=tower.get("dtype", "float32")),
        "text": Bert(vocab_size=30, length=6, depth=1, **BLOCKS, **tower),
        "embed_dim": 12,
        "depth": 2,
        "heads": heads,
        "answers": 7,
        "classes": 5,
    }
    return GeneralFusion(form=form, **{**told, **fields})


def words(rows=3, pictures=(), padding=0):
    rng = np.random.default_rng(0)
    mask = np.arange(6) < 2 + np.arange(rows)[:, None] % 5
    return {
        "image": jnp.asarray(rng.normal(size=(rows, *pictures, 8, 8, 3)), jnp.float32),
        "token_ids": jnp.asarray(np.where(mask, rng.integers(1, 30, (rows, 6)), padding)),
        "text_mask": jnp.asarray(mask),
    }


def compiled(function, *given):
    return jax.jit(function).lower(*given).compile(compiler_options=QUICK)(*given)


@pytest.mark.parametrize("form", FORMS)
def test_scores_are_float32_whatever_it_computes_in(form):
    model = make(form, dtype="bfloat16")
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), **words()))
    fused, scores, _ = jax.eval_shape(lambda v: model.apply(v, **words()), shapes)
    wanted = {
        "masked_lm": (3, 6, 30),
        "matching": (3,),
        "answer": (3, 7),
        "reasoning": (3, 2),
        "classify": (3, 5),
    }
    assert {name: x.shape for name, x in scores.items()} == {n: wanted[n] for n in model.heads}
    assert {x.dtype for x in scores.values()} | {fused.pooled.dtype} == {jnp.dtype("float32")}
    assert fused.text.dtype == jnp.dtype("bfloat16")
    assert {x.dtype for x in jax.tree.leaves(shapes)} == {jnp.dtype("float32")}


def test_the_towers_lie_where_those_of_two_towers_lie():
    model = make("early")
    towers = TwoTower(model.image, model.text, 12)
    ours, theirs = (
        flatten(jax.eval_shape(lambda m=m: m.init(jax.random.key(0), **words()))["params"])
        for m in (model, towers)
    )
    assert {path: ours[path].shape for path in theirs} == {p: x.shape for p, x in theirs.items()}
    added = {path.split("/")[0] for path in set(ours) - set(theirs)}
    heads = {"matching_head", "answer_head", "reasoning_head", "class_head"}
    assert added == {"fusion", "masked_lm", *heads}


@pytest.mark.parametrize("form", ["early", "hierarchical"])
def test_padding_is_not_seen_and_words_know_of_the_picture(form, random_variables):
    model = make(form)
    variables = random_variables(model, *words().values())
    other = words(padding=9)
    changed = {**words(), "image": words()["image"][::-1]}

    def run(variables, *batches):
        return [model.apply(variables, **one, method="fuse") for one in batches]

    out, padded, turned = compiled(run, variables, words(), other, changed)
    real = np.asarray(out.text_mask)
    np.testing.assert_allclose(padded.text[real], out.text[real], atol=1e-6)
    np.testing.assert_allclose(padded.pooled, out.pooled, atol=1e-6)
    assert np.abs(turned.text[0] - out.text[0]).max() > 0.01
    assert np.abs(turned.pooled[0] - out.pooled[0]).max() > 0.01
    np.testing.assert_allclose(turned.pooled[1], out.pooled[1], atol=1e-6)  # the middle one stayed


def test_scan_and_remat_change_no_gradient(random_variables):
    rng = np.random.default_rng(2)
    text, image = (jnp.asarray(rng.normal(size=(2, 3, n)), jnp.float32) for n in (8, 4))
    mask = jnp.ones((2, 3), bool)

    def fusion(**changes):
        how = {"scan": True, "remat": "none", "depth": 4} | changes
        tower = Bert(vocab_size=30, length=6, **{**BLOCKS, "mlp_dim": 8})
        return Hierarchical(Blocks.like(tower, 4)._replace(**how), look_every=2)

    variables = random_variables(fusion(), text, mask, image, mask)

    def gradient(model):
        def loss(params):
            out = model.apply({"params": params}, text, mask, image, mask)
            return jnp.sin(out.pooled).sum() + jnp.sin(out.text).sum()

        return flatten(compiled(jax.grad(loss), variables["params"]))

    wanted, found = gradient(fusion()), gradient(fusion(scan=False, remat="full"))
    assert wanted["layers/block1/attention/query/kernel"].shape == (2, 8, 8)  # one to a group
    assert wanted["layers/looking/look/key/kernel"].shape == (2, 4, 8)
    assert "layers/block1/look/key/kernel" not in wanted
    assert set(found) == set(wanted)
    for path, value in found.items():
        np.testing.assert_allclose(value, wanted[path], atol=3e-5, rtol=1e-4, err_msg=path)


@pytest.mark.parametrize("form", ["late", "hierarchical"])
def test_two_pictures_of_a_text_are_each_looked_at_with_it(form, random_variables):
    model = make(form, heads=("reasoning",))
    both = words(pictures=(2,))
    variables = random_variables(model, *words().values())

    def run(variables, both):
        def apply(given):
            return model.apply(variables, **given, method="fuse")

        pair = apply(both)
        ones = [apply({**both, "image": both["image"][:, n]}) for n in range(2)]
        return pair, ones, model.apply(variables, pair, method="reasoning_logits")

    pair, ones, scores = compiled(run, variables, both)
    np.testing.assert_allclose(pair.pooled, np.hstack([x.pooled for x in ones]), atol=2e-6)
    np.testing.assert_allclose(pair.image, np.hstack([x.image for x in ones]), atol=2e-6)
    assert pair.text.shape == (3, 12, 8)
    assert scores.shape == (3, 2)
    with pytest.raises(ValueError, match="judges 2 pictures a row, and there are 1; give images"):
        model.apply(variables, ones[0], method="reasoning_logits")


@pytest.mark.parametrize("combine", ["concatenate", "product", "gated"])
def test_late_fusion_is_that_of_numpy(combine, random_variables):
    rng = np.random.default_rng(1)
    text, image = rng.normal(size=(3, 4)), rng.normal(size=(3, 6))
    model = Late(5, combine)
    variables = random_variables(model, jnp.float32(text), jnp.float32(image))
    params = jax.tree.map(np.float64, variables["params"])

    def dense(name, x):
        return x @ params[name]["kernel"] + params[name]["bias"]

    both = np.hstack([text, image])
    if combine == "concatenate":
        wanted = np.tanh(dense("both", both))
    else:
        sides = np.tanh(dense("text", text)), np.tanh(dense("image", image))
        part = None if combine == "product" else 1 / (1 + np.exp(-dense("gate", both)))
        wanted = sides[0] * sides[1] if part is None else part * sides[0] + (1 - part) * sides[1]
    found = model.apply(variables, jnp.float32(text), jnp.float32(image))
    np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_each_tower_runs_once_for_objectives_that_compare_fuse_and_classify(random_variables):
    model = make("late", heads=("classify", "matching"))
    batch = {**words(), "row": jnp.arange(3)}
    variables = random_variables(model, *words().values())
    calls = []

    def counted(method, *rest):
        calls.append(method)
        return apply_model(model)(method, *rest)

    def step(variables, batch):
        key = jax.random.key(0)
        forward = Forward(counted, variables["params"], {}, False, key, made_of=model.made_of)
        forward.view(View("encode_image", ("image", "row")), batch)
        forward.view(View("encode_text", ("token_ids", "text_mask", "row")), batch)
        fused = forward.view(View("fuse", ("token_ids", "text_mask", "image")), batch)
        classes = forward.view(View("classify", ("image",)), batch)
        plain = {word: batch[word] for word in words()}
        wanted = model.apply(variables, **plain)
        alone = model.apply(variables, batch["image"], method="classify")
        return fused, classes, alone, wanted

    fused, classes, alone, wanted = compiled(step, variables, batch)
    assert calls == ["encode_image", "encode_text", "join", "class_logits"]
    np.testing.assert_allclose(fused.pooled, wanted[0].pooled, atol=1e-6)
    np.testing.assert_allclose(classes, wanted[1]["classify"], atol=1e-6)
    np.testing.assert_allclose(alone, classes, atol=1e-6)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "image", [ViT(8, 4, 8, 1, 2, 8), ResNet("basic", (4, 8), (1, 1), 4)], ids=["vit", "resnet"]
)
def test_any_towers_fit(form, image):
    text = TextTransformer(30, 6, 8, 1, 2, 16)
    model = make(form, image=image, text=text)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), **words()))
    _, scores, _ = jax.eval_shape(lambda v: model.apply(v, **words()), shapes)
    assert scores["answer"].shape == (3, 7)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"form": "middle"}, "form='middle' is none of late, early, hierarchical"),
        ({"form": "late", "heads": ("masked_lm",)}, "with form='late' words know of no picture"),
        ({"heads": ("vqa",)}, "'vqa' is none of masked_lm, matching"),
        ({"form": "late", "heads": (), "combine": "sum"}, "'sum' is none of concatenate, product"),
        ({"form": "hierarchical", "look_every": 3}, "look_every=3 does not divide .* depth 2"),
        ({"text": Bert(vocab_size=30, length=5, **BLOCKS)}, "texts are 6 tokens long"),
    ],
)
def test_what_does_not_fit_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda: make("early").clone(**change).init(jax.random.key(0), **words()))


def test_a_missing_head_is_named(random_variables):
    model = make("late", heads=("matching",))
    variables = random_variables(model, *words().values())
    with pytest.raises(ValueError, match="no 'classify' head; add it to heads="):
        jax.eval_shape(lambda: model.apply(variables, words()["image"], method="classify"))


@pytest.mark.parametrize("form", FORMS)
def test_parameters_are_cut_in_every_form(form):
    shapes = jax.eval_shape(lambda: make(form).init(jax.random.key(0), **words()))["params"]
    placed = lay_out(shapes, make_mesh(2, 2, 2))
    kernels = {path: one for path, one in placed.items() if path.endswith("kernel")}
    whole = [path for path, one in kernels.items() if one.ways == 1]
    assert whole == []
    assert kernels["class_head/scores/kernel"].ways == 4  # 5 classes are not what is cut


def test_parameters_in_parts_give_the_loss_and_gradients_of_whole_ones(random_variables):
    model = make("hierarchical", depth=1, heads=("answer",), remat="none", image=Cnn((8,), 4))
    given = words(8)
    params = random_variables(model, *words().values())["params"]

    def loss(params, given):
        _, scores, _ = model.apply({"params": params}, **given)
        return sum(jnp.sin(x).mean() for x in scores.values())

    mesh = make_mesh(2, 2, 2)
    placed = lay_out(params, mesh)
    shardings = {path: NamedSharding(mesh, one.spec) for path, one in placed.items()}
    where = (unflatten(shardings), batch_sharding(mesh))
    with activations(mesh, params={path: one.spec for path, one in placed.items()}):
        together = jax.jit(jax.value_and_grad(lambda *a: loss(*a)), in_shardings=where)
        together = together.lower(params, given)
    wanted = compiled(jax.value_and_grad(loss), params, given)
    found = together.compile(compiler_options=QUICK)(*jax.device_put((params, given), where))
    np.testing.assert_allclose(found[0], wanted[0], rtol=1e-5)
    for path, gradient in flatten(found[1]).items():
        np.testing.assert_allclose(gradient, flatten(wanted[1])[path], atol=3e-6, err_msg=path)
