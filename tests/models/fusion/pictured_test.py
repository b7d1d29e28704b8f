"""A picture encoder before models of regions: cells as regions, whichever encoder it is."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding

from mmjax.models.encoders.bert import Bert
from mmjax.models.encoders.clip_resnet import ClipResNet
from mmjax.models.encoders.cnn import Cnn
from mmjax.models.encoders.efficientnet import EfficientNet
from mmjax.models.encoders.regions import RegionTower
from mmjax.models.encoders.resnet import ResNet
from mmjax.models.encoders.vit import ViT
from mmjax.models.fusion.lxmert import Lxmert
from mmjax.models.fusion.pictured import Pictured
from mmjax.models.fusion.vilbert import Vilbert
from mmjax.models.fusion.vilt import Vilt, ViltStream
from mmjax.models.fusion.visualbert import VisualBert, VisualBertStream
from mmjax.models.interfaces import Fused, TowerOutput
from mmjax.objectives.base import Forward
from mmjax.parallel.layout import lay_out
from mmjax.parallel.mesh import make_mesh
from mmjax.parallel.sharding import activations, batch_sharding
from mmjax.paths import unflatten
from mmjax.training.step import apply_model
from mmjax.training.warm_start import warm_start
from mmjax.typing import View

SIDE, DIM = 32, 16
BLOCKS = {"dim": DIM, "num_heads": 2, "mlp_dim": 32}
WORDS = {"vocab_size": 30, "length": 6, "depth": 1, **BLOCKS}
HEADS = ("masked_lm", "matching", "answer", "reasoning")
# What the compiler would do for speed alone.
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
FUSE = View("fuse", ("token_ids", "text_mask", "image"))


def fusion(kind, width=DIM, heads=HEADS):
    if kind == "visualbert":
        return VisualBert(VisualBertStream(**WORDS, region_dim=width), heads, 7)
    text, regions = Bert(**WORDS, pooling="class"), {"feature_dim": width, "depth": 1, **BLOCKS}
    if kind == "lxmert":
        return Lxmert(text, RegionTower(**regions), 1, heads, (("object", 4),), 7)
    regions = RegionTower(**regions, box_dim=5, join="sum")
    return Vilbert(text, regions, 1, DIM, 2, heads, 4, 7)


def encoder(kind, **fields):
    if kind == "vit":
        sizes = {"image_size": SIDE, "patch_size": 8, "depth": 1, "pooling": "class"}
        return ViT(**sizes, **BLOCKS, **fields)
    if kind == "cnn":
        return Cnn(channels=(8, DIM), groups=4, **fields)
    if kind == "resnet":
        return ResNet("basic", (4, DIM), (1, 1), 4, **fields)
    return ClipResNet(image_size=SIDE, width=2, depths=(1, 1, 1, 1), head_width=16, embed_dim=12)


def words(rows=2, pictures=(), side=SIDE):
    rng = np.random.default_rng(0)
    return {
        "token_ids": jnp.asarray(rng.integers(1, 30, (rows, 6))),
        "text_mask": jnp.asarray(np.arange(6) < 3 + np.arange(rows)[:, None] % 4),
        "image": jnp.asarray(rng.normal(size=(rows, *pictures, side, side, 3)), jnp.float32),
    }


def compiled(function, *given):
    return jax.jit(function).lower(*given).compile(compiler_options=QUICK)(*given)


PAIRS = [
    ("vit", "visualbert"),
    ("cnn", "lxmert"),
    ("resnet", "vilbert"),
    ("clip_resnet", "lxmert"),
]
WIDTHS = {"clip_resnet": 64}
CELLS = {"vit": 16, "cnn": 64, "resnet": 16, "clip_resnet": 1}


@pytest.mark.parametrize(("image", "kind"), PAIRS)
def test_cells_of_any_encoder_are_the_regions_of_any_model(image, kind):
    model = Pictured(encoder(image), fusion(kind, WIDTHS.get(image, DIM)))
    shapes = jax.eval_shape(
        lambda: model.init(jax.random.key(0), **model.clone(image_size=SIDE).example())
    )
    assert set(shapes["params"]) == {"image", "fusion"}
    run = jax.eval_shape(lambda v: model.apply(v, **words(3, (2,)), method="fuse"), shapes)
    places = CELLS[image] + (kind == "vilbert")
    several = 2 if kind != "visualbert" else 1
    assert run.image.shape == (3, 2 * places, DIM)
    assert run.pooled.shape == (3, several * DIM)
    found = jax.eval_shape(lambda v: model.apply(v, **words(3))[1], shapes)
    assert found["answer"].shape == (3, 7)
    assert {x.dtype for x in jax.tree.leaves(found)} == {jnp.dtype("float32")}


class Means(nn.Module):
    """An encoder whose tokens are the mean colours of squares of 8 pixels."""

    def grid(self, height, width):
        return height // 8, width // 8

    def __call__(self, image, row=None, train=False):
        rows, columns = self.grid(*image.shape[1:3])
        squares = image.reshape(-1, rows, 8, columns, 8, 3).mean((2, 4))
        return TowerOutput(squares.reshape(-1, rows * columns, 3), None, None)


def test_a_cells_box_is_where_its_features_are_from():
    model = Pictured(Means(), fusion("vilbert", 3))
    image = jnp.zeros((1, 2, 16, 32, 3)).at[0, 1, 8:16, 24:32].set(1.0)
    seen = model.apply({"params": {}}, image, method="look")
    assert seen.regions.shape == (1, 2, 9, 3)
    (cell,) = np.flatnonzero(seen.regions[0, 1, 1:].sum(-1)) + 1
    np.testing.assert_allclose(seen.boxes[0, 1, cell], [0.75, 0.5, 1, 1, 1 / 8])
    np.testing.assert_allclose(seen.boxes[0, 0, 0], [0, 0, 1, 1, 1])
    np.testing.assert_allclose(seen.regions[0, 1, 0], [1 / 8] * 3)
    seen = Pictured(Means(), fusion("visualbert", 3)).apply({"params": {}}, image, method="look")
    assert seen.boxes is None
    assert seen.regions.shape == (1, 2, 8, 3)


def test_the_cells_go_where_given_regions_would(random_variables):
    model = Pictured(encoder("vit"), fusion("lxmert"))
    given = words(2, (2,))
    variables = random_variables(model, *words().values())

    def both(variables, given):
        fused = model.apply(variables, **given, method="fuse")
        flat = given["image"].reshape(-1, SIDE, SIDE, 3)
        tokens = model.image.apply({"params": variables["params"]["image"]}, flat).tokens[:, 1:]
        y, x = jnp.divmod(jnp.arange(16), 4)
        boxes = jnp.stack([x, y, x + 1, y + 1], 1) / 4
        told = {
            "regions": tokens.reshape(2, 2, 16, DIM),
            "boxes": jnp.broadcast_to(boxes, (2, 2, 16, 4)),
            "region_mask": jnp.ones((2, 2, 16), bool),
        }
        told |= {name: given[name] for name in ("token_ids", "text_mask")}
        inner = {"params": variables["params"]["fusion"]}
        return fused, model.fusion.apply(inner, **told, method="fuse")

    fused, wanted = compiled(both, variables, given)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), fused, wanted)


def test_a_step_looks_at_a_picture_once_and_gets_what_fuse_gives(random_variables):
    model = Pictured(Means(), fusion("visualbert", 3))
    batch = words()
    variables = random_variables(model, *batch.values())
    calls = []

    def counted(method, *rest):
        calls.append(method)
        return apply_model(model)(method, *rest)

    def step(variables, batch):
        forward = Forward(counted, variables["params"], {}, False, None, made_of=model.made_of)
        fused = forward.view(FUSE, batch)
        forward.view(FUSE, {**batch, "token_ids": batch["token_ids"][::-1]})
        assert calls == ["look", "join", "join"]
        assert forward("answer_logits", {"fused": fused}).shape == (2, 7)
        return fused, model.apply(variables, **batch, method="fuse")

    fused, wanted = compiled(step, variables, batch)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), fused, wanted)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": EfficientNet()}, "EfficientNet does not tell the grid of its tokens"),
        ({"image": encoder("vit", patch_dropout=0.5)}, "patch_dropout must be 0"),
        ({"fusion": Vilt(ViltStream(**WORDS))}, "Vilt takes no regions; give a VisualBert"),
        ({"fusion": fusion("lxmert", 9)}, "regions of 16 features with boxes of 4 numbers"),
        ({"image": Cnn((6, 16), 4)}, "channels that the groups divide"),
    ],
)
def test_what_does_not_fit_is_refused(change, message):
    model = Pictured(encoder("vit"), fusion("lxmert")).clone(**change)
    keys = {name: jax.random.key(0) for name in ("params", "rows", "dropout")}
    given = {**words(), "row": jnp.arange(2), "train": True}
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda: model.init(keys, **given))


def test_a_model_of_regions_is_a_start_for_it(random_variables):
    inner = fusion("visualbert", heads=("matching",))
    model = Pictured(encoder("cnn"), inner)
    theirs = random_variables(inner, *inner.example().values())["params"]
    ours = jax.eval_shape(lambda: model.init(jax.random.key(0), **words()))["params"]
    rules = [("(.*)", r"fusion/\1")]
    started, _ = warm_start(ours, {}, (theirs, {}), "them", rules, ("image/.*",))
    jax.tree.map(np.testing.assert_array_equal, started["fusion"], theirs)


def test_a_missing_head_is_named_and_a_word_that_nobody_reads_is_refused():
    model = Pictured(encoder("vit"), fusion("visualbert", heads=("matching",)))
    fused = Fused(*[jnp.zeros((2, 1, DIM)), jnp.ones((2, 1), bool)] * 2, jnp.zeros((2, DIM)))
    with pytest.raises(ValueError, match="no 'answer' head; add it to heads="):
        model.apply({"params": {}}, fused, method="answer_logits")
    with pytest.raises(ValueError, match="VisualBert has no ranking_scores"):
        model.apply({"params": {}}, fused, method="ranking_scores")
    forward = Forward(apply_model(model), {}, {}, False, None, made_of=model.made_of)
    with pytest.raises(ValueError, match="fuse does not take label; it takes image, row"):
        forward("fuse", {"label": fused.pooled})


def test_parameters_in_parts_give_the_scores_of_whole_ones(random_variables):
    model = Pictured(Cnn((8, 8), 4), fusion("visualbert", 8, ("answer",)))
    given = words(8, side=8)
    params = random_variables(model, *given.values())["params"]

    def scores(params, given):
        return model.apply({"params": params}, **given)[1]["answer"]

    mesh = make_mesh(2, 2, 2)
    placed = lay_out(params, mesh)
    assert placed["image/stage2/conv1/kernel"].ways == 4
    assert placed["fusion/stream/token_embedding"].ways == 4
    shardings = {path: NamedSharding(mesh, one.spec) for path, one in placed.items()}
    where = (unflatten(shardings), batch_sharding(mesh))
    with activations(mesh, params={path: one.spec for path, one in placed.items()}):
        together = jax.jit(lambda *a: scores(*a), in_shardings=where).lower(params, given)
    found = together.compile(compiler_options=QUICK)(*jax.device_put((params, given), where))
    np.testing.assert_allclose(found, compiled(scores, params, given), rtol=1e-4, atol=1e-5)
