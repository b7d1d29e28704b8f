"""A published tower alone, as the picture or the text side of a run of two."""

import dataclasses
import json
import pathlib

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import mmjax
from mmjax import paths
from mmjax.config import override, spec
from mmjax.models.encoders.classifier import Classifier
from mmjax.run.config_file import load
from mmjax.run.options import Options
from mmjax.run.training import train

ROOT = pathlib.Path(__file__).parents[2]
PUBLISHED = ROOT / "tests" / "golden" / "published"
WORDS = 512  # of the tokenizer that the run trains


def bert(folder):
    """The golden BERT, its table of words made longer by repeating it."""
    source = PUBLISHED / "bert" / "saved"
    config = json.loads((source / "config.json").read_text())
    config |= {"vocab_size": WORDS, "max_position_embeddings": 16}
    arrays = load_file(source / "model.safetensors")
    for name, rows in (("word", WORDS), ("position", 16)):
        path = f"embeddings.{name}_embeddings.weight"
        arrays[path] = np.resize(arrays[path], (rows, arrays[path].shape[1]))
    save_file(arrays, folder / "model.safetensors")
    return config


def resnet(folder):
    """The golden ResNet as timm writes a folder."""
    told = json.loads((PUBLISHED / "resnet_bottleneck" / "config.json").read_text())
    save_file(
        load_file(PUBLISHED / "resnet_bottleneck" / "state.safetensors"),
        folder / "model.safetensors",
    )
    sizes = {"layers": told["layers"], "channels": told["channels"]}
    return {"architecture": "resnet50", "num_classes": told["num_classes"], "model_args": sizes}


def written(module):
    """A flax module as a config writes it down."""
    fields = {f.name: getattr(module, f.name) for f in dataclasses.fields(module)}
    return spec(type(module), **{k: v for k, v in fields.items() if k not in ("parent", "name")})


def flat(loaded):
    return {path: np.asarray(x) for path, x in paths.flatten(loaded.variables).items()}


@pytest.mark.parametrize(("tower", "make"), [("text", bert), ("image", resnet)])
def test_a_tower_is_fine_tuned_in_a_run_of_two_and_loads_from_its_workdir(tower, make, tmp_path):
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(make(folder)))
    source = mmjax.load(folder)
    model = source.model.image if isinstance(source.model, Classifier) else source.model
    config = load(f"{ROOT / 'configs' / 'clip_vit_b16.py'}:smoke")
    with config.unlocked():
        config.model[tower] = written(model)
        config.evaluators = {}
    changes = {"init_from": str(folder), "vocab_size": str(WORDS), "optimizer.frozen": "()"}
    inside = "image/(.*)" if isinstance(source.model, Classifier) else "(.*)"
    others = "".join(f"'{other}/.*'," for other in ("text", "image") if other != tower)
    changes["init_rules"] = rf"(('{inside}', r'{tower}/\1'), ('.*', ''))"
    changes["init_fresh"] = f"({others} '.*_projection/.*', 'log_scale')"
    changes["init_differs"] = "('preprocess.*',)"
    for name, value in changes.items():
        override(config, name, value)
    config.lock()
    train(config, str(tmp_path / "run"), Options())
    tuned = mmjax.load(tmp_path / "run")
    assert type(getattr(tuned.model, tower)) is type(model)
    after, moved = flat(tuned), 0
    before = {path.replace("/image/", "/", 1): array for path, array in flat(source).items()}
    for path, array in before.items():
        if path.split("/")[1] == "head":  # of classes
            continue
        collection, _, rest = path.partition("/")
        there = after[f"{collection}/{tower}/{rest}"]
        if collection == "params":  # two small steps away; the statistics are those of the data
            np.testing.assert_allclose(there, array, atol=5e-3, err_msg=path)
        moved += not np.array_equal(there, array)
    assert moved > 0.8 * len(before)
