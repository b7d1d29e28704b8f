"""VQA in the layout of its official files."""

import json
import pickle

import numpy as np
import pytest

from mmjax.data.answers import Answers
from mmjax.data.datasets.vqa import VQA, read_annotations
from mmjax.data.fields import Fields, check_first
from mmjax.data.transforms.answers import AnswerScores

QUESTIONS = [
    {"image_id": 9, "question": "What colour?", "question_id": 9000},
    {"image_id": 25, "question": "How many?", "question_id": 25000},
    {"image_id": 9, "question": "Is it day?", "question_id": 9001},
    {"image_id": 9, "question": "Where?", "question_id": 9002},
]
GIVEN = {9000: ["red"] * 9 + ["Red."], 25000: ["2"] * 10, 9001: ["yes"] * 10, 9002: ["here"] * 10}
TYPES = {9000: "other", 25000: "number", 9001: "yes/no", 9002: "other"}
ANNOTATIONS = [
    {
        "question_type": "none of the above",
        "multiple_choice_answer": GIVEN[number][0],
        "answers": [{"answer": a, "answer_confidence": "yes"} for a in GIVEN[number]],
        "image_id": number // 1000,
        "answer_type": TYPES[number],
        "question_id": number,
    }
    for number in GIVEN
]
NAMES = ("COCO_train2014_000000000025.jpg", "COCO_train2014_000000000009.jpg")


def write(folder, questions=None, annotations=None, names=NAMES):
    """The two files and the pictures; their paths."""
    (folder / "pictures").mkdir(exist_ok=True)
    for name in names:
        (folder / "pictures" / name).write_bytes(name.encode())
    asked = {"data_subtype": "train2014", "questions": questions or QUESTIONS}
    (folder / "q.json").write_text(json.dumps(asked))
    (folder / "a.json").write_text(json.dumps({"annotations": annotations or ANNOTATIONS}))
    return str(folder / "q.json"), str(folder / "pictures"), str(folder / "a.json")


def test_a_question_comes_with_its_picture_and_ten_answers(tmp_path):
    source = pickle.loads(pickle.dumps(VQA(*write(tmp_path))))
    assert len(source) == 4
    for place, asked in enumerate(QUESTIONS):
        record = source[place]
        number = asked["question_id"]
        assert record.pop("jpg") == f"COCO_train2014_{asked['image_id']:012d}.jpg".encode()
        assert record == {
            "__key__": str(number),
            **asked,
            "answers": GIVEN[number],
            "multiple_choice_answer": GIVEN[number][0],
            "question_type": "none of the above",
            "answer_type": TYPES[number],
        }
    assert source.describe() == "q.json, 4 questions"
    fields = Fields(caption_from="question", answers_from="answers", facts_from=("question_id",))
    sample = check_first(source, fields)
    scored = AnswerScores(Answers(("red", "2")))(sample, np.random.default_rng(0))
    assert scored["answer_scores"].tolist() == [1.0, 0.0]


def test_pictures_may_lie_in_shards_and_answers_be_left_out(tmp_path, write_tar):
    shard = write_tar(tmp_path / "x.tar", {"image25.png": b"P", "000000000009.jpg": b"J"})
    source = VQA(write(tmp_path)[0], shard)
    assert (source[0]["jpg"], source[1]["png"]) == (b"J", b"P")
    assert not {"answers", "answer_type", "multiple_choice_answer"} & set(source[0])
    assert source.describe() == "q.json, 4 questions, without answers"
    assert source.fingerprint() != VQA(*write(tmp_path)).fingerprint()


def other(number=0, **values):
    return [{**row, **values} if n == number else row for n, row in enumerate(QUESTIONS)]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"names": NAMES[:1]}, "1 of 2 pictures are not in .*, such as number 9"),
        ({"names": (*NAMES, "COCO_val2014_000000000009.jpg")}, "two pictures number 9, COCO_"),
        ({"questions": other(question_id=8)}, "q.json: 1 of 4 questions .* such as number 8;"),
        ({"annotations": ANNOTATIONS[:1]}, "3 of 4 questions .* such as number 9001, 9002, 25000"),
        ({"questions": QUESTIONS[1:]}, "a.json: 1 of 4 questions are not in .*q.json"),
        ({"questions": other(image_id=25)}, "1 questions are about another picture"),
        ({"questions": other(question_id=9001)}, "holds question_id 9001 twice"),
        ({"questions": other(question=None)}, r"questions\[0\] has no question"),
        ({"questions": [3]}, r"questions\[0\] has no question_id: 3"),
    ],
)
def test_what_does_not_match_is_refused_with_its_numbers(tmp_path, changed, message):
    with pytest.raises(ValueError, match=message):
        VQA(*write(tmp_path, **changed))


def test_files_of_another_layout_are_refused(tmp_path):
    questions, pictures, annotations = write(tmp_path)
    with pytest.raises(ValueError, match=r"no list 'questions' .* it holds annotations"):
        VQA(annotations, pictures)
    (tmp_path / "a.json").write_text('{"annotations": [{"question_id": 1, "image_id": 1, ')
    with pytest.raises(ValueError, match="is not JSON"):
        VQA(questions, pictures, annotations)
    entry = {"question_id": 1, "image_id": 1, "answers": ["red"]}
    (tmp_path / "a.json").write_text(json.dumps({"annotations": [entry]}))
    with pytest.raises(ValueError, match="answers to question 1 are no list"):
        read_annotations(annotations)
    (tmp_path / "q.json").write_text('{"questions": []}')
    with pytest.raises(ValueError, match="holds no questions"):
        VQA(questions, pictures)
    with pytest.raises(FileNotFoundError):
        VQA(str(tmp_path / "no.json"), pictures)
