"""A CLIP that was trained here, in the words of the class that others read it with."""

import pathlib

import pytest

from mmjax.config import build
from mmjax.data.tokenizers.training import train_bpe
from mmjax.interop.families import clip
from mmjax.interop.family import compare
from mmjax.run.config_file import load

CONFIGS = pathlib.Path(__file__).parents[3] / "configs"


@pytest.fixture(scope="module")
def model():
    return build(load(f"{CONFIGS}/clip_vit_b16.py:smoke").model)


def test_with_a_tokenizer_of_its_own_it_is_the_same_model_there(model, tmp_path):
    trained = train_bpe(["a dog on a sofa"], 300, tmp_path / "tokenizer.json")
    assert model.text.eos_id == trained.eos_id != clip.HIGHEST_ID
    assert not compare(model, clip.model(clip.config(model)))


def test_its_classes_for_one_tower_find_the_width_of_the_projection(model):
    config = clip.config(model)
    for tower in ("text_config", "vision_config"):
        assert config[tower]["projection_dim"] == config["projection_dim"] == model.embed_dim
    assert config["text_config"]["bos_token_id"] is None  # 49,406 where nothing is said
