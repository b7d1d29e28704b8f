"""`BertPretraining` beside the reference BERT, same weights, same inputs."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.models.encoders.bert import Bert
from mmjax.models.encoders.bert_pretraining import BertPretraining
from mmjax.paths import flatten, unflatten

GOLDEN = pathlib.Path(__file__).parents[2] / "golden"
MODEL = BertPretraining(
    Bert(vocab_size=40, length=12, dim=16, depth=2, num_heads=4, mlp_dim=24), next_sentence=True
)

# Ours -> theirs, without 'kernel', 'scale' or 'weight'; '#' is the block's number.
LAYERS = {
    "text/embedding_norm": "bert.embeddings.LayerNorm",
    "text/blocks/attention/query": "bert.encoder.layer.#.attention.self.query",
    "text/blocks/attention/key": "bert.encoder.layer.#.attention.self.key",
    "text/blocks/attention/value": "bert.encoder.layer.#.attention.self.value",
    "text/blocks/attention/output": "bert.encoder.layer.#.attention.output.dense",
    "text/blocks/attention_norm": "bert.encoder.layer.#.attention.output.LayerNorm",
    "text/blocks/mlp/up": "bert.encoder.layer.#.intermediate.dense",
    "text/blocks/mlp/down": "bert.encoder.layer.#.output.dense",
    "text/blocks/mlp_norm": "bert.encoder.layer.#.output.LayerNorm",
    "text/pool": "bert.pooler.dense",
    "masked_lm/dense": "cls.predictions.transform.dense",
    "masked_lm/norm": "cls.predictions.transform.LayerNorm",
    "next_sentence_head": "cls.seq_relationship",
}
ARRAYS = {
    "text/token_embedding": "bert.embeddings.word_embeddings.weight",
    "text/position_embedding": "bert.embeddings.position_embeddings.weight",
    "text/token_type_embedding": "bert.embeddings.token_type_embeddings.weight",
    "masked_lm/bias": "cls.predictions.bias",
}


def theirs(path):
    """The reference's name of one of our arrays; '#' in it where it is one of a stack."""
    if path in ARRAYS:
        return ARRAYS[path]
    layer, kind = path.rsplit("/", 1)
    return f"{LAYERS[layer]}.{'bias' if kind == 'bias' else 'weight'}"


def each(path):
    """The reference's names of the parts of one of our arrays."""
    name = theirs(path)
    return [name.replace("#", str(number)) for number in range(2 if "#" in name else 1)]


@pytest.fixture(scope="module")
def arrays():
    with np.load(GOLDEN / "bert.npz", allow_pickle=False) as file:
        return dict(file)


@pytest.fixture(scope="module")
def words(arrays):
    return {
        "token_ids": jnp.asarray(arrays["input_ids"], jnp.int32),
        "text_mask": jnp.asarray(arrays["attention_mask"] == 1),
        "token_type": jnp.asarray(arrays["token_type_ids"], jnp.int32),
    }


@pytest.fixture(scope="module")
def params(arrays, words):
    """The reference's weights as ours; every one is used once and none is missing."""
    shapes = flatten(jax.eval_shape(MODEL.init, jax.random.key(0), **words)["params"])
    left = {name for name in arrays if name.startswith("state/")}
    made = {}
    for path, shape in shapes.items():
        parts = [arrays[f"state/{name}"] for name in each(path)]
        left -= {f"state/{name}" for name in each(path)}
        parts = [x.T if path.endswith("/kernel") else x for x in parts]
        made[path] = jnp.asarray(np.stack(parts) if "/blocks/" in path else parts[0])
        assert made[path].shape == shape.shape
    assert not left
    return unflatten(made)


def same(value, wanted):
    np.testing.assert_allclose(value, wanted, atol=2e-5, rtol=1e-5)


def test_states_attentions_and_logits_equal_the_reference(arrays, words, params):
    with jax.default_matmul_precision("highest"):
        run = jax.jit(lambda params: MODEL.apply({"params": params}, **words, mutable=True))
        (masked, following), kept = run(params)
        pooled = MODEL.apply({"params": params}, **words, method=lambda m, **w: m.text(**w).pooled)
    kept = kept["intermediates"]["text"]["blocks"]
    states = [kept["input"][0][0], *kept["output"][0]]
    same(np.stack(states), arrays["out/hidden_states"])
    same(kept["attention"]["weights"][0], arrays["out/attentions"])
    same(pooled, arrays["out/pooler_output"])
    same(masked, arrays["out/prediction_logits"])
    same(following, arrays["out/seq_relationship_logits"])


def test_token_types_are_zero_where_none_are_given(arrays, words, params):
    without = {name: x for name, x in words.items() if name != "token_type"}
    with jax.default_matmul_precision("highest"):
        out = MODEL.text.apply({"params": params["text"]}, **without)
    same(out.tokens, arrays["out/last_hidden_state_without_types"])


def test_the_pretraining_losss_gradients_equal_the_reference(arrays, words, params):
    labels = jnp.asarray(arrays["labels"])
    asked = labels != -100

    def loss(params):
        masked, following = MODEL.apply({"params": params}, **words)
        each = jnp.take_along_axis(jax.nn.log_softmax(masked), labels[..., None], 2)[..., 0]
        order = jax.nn.log_softmax(following)[jnp.arange(3), arrays["next_sentence_label"]]
        return -jnp.where(asked, each, 0).sum() / asked.sum() - order.mean()

    with jax.default_matmul_precision("highest"):
        value, gradient = jax.jit(jax.value_and_grad(loss))(params)
    same(value, arrays["out/loss"])
    for path, array in flatten(gradient).items():
        layers = list(array) if "/blocks/" in path else [array]
        for name, layer in zip(each(path), layers, strict=True):
            norm = np.linalg.norm(np.float64(layer))
            wanted = arrays[f"grad_norm/{name}"]
            np.testing.assert_allclose(norm, wanted, atol=2e-5, rtol=1e-4, err_msg=name)
