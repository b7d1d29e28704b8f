"""Fields: what a record's members mean."""

import json

import numpy as np
import pytest

from mmjax.data.fields import Fields, check_first
from mmjax.data.sources.base import BadSample, Record, Source
from mmjax.data.transforms.decode import EncodedImage


def record(**changes):
    made = {
        "__key__": "000",
        "__shard__": "set/a.tar",
        "jpg": b"JPEG",
        "txt": b"one\r\n  two \n\n\tthree",
        "json": json.dumps(
            {
                "unified": "1F600",
                "captions": ["x y", " z "],
                "photo": {"title": "a\nb", "tags": [{"name": "sky"}]},
                "a.b": "dotted",
                "class": 7,
                "empty": None,
            }
        ).encode(),
    }
    made.update(changes)
    return {name: value for name, value in made.items() if value is not None}


def cause(fields, given):
    with pytest.raises(BadSample) as caught:
        fields(given)
    return caught.value.cause, caught.value.message


def test_the_usual_members_make_a_sample():
    sample = Fields()(record())
    assert sample["image"] == EncodedImage(b"JPEG", "set/a.tar: 000.jpg", (255, 255, 255))
    assert sample["captions"] == ("one", "two", "three")
    assert sample["key"] == "000"
    assert sample["record"] == record()
    assert sample.keys() == {"image", "captions", "key", "record"}


def test_the_background_of_transparent_pictures_is_passed_on():
    assert Fields(background=(1, 2, 3))(record())["image"].background == (1, 2, 3)


@pytest.mark.parametrize(
    ("place", "captions"),
    [
        ("json:captions", ("x y", "z")),
        ("json:photo.title", ("a", "b")),
        ("json:photo.tags.0.name", ("sky",)),
        ("json:a.b", ("dotted",)),
        ("json:nothing;json:empty;txt", ("one", "two", "three")),
        ("text;json:captions.1", ("z",)),
    ],
)
def test_captions_come_from_where_the_option_says(place, captions):
    assert Fields(caption_from=place)(record())["captions"] == captions


def test_a_text_may_be_one_caption_with_its_line_breaks():
    fields = Fields(caption_from="json:photo.title", caption_split="none")
    assert fields(record())["captions"] == ("a\nb",)


@pytest.mark.parametrize(
    "value", ["one\ntwo", b"\xef\xbb\xbfone\ntwo", ["one", "two"], [b"one", b"two"]]
)
def test_texts_may_be_str_bytes_or_lists_of_them(value):
    assert Fields()(record(txt=value))["captions"] == ("one", "two")


def test_json_may_be_parsed_already():
    given = record(json={"captions": ["a"], "class": 3})
    sample = Fields(caption_from="json:captions", label_from="json:class")(given)
    assert (sample["captions"], sample["label"]) == (("a",), 3)


def test_pixels_may_stand_in_for_a_file():
    pixels = np.zeros((4, 5, 3), np.uint8)
    assert Fields(image_from="image")(record(image=pixels))["image"] is pixels


@pytest.mark.parametrize(
    "value",
    [np.zeros((4, 5), np.uint8), np.zeros((4, 5, 3)), np.zeros((0, 5, 3), np.uint8), "path.jpg"],
)
def test_what_is_no_picture_is_a_bad_sample(value):
    found, message = cause(Fields(image_from="image"), record(image=value))
    assert found == "format"
    assert "set/a.tar: 000.image is no picture" in message


@pytest.mark.parametrize(
    ("place", "group"),
    [("json:unified", "1F600"), ("__key__", "000"), ("json:class", "7"), ("json:a.b", "dotted")],
)
def test_a_group_is_a_text_or_a_number(place, group):
    assert Fields(group_from=place)(record())["group"] == group


@pytest.mark.parametrize("value", [7, "7", b" 7\n", np.int64(7), np.array(7)])
def test_a_label_is_a_number_however_it_is_stored(value):
    label = Fields(label_from="cls")(record(cls=value))["label"]
    assert label == 7
    assert np.asarray(label).dtype == np.int32  # as the word says; JAX would cut an int64


@pytest.mark.parametrize("value", ["seven", -1, 1 << 31, True, 7.0, "", "٧", "9" * 5000, [7]])
def test_what_is_no_label_is_a_bad_sample(value):
    assert cause(Fields(label_from="cls"), record(cls=value))[0] == "format"


def test_fields_may_be_left_out():
    sample = Fields(image_from="", caption_from="", label_from="json:class")(record())
    assert sample.keys() == {"key", "record", "label"}


def test_a_missing_member_lists_the_members_found():
    found, message = cause(Fields(caption_from="text"), record())
    assert found == "missing"
    assert message == "set/a.tar: 000.*: caption_from='text', found jpg, txt, json."


def test_a_missing_json_field_lists_the_fields_found():
    found, message = cause(Fields(group_from="json:unifed"), record())
    assert found == "missing"
    assert "found jpg, txt, json:unified, json:captions, json:photo" in message


def test_members_that_were_not_read_are_listed_too():
    given = record(__members__=("jpg", "gif", "txt"))
    assert "found jpg, gif, txt." in cause(Fields(image_from="gif"), given)[1]


def test_a_place_that_is_not_there_in_a_row_of_a_table_shows_the_columns_as_places():
    row = {"__key__": "a.png", "png": b"PNG", "json": {"image": "a.png", "caption": "a dog"}}
    found, message = cause(Fields(), row)
    assert found == "missing"
    assert message.endswith("caption_from='txt', found png, json:image, json:caption.")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"txt": b" \n \r\n"}, "caption"),
        ({"txt": b""}, "caption"),
        ({"txt": []}, "caption"),
        ({"txt": b"\xff\xfe"}, "caption"),
        ({"txt": 5}, "caption"),
        ({"txt": ["a", 5]}, "caption"),
        ({"txt": "x" * ((1 << 24) + 1)}, "caption"),
        ({"txt": None}, "missing"),
        ({"jpg": None}, "missing"),
    ],
)
def test_a_caption_or_picture_that_cannot_be_used_is_a_bad_sample(changes, expected):
    assert cause(Fields(), record(**changes))[0] == expected


@pytest.mark.parametrize(
    "data", [b"", b"{", b"\xff", b"[" * 100_000, b"1" * 10_000, b" " * ((1 << 24) + 1)]
)
def test_json_that_cannot_be_read_is_a_bad_sample(data):
    assert cause(Fields(caption_from="json:a"), record(json=data))[0] == "format"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"caption_split": "words"}, "lines, none"),
        ({"background": (0, 0, 256)}, "0 to 255"),
        ({"caption_from": "json:"}, "caption_from='json:'"),
        ({"image_from": "jpg;;png"}, "image_from"),
        ({"label_from": ":class"}, "label_from"),
    ],
)
def test_an_option_outside_of_what_is_allowed_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Fields(**options)


class Few(Source):
    def __init__(self, records: list[Record]):
        self.records = records

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, position: int) -> Record:
        return self.records[position]

    def fingerprint(self) -> str:
        return "few"

    def describe(self) -> str:
        return "a few"


def test_a_wrong_option_stops_before_training():
    with pytest.raises(ValueError, match=r"a few: none of the first 3 .*found jpg, txt, json"):
        check_first(Few([record()] * 3), Fields(image_from="png"))


def test_one_bad_sample_at_the_front_does_not_stop_a_run():
    sample = check_first(Few([record(txt=b""), record()]), Fields())
    assert sample["captions"] == ("one", "two", "three")


def test_a_question_has_answers_facts_and_several_pictures():
    asked = {"question": "how many?", "answers": ["two", " 2 "], "type": "number", "id": 31}
    given = record(left=b"L", right=b"R", json=json.dumps(asked).encode())
    fields = Fields(
        images_from=("left", "right"),
        caption_from="json:question",
        answers_from="json:answers",
        facts_from=("json:type", "json:id"),
    )
    sample = fields(given)
    assert [picture.data for picture in sample["images"]] == [b"L", b"R"]
    assert "image" not in sample
    assert sample["answers"] == ("two", "2")
    assert sample["facts"] == {"type": "number", "id": "31"}
    assert cause(fields, record(left=b"L", json=given["json"]))[0] == "missing"
    assert cause(Fields(answers_from="json:empty;txt"), record(txt=b" "))[1].endswith("is empty.")


@pytest.mark.parametrize(
    ("value", "truth"), [("True", 1), (b"false\n", 0), (True, 1), (0, 0), (np.bool_(True), 1)]
)
def test_truth_is_told_in_several_ways(value, truth):
    assert Fields(truth_from="said")(record(said=value))["truth"] == truth


@pytest.mark.parametrize("value", ["maybe", 2, 0.5, None, b"\xff"])
def test_what_is_neither_true_nor_false_is_a_bad_sample(value):
    found, _ = cause(Fields(truth_from="said"), record(said=value))
    assert found in ("format", "missing", "caption")


def test_a_class_by_its_name_is_told_with_the_name():
    row = {"__key__": "a.png", "png": b"PNG", "json": {"class": "dog"}}
    found, message = cause(Fields(caption_from="", label_from="json:class"), row)
    assert found == "format"
    assert message == ("a.png.json:class is no class number but 'dog': number the classes from 0.")
