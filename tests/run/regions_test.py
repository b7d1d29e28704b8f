"""LXMERT told what regions are, from its authors' table to a checkpoint; ViLBERT's words."""

import base64
import io
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.config import spec
from mmjax.data.dataset import Dataset
from mmjax.data.fields import Fields
from mmjax.data.lxmert_tsv import COLUMNS, convert
from mmjax.data.transforms.captions import PickCaption
from mmjax.data.transforms.mask_regions import MaskRegions
from mmjax.data.transforms.masking import MaskWords
from mmjax.data.transforms.regions import Regions
from mmjax.data.transforms.text import Tokenize
from mmjax.models.encoders.bert import Bert
from mmjax.models.encoders.regions import RegionTower
from mmjax.models.fusion.lxmert import Lxmert
from mmjax.models.fusion.vilbert import Vilbert
from mmjax.objectives.base import Forward
from mmjax.objectives.masked_regions import MaskedRegions
from mmjax.preprocess import Contract
from mmjax.run.config_file import load
from mmjax.run.options import Options
from mmjax.run.training import train
from mmjax.training.optimizers.sgd import SGD
from mmjax.training.schedules import cosine
from mmjax.training.step import Goal, apply_model
from mmjax.typing import View

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"
PICTURES, DIM, KINDS, LENGTH, VOCABULARY = 24, 6, 5, 12, 300
SEEN = View("fuse", ("token_ids", "text_mask", "regions", "boxes", "region_mask"))
MASKED = (("token_ids", "masked_ids"), ("regions", "masked_regions"))
SIZES = {"dim": 16, "depth": 1, "num_heads": 2, "mlp_dim": 16, "scan": False, "remat": "none"}
LABELS = ("objects", "object_confidence", "attributes", "attribute_confidence")


def line(number):
    """A picture of the table: kinds of things, whose features say what they are."""
    rng = np.random.default_rng(number)
    boxes = 2 + number % 3
    kinds = rng.integers(0, KINDS, boxes)
    low = rng.uniform(0, 50, (boxes, 2))
    features = np.eye(DIM)[kinds] + rng.normal(0, 0.1, (boxes, DIM))
    arrays = {
        "objects_id": kinds,
        "objects_conf": rng.uniform(0.5, 1, boxes).astype(np.float32),
        "attrs_id": kinds % 2,
        "attrs_conf": rng.uniform(0.5, 1, boxes).astype(np.float32),
        "boxes": np.concatenate([low, low + 40], axis=1).astype(np.float32),
        "features": features.astype(np.float32),
    }
    fields = {"img_id": f"p{number}", "img_h": "100", "img_w": "100", "num_boxes": str(boxes)}
    fields |= {name: base64.b64encode(x.tobytes()).decode() for name, x in arrays.items()}
    caption = " and ".join(("cat", "dog", "car", "tree", "cup")[kind] for kind in kinds)
    return "\t".join(fields[column] for column in COLUMNS), caption


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("regions")
    lines, captions = zip(*(line(number) for number in range(PICTURES)))
    (folder / "table.tsv").write_text("\n".join(lines) + "\n")
    named = {f"p{number}": caption for number, caption in enumerate(captions)}
    convert(str(folder / "table.tsv"), str(folder / "train"), 10, named)
    return f"{folder}/train-{{000000..000002}}.tar"


def pretraining(shards):
    """LXMERT's losses over regions, beside masked words; as small as it compiles quickly."""
    config = load(f"{CONFIGS / 'quickstart.py'}:smoke")
    config.tokenizer.vocab_size = config.vocab_size = VOCABULARY
    config.preprocess = spec(Contract, sequence_length=LENGTH, bos=False)
    config.model = spec(
        Lxmert,
        text=spec(Bert, vocab_size=VOCABULARY, length=LENGTH, pooling="class", **SIZES),
        image=spec(RegionTower, feature_dim=DIM, **{**SIZES, "depth": 0}),
        depth=1,
        heads=("regions",),
        region_outputs=(("object", KINDS), ("feature", DIM)),
    )
    places = {f"{name}_from": f"npz:{name}" for name in LABELS}
    config.data = spec(
        Dataset,
        path=shards,
        fields=spec(Fields, image_from=""),
        transforms=(
            spec(PickCaption),
            spec(Tokenize, partial=("tokenizer",), length=LENGTH),
            spec(MaskWords, partial=("tokenizer",), mask_id=VOCABULARY - 1),
            spec(Regions, count=4, feature_dim=DIM, **places),
            spec(MaskRegions, rate=0.3, zeroed=0.8, overlap=0.4),
        ),
    )
    regions = {
        "objects": {"over": "all", "share": 0.15},
        "features": {"form": "feature"},
    }
    how = {"fuse": SEEN, "replace": MASKED}
    config.goals = {
        name: spec(Goal, objective=spec(MaskedRegions, **how, **options))
        for name, options in regions.items()
    }
    config.eval_data, config.evaluators = None, {}
    config.optimizer = spec(SGD, schedule=spec(cosine, peak=0.03, steps=3, warmup_steps=0))
    config.steps, config.save_steps = 3, 3
    config.batch_size = PICTURES  # each step sees all, so losses of steps can be compared
    return config


def test_lxmert_learns_regions_from_its_table(shards, tmp_path):
    train(pretraining(shards), str(tmp_path / "run"), Options())
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    rows = [row for row in map(json.loads, lines) if row["kind"] == "train"]
    assert len(rows) == 3
    for name in ("objects", "features"):
        losses = [row[f"loss/{name}"] for row in rows]
        assert all(np.isfinite(losses))
        assert all(loss > 0 for loss in losses)
    assert rows[-1]["loss/objects"] < rows[0]["loss/objects"]
    assert (tmp_path / "run" / "checkpoints" / "3" / "manifest.json").exists()


def test_vilberts_regions_fit_its_model_and_its_loss():
    rng = np.random.default_rng(0)
    low = rng.uniform(0, 50, (3, 2))
    file = io.BytesIO()
    np.savez(
        file,
        features=rng.normal(size=(3, DIM)),
        boxes=np.concatenate([low, low + 40], axis=1),
        width=100,
        height=100,
        classes=rng.dirichlet(np.ones(KINDS), 3),
    )
    sample = {"key": "a", "record": {"npz": file.getvalue()}}
    read = Regions(count=4, feature_dim=DIM, boxes="area", classes_from="npz:classes")
    sample = MaskRegions(overlap=0.4)(read(sample, rng), rng)
    regions = MaskedRegions(SEEN, form="kl", replace=MASKED)
    texts = {word: np.ones(LENGTH, np.int32) for word in ("token_ids", "masked_ids")}
    sample |= {**texts, "text_mask": np.ones(LENGTH, bool), "valid": np.True_}
    batch = {word: jnp.asarray(sample[word])[None] for word in (*regions.needs, "valid")}
    model = Vilbert(
        Bert(vocab_size=VOCABULARY, length=LENGTH, pooling="class", **SIZES),
        RegionTower(feature_dim=DIM, box_dim=5, join="sum", **SIZES),
        depth=1,
        bridge_dim=16,
        bridge_heads=2,
        heads=("regions",),
        region_classes=KINDS,
    )

    def run(key, batch):
        words = {word: batch[other] for word, other in MASKED}
        seen = {word: batch.get(word) for word in SEEN.words} | words
        variables = model.init(key, **seen)
        forward = Forward(apply_model(model), variables["params"], {}, False, None)
        return regions(forward, batch, ()).mean()

    assert jax.eval_shape(run, jax.random.key(0), batch).shape == ()
