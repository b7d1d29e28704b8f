"""The vocabulary of answers; the normalised form itself is tested with the metrics."""

import pytest

from mmjax.data.answers import Answers

TEN = ["two"] * 4 + ["2"] * 3 + ["three"] * 3


def test_the_most_frequent_right_answers_are_kept_in_order_of_how_often_they_were_right():
    found = Answers.most_frequent([TEN, ["2"], ["A dog."], ["dog"], ["yes"]])
    assert found.names == ("2", "dog", "yes")
    assert Answers.most_frequent([TEN, ["2"], ["no"]], times=2).names == ("2",)
    assert Answers.most_frequent([["c"], ["b"], ["d"]], most=2).names == ("b", "c")
    with pytest.raises(ValueError, match="no answer is right 3 times"):
        Answers.most_frequent([["b"]], times=3)


def test_it_is_written_and_read(tmp_path):
    answers = Answers(("ja", "Größe", "2"))
    (tmp_path / "answers.json").write_text(answers.to_json(), encoding="utf-8")
    (tmp_path / "answers.txt").write_text("ja\nGröße\n\n2\n", encoding="utf-8")
    assert Answers.read(tmp_path / "answers.json") == answers
    assert Answers.read(str(tmp_path / "answers.txt")) == answers


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        ('{"answers": 3}', "holds no list of answers"),
        ('["a", 1]', "holds no list of answers"),
        ('["a", "a"]', "'a' stands 2 times"),
        ("[]", "has at least one"),
    ],
)
def test_what_is_no_vocabulary_is_refused(tmp_path, content, message):
    (tmp_path / "answers.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        Answers.read(tmp_path / "answers.json")


def test_alike_answers_are_one_and_the_first_counts():
    assert Answers(("Two", "2", "a cat")).compared == {"2": 0, "cat": 2}
