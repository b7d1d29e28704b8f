"""Compiling past the cache."""

import jax
import jax.numpy as jnp
from jax.experimental.compilation_cache import compilation_cache

from mmjax.parallel.compilation import no_cache


def test_inside_nothing_is_kept_and_afterwards_it_is(tmp_path):
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = [getattr(jax.config, name) for name in names]
    try:
        for name, value in zip(names, (str(tmp_path), 0.0)):
            jax.config.update(name, value)
        compilation_cache.reset_cache()
        shape = jax.ShapeDtypeStruct((7, 13), "float32")
        with no_cache():
            jax.jit(lambda x: jnp.sin(x) * 3).lower(shape).compile()
        assert not list(tmp_path.iterdir())
        jax.jit(lambda x: jnp.cos(x) * 3).lower(shape).compile()
        assert list(tmp_path.iterdir())
    finally:
        for name, value in zip(names, before):
            jax.config.update(name, value)
        compilation_cache.reset_cache()
