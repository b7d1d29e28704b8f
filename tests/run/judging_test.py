"""A run whose evaluators ask heads: answers, statements, matching, classes, and its report."""

import io
import json
import pathlib
import tarfile

import numpy as np
import PIL.Image
import pytest

from mmjax.config import ConfigError, spec
from mmjax.data.answers import Answers
from mmjax.data.dataset import Dataset
from mmjax.data.fields import Fields
from mmjax.data.transforms.answers import AnswerScores
from mmjax.data.transforms.captions import PickCaption
from mmjax.data.transforms.resize import Resize
from mmjax.data.transforms.text import Tokenize
from mmjax.evaluation.answering import Answering
from mmjax.evaluation.classifying import Classifying
from mmjax.evaluation.matching import Matching
from mmjax.evaluation.reasoning import Reasoning
from mmjax.models.fusion.vilt import Vilt, ViltStream
from mmjax.objectives.answering import Answering as AnsweringGoal
from mmjax.run.config_file import load
from mmjax.run.evaluating import Evaluation
from mmjax.run.options import Options
from mmjax.run.training import train
from mmjax.training.step import Goal
from mmjax.typing import View

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"
SEEN = View("fuse", ("token_ids", "text_mask", "image"))
COLOURS = {"red": (220, 30, 30), "green": (30, 180, 60), "blue": (40, 60, 220)}
SAMPLES = 20  # two batches and a half


def write_tar(path, people=1):
    """Pictures with a coloured square somewhere, and what is asked of them."""
    with tarfile.open(path, "w") as tar:
        for number in range(SAMPLES):
            colour = list(COLOURS)[number % 3]
            picture = np.full((32, 48, 3), 230, np.uint8)
            top, left = number % 20, 7 * number % 36
            picture[top : top + 12, left : left + 12] = COLOURS[colour]
            file = io.BytesIO()
            PIL.Image.fromarray(picture).save(file, "PNG")
            record = {
                "question": f"what colour is shape {number}?",
                "answers": [colour] * people,
                "answer_type": "colour",
                "question_id": 100 + number,
                "truth": number % 2 == 0,
                "identifier": f"dev-{number // 2}-{number % 2}-0",
                "colour": number % 3,
            }
            members = {"png": file.getvalue(), "json": json.dumps(record).encode()}
            for ending, content in members.items():
                entry = tarfile.TarInfo(f"{number:04d}.{ending}")
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
    return path


def asking(data, **evaluators):
    config = load(f"{CONFIGS / 'quickstart.py'}:smoke")
    config.vocab_size = 300
    stream = spec(
        ViltStream,
        vocab_size=300,
        length=24,
        image_size=32,
        patch_size=8,
        dim=16,
        depth=1,
        num_heads=2,
        mlp_dim=16,
    )
    heads = ("matching", "answer", "reasoning")
    config.model = spec(Vilt, stream=stream, heads=heads, answers=3, pictures=1)
    told = {"answers_from": "json:answers", "truth_from": "json:truth"}
    facts = tuple(f"json:{name}" for name in ("answer_type", "question_id", "identifier"))
    config.data = config.eval_data = spec(
        Dataset,
        path=str(data),
        fields=spec(
            Fields,
            image_from="png",
            caption_from="json:question",
            label_from="json:colour",
            facts_from=facts,
            **told,
        ),
        transforms=(
            spec(Resize, size=32),
            spec(PickCaption, first=True),
            spec(Tokenize, partial=("tokenizer",), length=24, bos=True, eos=True),
            spec(AnswerScores, answers=spec(Answers, names=tuple(COLOURS)), scoring="one"),
        ),
    )
    goal = spec(AnsweringGoal, fuse=(SEEN.method, SEEN.words))
    config.goals = {"answers": spec(Goal, objective=goal)}
    config.evaluators = evaluators
    config.optimizer.clamps = ()
    config.batch_size = config.eval_batch_size = 8
    config.steps = config.log_steps = config.save_steps = 1
    return config


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(the workdir, contexts that evaluators were given)."""
    folder = tmp_path_factory.mktemp("asked")
    config = asking(
        write_tar(folder / "asked.tar"),
        answering=spec(Answering, results=True),
        reasoning=spec(Reasoning),
        matching=spec(Matching),
        colours=spec(
            Classifying,
            method="fuse",
            words=SEEN.words,
            head="answer_logits",
            classes=tuple(COLOURS),
        ),
    )
    contexts = []
    made = Evaluation.context
    with pytest.MonkeyPatch.context() as patch:

        def kept(self, params, state):
            contexts.append(made(self, params, state))
            return contexts[-1]

        patch.setattr(Evaluation, "context", kept)
        train(config, str(folder / "run"), Options())
    return folder / "run", contexts


def test_each_evaluator_leaves_its_numbers_and_the_report_shows_them(run):
    folder, _ = run
    rows = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    (numbers,) = [row for row in rows if row["kind"] == "evaluate"]
    assert numbers["answering/questions"] == numbers["matching/pairs"] == SAMPLES
    assert numbers["answering/accuracy_chance"] == pytest.approx(7 / 20)
    assert numbers["answering/answer_type/accuracy@colour"] == numbers["answering/accuracy"]
    assert numbers["answering/accuracy"] == numbers["colours/top1"]  # the same head's choice
    assert numbers["reasoning/groups"] == SAMPLES / 2
    results = json.loads((folder / "evaluations/1/answering.results.json").read_text())
    assert [one["question_id"] for one in results] == list(range(100, 120))
    page = (folder / "report.html").read_text()
    for part in ("answering accuracy", "worst by their loss", 'class="look"', "own picture"):
        assert part in page, part
    assert "could not be drawn" not in page


def test_chosen_samples_come_in_their_order_with_the_pictures_of_others(run):
    _, contexts = run
    context = contexts[0]
    whole = np.concatenate([context.scores(SEEN, "answer_logits", b) for b in context.batches()])
    order = [7, 0, 3, 19, 4, 11, 2, 18, 5]
    first, second = list(context.chosen(order))
    assert second["valid"].tolist() == [True] + [False] * 7
    assert first["position"].tolist() == order[:8]
    np.testing.assert_array_equal(first["label"], np.asarray(order[:8]) % 3)
    scores = context.scores(SEEN, "answer_logits", first)
    np.testing.assert_allclose(scores, whole[order[:8]], rtol=1e-5, atol=1e-6)
    others = [1, 2, 5, 8, 19, 0, 13, 6]
    (paired,) = context.chosen(order[:8], others, ("image",))
    images = np.asarray(paired["device"]["image"])
    for row, other in enumerate(others):
        np.testing.assert_array_equal(images[row], context.sample(other)["image"])
    np.testing.assert_array_equal(paired["device"]["token_ids"], first["device"]["token_ids"])


def test_attention_lies_on_the_cells_of_the_grid(run):
    _, contexts = run
    context = contexts[0]
    values, boxes = context.attention(SEEN, next(context.batches()))
    assert values.shape == (8, 17)
    np.testing.assert_allclose(boxes[0, 6], [0.25, 0.25, 0.5, 0.5])
    assert ((values > 0) & (values < 1)).all()
    assert (values.sum(1) < 1).all()  # the rest is the words' own


@pytest.mark.parametrize(
    ("evaluator", "changes", "message"),
    [
        (spec(Answering, scoring="ten"), {}, r"evaluators\.asked: scoring='ten' is for 10 answers"),
        (spec(Reasoning), {"facts_from": ()}, "json:identifier"),
        (spec(Reasoning, words=("token_ids", "regions")), {}, "eval_data gives no 'regions'"),
        (spec(Answering, head="naming_logits"), {}, "Vilt has no method of this name"),
        (spec(Matching), {}, r"needs the head 'matching', and the model has heads=\('answer',\)"),
    ],
)
def test_what_cannot_be_scored_stops_before_anything_compiles(
    tmp_path, monkeypatch, evaluator, changes, message
):
    config = asking(write_tar(tmp_path / "asked.tar"), asked=evaluator)
    if evaluator.target.endswith("Matching"):
        config.model.heads = ("answer",)
    for name, value in changes.items():
        config.eval_data.fields[name] = value
    monkeypatch.setattr("mmjax.run.training.Compiled", None)
    with pytest.raises(ConfigError, match=message):
        train(config, str(tmp_path / "run"), Options())
