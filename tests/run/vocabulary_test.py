"""A run's vocabulary of answers: named, kept in the workdir, and fit for the model's head."""

import dataclasses
import functools
import pathlib

import numpy as np
import pytest

from mmjax.config import ConfigError
from mmjax.data.answers import Answers
from mmjax.data.dataset import Dataset
from mmjax.data.fields import Fields
from mmjax.data.sources.base import Record, Source
from mmjax.data.transforms.answers import AnswerScores
from mmjax.preprocess import Contract
from mmjax.run.assembly import Parts, Stream
from mmjax.run.vocabulary import answers_of, with_answers
from mmjax.training.optimizers.sgd import SGD
from mmjax.training.schedules import constant
from mmjax.training.step import Recipe

NOWHERE = pathlib.Path("nowhere")


class Asked(Source):
    def __len__(self):
        return 2

    def __getitem__(self, position) -> Record:
        return {"__key__": str(position), "question": "how many?", "answers": ["2"]}

    def fingerprint(self):
        return "asked"

    def describe(self):
        return "two questions"


@dataclasses.dataclass(frozen=True)
class Model:
    heads: tuple[str, ...] = ("answer",)
    answers: int = 3


def parts(transform, model=Model(), named=""):
    fields = Fields(image_from="", caption_from="question", answers_from="answers")
    data = Dataset(source=Asked(), fields=fields, transforms=(transform,))
    recipe = Recipe(model, {}, SGD(schedule=constant(0.1)), Contract(), 0)
    settings = {"answers": {"path": str(named)}}
    return Parts(recipe, {"main": Stream(data, 2)}, {"": data}, settings)


def waiting():
    return functools.partial(AnswerScores, scoring="one")


def test_the_file_that_is_named_is_bound_or_the_workdirs_own(tmp_path):
    kept = tmp_path / "answers.json"
    kept.write_text(Answers(("2", "3", "4")).to_json())
    bound = with_answers(parts(waiting()), kept)
    assert answers_of(bound.streams["main"].data).names == ("2", "3", "4")
    assert answers_of(bound.eval_data[""]).names == ("2", "3", "4")
    named = tmp_path / "mine.txt"
    named.write_text("5\n6\n2")
    bound = with_answers(parts(waiting(), named=named), kept)
    member = bound.streams["main"].data.members[0]
    sample = member.transforms[0]({"answers": ("two",)}, np.random.default_rng(0))
    np.testing.assert_array_equal(sample["answer_scores"], [0, 0, 1])


@pytest.mark.parametrize(
    ("path", "message"),
    [("", "'mmjax answers'"), ("missing.json", "No such file"), ("short.txt", "model.answers=1")],
)
def test_no_vocabulary_or_one_of_another_size_than_the_head_is_refused(tmp_path, path, message):
    (tmp_path / "short.txt").write_text("yes")
    with pytest.raises(ConfigError, match=message):
        with_answers(parts(waiting(), named=path and tmp_path / path), NOWHERE)


def test_a_model_without_that_head_takes_any_vocabulary(tmp_path):
    (tmp_path / "short.txt").write_text("yes")
    given = parts(waiting(), Model(heads=()), tmp_path / "short.txt")
    bound = with_answers(given, NOWHERE)
    assert answers_of(bound.eval_data[""]).names == ("yes",)


def test_streams_of_unlike_vocabularies_are_refused():
    one, other = (parts(AnswerScores(Answers(tuple(names)), "one")) for names in ("abc", "xyz"))
    both = dataclasses.replace(one, eval_data=other.eval_data)
    with pytest.raises(ConfigError, match="vocabularies of answers differ"):
        with_answers(both, NOWHERE)
