import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.models.layers import remat as module
from mmjax.models.layers.remat import REMAT
from mmjax.models.layers.transformer import run_blocks

RUNNING = tuple(name for name in REMAT if name != "offload")  # no CPU can offload


class Stack(nn.Module):
    """Blocks in which the scores are by far the most that a forward pass makes."""

    remat: str
    scan: bool = True
    depth: int = 4

    @nn.compact
    def __call__(self, x):
        return run_blocks(
            x,
            depth=self.depth,
            num_heads=4,
            mlp_dim=32,
            activation="gelu",
            norm_epsilon=1e-6,
            dtype="float32",
            scan=self.scan,
            remat=self.remat,
        )


X = jnp.asarray(np.random.default_rng(0).normal(size=(4, 96, 16)), jnp.float32)


def gradient(stack):
    return jax.jit(jax.grad(lambda p: jnp.sum(stack.apply({"params": p}, X) ** 2)))


@pytest.fixture(scope="module")
def params():
    return jax.jit(Stack("none").init)(jax.random.key(0), X)["params"]


def test_temporary_memory_falls_from_policy_to_policy(params):
    sizes = {}
    for name in RUNNING:
        compiled = gradient(Stack(name)).lower(params).compile()
        sizes[name] = compiled.memory_analysis().temp_size_in_bytes
    order = ("none", "dots", "attention", "dots_no_batch", "full")
    assert set(order) == set(RUNNING)
    assert sorted(order, key=sizes.get, reverse=True) == list(order), sizes
    scores = 4 * 4 * 96 * 96 * X.dtype.itemsize  # of one block
    assert sizes["none"] - sizes["attention"] > 4 * scores
    assert sizes["attention"] - sizes["full"] < 4 * scores


def test_products_are_stored_with_what_is_added_to_them(params):
    """So that no sum of a bias is made again, and a GPU's library can add it within the product."""

    def made_again(remat):
        stack = Stack(remat, scan=False, depth=1)
        one = jax.tree.map(lambda leaf: leaf[:1], params)
        _, back = jax.vjp(lambda p: stack.apply({"params": p}, X), one)
        text = str(jax.make_jaxpr(back)(X))
        return text.count("plus"), text.count("dot_general")

    sums, products = made_again("full")
    assert sums > 0
    assert made_again("dots_no_batch")[0] == 0
    assert made_again("dots")[0] == 0
    stored = made_again("none")[1]
    assert made_again("dots")[1] == stored
    assert made_again("dots_no_batch")[1] == stored + 2 < products  # scores, and their product


@pytest.mark.parametrize("scan", [True, False])
def test_the_attention_policy_makes_the_scores_again_and_nothing_else(params, scan):
    def products(remat):
        stack = Stack(remat, scan)
        grad = jax.grad(lambda p: stack.apply({"params": p}, X).sum())
        return str(jax.make_jaxpr(grad)(params)).count("dot_general")

    assert products("attention") == products("none") + 1  # the program holds one block


def test_offloading_is_refused_where_devices_cannot_read_the_hosts_memory():
    with pytest.raises(ValueError, match=r"remat='offload' needs .* this is for 'cpu'"):
        Stack("offload").init(jax.random.key(0), X)


def test_offloading_moves_the_products_with_weights_to_the_host(params, monkeypatch):
    monkeypatch.setattr(module, "platform", lambda: "tpu")
    stack = Stack("offload", depth=4)
    grad = jax.grad(lambda p: stack.apply({"params": p}, X).sum())
    text = str(jax.make_jaxpr(grad)(params))
    assert "<host>" in text


def test_an_unknown_policy_is_refused():
    message = "remat='some' is none of none, full, dots, dots_no_batch, attention, offload"
    with pytest.raises(ValueError, match=message):
        Stack("some").init(jax.random.key(0), X)
