import json
import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding

from mmjax.models.dual.two_tower import TwoTower
from mmjax.models.encoders import bert
from mmjax.models.encoders.bert import POOLING, Bert
from mmjax.models.encoders.bert_pretraining import BertPretraining
from mmjax.models.encoders.vit import ViT
from mmjax.parallel.layout import lay_out
from mmjax.parallel.mesh import make_mesh
from mmjax.parallel.sharding import activations, batch_sharding
from mmjax.paths import flatten, unflatten

GOLDEN = pathlib.Path(__file__).parents[2] / "golden"
COUNTS = json.loads((GOLDEN / "parameter_counts.json").read_text())["towers"]

SMALL = {"vocab_size": 30, "length": 8, "dim": 16, "depth": 2, "num_heads": 2, "mlp_dim": 32}
LENGTHS = np.asarray([8, 5, 2])
MASK = jnp.asarray(np.arange(8) < LENGTHS[:, None])


def texts(padding=0):
    """Three texts, and padding after them."""
    ids = np.random.default_rng(0).integers(1, 30, (3, 8))
    return jnp.asarray(np.where(MASK, ids, padding), jnp.int32)


@pytest.fixture
def make(random_variables):
    """A model and parameters."""

    def make(**fields):
        model = Bert(**{**SMALL, **fields})
        return model, random_variables(model, texts(), MASK)

    return make


@pytest.mark.parametrize("pooling", POOLING)
def test_padding_does_not_change_the_embedding(make, pooling):
    model, variables = make(pooling=pooling)
    out = jax.jit(model.apply)(variables, texts(), MASK)
    assert out.pooled.shape == (3, 16)
    np.testing.assert_array_equal(out.mask, MASK)
    other = jax.jit(model.apply)(variables, texts(padding=7), MASK)
    np.testing.assert_array_equal(other.pooled, out.pooled)
    short = jax.jit(model.apply)(variables, texts()[1:2, :5], MASK[1:2, :5])
    np.testing.assert_allclose(short.pooled[0], out.pooled[1], atol=2e-6)
    alone = jax.jit(lambda *given: model.apply(*given, tokens=False))(variables, texts(), MASK)
    assert (alone.tokens is None) == (pooling != "mean")
    np.testing.assert_allclose(alone.pooled, out.pooled, atol=2e-6)


def test_the_three_ways_to_pool_are_what_they_say(make):
    model, variables = make()
    out = jax.jit(model.apply)(variables, texts(), MASK)
    pool = variables["params"]["pool"]
    first = out.tokens[:, 0]
    expected = np.tanh(first @ pool["kernel"] + pool["bias"])
    np.testing.assert_allclose(out.pooled, expected, atol=1e-6)
    params = {name: x for name, x in variables["params"].items() if name != "pool"}
    means = np.stack([x[:n].mean(0) for x, n in zip(out.tokens, LENGTHS)])
    for pooling, wanted in (("class", first), ("mean", means)):
        other = jax.jit(Bert(**SMALL, pooling=pooling).apply)({"params": params}, texts(), MASK)
        np.testing.assert_allclose(other.pooled, wanted, atol=1e-6)
    spare = Bert(**SMALL, pooling="class", spare_pooler=True)
    other, kept = spare.apply(variables, texts(), MASK, mutable=["intermediates"])
    np.testing.assert_allclose(other.pooled, first, atol=1e-6)
    np.testing.assert_allclose(kept["intermediates"]["pooler"][0], expected, atol=1e-6)


def test_a_token_types_vector_is_added_to_its_tokens(make):
    model, variables = make()
    run = jax.jit(model.apply)
    plain = run(variables, texts(), MASK).tokens
    zeros = jnp.zeros_like(texts())
    np.testing.assert_array_equal(run(variables, texts(), MASK, token_type=zeros).tokens, plain)
    assert not np.allclose(run(variables, texts(), MASK, token_type=zeros + 1).tokens, plain, 0.1)


def test_numbers_are_dropped_in_training_alone(make):
    model, variables = make(dropout=0.3)
    plain, _ = make()
    rngs = {"dropout": jax.random.key(0)}
    expected = jax.jit(plain.apply)(variables, texts(), MASK)
    out = jax.jit(model.apply)(variables, texts(), MASK)
    np.testing.assert_array_equal(out.tokens, expected.tokens)
    trained = model.apply(variables, texts(), MASK, train=True, rngs=rngs)
    assert not np.allclose(trained.tokens, expected.tokens, atol=0.1)
    undropped = plain.apply(variables, texts(), MASK, train=True)  # needs no key
    np.testing.assert_allclose(undropped.tokens, expected.tokens, atol=1e-6)


def test_an_id_outside_the_vocabulary_does_not_pass_unseen(make):
    model, variables = make()
    out = jax.jit(model.apply)(variables, texts().at[0, 3].set(30), MASK)
    assert not np.isfinite(out.pooled[0]).any()
    assert np.isfinite(out.pooled[1:]).all()


def test_bfloat16_is_close_to_float32(make):
    model, variables = make(pooling="mean")
    expected = jax.jit(model.apply)(variables, texts(), MASK).pooled
    half = Bert(**SMALL, pooling="mean", dtype="bfloat16")
    out = jax.jit(half.apply)(variables, texts(), MASK).pooled
    assert out.dtype == jnp.bfloat16
    error = jnp.linalg.norm(out.astype(jnp.float32) - expected) / jnp.linalg.norm(expected)
    assert 0 < error < 0.02


def test_it_is_the_text_tower_of_a_dual_encoder(random_variables):
    image = ViT(image_size=8, patch_size=8, dim=16, depth=1, num_heads=2, mlp_dim=16)
    model = TwoTower(image, Bert(**SMALL), embed_dim=12)
    variables = random_variables(model, jnp.zeros((3, 8, 8, 3)), texts(), MASK)
    run = jax.jit(lambda **words: model.apply(variables, **words, method="encode_text").embedding)
    words = {"token_ids": texts(), "text_mask": MASK}
    plain, zeros = run(**words), jnp.zeros_like(texts())
    assert plain.shape == (3, 12)
    np.testing.assert_allclose(run(**words, token_type=zeros), plain, atol=1e-6)
    assert not np.allclose(run(**words, token_type=zeros + 1), plain, atol=1e-2)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"pooling": "last"}, "pooling='last' is none of tanh, class, mean"),
        ({"length": 7}, "8 tokens long, the model's length is 7"),
    ],
)
def test_what_does_not_fit_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Bert(**{**SMALL, **fields}).init(jax.random.key(0), texts(), MASK)


@pytest.mark.parametrize("name", ["bert_base", "bert_large"])
def test_a_published_size_has_the_published_number_of_parameters(name):
    model = Bert(**getattr(bert, name)())
    shapes = jax.eval_shape(model.init, jax.random.key(0), texts(), MASK)
    assert sum(math.prod(x.shape) for x in jax.tree.leaves(shapes)) == COUNTS[name]


def test_logits_are_float32_and_a_missing_head_is_named(random_variables):
    model = BertPretraining(Bert(**SMALL, dtype="bfloat16"))
    variables = random_variables(model, texts(), MASK)
    masked, following = jax.jit(model.apply)(variables, texts(), MASK)
    assert (masked.shape, following.shape) == ((3, 8, 30), (3, 2))
    assert masked.dtype == following.dtype == jnp.float32
    alone = BertPretraining(Bert(**SMALL, pooling="class"), next_sentence=False)
    shapes = jax.eval_shape(alone.init, jax.random.key(0), texts(), MASK)["params"]
    assert set(shapes) == {"text", "masked_lm"}
    assert "pool" not in shapes["text"]
    with pytest.raises(ValueError, match="no next-sentence head; set next_sentence=True"):
        alone.apply({"params": {}}, jnp.zeros((1, 16)), method="next_sentence_logits")


def test_the_word_table_learns_from_being_read_and_from_being_compared_with(random_variables):
    model = BertPretraining(Bert(**SMALL), next_sentence=False)
    variables = random_variables(model, texts(), MASK)

    def loss(table, compared):
        params = {**variables["params"]}
        params["text"] = {**params["text"], "token_embedding": table}
        tokens = model.text.apply({"params": params["text"]}, texts(), MASK).tokens
        params["text"] = {**params["text"], "token_embedding": compared}
        logits = model.apply({"params": params}, tokens, method="masked_lm_logits")
        return jax.nn.log_softmax(logits)[..., 3].sum()

    table = variables["params"]["text"]["token_embedding"]
    parts = jax.jit(jax.grad(loss, (0, 1)))(table, table)
    both = jax.jit(jax.grad(lambda table: loss(table, table)))(table)
    np.testing.assert_allclose(both, parts[0] + parts[1], atol=1e-5)
    assert min(np.abs(part).max() for part in parts) > 0.1


def test_parameters_in_parts_give_the_logits_and_gradients_of_whole_ones(random_variables):
    model = BertPretraining(Bert(**SMALL))
    params = random_variables(model, texts(), MASK)["params"]
    ids = jnp.asarray(np.random.default_rng(1).integers(1, 30, (8, 8)), jnp.int32)
    mask = jnp.asarray(np.arange(8) < np.arange(1, 9)[:, None])

    def loss(params, ids, mask):
        masked, following = model.apply({"params": params}, ids, mask)
        return jnp.sin(masked).mean() + jnp.sin(following).mean()

    wanted = jax.jit(jax.value_and_grad(loss))(params, ids, mask)
    mesh = make_mesh(2, 2, 2)
    placed = lay_out(params, mesh)
    assert placed["text/token_embedding"].ways == 4
    shardings = {path: NamedSharding(mesh, one.spec) for path, one in placed.items()}
    rows = batch_sharding(mesh)
    with activations(mesh, params={path: one.spec for path, one in placed.items()}):
        step = jax.jit(
            jax.value_and_grad(lambda *arguments: loss(*arguments)),
            in_shardings=(unflatten(shardings), rows, rows),
        )
        found = step(params, ids, mask)
    np.testing.assert_allclose(found[0], wanted[0], rtol=1e-5)
    for path, gradient in flatten(found[1]).items():
        np.testing.assert_allclose(gradient, flatten(wanted[1])[path], atol=2e-6, err_msg=path)
