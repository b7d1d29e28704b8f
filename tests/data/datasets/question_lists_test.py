"""Pictures with lists of questions, one question a record; easy-VQA and DAQUAR come so."""

import json
import pickle

import pytest

from mmjax.data.datasets.question_lists import QuestionLists, types_of
from mmjax.data.fields import Fields, check_first

# The pictures do not lie in the order of their numbers.
ASKED = {
    "b": (12, [["what color is the shape?", "red"], ["is there a shape?", "yes"]]),
    "c": (3, []),
    "a": (7, [["what is on the desk ?", ["book", "cup"]], ["how many ?", ["2"]]]),
    "d": (20, [["what is the red shape?", "circle"]]),
}


@pytest.fixture(scope="module")
def shard(tmp_path_factory, write_tar):
    files = {}
    for name, (image_id, asked) in ASKED.items():
        files[f"{name}.png"] = name.encode()
        files[f"{name}.json"] = json.dumps({"image_id": image_id, "qa": asked}).encode()
    return write_tar(tmp_path_factory.mktemp("asked") / "x.tar", files)


def test_each_question_is_a_record_with_its_picture(shard):
    source = pickle.loads(pickle.dumps(QuestionLists(shard)))
    records = [source[place] for place in range(len(source))]
    assert [record["question_id"] for record in records] == [7000, 7001, 12000, 12001, 20000]
    assert [record["png"] for record in records] == [b"a", b"a", b"b", b"b", b"d"]
    assert [record["answers"] for record in records][:3] == [["book, cup"], ["2"], ["red"]]
    assert records[3] == {
        "__key__": "b-1",
        "__shard__": shard,
        "png": b"b",
        "question": "is there a shape?",
        "answers": ["yes"],
        "question_type": "yes/no",
        "answer_type": "yes/no",
        "question_id": 12001,
        "image_id": 12,
    }
    with pytest.raises(IndexError, match="Question 5 of 5"):
        source[5]


def test_the_last_pictures_by_number_are_held_out(shard):
    train, held_out = (QuestionLists(shard, split, 2) for split in ("train", "held_out"))
    assert [train[place]["image_id"] for place in range(len(train))] == [7, 7]
    assert [held_out[place]["image_id"] for place in range(len(held_out))] == [12, 12, 20]
    assert train.describe() == "2 questions about 2 pictures (train)"
    assert len({s.fingerprint() for s in (train, held_out, QuestionLists(shard))}) == 3


def test_fields_take_its_members(shard):
    fields = Fields(
        caption_from="question",
        answers_from="answers",
        facts_from=("question_type", "answer_type", "question_id"),
    )
    sample = check_first(QuestionLists(shard), fields)
    assert sample["captions"] == ("what is on the desk ?",)
    assert sample["facts"]["question_id"] == "7000"


@pytest.mark.parametrize(
    ("question", "answer", "types"),
    [
        ("is there not a blue shape?", "no", ("yes/no", "yes/no")),
        ("what color is the shape?", "teal", ("colour", "other")),
        ("what is the colour of it ?", "red", ("colour", "other")),
        ("what is the blue shape?", "circle", ("shape", "other")),
        ("how many doors are ?", "2", ("number", "number")),
        ("what is behind the tape ?", "book", ("other", "other")),
    ],
)
def test_types_are_told_by_the_words(question, answer, types):
    assert types_of(question, answer) == types


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (["{"], "questions cannot be read: format: .*a0.json is not"),
        (['{"qa": []}'], "no 'image_id'; it holds image_id and qa"),
        (['{"image_id": 1, "qa": [["why?", 3]]}'], "'why\\?' has the answer 3"),
        (['{"image_id": 1, "qa": [["why?", []]]}'], "has the answer"),
        (['{"image_id": 1, "qa": []}'], "has no question"),
        (['{"image_id": 1, "qa": []}'] * 2, "two pictures with image_id 1"),
    ],
)
def test_other_layouts_are_refused(tmp_path, write_tar, contents, message):
    files = {}
    for number, content in enumerate(contents):
        files |= {f"a{number}.png": b"", f"a{number}.json": content.encode()}
    with pytest.raises(ValueError, match=message):
        QuestionLists(write_tar(tmp_path / "x.tar", files))


def test_wrong_splits_are_refused(shard):
    with pytest.raises(ValueError, match="split='val'; it is one of train, held_out"):
        QuestionLists(shard, "val")
    with pytest.raises(ValueError, match="held_out=4; of 4 pictures"):
        QuestionLists(shard, held_out=4)
    with pytest.raises(ValueError, match="split='held_out' with held_out=0 has no question"):
        QuestionLists(shard, "held_out")
