"""Arrays are read one by one: beside what stays there is a layer of theirs, and no copy of ours."""

import tracemalloc

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from mmjax.interop.forms import SAME, TRANSPOSED
from mmjax.interop.rows import Row, Table, Tied, layers, read
from mmjax.interop.tensors import Safetensors, WeightsError
from mmjax.parallel.cpu import aligned

DEPTH, WIDTH, WORDS = 12, 256, 8192
TABLE = Table(
    (
        Row("table", "table"),
        Tied("head", "table"),
        *layers("block.{n}", "blocks", DEPTH, [("up", "up", TRANSPOSED), ("bias", "bias", SAME)]),
    )
)
SHAPES = {
    "params/table": (WORDS, WIDTH),
    "params/blocks/up": (DEPTH, WIDTH, 2 * WIDTH),
    "params/blocks/bias": (DEPTH, 2 * WIDTH),
}


def saved(tmp_path, dtype):
    """A file of two large arrays; (path, its arrays)."""
    generator = np.random.default_rng(0)
    arrays = {"table": generator.normal(size=(WORDS, WIDTH)).astype(dtype)}
    arrays["head"] = arrays["table"].copy()
    for n in range(DEPTH):
        arrays[f"block.{n}.up"] = generator.normal(size=(2 * WIDTH, WIDTH)).astype(dtype)
        arrays[f"block.{n}.bias"] = generator.normal(size=2 * WIDTH).astype(dtype)
    save_file(arrays, tmp_path / "a.safetensors")
    return tmp_path / "a.safetensors", arrays


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [("float32", "float32"), ("float16", "float32"), ("float32", "bfloat16")],
)
def test_beside_what_stays_there_is_little(tmp_path, theirs, ours):
    file, arrays = saved(tmp_path, theirs)
    tensors = Safetensors([file])
    kind = np.dtype(jax.numpy.dtype(ours))
    tracemalloc.start()
    try:
        found = read(TABLE, tensors, SHAPES, kind=lambda _: kind).arrays
        stays, highest = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    largest = max(array.nbytes for array in found.values())
    assert stays >= sum(array.nbytes for array in found.values())
    assert (highest - stays) / largest <= 1.3
    np.testing.assert_array_equal(found["params/table"], arrays["table"].astype(kind))
    for n in range(DEPTH):
        expected = arrays[f"block.{n}.up"].T.astype(kind)
        np.testing.assert_array_equal(found["params/blocks/up"][n], expected)


def test_a_cpu_takes_what_was_read_without_a_copy(tmp_path):
    file, _ = saved(tmp_path, "float32")
    array = read(TABLE, Safetensors([file]), SHAPES).arrays["params/table"]
    placed = jax.device_put(array, jax.devices("cpu")[0])
    assert placed.unsafe_buffer_pointer() == array.ctypes.data
    empty = aligned((0, 3), np.float32)
    assert empty.shape == (0, 3)


def test_a_copy_that_is_none_is_noticed_at_its_end(tmp_path):
    file, arrays = saved(tmp_path, "float32")
    arrays["head"][-1, -1] += 1
    save_file(arrays, file)
    with pytest.raises(WeightsError, match="head should be a copy of table"):
        read(TABLE, Safetensors([file]), SHAPES)


def test_another_size_is_noticed_before_anything_is_read(tmp_path):
    file, _ = saved(tmp_path, "float32")
    shapes = {**SHAPES, "params/blocks/bias": (DEPTH, WIDTH)}
    placed = []
    with pytest.raises(WeightsError, match=r"block\.0\.bias has the shape \(512,\)"):
        read(TABLE, Safetensors([file]), shapes, lambda path, array: placed.append(path))
    assert not placed
