"""A state has the same held-out numbers on one device and on eight."""

import pathlib

import jax
import pytest

from mmjax.config import override
from mmjax.data.dataset import members_of
from mmjax.data.tokenizers.training import train_bpe
from mmjax.parallel.mesh import make_mesh
from mmjax.run.assembly import assemble, open_tokenizer, with_tokenizer
from mmjax.run.beginning import stream_makers
from mmjax.run.config_file import load
from mmjax.run.evaluating import Evaluation
from mmjax.training.compiled import Compiled

QUICKSTART = pathlib.Path(__file__).parents[2] / "configs" / "quickstart.py"
HELD_OUT = 29  # three batches of 8 and five rows of a fourth


def on(mesh, parts):
    """(the run's start, its evaluation) compiled for a mesh."""
    streams = {name: maker.global_shapes for name, maker in stream_makers(parts).items()}
    compiled = Compiled(parts.recipe, mesh, streams, parts.settings["sharding_rules"])
    return compiled, Evaluation(parts, mesh, parts.settings["reading"])


def test_one_device_and_eight_give_the_same_numbers_where_the_last_batch_is_not_full(tmp_path):
    config = load(f"{QUICKSTART}:smoke")
    override(config, "eval_data.source.num_scenes", str(HELD_OUT))
    override(config, "eval_batch_size", "8")
    parts = assemble(config)
    (data,) = members_of(parts.streams["main"].data)
    train_bpe(data.captions(most=64), config.vocab_size, str(tmp_path / "tokenizer.json"))
    parts = with_tokenizer(parts, open_tokenizer(tmp_path / "tokenizer.json"))

    alone, evaluate_alone = on(make_mesh(devices=jax.devices()[:1]), parts)
    together, evaluate_together = on(make_mesh(), parts)
    state = jax.device_get(alone.init())
    one = evaluate_alone(jax.device_put(state, alone.shardings), 0, None)
    eight = evaluate_together(jax.device_put(state, together.shardings), 0, None)

    assert one.keys() == eight.keys()
    assert {name.split("/")[0] for name in one} == {"objectives", "retrieval", "zero_shot"}
    assert one["objectives/samples"] == one["zero_shot/samples"] == HELD_OUT
    assert one["retrieval/pictures"] == HELD_OUT
    assert len(make_mesh().devices.flat) == 8
    for name, value in one.items():
        assert eight[name] == pytest.approx(value, rel=1e-5), name
