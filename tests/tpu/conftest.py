"""Programs for TPUs that are not here: compiled by libtpu, never run."""

import functools

import jax
import pytest

from mmjax.parallel.compilation import no_cache
from mmjax.parallel.topologies import open_topology


@pytest.fixture(scope="session", autouse=True)
def uncached():
    """These tests themselves compile for chips whose programs no cache gives back."""
    with no_cache():
        yield


@functools.cache
def _devices(name):
    return open_topology(name).devices


@pytest.fixture(scope="session")
def chips():
    """The devices of a topology such as 'v5e:4x4'; an error where libtpu is not installed."""
    assert jax.config.jax_platforms == "cpu", "these tests must not take a TPU"
    return _devices
