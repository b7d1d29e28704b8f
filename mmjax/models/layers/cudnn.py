"""Attention on NVIDIA GPUs by cuDNN's fused kernel, which never stores the scores."""

import jax
import jax.numpy as jnp

from mmjax.typing import Array, Bool, Float


def fused(
    query: Float[Array, "batch queries heads head_dim"],
    key: Float[Array, "batch keys heads head_dim"],
    value: Float[Array, "batch keys heads head_dim"],
    mask: Bool[Array, "#batch #queries keys"] | None = None,
    causal: bool = False,
    filled: tuple[int, int] = (0, 0),
) -> Float[Array, "batch queries heads head_dim"]:
    """softmax(q·k / √head_dim) · v; odd lengths are filled up, since training takes even ones only.

    Args:
      query: what each position looks for, bfloat16 or float16.
      key: what each position offers to be found by.
      value: what each position hands over.
      mask: True where a query may look at a key.
      causal: whether a query sees only keys up to its own position.
      filled: how many queries and keys at the end only fill up; without a mask. No other query sees
        such a key.

    Source: Dao et al. 2022 (FlashAttention), algorithm 1; even lengths:
    jax/_src/cudnn/fused_attention_stablehlo.py `check_is_flash_attention`.
    """
    batch, queries, keys = *query.shape[:2], key.shape[1]
    more = (queries % 2, keys % 2)
    lengths = (None, None)
    if any(more):
        query, key, value = (
            jnp.pad(x, ((0, 0), (0, extra), (0, 0), (0, 0)))
            for x, extra in zip((query, key, value), (more[0], more[1], more[1]))
        )
    if any(more) or any(filled):
        real = (queries - filled[0], keys - filled[1])
        lengths = tuple(jnp.full(batch, length, jnp.int32) for length in real)
    if mask is not None:
        mask = jnp.broadcast_to(mask, (mask.shape[0], queries, keys))  # it takes whole ones only
        mask = jnp.pad(mask, ((0, 0), (0, more[0]), (0, more[1])))[:, None]  # [b, 1, q, k]
    out = jax.nn.dot_product_attention(
        query,
        key,
        value,
        mask=mask,
        is_causal=causal,
        query_seq_lengths=lengths[0],
        key_value_seq_lengths=lengths[1],
        implementation="cudnn",
    )
    return out[:, :queries]
