"""--show-sharding prints where each array lies, and makes neither arrays nor folders."""

import pathlib

import pytest

from mmjax.config import ConfigError, override
from mmjax.run.config_file import load
from mmjax.run.flags import parse_train
from mmjax.run.showing import show_sharding

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"


def shown(name, **values):
    config = load(str(CONFIGS / name))
    for path, value in values.items():
        override(config, path.replace("__", "."), str(value))
    return show_sharding(config)


def test_a_full_size_model_is_shown_without_its_data():
    text = shown("siglip_so400m.py", mesh__fsdp=4, mesh__tensor=2)
    lines = {line.split("  ")[0]: line.split() for line in text.splitlines()}
    assert "8 devices, data=1 x fsdp=4 x tensor=2" in text
    up = lines["params/image/blocks/mlp/up/kernel"]
    assert " ".join(up[1:]) == "27 x 1152 x 4304 -, fsdp, tensor 66,935,808"
    assert int(up[-1].replace(",", "")) == 27 * 1152 * 4304 * 4 // 8
    assert lines["params/log_scale"][1:] == ["scalar", "whole", "4"]
    assert max(map(len, text.splitlines())) <= 120


def test_moments_lie_as_their_parameters_do():
    text = shown("vit_b16.py", mesh__fsdp=8)
    lines = {line.split("  ")[0]: line.split() for line in text.splitlines()}
    assert lines["params"][-1] == lines["opt_state/adam/mu/..."][-1]


def test_micro_batches_that_a_run_would_refuse_are_refused():
    with pytest.raises(ConfigError, match="micro_batches=3 does not divide"):
        shown("vit_b16.py", micro_batches=3)


def test_an_axis_that_fell_back_is_marked_and_explained():
    text = shown("siglip_so400m.py", mesh__fsdp=1, mesh__tensor=8)
    (line,) = [line for line in text.splitlines() if "patches/embedding/kernel  " in line]
    assert line.endswith(" *")
    assert "* params/image/patches/embedding/kernel: tensor=8 does not divide 588" in text


def test_where_the_contract_does_not_say_all_the_data_is_asked():
    assert "params/image/output/kernel  48 x 32   -, fsdp" in shown(
        "features.py:smoke", mesh__fsdp=8
    )


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"mesh__fsdp": 3}, r"does not fit 8 devices\. These do: 8x1x1, 4x2x1"),
        ({"mesh__tensor": 8}, r"tensor = 8 does not divide the model's 12 'heads'.*1, 2, 3, 4, 6"),
        ({"batch_size": 100}, "Take 96 or 104"),
    ],
)
def test_what_a_run_would_refuse_is_refused(values, words):
    with pytest.raises(ConfigError, match=words):
        shown("vit_b16.py", **values)


def test_the_command_needs_a_workdir_only_to_train():
    config = f"--config={CONFIGS / 'features.py:smoke'}"
    assert parse_train([config, "--show-sharding"])[2].show_sharding
    with pytest.raises(ConfigError, match="required: --workdir"):
        parse_train([config])
