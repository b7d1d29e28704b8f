"""Attention on TPUs by JAX's Pallas kernel, which never stores the scores."""

import functools

import jax
import jax.numpy as jnp

from mmjax.parallel.sharding import on_each_device
from mmjax.typing import Array, Float

_LANES = 128  # of a TPU's vector unit; lengths are filled up to a multiple of it
_BLOCKS = (512, 384, 256, 128)  # the largest that divides the length is taken


def splash(
    query: Float[Array, "batch queries heads head_dim"],
    key: Float[Array, "batch keys heads head_dim"],
    value: Float[Array, "batch keys heads head_dim"],
    causal: bool = False,
) -> Float[Array, "batch queries heads head_dim"]:
    """softmax(q·k / √head_dim) · v, block by block.

    The compiler cannot divide a Pallas kernel over devices, so each runs it on its own rows and
    heads.

    Args:
      query: what each position looks for.
      key: what each position offers to be found by.
      value: what each position hands over.
      causal: whether a query sees only keys up to its own position.

    Source: Dao et al. 2022 (FlashAttention), algorithm 1; kernel:
    jax/experimental/pallas/ops/tpu/splash_attention.
    """
    words = ("batch", None, "heads", None)
    return on_each_device(functools.partial(_local, causal=causal), words)(query, key, value)


def _local(query: jax.Array, key: jax.Array, value: jax.Array, causal: bool) -> jax.Array:
    """`splash` of the rows and heads of one device."""
    # Loaded where the kernel runs: Pallas takes a sixth of a second that only a TPU needs.
    from jax.experimental.pallas.ops.tpu.splash_attention import (
        splash_attention_kernel as kernels,
    )
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    queries, heads, head_dim = query.shape[1:]
    scaled = (query.astype(jnp.float32) * head_dim**-0.5).astype(query.dtype)
    q, k, v = (_head_first(x) for x in (scaled, key, value))
    shape = (q.shape[2], k.shape[2])
    mask = masks.CausalMask(shape) if causal else masks.FullMask(shape)
    block_q, block_kv = (next(b for b in _BLOCKS if length % b == 0) for length in shape)
    kernel = kernels.make_splash_mha_single_device(
        masks.MultiHeadMask([mask] * heads),
        block_sizes=kernels.BlockSizes(
            block_q=block_q,
            block_kv=block_kv,
            block_q_dkv=block_q,
            block_kv_dkv=block_kv,
            block_q_dq=block_q,
            block_kv_dq=block_kv,
        ),
    )
    # What fills up is another segment, which nothing real looks at.
    segments = kernels.SegmentIds(
        q=(jnp.arange(shape[0]) >= queries).astype(jnp.int32),
        kv=(jnp.arange(shape[1]) >= key.shape[1]).astype(jnp.int32),
    )
    out = jax.vmap(kernel, in_axes=(0, 0, 0, None))(q, k, v, segments)
    return out[:, :, :queries].transpose(0, 2, 1, 3)  # [b, h, n, d] -> [b, n, h, d]


def _head_first(x: jax.Array) -> jax.Array:
    """[b, n, h, d] -> [b, h, n, d], the length filled up to a multiple of the lanes."""
    x = x.transpose(0, 2, 1, 3)
    return jnp.pad(x, ((0, 0), (0, 0), (0, -x.shape[2] % _LANES), (0, 0)))
