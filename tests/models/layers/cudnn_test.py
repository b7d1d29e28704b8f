import jax
import jax.numpy as jnp
import pytest
from jax._src.cudnn import fused_attention_stablehlo

from mmjax.models.layers.cudnn import fused


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
