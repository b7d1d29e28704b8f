"""Rates from layer to layer, of models that have more than towers of blocks."""

import pytest

from mmjax.models.encoders.bert import Bert
from mmjax.models.encoders.classifier import Classifier
from mmjax.models.encoders.cnn import Cnn
from mmjax.models.encoders.regions import RegionTower
from mmjax.models.encoders.vit import ViT
from mmjax.models.fusion.general import GeneralFusion
from mmjax.models.fusion.vilbert import Vilbert
from mmjax.run.rates import rate_rules

TEXT = Bert(depth=2, pooling="class")


@pytest.mark.parametrize(("form", "stack"), [("early", "blocks"), ("hierarchical", "layers")])
def test_layers_of_a_fusion_lie_above_those_of_its_towers(form, stack):
    model = GeneralFusion(ViT(depth=3), TEXT, embed_dim=8, form=form, depth=2)
    rules = dict(rate_rules(model, 0.5))
    assert [rules[f"fusion/{stack}[{n}]/.*"] for n in (1, 0)] == [0.5, 0.25]
    assert [rules[f"image/blocks[{n}]/.*"] for n in (2, 1, 0)] == [2**-3, 2**-4, 2**-5]
    assert [rules[f"text/blocks[{n}]/.*"] for n in (1, 0)] == [2**-3, 2**-4]


def test_what_is_embedded_without_blocks_is_lowest_too():
    image = RegionTower(depth=0, box_dim=5, join="sum")
    rules = rate_rules(Vilbert(TEXT, image, depth=2), 0.5)
    lowest = [rate for pattern, rate in rules if pattern.startswith("(?#optional)image/")]
    assert lowest == [2**-3]


def test_a_tower_without_blocks_has_no_rates_by_layer():
    with pytest.raises(ValueError, match="Cnn has none"):
        rate_rules(Classifier(Cnn(), 3), 0.5)
    assert rate_rules(Classifier(Cnn(), 3), 1.0, 2.0)[-1] == (".*", 1.0)
