"""Adafactor, in the original form and in the one that trained ViT-G, SigLIP and their like."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import optax

from mmjax.training.optimizers.base import (
    LARGEST,
    Optimizer,
    Transformation,
    check_above_zero,
    check_decays,
)
from mmjax.training.optimizers.layers import by_layer


@dataclasses.dataclass(frozen=True)
class Adafactor(Optimizer):
    """Second moments kept as means over rows and columns, so that they cost next to nothing.

    The defaults are big_vision's `scale_by_adafactor`, of Zhai et al. 2022: first moment in
    bfloat16, the second one's decay held below a cap, no scaling by the size of the parameters.
    SigLIP takes b2_cap=0.95 and, for its rate and decay of 1e-3 and 1e-4, weight_decay=0.1 here.
    Shazeer and Stern's own: b2_cap=1.0, momentum=0.0, clipping_threshold=1.0,
    multiply_by_parameter_scale=True, min_dim_size_to_factor=1 (optax: 128).

    Args:
      b2_exponent: at update t, from 1, the mean square decays by 1 - t^-b2_exponent; above 0.
      b2_cap: greatest decay of the mean square, above 0, at most 1 (no cap).
      eps: added to the squares of the gradients, above 0.
      min_dim_size_to_factor: an array keeps all its mean squares where one of its two largest
        sides is below this; of a stack each layer's own sides count.
      clipping_threshold: greatest root mean square of one array's step, above 0, or None.
      multiply_by_parameter_scale: whether steps are multiplied by the root mean square of the
        array's parameters (at least 1e-3), so that the rate is relative.
      momentum: decay of the mean of the steps, without bias correction, 0 to 1; 0 keeps none.

    The other arguments are those of `Optimizer`; the rate comes after the momentum.

    Raises:
      ValueError: a number out of its range.

    Source: Shazeer and Stern 2018, "Adafactor: Adaptive Learning Rates with Sublinear Memory
    Cost", algorithms 4 and 5; Zhai et al. 2022, "Scaling Vision Transformers", section 3.4;
    big_vision/optax.py `scale_by_adafactor`; Zhai et al. 2023 (SigLIP) for
    the cap.
    """

    b2_exponent: float = 0.8
    b2_cap: float = 0.999
    eps: float = 1e-30
    min_dim_size_to_factor: int = 32
    clipping_threshold: float | None = None
    multiply_by_parameter_scale: bool = False
    momentum: float = 0.9
    mu_dtype: str = "bfloat16"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_decays(momentum=self.momentum)
        if not 0 < self.b2_cap <= 1:
            raise ValueError(f"b2_cap={self.b2_cap}: above 0 and at most 1 (no cap) is needed.")
        for name in ("b2_exponent", "eps", "min_dim_size_to_factor"):
            check_above_zero(**{name: getattr(self, name)})
        if self.clipping_threshold is not None and not 0 < self.clipping_threshold <= LARGEST:
            raise ValueError(
                f"clipping_threshold={self.clipping_threshold}: above 0 and finite, or None for no "
                "clipping."
            )

    def chain(
        self, shapes: Mapping[str, tuple[int, ...]], decay: Transformation
    ) -> Sequence[tuple[str, Transformation]]:
        """The step by its root mean square, its clipping, its scale, its mean, the decay."""

        def b2(count: Any, exponent: float) -> Any:
            return jnp.minimum(self.b2_cap, 1 - jnp.asarray(count + 1, jnp.float32) ** -exponent)

        factored = optax.scale_by_factored_rms(
            decay_rate=self.b2_exponent,
            min_dim_size_to_factor=self.min_dim_size_to_factor,
            epsilon=self.eps,
            decay_rate_fn=b2,
        )
        clip, scale = optax.identity(), optax.identity()
        if self.clipping_threshold is not None:
            clip = by_layer(optax.clip_by_block_rms(self.clipping_threshold))
        if self.multiply_by_parameter_scale:
            scale = by_layer(optax.scale_by_param_block_rms())
        mean = optax.identity()
        if self.momentum:
            mean = optax.ema(self.momentum, debias=False, accumulator_dtype=self.mu_dtype)
        return (
            ("factored", by_layer(factored)),
            ("clipping", clip),
            ("parameter_scale", scale),
            ("momentum", mean),
            ("decay", decay),
        )
