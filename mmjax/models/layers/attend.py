"""softmax(q·k / √head_dim) · v by the implementation that suits the platform."""

from typing import Any

import jax
import jax.numpy as jnp

from mmjax.models.layers.cudnn import fused
from mmjax.models.layers.splash import splash
from mmjax.parallel.sharding import platform
from mmjax.typing import Array, Bool, Float

IMPLEMENTATIONS = ("auto", "xla", "cudnn", "splash")
# Keys from which the scores are too many to be written and read again on a TPU. Below, XLA's own
# attention is the default: at 1,156 tokens, compiled for v5e, a small step took 36 MB with the
# kernel, which fills heads of 72 up to 128, and 28 MB without.
SPLASH_FROM = 2048


def attend(
    query: Float[Array, "batch queries heads head_dim"],
    key: Float[Array, "batch keys heads head_dim"],
    value: Float[Array, "batch keys heads head_dim"],
    mask: Bool[Array, "#batch #queries keys"] | None = None,
    *,
    causal: bool = False,
    implementation: str = "xla",
    filled: tuple[int, int] = (0, 0),
) -> Float[Array, "batch queries heads head_dim"]:
    """softmax(q·k / √head_dim) · v, with the softmax in float32 whatever the inputs are.

    Args:
      query: what each position looks for.
      key: what each position offers to be found by.
      value: what each position hands over.
      mask: True where a query may look at a key. A row without a single True looks at all keys
        alike, so that rows of padding stay finite.
      causal: whether a query sees only keys up to its own position, beside the mask.
      implementation: 'xla', 'cudnn' or 'splash'; see `choose`.
      filled: for 'cudnn', see `mmjax.models.layers.cudnn.fused`.

    Source: Vaswani et al. 2017, equation 1.
    """
    if implementation == "splash":
        return splash(query, key, value, causal)
    if causal and mask is not None:  # one mask, so that a row without a True is the same everywhere
        mask, causal = mask & jnp.tril(jnp.ones((query.shape[1], key.shape[1]), bool)), False
    if implementation == "cudnn":
        return fused(query, key, value, mask, causal, filled)
    heads = None if mask is None else mask[:, None]  # [b, q, k] -> [b, 1, q, k]
    how = {"is_causal": causal, "implementation": "xla"}
    return jax.nn.dot_product_attention(query, key, value, mask=heads, **how)


def weights(
    query: Float[Array, "batch queries heads head_dim"],
    key: Float[Array, "batch keys heads head_dim"],
    mask: Bool[Array, "#batch #queries keys"] | None = None,
    causal: bool = False,
) -> Float[Array, "batch heads queries keys"]:
    """softmax(q·k / √head_dim), which `attend` multiplies the values with; to look at.

    Args:
      query: as in `attend`.
      key: as in `attend`.
      mask: as in `attend`.
      causal: as in `attend`.
    """
    scores = jnp.einsum("bqhd,bkhd->bhqk", query, key).astype(jnp.float32)
    seen = jnp.ones((1, query.shape[1], key.shape[1]), bool) if mask is None else mask
    if causal:
        seen = seen & jnp.tril(jnp.ones((query.shape[1], key.shape[1]), bool))
    lowest = jnp.finfo(jnp.float32).min
    scores = jnp.where(seen[:, None], scores * query.shape[-1] ** -0.5, lowest)
    return jax.nn.softmax(scores, axis=-1)


def choose(
    implementation: str,
    query: jax.ShapeDtypeStruct,
    key: jax.ShapeDtypeStruct,
    mask: Bool[Array, "#batch #queries keys"] | None,
    causal: bool,
) -> str:
    """The implementation behind a name; called while tracing, when the platform is known.

    Args:
      implementation: 'xla' runs everywhere. 'cudnn' is cuDNN's fused attention (NVIDIA GPUs;
        bfloat16 or float16, heads of a multiple of 8 up to 128 numbers). 'splash' is JAX's Pallas
        kernel (TPUs; as many queries as keys, no mask but the causal one). Both never store the
        scores. 'auto' takes cuDNN on a GPU, and on a TPU splash from `SPLASH_FROM` keys on, where
        they can run, and XLA otherwise.
      query: shape and type of what `attend` will be given.
      key: the same.
      mask: as in `attend`.
      causal: as in `attend`.

    Raises:
      ValueError: another name, or a chosen implementation that cannot run; the message says why.
    """
    if implementation not in IMPLEMENTATIONS:
        raise ValueError(f"attention={implementation!r} is none of {', '.join(IMPLEMENTATIONS)}.")
    obstacles = {"cudnn": _against_cudnn, "splash": _against_splash}
    if implementation == "auto":
        suited = "cudnn" if platform() == "gpu" else "splash"
        long = suited == "cudnn" or key.shape[1] >= SPLASH_FROM
        runs = long and not obstacles[suited](query, key, mask, causal)
        return suited if runs else "xla"
    reason = implementation in obstacles and obstacles[implementation](query, key, mask, causal)
    if reason:
        raise ValueError(f"attention={implementation!r}: {reason}. Choose 'auto' or 'xla'.")
    return implementation


def _against_cudnn(query: Any, key: Any, mask: jax.Array | None, causal: bool) -> str:
    """Why cuDNN's kernel cannot run, or ''."""
    head_dim = query.shape[-1]
    if platform() != "gpu":
        return f"cuDNN runs on GPUs, and this is for {platform()!r}"
    if query.dtype not in (jnp.bfloat16, jnp.float16):
        return f"it takes bfloat16 or float16, not {query.dtype.name}; set dtype"
    if head_dim % 8 or head_dim > 128:
        return f"head_dim={head_dim} is no multiple of 8 up to 128"
    try:  # JAX's own checks: whether cuDNN is there, and new enough
        jax.eval_shape(
            jax.grad(lambda q, k: fused(q, k, k, mask, causal).astype("float32").sum()), query, key
        )
    except (RuntimeError, NotImplementedError) as error:
        return str(error).rstrip(".")
    return ""


def _against_splash(query: Any, key: Any, mask: jax.Array | None, _: bool) -> str:
    """Why the Pallas kernel cannot run, or ''."""
    if platform() != "tpu":
        return f"splash runs on TPUs, and this is for {platform()!r}"
    if mask is not None:
        return "it takes no mask of padding"
    if query.shape[1] != key.shape[1]:
        return f"it takes equal lengths, not {query.shape[1]} and {key.shape[1]}"
    return ""
