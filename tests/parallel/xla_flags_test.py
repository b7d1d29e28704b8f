"""The compiler's flags: known to it, and never against what a person has set."""

import jax
import pytest

from mmjax.parallel import xla_flags


def test_each_platform_has_its_own():
    assert xla_flags.compiler_options("tpu") == dict(xla_flags.TPU)
    assert xla_flags.compiler_options("gpu") == dict(xla_flags.GPU)
    assert xla_flags.compiler_options("cpu") == {}
    assert xla_flags.compiler_options("cpu", once=True) == dict(xla_flags.CPU_ONCE)
    assert xla_flags.compiler_options("tpu", once=True) == {}


@pytest.mark.parametrize("variable", xla_flags.VARIABLES)
def test_what_a_person_has_set_is_left_alone(variable, monkeypatch):
    name = "xla_gpu_enable_pipelined_all_gather"
    monkeypatch.setenv(variable, f"--xla_dump_to=/nowhere --{name}=false")
    expected = {other: value for other, value in xla_flags.GPU.items() if other != name}
    assert xla_flags.compiler_options("gpu") == expected


def test_the_compiler_knows_the_flags():
    once = jax.jit(lambda x: x + 1, compiler_options=dict(xla_flags.CPU_ONCE))
    assert once(1.0) == 2
    known = jax.jit(lambda x: x + 1, compiler_options=dict(xla_flags.GPU))
    assert known(1.0) == 2
    unknown = jax.jit(lambda x: x + 1, compiler_options={"xla_gpu_no_such_flag": True})
    with pytest.raises(jax.errors.JaxRuntimeError, match="No such compile option"):
        unknown(1.0)
