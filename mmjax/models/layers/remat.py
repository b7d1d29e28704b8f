"""What a block stores for the backward pass, and what it makes again there."""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
from jax.ad_checkpoint import checkpoint_name

from mmjax.parallel.sharding import platform

REMAT = ("none", "full", "dots", "dots_no_batch", "attention", "offload")
KEPT = "product"  # the name of what is stored
OFFLOADING = ("tpu", "gpu")  # where devices can read the host's pinned memory


def recomputing(
    block: type[nn.Module], remat: str, scan: bool
) -> tuple[type[nn.Module], Callable[..., Any] | None]:
    """(the block that recomputes, what its attention is wrapped in or None) for a policy's name.

    In falling order of memory where the scores are most of it; with short sequences 'attention' is
    near to 'none':

    * 'none' stores everything.
    * 'dots' stores every matrix product, the scores of the attention too.
    * 'attention' stores everything but the attention's inside: scores and weights, which grow with
      the square of the length, are made again from queries and keys.
    * 'dots_no_batch' stores what is `kept`: the products with weights, their biases added;
      convolutions too, and what cuDNN's attention returns, which needs no scores. With `scan` a
      small step on a CPU took a quarter less time than with 'none'.
    * 'offload' keeps the products of 'dots_no_batch', but in the host's memory (TPU, GPU); it makes
      convolutions and attention again.
    * 'full' stores the input of each block alone.

    Args:
      block: a module class.
      remat: one of these names.
      scan: whether the blocks run in a loop.

    Raises:
      ValueError: another name, or 'offload' where the platform has no pinned host memory.

    Source: Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost"; for 'attention'
    Korthikanti et al. 2022, "Reducing Activation Recomputation", section 5.
    """
    if remat not in REMAT:
        raise ValueError(f"remat={remat!r} is none of {', '.join(REMAT)}.")
    if remat == "offload" and platform() not in OFFLOADING:
        raise ValueError(
            f"remat='offload' needs devices that read the host's pinned memory "
            f"({', '.join(OFFLOADING)}); this is for {platform()!r}. Choose 'dots_no_batch' or "
            "'full'."
        )
    # The barrier against merging costs time, and within a loop nothing can be merged.
    prevent_cse = not scan
    if remat == "none":
        return block, None
    if remat == "attention":
        return block, functools.partial(jax.checkpoint, prevent_cse=prevent_cse)
    return nn.remat(block, prevent_cse=prevent_cse, policy=_policy(remat)), None


def recomputed(run: Callable[..., Any], remat: str) -> Callable[..., Any]:
    """A block as a plain function outside of any loop, storing what `recomputing` lets one store.

    Args:
      run: of arrays alone.
      remat: see `recomputing`; 'attention' is left to the attention itself.
    """
    if remat in ("none", "attention"):
        return run
    return jax.checkpoint(run, policy=_policy(remat))


def kept(x: Any) -> Any:
    """x, which the policies 'dots' and 'dots_no_batch' store.

    Products are stored with what is added to them right away: a GPU's library adds that within the
    product, unless the product itself is wanted too.
    """
    return checkpoint_name(x, KEPT)


def _policy(remat: str) -> Callable[..., Any]:
    """What is stored, by the name."""
    policies = jax.checkpoint_policies
    either = policies.save_from_both_policies
    products = either(policies.save_only_these_names(KEPT), _kernels)
    return {
        "full": policies.nothing_saveable,
        "dots": either(products, _scores),
        "dots_no_batch": products,
        "offload": policies.save_and_offload_only_these_names(
            names_which_can_be_saved=(),
            names_which_can_be_offloaded=(KEPT,),
            offload_src="device",
            offload_dst="pinned_host",
        ),
    }[remat]


def _kernels(primitive: Any, *_: Any, **__: Any) -> bool:
    """Whether an operation is a convolution, or cuDNN's attention, whose output is as small as its
    queries: a policy that stores their outputs."""
    fused = primitive.name.startswith("dot_product_attention_fwd")
    return fused or primitive is jax.lax.conv_general_dilated_p


def _scores(primitive: Any, *_: Any, **params: Any) -> bool:
    """Whether an operation multiplies activations with each other, as attention does."""
    return primitive is jax.lax.dot_general_p and any(params["dimension_numbers"][1])
