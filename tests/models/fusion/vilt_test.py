import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding

from mmjax.models.fusion.patch_tokens import PatchTokens
from mmjax.models.fusion.vilt import HEADS, Vilt, ViltStream
from mmjax.parallel.layout import lay_out
from mmjax.parallel.mesh import make_mesh
from mmjax.parallel.sharding import activations, batch_sharding
from mmjax.paths import flatten, unflatten

GOLDEN = pathlib.Path(__file__).parents[2] / "golden"
COUNTS = json.loads((GOLDEN / "parameter_counts.json").read_text())["towers"]

SMALL = {"vocab_size": 30, "length": 8, "dim": 16, "depth": 2, "num_heads": 2, "mlp_dim": 32}
STREAM = ViltStream(**SMALL, image_size=12, patch_size=4, modalities=3)
MODEL = Vilt(STREAM, HEADS, answers=5)
LENGTHS = np.asarray([8, 5, 3])
SHAPES = np.asarray([(8, 16), (12, 8), (4, 20)])  # in pixels, of pictures padded to 12 x 20
PATCHES = np.asarray([8, 6, 5])


def words(rows=3):
    """Texts of different lengths with pictures of different shapes."""
    rng = np.random.default_rng(1)
    shapes = np.resize(SHAPES, (rows, 2))
    down = np.arange(12)[:, None] < shapes[:, :1, None]
    across = np.arange(20) < shapes[:, 1:, None]
    return {
        "token_ids": jnp.asarray(rng.integers(1, 30, (rows, 8)), jnp.int32),
        "text_mask": jnp.asarray(np.arange(8) < np.resize(LENGTHS, rows)[:, None]),
        "image": jnp.asarray(rng.normal(size=(rows, 12, 20, 3)), jnp.float32),
        "image_mask": jnp.asarray(down & across),
    }


@pytest.fixture(scope="module")
def variables(random_variables):
    return random_variables(MODEL, *words().values())


@pytest.fixture(scope="module")
def fuse(variables):
    run = jax.jit(lambda words: MODEL.apply(variables, **words, method="fuse"))
    return lambda **more: run({**words(), **more})


def test_padding_of_text_and_of_pictures_is_seen_by_nothing(fuse):
    plain, batch = fuse(), words()
    assert plain.image.shape == (3, 1 + 15, 16)
    np.testing.assert_array_equal(plain.image_mask.sum(axis=1), 1 + PATCHES)
    other = fuse(
        token_ids=jnp.where(batch["text_mask"], batch["token_ids"], 9),
        image=jnp.where(batch["image_mask"][..., None], batch["image"], 5.0),
    )
    np.testing.assert_array_equal(other.pooled, plain.pooled)
    real = plain.image_mask
    np.testing.assert_array_equal(other.image[real], plain.image[real])


def test_a_padded_picture_is_as_one_without_padding(variables, fuse):
    batch, plain = words(), fuse()
    for row, (height, width) in enumerate(SHAPES):
        alone = {name: batch[name][row : row + 1] for name in ("token_ids", "text_mask")}
        alone["image"] = batch["image"][row : row + 1, :height, :width]
        out = jax.jit(lambda words: MODEL.apply(variables, **words, method="fuse"))(alone)
        np.testing.assert_allclose(out.pooled[0], plain.pooled[row], atol=2e-5)
        kept = 1 + PATCHES[row]  # real patches stand first
        np.testing.assert_allclose(out.image[0], plain.image[row, :kept], atol=2e-5)


def test_a_square_picture_takes_the_table_as_it_is():
    patches = PatchTokens(12, 4, 16)
    image = words()["image"][:, :, :12]
    variables = patches.init(jax.random.key(0), image)
    plain, mask = patches.apply(variables, image)
    same, _ = patches.apply(variables, image, jnp.ones((3, 12, 12), bool))
    assert mask.all()
    np.testing.assert_allclose(same, plain, atol=1e-6)
    table = variables["params"]["position_embedding"]
    bare = {**variables["params"], "position_embedding": jnp.zeros_like(table)}
    without, _ = patches.apply({"params": bare}, image)
    np.testing.assert_allclose(plain - without, jnp.broadcast_to(table, plain.shape), atol=1e-6)


def numbered(**fields):
    """(module, variables, pictures) whose tokens tell which patch they are of."""
    patches = PatchTokens(12, 4, 4, **fields)
    image = jnp.repeat(jnp.arange(15.0).reshape(3, 5), 4, axis=0).repeat(4, axis=1)
    image = jnp.broadcast_to(image[None, ..., None], (3, 12, 20, 3))
    mask = words()["image_mask"]
    variables = jax.tree.map(
        jnp.zeros_like,
        patches.init({"params": jax.random.key(0)}, image, mask),
    )
    kernel = jnp.zeros((48, 4)).at[0].set(1.0)
    variables["params"]["pixels"]["embedding"]["kernel"] = kernel
    return patches, variables, (image, mask)


REAL = [[0, 1, 2, 3, 5, 6, 7, 8], [0, 1, 5, 6, 10, 11], [0, 1, 2, 3, 4]]


def test_real_patches_stand_first_and_padding_after_them_in_reading_order():
    patches, variables, inputs = numbered()
    found, mask = patches.apply(variables, *inputs)
    for row, real in enumerate(REAL):
        padding = [n for n in range(15) if n not in real]
        np.testing.assert_array_equal(found[row, 1:, 0], [*real, *padding])
        np.testing.assert_array_equal(mask[row], np.arange(16) <= len(real))


def test_of_too_many_patches_some_are_kept_evenly_or_drawn_by_the_row_in_training():
    patches, variables, inputs = numbered(max_patches=6)
    found, mask = patches.apply(variables, *inputs)
    wanted = [[0, 1, 2, 5, 6, 7], REAL[1], [*REAL[2], 5]]
    np.testing.assert_array_equal(found[:, 1:, 0], wanted)
    np.testing.assert_array_equal(mask[:, 1:].sum(axis=1), [6, 6, 5])

    def drawn(rows):
        how = {"row": jnp.asarray(rows), "train": True, "rngs": {"rows": jax.random.key(0)}}
        made, mask = patches.apply(variables, *inputs, **how)
        np.testing.assert_array_equal(mask[:, 1:].sum(axis=1), [6, 6, 5])
        return np.asarray(made[:, 1:, 0])

    first = drawn([4, 5, 6])
    np.testing.assert_array_equal(first[1:], wanted[1:])
    assert set(first[0]) < set(REAL[0])
    assert (np.diff(first[0]) > 0).all()
    np.testing.assert_array_equal(drawn([4, 9, 9])[0], first[0])
    assert any((drawn([row, 5, 6])[0] != first[0]).any() for row in range(3))
    with pytest.raises(ValueError, match="max_patches=6 of 15 needs the rows' numbers"):
        patches.apply(variables, *inputs, train=True, rngs={"rows": jax.random.key(0)})


def test_each_of_several_pictures_goes_with_the_text_and_is_told_apart(variables, fuse):
    batch = words()
    several = {
        name: jnp.stack([batch[name], batch[name][::-1]], axis=1)
        for name in ("image", "image_mask")
    }
    run = jax.jit(lambda words: MODEL.apply(variables, **words, method="fuse"))
    both, first = run({**batch, **several}), fuse()
    assert both.text.shape == (3, 2 * 8, 16)
    np.testing.assert_allclose(both.pooled[:, :16], first.pooled, atol=1e-5)
    np.testing.assert_allclose(both.text[:, :8], first.text, atol=1e-5)
    np.testing.assert_allclose(both.image[:, :16], first.image, atol=1e-5)
    same = run({**batch, **{name: one[:, [0, 0]] for name, one in several.items()}})
    assert (np.abs(same.pooled[:, :16] - same.pooled[:, 16:]).max(axis=1) > 1e-4).all()
    scores = MODEL.apply(variables, both, method="reasoning_logits")
    assert scores.shape == (3, 2)
    with pytest.raises(ValueError, match="judges 2 pictures a row, and there are 1"):
        MODEL.apply(variables, first, method="reasoning_logits")


@pytest.mark.parametrize("head", HEADS)
def test_a_missing_head_is_named(head, fuse):
    bare = Vilt(STREAM, tuple(one for one in HEADS if one != head))
    read = fuse().text if head == "masked_lm" else fuse()
    with pytest.raises(ValueError, match=f"no '{head}' head; add it to heads="):
        bare.apply({"params": {}}, read, method=f"{head}_logits")


def test_what_does_not_fit_is_refused():
    batch = words().values()
    with pytest.raises(ValueError, match="8 tokens long, the model's length is 7"):
        STREAM.clone(length=7).init(jax.random.key(0), *batch)
    with pytest.raises(ValueError, match="'strange' is none of masked_lm, matching"):
        Vilt(STREAM, ("strange",)).init(jax.random.key(0), *batch)


def test_more_pictures_than_are_told_apart_are_refused():
    model = MODEL.clone(stream=STREAM.clone(modalities=2))
    batch = words()
    two = batch | {name: jnp.stack([batch[name]] * 2, axis=1) for name in ("image", "image_mask")}
    with pytest.raises(ValueError, match=r"modalities=2 tells words and 1 apart; set .* to 3"):
        jax.eval_shape(lambda: model.init(jax.random.key(0), **two))


def test_numbers_are_dropped_in_training_alone(variables):
    model = MODEL.clone(stream=STREAM.clone(dropout=0.3))
    rngs = {"dropout": jax.random.key(0)}
    run = jax.jit(lambda words: MODEL.apply(variables, **words)[0].pooled)
    plain = run(words())
    np.testing.assert_allclose(model.apply(variables, **words())[0].pooled, plain, atol=1e-5)
    trained, scores = model.apply(variables, **words(), train=True, rngs=rngs)
    assert not np.allclose(trained.pooled, plain, atol=1e-2)
    assert set(scores) == set(HEADS)


def test_parameters_in_parts_give_the_scores_and_gradients_of_whole_ones(variables):
    params, batch = variables["params"], words(8)

    def loss_of(model):
        def loss(params, words):
            _, scores = model.apply({"params": params}, **words)
            return sum(jnp.cos(x).mean() for x in scores.values())

        return loss

    other = MODEL.clone(stream=STREAM.clone(scan=False, remat="full"))
    wanted = jax.jit(jax.value_and_grad(loss_of(other)))(params, batch)
    mesh = make_mesh(2, 2, 2)
    placed = lay_out(params, mesh)
    for path in ("stream/patches/pixels/embedding", "answer_head/scores", "reasoning_head/hidden"):
        assert placed[f"{path}/kernel"].ways == 4
    shardings = {path: NamedSharding(mesh, one.spec) for path, one in placed.items()}
    rows = {word: batch_sharding(mesh) for word in batch}
    with activations(mesh, params={path: one.spec for path, one in placed.items()}):
        step = jax.jit(
            jax.value_and_grad(lambda *arguments: loss_of(MODEL)(*arguments)),
            in_shardings=(unflatten(shardings), rows),
        )
        found = step(params, batch)
    np.testing.assert_allclose(found[0], wanted[0], rtol=1e-5)
    for path, gradient in flatten(found[1]).items():
        np.testing.assert_allclose(gradient, flatten(wanted[1])[path], atol=2e-6, err_msg=path)


@pytest.mark.parametrize(
    ("name", "heads"), [("vilt_mlm", ("masked_lm",)), ("vilt_vqa", ("answer",))]
)
def test_the_published_size_has_the_published_number_of_parameters(name, heads):
    batch = {**words(), "image": jnp.zeros((3, 64, 96, 3)), "image_mask": None}
    shapes = jax.eval_shape(Vilt(ViltStream(), heads).init, jax.random.key(0), *batch.values())
    assert sum(x.size for x in jax.tree.leaves(shapes)) == COUNTS[name]
