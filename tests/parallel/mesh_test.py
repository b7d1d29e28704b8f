"""Meshes of simulated devices, of several slices and of several processes."""

import dataclasses
from typing import Any

import numpy as np
import pytest

from mmjax.parallel.mesh import AXES, check_batch, make_mesh, rows_of_process


@dataclasses.dataclass(frozen=True)
class Chip:
    """What is asked of a device before anything runs on it."""

    id: int
    slice_index: int = 0
    process_index: int = 0
    platform: str = "cpu"
    device_kind: str = "chip"
    client: Any = None


def two_slices(**fields):
    """Eight chips, listed so that their slices alternate."""
    return [Chip(id=number, slice_index=number % 2, **fields) for number in range(8)]


def test_data_takes_the_devices_left_over():
    assert dict(make_mesh().shape) == {"data": 8, "fsdp": 1, "tensor": 1}
    assert dict(make_mesh(fsdp=2, tensor=2).shape) == {"data": 2, "fsdp": 2, "tensor": 2}
    assert make_mesh().axis_names == AXES


@pytest.mark.parametrize("sizes", [(3, 1, 1), (8, 2, 1), (-1, 3, 1)])
def test_a_mesh_that_does_not_fit_names_sizes_that_do(sizes):
    with pytest.raises(ValueError, match=r"does not fit 8 devices.*8x1x1, 4x2x1"):
        make_mesh(*sizes)


@pytest.mark.parametrize("sizes", [(0, 1, 1), (8, 0, 1), (8, 1, -1), (-2, 1, 1)])
def test_sizes_below_one_are_refused(sizes):
    with pytest.raises(ValueError, match="1 or more"):
        make_mesh(*sizes)


def test_an_indivisible_batch_names_its_neighbours():
    with pytest.raises(ValueError, match=r"batch_size=100 is no multiple of 8.*Take 96 or 104"):
        check_batch(100, make_mesh(), processes=1)
    with pytest.raises(ValueError, match="Take 24"):
        check_batch(3, make_mesh(), processes=3)
    check_batch(104, make_mesh(), processes=2)


def test_only_data_goes_from_one_slice_to_another():
    mesh = make_mesh(data=4, fsdp=2, devices=two_slices())
    slices = np.vectorize(lambda device: device.slice_index)(mesh.devices)
    assert slices.shape == (4, 2, 1)
    assert slices[:, 0, 0].tolist() == [0, 0, 1, 1]
    assert (slices == slices[:, :1, :1]).all()


@pytest.mark.parametrize(
    ("sizes", "fitting"), [((1, 8, 1), "8x1x1, 4x2x1, 2x4x1"), ((1, 4, 2), "4x1x2, 2x2x2")]
)
def test_a_mesh_that_would_cut_the_state_across_slices_names_sizes_that_do_not(sizes, fitting):
    with pytest.raises(ValueError, match=f"does not fit 2 slices of 4 devices.*do: {fitting}\\."):
        make_mesh(*sizes, devices=two_slices())


def test_gpu_nodes_are_no_slices():
    assert make_mesh(1, 8, 1, devices=two_slices(platform="gpu")).shape["fsdp"] == 8


def test_each_process_feeds_the_rows_of_its_devices():
    chips = [Chip(id=number, process_index=number // 4) for number in range(8)]
    mesh = make_mesh(devices=chips)
    assert rows_of_process(mesh, 16, 0).tolist() == list(range(8))
    assert rows_of_process(mesh, 16, 1).tolist() == list(range(8, 16))
    along_tensor = make_mesh(1, 1, 8, devices=chips)
    assert rows_of_process(along_tensor, 4, 0).tolist() == [0, 1, 2, 3]
    assert rows_of_process(along_tensor, 4, 1).tolist() == [0, 1, 2, 3]
    ring = [chips[number] for number in (0, 1, 4, 5, 6, 7, 2, 3)]
    assert rows_of_process(make_mesh(devices=ring), 8, 0).tolist() == [0, 1, 6, 7]
