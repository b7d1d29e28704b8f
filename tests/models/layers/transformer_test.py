import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.models.layers.pooling import at
from mmjax.models.layers.remat import REMAT
from mmjax.models.layers.transformer import Block, run_blocks
from mmjax.paths import flatten

FIELDS = {
    "depth": 2,
    "num_heads": 2,
    "mlp_dim": 16,
    "activation": "gelu",
    "norm_epsilon": 1e-6,
    "dtype": "float32",
}


class Stack(nn.Module):
    """A module that is nothing but its blocks."""

    scan: bool = True
    remat: str = "none"
    norm: str = "before"
    dropout: float = 0.0
    causal: bool = False
    depth: int = FIELDS["depth"]

    @nn.compact
    def __call__(self, x, mask=None, place=None):
        how = {"scan": self.scan, "remat": self.remat, "norm": self.norm, "dropout": self.dropout}
        fields = {**FIELDS, "depth": self.depth, "causal": self.causal}
        return run_blocks(x, mask, **fields, **how, tower=self, place=place)


X = jnp.asarray(np.random.default_rng(0).normal(size=(2, 4, 8)), jnp.float32)
MASK = jnp.tril(jnp.ones((1, 4, 4), bool))


def outcome(stack, params):
    """Value and gradients, of parameters and input, through a loss that no symmetry hides."""

    def loss(params, x):
        out = stack.apply({"params": params}, x, MASK)
        return jnp.sum(out * jnp.cos(jnp.arange(out.size).reshape(out.shape)))

    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(params, X)


@pytest.fixture(scope="module")
def params():
    return jax.jit(Stack().init)(jax.random.key(0), X)["params"]


@pytest.fixture(scope="module")
def plain(params):
    return outcome(Stack(), params)


@pytest.mark.parametrize("remat", [name for name in REMAT if name != "offload"])  # not on a CPU
@pytest.mark.parametrize("scan", [True, False])
def test_scan_and_remat_change_neither_tree_nor_numbers(params, plain, scan, remat):
    stack = Stack(scan, remat)
    own = flatten(jax.eval_shape(stack.init, jax.random.key(0), X)["params"])
    assert {path: x.shape for path, x in own.items()} == {
        path: x.shape for path, x in flatten(params).items()
    }
    other = outcome(stack, params)
    for path, value in flatten(plain).items():
        np.testing.assert_allclose(flatten(other)[path], value, rtol=1e-5, atol=2e-6)


def test_remat_makes_products_again_and_dots_fewer_of_them(params):
    def products(remat):
        stack = Stack(remat=remat)
        text = str(jax.make_jaxpr(jax.grad(lambda p: stack.apply({"params": p}, X).sum()))(params))
        return text.count("dot_general")

    assert products("none") < products("dots_no_batch") < products("full")


def test_first_values_are_the_same_however_blocks_run(params):
    written_out = Stack(scan=False, remat="full")
    for path, value in flatten(jax.jit(written_out.init)(jax.random.key(0), X)["params"]).items():
        np.testing.assert_array_equal(flatten(params)[path], value)


def test_blocks_are_stacked_and_each_starts_with_its_own_values(params):
    assert {path.split("/")[0] for path in flatten(params)} == {"blocks"}
    for path, value in flatten(params).items():
        assert value.shape[0] == FIELDS["depth"], path
    kernels = params["blocks"]["attention"]["query"]["kernel"]
    assert not np.allclose(kernels[0], kernels[1])


def test_the_loop_equals_blocks_run_one_by_one(params):
    block = Block(2, 16, "gelu", 1e-6, 1.0, "float32")
    x = X
    for layer in range(FIELDS["depth"]):
        one = jax.tree.map(lambda stack, layer=layer: stack[layer], params["blocks"])
        x, _ = block.apply({"params": one}, x, MASK)
    np.testing.assert_allclose(Stack().apply({"params": params}, X, MASK), x, atol=1e-5)


def test_intermediates_are_each_blocks_states_and_its_softmax(params):
    out, kept = Stack().apply({"params": params}, X, MASK, mutable=["intermediates"])
    kept = {name: value[0] for name, value in flatten_tuples(kept["intermediates"]).items()}
    states = [kept["blocks/input"][0], *kept["blocks/output"]]
    np.testing.assert_array_equal(states[0], X)
    np.testing.assert_array_equal(kept["blocks/input"][1], states[1])
    np.testing.assert_array_equal(states[-1], out)
    weights = kept["blocks/attention/weights"]
    assert weights.shape == (2, 2, 2, 4, 4)  # depth, batch, heads, queries, keys
    np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-6)
    assert not np.triu(weights, 1).any()


def test_post_norm_has_the_parameters_of_pre_norm_and_normalises_what_leaves_a_block(params):
    stack = Stack(norm="after")
    own = jax.eval_shape(stack.init, jax.random.key(0), X)["params"]
    assert jax.tree.map(jnp.shape, own) == jax.tree.map(jnp.shape, params)
    out, kept = stack.apply({"params": params}, X, MASK, mutable=["intermediates"])
    states = kept["intermediates"]["blocks"]["output"][0]  # scales are 1 and biases 0 at first
    np.testing.assert_allclose(states.mean(-1), 0, atol=1e-6)
    np.testing.assert_allclose(states.std(-1), 1, atol=1e-4)
    np.testing.assert_array_equal(states[-1], out)
    assert not np.allclose(out, Stack().apply({"params": params}, X, MASK), atol=0.1)


@pytest.mark.parametrize(("norm", "remat"), [("before", "none"), ("after", "full")])
def test_dropout_is_drawn_anew_in_each_block_by_its_key_alone(params, norm, remat):
    def run(stack, seed):
        rngs = {"dropout": jax.random.key(seed)}
        return jax.jit(stack.apply)({"params": params}, X, MASK, rngs=rngs)

    stack = Stack(remat=remat, norm=norm, dropout=0.5)
    first = run(stack, 0)
    assert not np.allclose(run(stack, 1), first, atol=1e-2)
    written_out = Stack(False, "none", norm, 0.5)
    np.testing.assert_allclose(run(written_out, 0), first, atol=1e-6)
    assert not np.allclose(run(Stack(norm=norm), 0), first, atol=1e-2)


def test_dropout_keeps_the_mean_of_what_a_layer_adds(params):
    keys = jax.random.split(jax.random.key(0), 4000)
    one = jax.tree.map(lambda stack: stack[0], params["blocks"])
    one["mlp"]["down"] = jax.tree.map(jnp.zeros_like, one["mlp"]["down"])
    how = (2, 16, "gelu", 1e-6, 1.0, "float32")
    expected, _ = Block(*how).apply({"params": one}, X, MASK)
    block = Block(*how, dropout=0.25)
    draws = jax.vmap(lambda key: block.apply({"params": one}, X, MASK, rngs={"dropout": key})[0])(
        keys
    )
    np.testing.assert_allclose(draws.mean(0), expected, atol=0.05 * np.abs(expected - X).max())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"norm": "both"}, "norm='both' is none of before, after"),
        ({"dropout": 1.0}, "dropout=1.0 is not from 0 to below 1"),
    ],
)
def test_an_unknown_norm_and_an_impossible_dropout_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Stack(**fields).init(jax.random.key(0), X)


def flatten_tuples(tree, path=""):
    """{path: tuple of what was sown there}."""
    if isinstance(tree, tuple):
        return {path: tree}
    return {
        name: value
        for key, inner in tree.items()
        for name, value in flatten_tuples(inner, f"{path}/{key}".lstrip("/")).items()
    }


PLACES = {"first": 0, "last": -1, "own": jnp.asarray([2, 0])}
PADDED = jnp.asarray([[[True, True, True, False]], [[True, False, False, False]]])
ALONE = {
    "the first, pre-norm": (Stack(), "first", None),
    "the last, written out": (Stack(scan=False), "last", MASK),
    "its own, causal": (Stack(causal=True, remat="full"), "own", PADDED),
    "its own, post-norm": (Stack(norm="after", scan=False, remat="dots"), "own", PADDED),
    "its own, of the same scores": (Stack(), "own", MASK),
    "the last, causal": (Stack(causal=True), "last", None),
    "of one block": (Stack(depth=1), "own", MASK),
}


@pytest.mark.parametrize("name", ALONE)
def test_one_token_alone_is_what_it_is_among_all(params, name):
    stack, place, mask = ALONE[name]
    params = jax.tree.map(lambda leaf: leaf[: stack.depth], params)

    def outcome(alone):
        def loss(params, x):
            given = (PLACES[place],) if alone else ()
            out = stack.apply({"params": params}, x, mask, *given)
            out = out if alone else at(out, PLACES[place])
            return jnp.sum(out * jnp.cos(jnp.arange(out.size).reshape(out.shape)))

        function = jax.value_and_grad(loss, argnums=(0, 1))
        return jax.jit(function)(params, X), str(jax.make_jaxpr(function)(params, X))

    (whole, text), (alone, less) = outcome(False), outcome(True)
    assert text != less
    for path, value in flatten(whole).items():
        np.testing.assert_allclose(flatten(alone)[path], value, rtol=1e-5, atol=2e-6)


def test_where_the_stack_is_looked_into_all_tokens_are_made(params):
    out, seen = Stack().apply({"params": params}, X, MASK, 0, mutable=["intermediates"])
    assert out.shape == (2, 1, 8)
    assert seen["intermediates"]["blocks"]["output"][0].shape == (2, 2, 4, 8)
    dropped = Stack(dropout=0.5)
    rngs = {"dropout": jax.random.key(0)}
    one = dropped.apply({"params": params}, X, MASK, 0, rngs=rngs)
    whole = dropped.apply({"params": params}, X, MASK, rngs=rngs)
    np.testing.assert_array_equal(one, whole[:, :1])
