"""timm's and torchvision's ResNets by their names, with and without a head."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

import mmjax
from mmjax import paths
from mmjax.interop.export import export_weights
from mmjax.interop.families.resnet import FAMILY, SIZES
from mmjax.interop.family import compare
from mmjax.interop.reading import abstract, fill
from mmjax.interop.rows import gradients, write
from mmjax.interop.tensors import Arrays, WeightsError
from mmjax.models.encoders.classifier import Classifier
from mmjax.models.encoders.resnet import ResNet

SMALL = {"layers": (1, 1, 1, 1), "channels": (4, 6, 8, 10)}


def drawn(model):
    """{published name: random array} of a whole model."""
    rng = np.random.default_rng(0)
    shapes = abstract(model).items()
    arrays = {path: rng.normal(size=shape).astype(np.float32) for path, shape in shapes}
    counted = {"bn1.num_batches_tracked": np.asarray(7)}
    return write(FAMILY.table(model), arrays, counted)


@pytest.mark.parametrize("name", SIZES)
def test_a_named_architecture_is_its_size_and_is_written_by_its_name(name):
    config = {"architecture": name, "num_classes": 1000, "pretrained_cfg": {"mean": [0.5] * 3}}
    model = FAMILY.model(config)
    assert not compare(model, Classifier(ResNet(**SIZES[name]), 1000))
    expressed = json.loads(json.dumps(FAMILY.expressed(model)))
    features = 512 if name in ("resnet18", "resnet34") else 2048
    wanted = {"architecture": name, "num_classes": 1000, "num_features": features}
    assert expressed == wanted


def test_a_size_without_a_name_is_written_with_its_arguments():
    model = FAMILY.model({"block": "BasicBlock", "num_classes": 5, **SMALL})
    expressed = json.loads(json.dumps(FAMILY.expressed(model)))
    assert expressed["model_args"] == {"layers": [1, 1, 1, 1], "channels": [4, 6, 8, 10]}
    assert not compare(model, FAMILY.model(expressed))


def test_without_classes_it_is_a_tower_and_a_head_is_set_aside():
    whole = drawn(FAMILY.model({"block": "Bottleneck", "num_classes": 5, **SMALL}))
    filled = fill(FAMILY, {"block": "Bottleneck", "num_classes": 0, **SMALL}, Arrays(whole))
    assert isinstance(filled.model, ResNet)
    assert set(filled.read.aside) == {"fc.weight", "fc.bias", "bn1.num_batches_tracked"}
    assert FAMILY.expressed(filled.model)["num_classes"] == 0


def test_gradients_go_by_their_names_and_running_statistics_have_none():
    config = {"block": "BasicBlock", "num_classes": 5, **SMALL}
    filled = fill(FAMILY, config, Arrays(drawn(FAMILY.model(config))))
    params = {path: x for path, x in filled.read.arrays.items() if path.startswith("params/")}
    norms = gradients(filled.table, params, filled.read.found)
    assert not any("running" in name or "num_batches" in name for name in norms)
    kernel = np.linalg.norm(params["params/image/stem_conv/kernel"])
    np.testing.assert_allclose(norms["conv1.weight"], kernel, rtol=1e-6)
    assert len(norms) == len(params)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"architecture": "resnet50d"}, "architecture 'resnet50d' is not built; resnet18"),
        ({"block": "BasicBlock", "layers": (1,), "avg_down": True}, "avg_down=True is not built"),
        ({"architecture": "resnet18", "model_args": {"in_chans": 1}}, "in_chans=1 is not built"),
    ],
)
def test_a_variant_that_is_not_built_is_refused_by_name(config, message):
    with pytest.raises(WeightsError, match=message):
        FAMILY.model(config)


def test_a_stem_that_the_format_cannot_express_is_refused():
    with pytest.raises(WeightsError, match="stem_channels=8, not 64"):
        FAMILY.expressed(ResNet(stem_channels=8))


@pytest.mark.parametrize("crop_mode", ["center", "squash"])
def test_a_resnet_goes_back_to_timm(crop_mode, tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    changed = {"layers": list(SMALL["layers"]), "channels": list(SMALL["channels"])}
    config = {
        "architecture": "resnet18.a1_in1k",
        "num_classes": 5,
        "model_args": changed,
        "pretrained_cfg": {
            "input_size": [3, 64, 64],
            "crop_pct": 0.9,
            "crop_mode": crop_mode,
            "interpolation": "bicubic",
            "label_names": ["a", "b", "c", "d", "e"],
        },
    }
    (source / "config.json").write_text(json.dumps(config))
    save_file(drawn(FAMILY.model(config)), source / "model.safetensors")
    loaded = mmjax.load(source)
    with pytest.raises(WeightsError, match=r"Classifier\(image=ResNet\); --format=timm can"):
        export_weights(loaded, tmp_path / "no", "hf")
    export_weights(loaded, tmp_path / "out", "timm")
    told = json.loads((tmp_path / "out" / "config.json").read_text())
    assert told["architecture"] == "resnet18"
    assert told["num_features"] == 10
    assert told["pretrained_cfg"]["label_names"] == ["a", "b", "c", "d", "e"]
    again = mmjax.load(tmp_path / "out")
    assert again.model == loaded.model
    assert again.contract == loaded.contract
    ours, theirs = paths.flatten(again.variables), paths.flatten(loaded.variables)
    assert ours.keys() == theirs.keys()
    assert all(np.array_equal(ours[path], theirs[path]) for path in ours)
