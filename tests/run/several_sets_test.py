"""Several held-out sets of a run, each with evaluators of its own."""

import json
import pathlib

import pytest

from mmjax.config import ConfigError, spec
from mmjax.data.tokenizers.training import train_bpe
from mmjax.evaluation.objectives import Objectives
from mmjax.evaluation.retrieval import Retrieval
from mmjax.run.assembly import assemble
from mmjax.run.config_file import load
from mmjax.run.evaluation import evaluate
from mmjax.run.options import Options
from mmjax.run.training import train

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"


def config():
    made = load(f"{CONFIGS / 'quickstart.py'}:smoke")
    with made.unlocked():
        one = made.eval_data
        other = one.copy_and_resolve_references()
        other.source.seed = 1
        made.eval_data = {"near": one, "far": other}
        made.evaluators = {
            "near": {"retrieval": spec(Retrieval, max_captions=1)},
            "far": {"objectives": spec(Objectives)},
        }
        made.best_metric = "near/retrieval/text_to_image/R@1"
        made.eval_steps = 1
    return made


def test_each_set_gives_numbers_under_its_name_also_when_evaluated_again(tmp_path):
    made, words = config(), tmp_path / "words.json"
    train_bpe(["a red circle on a noisy wall", "two blue squares"] * 9, 300, str(words))
    made.tokenizer.path = str(words)
    numbers = train(made, str(tmp_path / "run"), Options())
    words.unlink()  # the run has its own copy
    names = {"/".join(name.split("/")[:2]) for name in numbers}
    assert names == {"near/retrieval", "far/objectives"}
    assert numbers["far/objectives/samples"] == 32
    assert evaluate(str(tmp_path / "run")) == pytest.approx(numbers, abs=1e-6)
    assert evaluate(str(tmp_path / "run"), 2) == pytest.approx(numbers, abs=1e-6)
    evaluations = tmp_path / "run" / "evaluations"
    artifact = json.loads((evaluations / "2" / "near" / "retrieval.json").read_text())
    assert artifact["name"] == "near/retrieval"


def test_evaluators_of_no_set_are_refused():
    made = config()
    with made.unlocked():
        made.evaluators = {"objectives": spec(Objectives)}
        made.best_metric = ""
    with pytest.raises(ConfigError, match=r"as evaluators\.far\.objectives"):
        assemble(made)
