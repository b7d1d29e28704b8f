"""What was asked for is there, or the refusal says what is and what to do."""

import importlib.util
from types import SimpleNamespace

import jax
import pytest

from mmjax.parallel.accelerator import leave_out_tpu, require


@pytest.fixture
def devices(monkeypatch):
    """Makes the machine one with such devices; JAX_PLATFORMS unset."""

    def make(platform, kind, platforms=None):
        device = SimpleNamespace(platform=platform, device_kind=kind)
        monkeypatch.setattr(jax, "local_devices", lambda: [device] * 4)
        monkeypatch.setattr(
            "mmjax.parallel.accelerator.jax.config", SimpleNamespace(jax_platforms=platforms)
        )

    return make


def test_nothing_asked_is_nothing_refused(devices):
    devices("cpu", "cpu")
    require("")


def test_what_is_there_is_taken(devices):
    devices("gpu", "NVIDIA H100")
    require("gpu")
    devices("tpu", "TPU v5 lite", platforms="tpu,cpu")
    require("tpu")


@pytest.mark.parametrize(("platform", "extra"), [("gpu", "cuda"), ("tpu", "tpu")])
def test_a_silent_cpu_is_refused_with_the_extra_to_install(devices, monkeypatch, platform, extra):
    devices("cpu", "cpu")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: [])
    with pytest.raises(ValueError, match=r"JAX found 4 x cpu \(cpu\)") as error:
        require(platform)
    assert f"pip install 'mmjax[{extra}]'" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_plugin_without_its_device_points_at_the_driver(devices, monkeypatch):
    devices("cpu", "cpu")
    plugin = SimpleNamespace(name="cuda13")
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: [plugin])
    with pytest.raises(ValueError, match="does `nvidia-smi` show"):
        require("gpu")


def test_platforms_that_keep_jax_from_it_are_named(devices):
    devices("cpu", "cpu", platforms="cpu")
    with pytest.raises(ValueError, match="JAX_PLATFORMS=cpu keeps it from others"):
        require("gpu")


def test_a_platform_that_does_not_start_is_one_line(devices, monkeypatch):
    devices("cpu", "cpu", platforms="tpu")

    def fail():
        raise RuntimeError("Unable to initialize backend 'tpu':\n no chips")

    monkeypatch.setattr(jax, "local_devices", fail)
    with pytest.raises(ValueError, match="JAX found Unable to initialize backend 'tpu': no chips"):
        require("tpu")


@pytest.mark.parametrize(
    ("platforms", "advice"),
    [("cuda", r"pip install 'mmjax\[cuda\]'"), ("quantum", "name a platform that is here")],
)
def test_platforms_that_do_not_start_are_one_line_though_nothing_is_asked(
    devices, monkeypatch, platforms, advice
):
    devices("cpu", "cpu", platforms=platforms)

    def fail():
        raise AssertionError  # as JAX has it without a plugin

    monkeypatch.setattr(jax, "local_devices", fail)
    monkeypatch.setattr("mmjax.parallel.accelerator._installed", lambda platform: False)
    with pytest.raises(
        ValueError, match=f"^JAX_PLATFORMS={platforms}: JAX found no device.*{advice}"
    ):
        require("")


def test_other_words_are_refused():
    with pytest.raises(ValueError, match="give one of tpu, gpu"):
        require("quantum")


@pytest.mark.parametrize(
    ("installed", "chips", "platforms", "done"),
    [
        (True, False, None, True),
        (False, False, None, False),
        (True, True, None, False),
        (True, False, "tpu,cpu", False),
    ],
)
def test_tpus_are_not_looked_for_where_there_are_none(
    monkeypatch, installed, chips, platforms, done
):
    config = SimpleNamespace(jax_platforms=platforms)
    config.update = lambda name, value: setattr(config, name, value)
    monkeypatch.setattr("mmjax.parallel.accelerator.jax.config", config)
    monkeypatch.setattr("mmjax.parallel.accelerator._installed", lambda platform: installed)
    monkeypatch.setattr("mmjax.parallel.accelerator.has_tpu", lambda environ: chips)
    assert leave_out_tpu() is done
    assert config.jax_platforms == ("cpu" if done else platforms)
