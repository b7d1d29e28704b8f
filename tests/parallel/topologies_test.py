"""Names of devices that need not be here."""

import importlib.util

import jax
import pytest

from mmjax.parallel.topologies import check_name, open_topology, table


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("v9:4x4", "no such topology. There are v4:.*v5e:4x8.*--plan=list"),
        ("v5e:3x5", "no slice of v5e. These are: 1x1, 2x2"),
        ("v5e:16x16x2", "no slice of v5e"),
        ("v5p:8x4x4", "no slice of v5p"),
        ("v5e:4x4*0", "no slice of v5e"),
        ("cpu:many", "give cpu:8"),
    ],
)
def test_an_unknown_name_is_refused_with_names_that_work(name, said):
    with pytest.raises(ValueError, match=said):
        check_name(name)


@pytest.mark.parametrize("name", ["v5e:16x16", "v5e:16x16*2", "v5p:4x4x12", "cpu:8", "gpu"])
def test_a_known_name_passes(name):
    check_name(name)


def test_without_libtpu_the_command_that_installs_it_is_said(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install libtpu"):
        check_name("v5e:4x4")


def test_simulated_devices_are_those_that_were_asked_for():
    topology = open_topology("cpu:4")
    assert (len(topology.devices), topology.processes, topology.chip) == (4, 1, None)
    with pytest.raises(ValueError, match=f"begun with {len(jax.devices())} CPU devices"):
        open_topology("cpu:64")


def test_the_list_names_chips_and_fits_a_terminal():
    text = table()
    assert "v5e:16x16" in text
    assert "197 TF/s" in text
    assert max(map(len, text.splitlines())) <= 80
