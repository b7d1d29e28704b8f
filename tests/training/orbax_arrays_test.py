"""Arrays through Orbax: another model is one line, and a failure prints no tracebacks."""

import asyncio
import logging
import pathlib
import sys
import types
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import SingleDeviceSharding

from mmjax.training import orbax_arrays


def write(folder: pathlib.Path, tree: Any) -> pathlib.Path:
    """A folder as a save leaves it, without its manifest."""
    folder.mkdir()
    calls: list[int] = []
    orbax_arrays.write(folder, orbax_arrays.named(tree), lambda: calls.append(1))
    assert calls == [1]
    orbax_arrays.finalize(folder)
    return folder


def like(tree: Any) -> Any:
    here = SingleDeviceSharding(jax.devices()[3])
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), tree)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "int32", "uint8", "bool"])
def test_every_type_comes_back_on_the_device_asked_for(tmp_path: pathlib.Path, dtype: str) -> None:
    tree = {"a": jnp.arange(6).astype(dtype).reshape(2, 3), "b": [jnp.zeros((0, 2), dtype)]}
    found = orbax_arrays.read(write(tmp_path / "state", tree), like(tree))
    assert jax.tree.structure(found) == jax.tree.structure(tree)
    assert found["a"].dtype == dtype
    assert found["a"].devices() == found["b"][0].devices() == {jax.devices()[3]}
    assert np.array_equal(found["a"], tree["a"])
    assert found["b"][0].shape == (0, 2)


def test_only_a_large_array_is_written_in_slices_by_those_that_hold_it(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mesh = jax.sharding.Mesh(jax.devices(), "data")
    everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    tree = jax.device_put(
        {"small": jnp.arange(24.0).reshape(8, 3), "large": jnp.arange(8 * 2**18) * 1.0}, everywhere
    )
    sliced = []
    slice_in_dim = jax.lax.slice_in_dim

    def counted(x: jax.Array, *given: Any, **named: Any) -> jax.Array:
        sliced.append(x.shape)
        return slice_in_dim(x, *given, **named)

    monkeypatch.setattr(jax.lax, "slice_in_dim", counted)
    found = orbax_arrays.read(write(tmp_path / "state", tree), like(tree))
    assert set(sliced) == {(8 * 2**18,)}
    assert len(sliced) == 8
    assert all(np.array_equal(found[name], tree[name]) for name in tree)


def test_not_a_number_and_minus_zero_keep_their_bits(tmp_path: pathlib.Path) -> None:
    bits = np.array([0x7FC00001, 0xFFC00002, 0x80000000, 0x00000001, 0x7F800000], np.uint32)
    tree = {"a": jnp.asarray(bits.view(np.float32))}
    before = np.asarray(tree["a"]).tobytes()
    found = orbax_arrays.read(write(tmp_path / "state", tree), like(tree))
    assert np.asarray(found["a"]).tobytes() == before


def test_another_model_is_one_line_that_names_the_arrays(tmp_path: pathlib.Path) -> None:
    saved = {"image": {"kernel": jnp.ones((4, 2)), "bias": jnp.ones(2, jnp.bfloat16)}}
    folder = write(tmp_path / "state", saved)
    wanted = {"image": {"weight": jnp.ones((4, 2)), "bias": jnp.ones(3)}}
    with pytest.raises(ValueError, match="of another model or optimizer") as caught:
        orbax_arrays.read(folder, like(wanted))
    text = str(caught.value)
    assert "\n" not in text
    assert "it lacks: image/weight" in text
    assert "it holds besides: image/kernel" in text
    assert "it holds in another form: image/bias bfloat16[2] not float32[3]" in text


def test_many_differences_are_cut(tmp_path: pathlib.Path) -> None:
    folder = write(tmp_path / "state", {"a": jnp.ones(1)})
    with pytest.raises(ValueError, match=r"layer0, layer1, .* and 95 more; it holds besides: a\."):
        orbax_arrays.read(folder, like({f"layer{n}": jnp.ones(1) for n in range(100)}))


def test_a_tree_without_shardings_is_refused(tmp_path: pathlib.Path) -> None:
    folder = write(tmp_path / "state", {"a": jnp.ones(1)})
    with pytest.raises(ValueError, match="needs a sharding for each array; a has none"):
        orbax_arrays.read(folder, {"a": jax.ShapeDtypeStruct((1,), jnp.float32)})


def test_one_part_comes_as_numpy(tmp_path: pathlib.Path) -> None:
    tree = {"params": {"a": {"b": jnp.arange(3.0)}}, "params2": {"c": jnp.ones(1)}}
    folder = write(tmp_path / "state", tree)
    found = orbax_arrays.read_numpy(folder, "params")
    assert found.keys() == {"a/b"}
    assert isinstance(found["a/b"], np.ndarray)
    assert np.array_equal(found["a/b"], [0, 1, 2])
    assert orbax_arrays.read_numpy(folder, "ema") == {}


def test_only_the_noise_of_failed_saves_is_dropped(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "state", {"a": jnp.ones(1)})
    asyncio_log = logging.getLogger("asyncio")
    asyncio_log.error("Future exception was never retrieved: unfinished-3-ab/state")
    asyncio_log.error("something else went wrong")
    assert [record.message for record in caplog.records] == ["something else went wrong"]
    shown: list[str] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda raised: shown.append(str(raised.exc_value)))
    orbax_arrays._hush.cache_clear()
    orbax_arrays._hush()
    for text in ("Event loop is closed", "something else"):
        sys.unraisablehook(types.SimpleNamespace(exc_value=RuntimeError(text)))
    assert shown == ["something else"]


def test_a_running_event_loop_is_no_hindrance(tmp_path: pathlib.Path) -> None:
    """As in a notebook: saves run in a thread of their own, reads in the caller's."""
    tree = {"a": jnp.ones(3)}
    folder = write(tmp_path / "state", tree)

    async def cell() -> Any:
        return orbax_arrays.read(folder, like(tree))

    assert np.array_equal(asyncio.run(cell())["a"], tree["a"])
