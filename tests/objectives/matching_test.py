import contextlib
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.objectives.base import Forward
from mmjax.objectives.matching import Matching
from mmjax.parallel.mesh import make_mesh
from mmjax.parallel.sharding import activations, batch_sharding, replicated
from mmjax.training.accumulation import Part, accumulated_gradients
from mmjax.typing import Encoded, MadeOf, View

ROWS = 5


def batch(**changes):
    rng = np.random.default_rng(0)
    made = {
        "token_ids": np.arange(ROWS)[:, None] + np.zeros((1, 3), int),
        "text_mask": np.ones((ROWS, 3), bool),
        "regions": (10 * np.arange(ROWS))[:, None, None] + np.zeros((1, 2, 4)),
        "region_mask": np.ones((ROWS, 2), bool),
        "valid": np.ones(ROWS, bool),
        "sample_id": np.stack([np.arange(ROWS)] * 2, 1),
        "noise": rng.normal(size=ROWS),
    } | changes
    return {word: jnp.asarray(value) for word, value in made.items()}


def score(objective, batch):
    """(loss, calls of `fuse` as (first token, first feature)) of a model that sees what it gets."""
    calls = []

    def apply(method, variables, inputs, train, rngs):
        if method == "fuse":
            pair = inputs["token_ids"][:, 0], inputs["regions"][:, 0, 0]
            calls.append(pair)
            return pair, {}
        words, regions = inputs["fused"]
        return jnp.where(words * 10 == regions, 2.0, -3.0), {}

    return objective(Forward(apply, {}, {}, False, None), batch, ()), calls


def softplus(x):
    return np.log1p(np.exp(x))


def test_each_text_is_asked_with_its_own_picture_and_with_another_rows():
    plain = ("fuse", ("token_ids", "text_mask", "regions", "region_mask"))  # as a config gives it
    made, calls = score(Matching(plain, shift=2), batch())
    (words, own), (again, other) = calls
    np.testing.assert_array_equal(own, 10 * np.arange(ROWS))
    np.testing.assert_array_equal(again, words)
    np.testing.assert_array_equal(other, 10 * np.roll(np.arange(ROWS), -2))
    assert made.mean() == pytest.approx((softplus(-2) + softplus(-3)) / 2, rel=1e-6)
    assert float(made.metrics["accuracy"][0]) == 2 * ROWS


@pytest.mark.parametrize("word", ["sample_id", "caption_id", "group"])
def test_pairs_that_might_match_all_the_same_are_not_asked_about(word):
    same = np.stack([[0, 0, 1, 2, 3]] * 2, 1)
    made, _ = score(Matching(), batch(**{word: same}))
    assert float(made.count) == ROWS + ROWS - 1


def test_rows_that_only_fill_up_are_in_no_pair():
    valid = np.array([1, 1, 1, 0, 1], bool)
    made, _ = score(Matching(), batch(valid=valid))
    assert float(made.count) == 4 + 3  # neither row 2 with picture 3 nor row 3 with picture 4
    assert made.mean() == pytest.approx((4 * softplus(-2) + 3 * softplus(-3)) / 7, rel=1e-6)


def test_a_shift_beyond_the_batch_is_refused():
    with pytest.raises(ValueError, match="5 rows has none 5 further on"):
        score(Matching(shift=5), batch())
    with pytest.raises(ValueError, match="shift=0"):
        Matching(shift=0)


MADE_OF = {
    "fuse": MadeOf(
        "join",
        {"image": View("encode_image", ("image",)), "text": View("encode_text", ("token_ids",))},
    )
}
PAIR = View("fuse", ("image", "token_ids"))
BATCH, WIDTH, SCALE = 16, 4, 6.0
MESHES = [(8, 1, 1), (2, 2, 2)]


def towers(method, variables, inputs, train, rngs):
    """Stands for a model: unit vectors as they are given, tokens scaled by a parameter."""
    if method == "scalars":
        return {"log_scale": jnp.log(jnp.float32(SCALE))}, {}
    if method.startswith("encode_"):
        (x,) = inputs.values()
        tokens = jnp.stack([x, 2 * x], 1) * variables["params"][method]
        return Encoded(tokens, jnp.ones(tokens.shape[:2], bool), x, x), {}
    if method == "join":
        return (inputs["text"].tokens, inputs["image"].tokens), {}
    text, image = inputs["fused"]
    return jnp.einsum("bnd,bmd->b", text, image), {}


@functools.cache
def hard(negatives, mesh, shift=1):
    """A compiled (params, batch, key) -> ((mean, Loss), gradient)."""
    objective = Matching(PAIR, shift, negatives)
    made = None if mesh is None else make_mesh(*mesh)

    def loss(params, batch, key):
        forward = Forward(towers, params, {}, True, key, made_of=MADE_OF)
        if made is None:
            loss = objective(forward, batch, ())
        else:
            with activations(made):
                loss = objective(forward, batch, ())
        return loss.mean(), loss

    how = {}
    if made is not None:
        how["in_shardings"] = (replicated(made), batch_sharding(made), replicated(made))
    return jax.jit(jax.value_and_grad(loss, has_aux=True), **how)


def hard_batch(groups=BATCH // 3):
    rng = np.random.default_rng(4)
    image, text = rng.normal(size=(2, BATCH, WIDTH))
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (image, text)]
    group = rng.integers(0, groups, BATCH)
    made = {
        "image": np.float32(unit[0]),
        "token_ids": np.float32(unit[1]),
        "valid": np.arange(BATCH) % 7 != 3,
        "sample_id": np.stack([np.arange(BATCH)] * 2, 1).astype(np.int32),
        "group": np.stack([group] * 2, 1).astype(np.int32),
    }
    allowed = made["valid"][:, None] & made["valid"] & (group[:, None] != group)
    return made, allowed


PARAMS = {"encode_image": jnp.float32(0.7), "encode_text": jnp.float32(1.1)}


def test_the_hardest_wrong_pairs_of_the_whole_batch_are_asked_about():
    batch, allowed = hard_batch()
    image, text = np.float64(batch["image"]), np.float64(batch["token_ids"])
    scores = np.where(allowed, image @ text.T, -np.inf)  # picture by text
    pair = 9 * 0.7 * 1.1  # (1 + 2)², of the two tokens of each side
    own = softplus(-pair * np.sum(image * text, 1))[batch["valid"]]
    wrong = [softplus(pair * scores.max(axis))[batch["valid"]] for axis in (1, 0)]
    wanted = np.concatenate([own, *wrong])
    (mean, loss), _ = hard("hardest", None)(PARAMS, batch, jax.random.key(0))
    assert float(loss.count) == 3 * batch["valid"].sum()
    assert mean == pytest.approx(wanted.mean(), rel=1e-5)
    told = (own < np.log(2)).sum() + sum((x < np.log(2)).sum() for x in wrong)
    assert float(loss.metrics["accuracy"][0]) == told


@pytest.mark.parametrize("negatives", ["hardest", "sampled"])
def test_any_mesh_asks_about_the_pairs_of_one_device(negatives):
    batch, _ = hard_batch()
    key = jax.random.key(1)
    (mean, loss), slopes = hard(negatives, None)(PARAMS, batch, key)
    assert min(abs(float(x)) for x in slopes.values()) > 1e-3
    for mesh in MESHES:
        (other, found), others = hard(negatives, mesh)(PARAMS, batch, key)
        assert float(other) == pytest.approx(float(mean), rel=1e-6)
        assert float(found.count) == float(loss.count)
        for name, slope in slopes.items():
            assert float(others[name]) == pytest.approx(float(slope), rel=1e-5)


def test_draws_differ_from_step_to_step_and_keep_to_the_allowed_pairs():
    batch, allowed = hard_batch(groups=2)
    run = hard("sampled", None)
    means = {float(run(PARAMS, batch, jax.random.key(n))[0][0]) for n in range(4)}
    assert len(means) == 4
    image, text = np.float64(batch["image"]), np.float64(batch["token_ids"])
    pair = 9 * 0.7 * 1.1 * np.where(allowed, image @ text.T, np.nan)
    valid = batch["valid"]
    own = softplus(-9 * 0.7 * 1.1 * np.sum(image * text, 1))[valid].sum()
    least, most = (
        own + sum(softplus(pick(sides[valid], 1)).sum() for sides in (pair, pair.T))
        for pick in (np.nanmin, np.nanmax)
    )
    for mean in means:
        assert least - 1e-3 <= mean * 3 * valid.sum() <= most + 1e-3


def test_a_model_without_two_towers_and_what_a_mesh_does_not_divide_are_refused():
    with pytest.raises(ValueError, match="does not make 'fuse' of encode_image and encode_text"):
        score(Matching(negatives="hardest"), batch())
    with pytest.raises(ValueError, match="'nearest' is none of random, hardest, sampled"):
        Matching(negatives="nearest")
    with pytest.raises(ValueError, match="shift=2 is for negatives='random'"):
        Matching(negatives="sampled", shift=2)
    odd = {word: value[:12] for word, value in hard_batch()[0].items()}
    forward = Forward(towers, PARAMS, {}, False, None, made_of=MADE_OF)
    with activations(make_mesh()), pytest.raises(ValueError, match=r"12 rows is no .* 8 .* Take 8"):
        Matching(PAIR, negatives="hardest")(forward, jax.tree.map(jnp.asarray, odd), ())


def test_shifted_pictures_are_not_encoded_again():
    calls = []

    def counted(method, *rest):
        calls.append(method)
        return towers(method, *rest)

    batch, _ = hard_batch()
    batch = jax.tree.map(jnp.asarray, batch)
    loss = Matching(PAIR)(Forward(counted, PARAMS, {}, False, None, made_of=MADE_OF), batch, ())
    names = ["encode_image", "encode_text", "join", "matching_logits", "join", "matching_logits"]
    assert calls == names
    assert float(loss.count) > batch["valid"].sum()


def in_parts(objective, mesh, several=1):
    """The loss and gradient of a batch in two micro-batches, and the calls that are traced."""
    names = [f"goal {n}" for n in range(several)]
    made, calls = None if mesh is None else make_mesh(*mesh), []

    def counted(method, *rest):
        calls.append(method)
        return towers(method, *rest)

    def gradient(params, batch, key):
        def forwards(params, part):
            forward = Forward(counted, params, {}, True, key, part, MADE_OF)
            return dict.fromkeys(names, forward)

        goals = {name: Part(objective, "main", 1.0 / several, ()) for name in names}
        with activations(made) if made is not None else contextlib.nullcontext():
            return accumulated_gradients(
                goals, params, forwards, lambda batch: batch, {"main": batch}, 2
            )

    how = {}
    if made is not None:
        how["in_shardings"] = (replicated(made), batch_sharding(made), replicated(made))
    return jax.jit(gradient, **how), calls


@pytest.mark.parametrize("mesh", [None, *MESHES])
@pytest.mark.parametrize("negatives", ["random", "hardest", "sampled"])
def test_in_micro_batches_the_pairs_are_those_of_the_whole_batch(negatives, mesh):
    batch = jax.tree.map(jnp.asarray, hard_batch()[0])
    shift, key = 3 if negatives == "random" else 1, jax.random.key(2)
    (wanted, whole), slopes = hard(negatives, None, shift)(PARAMS, batch, key)
    function, _ = in_parts(Matching(PAIR, shift, negatives), mesh)
    loss, losses, found, _ = function(PARAMS, batch, key)
    np.testing.assert_allclose(loss, wanted, rtol=1e-5)
    assert float(losses["goal 0"].count) == float(whole.count) > 16
    np.testing.assert_allclose(losses["goal 0"].metrics["accuracy"], whole.metrics["accuracy"])
    for name, slope in slopes.items():
        np.testing.assert_allclose(found[name], slope, rtol=1e-5)


def test_goals_about_the_same_pairs_share_the_others_passes():
    batch = jax.tree.map(jnp.asarray, hard_batch()[0])
    counts = []
    for several in (1, 2):
        function, calls = in_parts(Matching(PAIR, negatives="hardest"), None, several)
        loss, *_ = function(PARAMS, batch, jax.random.key(0))
        counts.append((calls.count("encode_image"), calls.count("join"), float(loss)))
    assert counts[0][:2] == counts[1][:2]
    assert counts[0][2] == pytest.approx(counts[1][2], rel=1e-6)
