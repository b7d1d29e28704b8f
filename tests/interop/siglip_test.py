"""What SigLIP's config may say that is not built."""

import pytest

from mmjax.interop.families.siglip import FAMILY
from mmjax.interop.tensors import WeightsError

TOWER = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4}
CONFIG = {"text_config": TOWER, "vision_config": TOWER}


def test_texts_of_another_width_than_pictures_are_refused():
    config = {**CONFIG, "text_config": {**TOWER, "projection_size": 24}}
    with pytest.raises(WeightsError, match="projection_size=24 is not the hidden_size=16"):
        FAMILY.model(config)


def test_a_picture_tower_without_its_head_is_refused():
    config = {**CONFIG, "vision_config": {**TOWER, "vision_use_head": False}}
    with pytest.raises(WeightsError, match="vision_use_head=False is not built"):
        FAMILY.model(config)


def test_what_a_config_leaves_out_is_the_class_s_default():
    model = FAMILY.model({"text_config": {}, "vision_config": {"image_size": 256}})
    assert (model.text.vocab_size, model.text.length, model.text.mlp_dim) == (32_000, 64, 3072)
    assert (model.image.image_size, model.image.patch_size, model.image.depth) == (256, 16, 12)
    assert model.embed_dim == 768
