"""Programs for TPUs that are not here: compiled by libtpu, never run."""

import functools
import os

import jax
import pytest
from jax.experimental import topologies

# libtpu otherwise asks the cloud which chips there are, and locks them.
for name, value in {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-16",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}.items():
    os.environ.setdefault(name, value)


@functools.cache
def _devices(name):
    return topologies.get_topology_desc(platform="tpu", topology_name=name).devices


@pytest.fixture(scope="session")
def chips():
    """The devices of a topology such as 'v5e:4x4'; an error where libtpu is not installed."""
    assert jax.config.jax_platforms == "cpu", "these tests must not take a TPU"
    return _devices
