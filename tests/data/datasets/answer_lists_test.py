"""The answers of a training set; the command that uses them is tested with the commands."""

import json

from mmjax.data.answers import Answers
from mmjax.data.datasets.answer_lists import answers_in, covered


def test_a_question_is_covered_by_its_most_frequent_answer():
    given = [["a dog", "dog", "cat"], ["two", "2", "3"], ["cat"], []]
    assert covered(Answers(("dog", "2")), given) == (2, 4)


def test_answers_are_read_from_both_layouts(tmp_path, write_tar):
    entry = {"question_id": 1, "image_id": 1, "answers": [{"answer": "a"}, {"answer": "b"}]}
    (tmp_path / "a.json").write_text(json.dumps({"annotations": [entry]}))
    assert list(answers_in(str(tmp_path / "a.json"))) == [["a", "b"]]
    asked = {"image_id": 1, "qa": [["why?", ["so", "so"]]]}
    files = {"a.png": b"", "a.json": json.dumps(asked).encode()}
    assert list(answers_in(write_tar(tmp_path / "x.tar", files))) == [["so, so"]]
