"""What the report draws of errors: whole, harmless and no wider than a phone."""

import re

import numpy as np
import pytest

from mmjax.evaluation.answering import Answering
from mmjax.evaluation.base import write_artifact
from mmjax.evaluation.matching import Matching
from mmjax.evaluation.report import write_report

HOSTILE = "</div></section><script>alert(1)</script>\"'&"
NAMES = ("yes", f"no{HOSTILE}")


@pytest.fixture
def page(tmp_path, judged_context):
    def attention(positions):
        cells = [[x / 8, 0, (x + 1) / 8, 1] for x in range(8)]
        return np.tile(np.arange(8.0), (len(positions), 1)), np.tile(cells, (len(positions), 1, 1))

    facts = [
        {"answers": (NAMES[n % 2],), "captions": (f"{HOSTILE} {n}",), "answer_type": HOSTILE * 40}
        for n in range(300)
    ]
    scores = np.tile([1.0, 2.0], (300, 1))
    context = judged_context(scores, facts, 100, attention=attention, answers=NAMES)
    write_artifact(tmp_path, 1, "answering", Answering(results=False)(context))
    wrong = np.ones((300, 300))
    context = judged_context(np.diag(wrong), facts, 100, wrong=wrong)
    write_artifact(tmp_path, 1, "ema/pairs", Matching()(context))
    return write_report(tmp_path).read_text()


def test_the_worst_stand_with_pictures_attention_and_what_was_said(page):
    assert page.count('class="card wrong"') == 24
    assert page.count('<rect class="look"') == 12 * 7  # one of the eight is not looked at
    assert "most 1.8×" in page  # 7 to a mean of 4 of the seven that are looked at
    assert "The model tells of no attention" in page
    assert "Text and picture: pairs" in page
    assert "moving average parameters. 300 samples." in page
    assert "The first 200 answers" in page
    assert "could not be drawn" not in page


def test_hostile_texts_stay_texts_and_long_ones_are_cut(page):
    assert "<script" not in page
    body = page.split("<main>")[1]
    for tag in ("section", "div", "svg", "table", "dl", "details"):
        assert len(re.findall(f"<{tag}[ >]", body)) == body.count(f"</{tag}>"), tag
    assert "alert(1)" in page
    assert len(page) < 600_000


def test_results_for_others_are_no_artifact_of_the_report(tmp_path, judged_context):
    facts = [{"answers": ("yes",), "captions": ("so?",), "question_id": "7"}]
    context = judged_context(np.asarray([[2.0, 1.0]]), facts, answers=NAMES)
    write_artifact(tmp_path, 1, "answering", Answering(results=True)(context))
    found = (tmp_path / "evaluations/1/answering.results.json").read_text()
    assert found == '[{"question_id": 7, "answer": "yes"}]'
    page = write_report(tmp_path).read_text()
    assert "question_id" not in page
    assert "Nothing is wrong." in page
