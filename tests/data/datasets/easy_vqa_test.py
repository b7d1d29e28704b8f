"""easy-VQA from a shard."""

import json

from mmjax.data.answers import Answers
from mmjax.data.datasets.easy_vqa import EASY_VQA_ANSWERS, EasyVQA


def test_it_is_a_list_of_questions_with_pictures_held_out(tmp_path, write_tar):
    files = {}
    for number in range(4):
        asked = [["what color is the shape?", "teal"], ["is there a circle?", "no"]]
        files[f"train_{number:05d}.json"] = json.dumps({"image_id": number, "qa": asked}).encode()
        files[f"train_{number:05d}.png"] = b"picture"
    shard = write_tar(tmp_path / "easy.tar", files)
    train, held_out = EasyVQA(shard, held_out=1), EasyVQA(shard, "held_out", 1)
    assert (len(train), len(held_out)) == (6, 2)
    assert held_out[0]["__key__"] == "train_00003-0"
    assert held_out[0]["question_type"] == "colour"
    assert {train[place]["answers"][0] for place in range(6)} <= set(EASY_VQA_ANSWERS)
    assert len(Answers(EASY_VQA_ANSWERS)) == 13
