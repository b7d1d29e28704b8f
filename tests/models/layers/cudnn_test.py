import jax
import jax.numpy as jnp
import pytest
from jax._src.cudnn import fused_attention_stablehlo

from mmjax.models.layers import attend as attend_module
from mmjax.models.layers.attention import Attention
from mmjax.models.layers.cudnn import fused
from mmjax.models.layers.remat import recomputing


@pytest.mark.parametrize(
    ("length", "masked", "causal", "kind"),
    [
        (196, False, False, "NO_MASK"),
        (77, False, True, "PADDING_CAUSAL"),
        (77, True, False, "PADDING"),
        (64, True, False, "NO_MASK"),  # padding of texts is a bias
    ],
)
def test_the_kernel_is_in_the_program_for_a_gpu_forward_and_backward(
    monkeypatch, length, masked, causal, kind
):
    monkeypatch.setattr(fused_attention_stablehlo, "check_cudnn_version", lambda: 91100)
    x = jax.ShapeDtypeStruct((2, length, 4, 64), jnp.bfloat16)
    mask = jnp.ones((2, 1, length), bool) if masked else None

    def total(query, key, value):
        return fused(query, key, value, mask, causal).astype(jnp.float32).sum()

    traced = jax.jit(jax.grad(total, (0, 1, 2))).trace(x, x, x)
    text = traced.lower(lowering_platforms=("cuda",)).as_text()
    bias = "ScaleBias" if masked else ""
    assert f"@__cudnn$fmha{bias}Softmax(" in text
    assert f"@__cudnn$fmha{bias}SoftmaxBackward(" in text
    assert f"mask_type\\22: \\22{kind}\\22" in text
    even = length + length % 2
    assert f"tensor<2x{even}x4x64xbf16>" in text


@pytest.mark.parametrize(("remat", "times"), [("none", 1), ("dots_no_batch", 1), ("full", 2)])
def test_a_policy_that_stores_products_stores_what_the_kernel_returns(monkeypatch, remat, times):
    monkeypatch.setattr(fused_attention_stablehlo, "check_cudnn_version", lambda: 91100)
    monkeypatch.setattr(attend_module, "platform", lambda: "gpu")
    block, _ = recomputing(Attention, remat, scan=True)
    attention = block(num_heads=4, dtype="bfloat16", implementation="cudnn")
    x = jnp.zeros((2, 64, 256), jnp.bfloat16)
    params = jax.eval_shape(attention.init, jax.random.key(0), x, x)

    def total(params):
        return attention.apply(params, x, x).astype(jnp.float32).sum()

    traced = jax.jit(jax.value_and_grad(total)).trace(params)
    text = traced.lower(lowering_platforms=("cuda",)).as_text()
    assert text.count("@__cudnn$fmhaSoftmax(") == times
    assert text.count("@__cudnn$fmhaSoftmaxBackward(") == 1


@pytest.mark.parametrize(("queries", "keys"), [(77, 77), (77, 64), (64, 77)])
def test_odd_lengths_are_filled_up_before_the_projections(monkeypatch, queries, keys):
    monkeypatch.setattr(fused_attention_stablehlo, "check_cudnn_version", lambda: 91100)
    monkeypatch.setattr(attend_module, "platform", lambda: "gpu")
    attention = Attention(num_heads=4, dtype="bfloat16", implementation="auto")
    x = jnp.zeros((2, queries, 256), jnp.bfloat16)
    y = x if queries == keys else jnp.zeros((2, keys, 256), jnp.bfloat16)
    params = jax.eval_shape(attention.init, jax.random.key(0), x, y)

    def total(params, x):
        out = attention.apply(params, x, x if queries == keys else y)
        assert out.shape == (2, queries, 256)
        return out.astype(jnp.float32).sum()

    traced = jax.jit(jax.value_and_grad(total, (0, 1))).trace(params, x)
    text = traced.lower(lowering_platforms=("cuda",)).as_text()
    assert "mask_type\\22: \\22PADDING\\22" in text
    assert f"tensor<2x{queries + queries % 2}x4x64xbf16>" in text
    assert f"tensor<2x{keys + keys % 2}x4x64xbf16>" in text
    # The other sequence, and where its own outputs are cut, that cut's gradient.
    assert text.count("high = [0, 1") == (2 if queries % 2 else 1)


def test_what_attention_looked_at_has_no_places_that_only_fill_up(monkeypatch):
    monkeypatch.setattr(fused_attention_stablehlo, "check_cudnn_version", lambda: 91100)
    monkeypatch.setattr(attend_module, "platform", lambda: "gpu")
    attention = Attention(num_heads=4, dtype="bfloat16", implementation="auto")
    x = jnp.zeros((2, 77, 256), jnp.bfloat16)
    params = jax.eval_shape(attention.init, jax.random.key(0), x, x)
    _, seen = jax.eval_shape(lambda p: attention.apply(p, x, x, mutable=["attention"]), params)
    (own,) = seen["attention"]["own"]
    assert own.shape == (2, 4, 77, 77)
