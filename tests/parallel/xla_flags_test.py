"""The compiler's flags: known to it, and never against what a person has set."""

import logging

import jax
import pytest

from mmjax.parallel import xla_flags
from mmjax.parallel.mesh import make_mesh

PIPELINED = "xla_gpu_pipeline_all_gather"


def test_each_platform_has_its_own():
    assert xla_flags.wanted("tpu") == dict(xla_flags.TPU)
    assert xla_flags.wanted("gpu") == dict(xla_flags.GPU)
    assert xla_flags.wanted("cpu") == dict(xla_flags.CPU)
    assert xla_flags.wanted("cpu", once=True) == dict(xla_flags.CPU_ONCE)
    assert xla_flags.wanted("tpu", once=True) == {}


@pytest.mark.parametrize("name", [PIPELINED, xla_flags.FORMER[PIPELINED][0]])
@pytest.mark.parametrize("variable", xla_flags.VARIABLES)
def test_what_a_person_has_set_is_left_alone_by_either_name(variable, name, monkeypatch):
    monkeypatch.setenv(variable, f"--xla_dump_to=/nowhere --{name}=false")
    expected = {other: value for other, value in xla_flags.GPU.items() if other != PIPELINED}
    assert xla_flags.wanted("gpu") == expected


@pytest.mark.parametrize("once", [False, True])
def test_the_compiler_knows_the_flags(once, caplog):
    options = xla_flags.compiler_options(make_mesh(), once)
    assert options == dict(xla_flags.CPU_ONCE if once else xla_flags.CPU)
    assert not caplog.records
    assert jax.jit(lambda x: x + 1, compiler_options=options)(1.0) == 2


def test_gpu_flags_go_by_the_names_that_the_compiler_knows(monkeypatch, caplog):
    monkeypatch.setattr(xla_flags, "wanted", lambda *_: dict(xla_flags.GPU))
    options = xla_flags.compiler_options(make_mesh())  # a CPU's compiler parses them all the same
    assert len(options) == len(xla_flags.GPU)
    assert not caplog.records
    former = {xla_flags.FORMER.get(name, (name,))[0] for name in xla_flags.GPU}
    assert set(options) in (set(xla_flags.GPU), former)


def test_an_option_that_the_compiler_does_not_know_is_left_out_and_named(monkeypatch, caplog):
    asked = {"xla_gpu_no_such_flag": True, "xla_gpu_enable_latency_hiding_scheduler": True}
    monkeypatch.setattr(xla_flags, "wanted", lambda *_: asked)
    with caplog.at_level(logging.WARNING, "mmjax"):
        options = xla_flags.compiler_options(make_mesh())
    assert options == {"xla_gpu_enable_latency_hiding_scheduler": True}
    assert "does not know xla_gpu_no_such_flag" in caplog.text


def test_another_error_of_the_compiler_is_shown(monkeypatch):
    monkeypatch.setattr(xla_flags, "wanted", lambda *_: {"xla_gpu_autotune_level": 1 << 40})
    with pytest.raises(jax.errors.JaxRuntimeError):
        xla_flags.compiler_options(make_mesh())
