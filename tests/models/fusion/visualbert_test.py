import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding

from mmjax.models.encoders.bert import Bert
from mmjax.models.fusion.visualbert import HEADS, VisualBert, VisualBertStream
from mmjax.parallel.layout import lay_out
from mmjax.parallel.mesh import make_mesh
from mmjax.parallel.sharding import activations, batch_sharding
from mmjax.paths import flatten, unflatten

GOLDEN = pathlib.Path(__file__).parents[2] / "golden"
COUNTS = json.loads((GOLDEN / "parameter_counts.json").read_text())["towers"]

SMALL = {"vocab_size": 30, "length": 8, "dim": 16, "depth": 2, "num_heads": 2, "mlp_dim": 32}
STREAM = VisualBertStream(**SMALL, region_dim=6)
MODEL = VisualBert(STREAM, HEADS, answers=5)
LENGTHS, SEEN = np.asarray([8, 5, 3]), np.asarray([4, 2, 3])


def words(rows=3):
    """Texts with regions of different lengths, padding at the end of both."""
    rng = np.random.default_rng(1)
    lengths, seen = (np.resize(x, rows)[:, None] for x in (LENGTHS, SEEN))
    return {
        "token_ids": jnp.asarray(rng.integers(1, 30, (rows, 8)), jnp.int32),
        "text_mask": jnp.asarray(np.arange(8) < lengths),
        "regions": jnp.asarray(rng.normal(size=(rows, 4, 6)), jnp.float32),
        "region_mask": jnp.asarray(np.arange(4) < seen),
    }


@pytest.fixture(scope="module")
def variables(random_variables):
    return random_variables(MODEL, *words().values())


@pytest.fixture(scope="module")
def fuse(variables):
    run = jax.jit(lambda words: MODEL.apply(variables, **words, method="fuse"))
    return lambda **more: run({**words(), **more})


@pytest.fixture(scope="module")
def ask(variables):
    return lambda method, *inputs: MODEL.apply(variables, *inputs, method=method)


def test_padding_of_text_and_of_regions_is_seen_by_nothing(fuse):
    plain = fuse()
    assert plain.text.shape == (3, 8, 16)
    assert plain.image.shape == (3, 4, 16)
    batch = words()
    other = fuse(
        token_ids=jnp.where(batch["text_mask"], batch["token_ids"], 9),
        regions=jnp.where(batch["region_mask"][..., None], batch["regions"], 5.0),
    )
    np.testing.assert_array_equal(other.pooled, plain.pooled)
    for row, (length, seen) in enumerate(zip(LENGTHS, SEEN)):
        np.testing.assert_array_equal(other.text[row, :length], plain.text[row, :length])
        np.testing.assert_array_equal(other.image[row, :seen], plain.image[row, :seen])


def test_without_a_real_region_it_is_a_bert_of_the_same_weights(variables, fuse):
    batch = words()
    params = {k: v for k, v in variables["params"]["stream"].items() if k != "regions"}
    texts = (batch["token_ids"], batch["text_mask"])
    wanted = jax.jit(Bert(**SMALL).apply)({"params": params}, *texts)
    found = fuse(region_mask=jnp.zeros((3, 4), bool))
    np.testing.assert_allclose(found.text, wanted.tokens, atol=2e-5)
    np.testing.assert_allclose(found.pooled, wanted.pooled, atol=2e-5)


def test_every_word_sees_every_region_and_a_region_every_word(fuse):
    plain, batch = fuse(), words()
    seen = fuse(regions=batch["regions"].at[0, 3].add(1.0))
    assert (np.abs(seen.text[0] - plain.text[0]).max(axis=-1) > 1e-5).all()
    read = fuse(token_ids=batch["token_ids"].at[0, 7].set(2))
    assert (np.abs(read.image[0] - plain.image[0]).max(axis=-1) > 1e-5).all()


def test_the_order_of_regions_is_not_seen(fuse):
    plain, batch = fuse(), words()
    order = jnp.asarray([2, 0, 3, 1])
    turned = fuse(regions=batch["regions"][:, order], region_mask=batch["region_mask"][:, order])
    np.testing.assert_allclose(turned.pooled, plain.pooled, atol=1e-5)
    np.testing.assert_allclose(turned.image, plain.image[:, order], atol=1e-5)


def test_a_region_is_of_the_last_kind_unless_said_otherwise(fuse):
    plain = fuse()
    same = fuse(region_types=jnp.ones((3, 4), jnp.int32))
    np.testing.assert_allclose(same.pooled, plain.pooled, atol=1e-6)
    other = fuse(region_types=jnp.zeros((3, 4), jnp.int32))
    assert (np.abs(other.pooled - plain.pooled).max(axis=1) > 1e-4).all()


def test_a_named_region_has_the_mean_place_of_its_words(variables):
    aligned = np.asarray([[[1, 3], [2, -1], [-1, -1], [0, 0]]] * 3)
    how = {"mutable": ["intermediates"], "method": "fuse"}
    batch = {**words(), "region_words": jnp.asarray(aligned, jnp.int32)}
    params = jax.tree.map(jnp.asarray, variables["params"])
    params["stream"]["embedding_norm"] = {"scale": jnp.ones(16), "bias": jnp.zeros(16)}
    _, sown = MODEL.apply({"params": params}, **batch, **how)
    found = sown["intermediates"]["stream"]["blocks"]["input"][0][0][:, 8:]
    of = {path: np.asarray(x) for path, x in flatten(params["stream"]).items()}
    places = of["position_embedding"]
    named = np.stack([places[[1, 3]].mean(0), places[2], np.zeros(16), places[0]])
    made = np.asarray(batch["regions"]) @ of["regions/projection/kernel"]
    made = made + of["regions/projection/bias"] + of["regions/type_embedding"][1]
    made = made + of["regions/position_embedding"][0] + named
    made = made - made.mean(axis=-1, keepdims=True)
    wanted = made / np.sqrt(made.var(axis=-1, keepdims=True) + 1e-12)
    np.testing.assert_allclose(found, wanted, atol=2e-5)


def test_two_pictures_of_a_row_are_one_sequence_of_two_kinds(variables):
    batch = words()
    pairs = {
        name: batch[name].reshape(3, 2, 2, *batch[name].shape[2:])
        for name in ("regions", "region_mask")
    }
    run = jax.jit(lambda words: MODEL.apply(variables, **words, method="fuse"))
    found = run({**batch, **pairs})
    wanted = run({**batch, "region_types": jnp.asarray([[0, 0, 1, 1]] * 3)})
    for one, other in zip(found, wanted):
        np.testing.assert_array_equal(one, other)


def test_an_answer_is_read_at_the_last_token_but_one(fuse, ask, variables):
    fused = fuse()
    head = variables["params"]["answer_head"]
    read = np.stack([fused.text[row, length - 2] for row, length in enumerate(LENGTHS)])
    wanted = read @ head["kernel"] + head["bias"]
    np.testing.assert_allclose(ask("answer_logits", fused), wanted, atol=1e-5)


def test_matching_is_the_odds_of_the_first_score_against_the_second(fuse, ask):
    fused = fuse()
    scores = jax.nn.softmax(ask("matching_scores", fused))
    np.testing.assert_allclose(
        jax.nn.sigmoid(ask("matching_logits", fused)), scores[:, 0], rtol=1e-5
    )


def test_a_phrase_is_compared_with_real_regions_alone(fuse, ask):
    shares = jax.nn.softmax(ask("alignment_logits", fuse(), jnp.asarray([[1, 3], [2, -1], [0, 1]])))
    assert shares.shape == (3, 2, 4)
    np.testing.assert_allclose(jnp.where(words()["region_mask"][:, None], 0, shares), 0.0)


@pytest.mark.parametrize("head", HEADS)
def test_a_missing_head_is_named(head, fuse):
    bare = VisualBert(STREAM, tuple(one for one in HEADS if one != head))
    method = {"matching": "matching_scores"}.get(head, f"{head}_logits")
    inputs = (fuse().text,) if head == "masked_lm" else (fuse(),)
    inputs = (*inputs, jnp.zeros((3, 1), jnp.int32)) if head == "alignment" else inputs
    with pytest.raises(ValueError, match=f"no '{head}' head; add it to heads="):
        bare.apply({"params": {}}, *inputs, method=method)


def test_what_does_not_fit_is_refused():
    batch = words()
    wider = {**batch, "regions": jnp.zeros((3, 4, 7))}
    with pytest.raises(ValueError, match="regions have 7 features, the model's region_dim is 6"):
        STREAM.init(jax.random.key(0), *wider.values())
    with pytest.raises(ValueError, match="'strange' is none of masked_lm, matching"):
        VisualBert(STREAM, ("strange",)).init(jax.random.key(0), *batch.values())


def test_numbers_are_dropped_in_training_alone(variables):
    model = MODEL.clone(stream=STREAM.clone(dropout=0.3))
    batch, rngs = words(), {"dropout": jax.random.key(0)}
    plain, scores = MODEL.apply(variables, **batch)
    same, _ = model.apply(variables, **batch)
    np.testing.assert_allclose(same.pooled, plain.pooled, atol=1e-6)
    trained, dropped = model.apply(variables, **batch, train=True, rngs=rngs)
    assert not np.allclose(trained.pooled, plain.pooled, atol=1e-2)
    assert set(dropped) == set(scores) == set(HEADS)


def loss_of(model):
    def loss(params, words):
        _, scores = model.apply({"params": params}, **words)
        seen = {**scores, "alignment": jax.nn.softmax(scores["alignment"])}
        return sum(jnp.cos(x).mean() for x in seen.values())

    return loss


def test_gradients_are_the_same_however_it_is_run(variables):
    other = MODEL.clone(stream=STREAM.clone(scan=False, remat="full"))
    runs = [jax.jit(jax.grad(loss_of(model))) for model in (MODEL, other)]
    wanted, found = (flatten(run(variables["params"], words())) for run in runs)
    for path, gradient in wanted.items():
        np.testing.assert_allclose(found[path], gradient, atol=2e-6, err_msg=path)


def test_parameters_in_parts_give_the_scores_and_gradients_of_whole_ones(variables):
    params, batch = variables["params"], words(8)
    loss = loss_of(MODEL)
    wanted = jax.jit(jax.value_and_grad(loss))(params, batch)
    mesh = make_mesh(2, 2, 2)
    placed = lay_out(params, mesh)
    assert placed["stream/token_embedding"].ways == 4
    assert placed["stream/regions/projection/kernel"].ways == 4
    assert placed["answer_head/kernel"].ways == 4
    shardings = {path: NamedSharding(mesh, one.spec) for path, one in placed.items()}
    rows = {word: batch_sharding(mesh) for word in batch}
    with activations(mesh, params={path: one.spec for path, one in placed.items()}):
        step = jax.jit(
            jax.value_and_grad(lambda *arguments: loss(*arguments)),
            in_shardings=(unflatten(shardings), rows),
        )
        found = step(params, batch)
    np.testing.assert_allclose(found[0], wanted[0], rtol=1e-5)
    for path, gradient in flatten(found[1]).items():
        np.testing.assert_allclose(gradient, flatten(wanted[1])[path], atol=2e-6, err_msg=path)


def test_the_published_size_has_the_published_number_of_parameters():
    model = VisualBert(VisualBertStream())
    batch = {**words(), "regions": jnp.zeros((3, 4, 2048))}
    shapes = jax.eval_shape(model.init, jax.random.key(0), *batch.values())
    assert sum(x.size for x in jax.tree.leaves(shapes)) == COUNTS["visualbert"]
