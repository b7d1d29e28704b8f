"""Compiling past the cache."""

import os
import shutil
import time
import zlib

import jax
import jax.numpy as jnp
import pytest
from jax.experimental.compilation_cache import compilation_cache

from mmjax.parallel import compilation
from mmjax.parallel.compilation import no_cache, use_cache


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The cache's folder, not made yet; the process's own cache stays as it is."""
    monkeypatch.setenv("MMJAX_CACHE", str(tmp_path))
    monkeypatch.setattr(compilation.jax.config, "update", lambda *_: None)
    use_cache()
    (made,) = (tmp_path / "xla").iterdir()
    shutil.rmtree(made)
    return made


def entry(folder, name, content, seconds_ago):
    path = folder / f"{name}-cache"
    path.write_bytes(content)
    then = time.time() - seconds_ago
    os.utime(path, (then, then))
    return path


def test_entries_that_were_cut_short_are_removed_and_others_stay(folder):
    folder.mkdir(parents=True)
    whole = zlib.compress(bytes(range(256)) * 99)
    kept = entry(folder, "whole", whole, 600)
    cut = [entry(folder, "cut", whole[:-9], 600), entry(folder, "empty", b"", 600)]
    written = entry(folder, "written", whole[:9], 5)  # perhaps by another process, just now
    assert use_cache() == ""
    assert not any(path.exists() for path in cut)
    assert [path.exists() for path in (kept, written)] == [True, True]
    old = entry(folder, "old", b"", 700)  # not looked at twice
    late = entry(folder, "late", b"", 61)
    then = time.time() - 300
    os.utime(folder / ".looked-at", (then, then))
    assert use_cache() == ""
    assert [path.exists() for path in (old, late)] == [True, False]


def test_a_full_disk_is_one_line_and_the_run_goes_on(folder, monkeypatch):
    room = shutil.disk_usage(folder.parent)._replace(free=1 << 20)
    monkeypatch.setattr(compilation.shutil, "disk_usage", lambda _: room)
    assert use_cache().endswith("(No space left on device); each start compiles anew.")


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
