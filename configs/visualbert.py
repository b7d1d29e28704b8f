"""VisualBERT: words and regions in one BERT, trained on masked words and matching.

Reproduces: Li et al. 2019, "VisualBERT", sections 3.3 and 4, as published for VQA: COCO's captions,
            100 regions; batch, rate, steps and lengths as in its authors' code.
Command:    python train.py --config=configs/visualbert.py --workdir=... \
                --config.tokenizer.path=bert-base-uncased/tokenizer.json \
                --config.init_from=hf://google-bert/bert-base-uncased \
                --config.data.path='train-{00000..00127}.tar' --config.eval_data.path='val-*.tar'
            with captions and regions in shards, see docs/regions.md. Without init_from it begins
            with nothing. With --config=configs/visualbert.py:pictures it reads pictures, with a
            ViT-B/16 in place of a detector; that is nobody's published recipe.
Devices:    up to 4 V100 of 16 GB in the paper; one GPU or TPU may do; not run on either by us.
Expect:     70.80 % VQA v2 test-dev after task-specific training (published, table 1);
            not measured here.
Differs:    A text is one caption, with its own or another row's picture; the paper's are two
            captions, of which the second may be another picture's. Regions' tables of kinds and
            places start anew; the authors' code begins with BERT's own.
"""

from ml_collections import ConfigDict

from mmjax.config import spec
from mmjax.data.dataset import Dataset
from mmjax.data.datasets.scene_labels import SceneLabels
from mmjax.data.datasets.scene_regions import FEATURE_DIM
from mmjax.data.datasets.scenes import Scenes
from mmjax.data.fields import Fields
from mmjax.data.sources.fetching import Fetching
from mmjax.data.transforms.captions import PickCaption
from mmjax.data.transforms.masking import MaskWords
from mmjax.data.transforms.regions import Regions
from mmjax.data.transforms.resize import Resize
from mmjax.data.transforms.text import Tokenize
from mmjax.evaluation.matching import Matching as JudgeMatches
from mmjax.evaluation.objectives import Objectives
from mmjax.models.encoders.bert import bert_base
from mmjax.models.encoders.vit import ViT
from mmjax.models.fusion.pictured import Pictured
from mmjax.models.fusion.visualbert import VisualBert, VisualBertStream
from mmjax.objectives.masked_lm import MaskedLm
from mmjax.objectives.matching import Matching
from mmjax.preprocess import Contract
from mmjax.run.settings import base_config, falling_adamw
from mmjax.training.step import Goal

VARIANTS = ("pictures", "pictures_smoke")
MASKED = (("token_ids", "masked_ids"),)


def get_config(variant: str = "") -> ConfigDict:
    """The run; 'smoke' is two steps of a tiny one on drawn scenes, 'pictures' reads pictures."""
    smoke, pictures = "smoke" in variant, "pictures" in variant
    config = base_config(
        steps=2 if smoke else 120_000,  # 10 epochs of COCO's captions
        batch_size=8 if smoke else 48,
        log_steps=1 if smoke else 50,
        save_steps=1 if smoke else 2_000,
    )
    config.sequence_length = 16 if smoke else 128
    config.vocab_size = 512 if smoke else 30_522
    config.tokenizer.vocab_size = config.get_ref("vocab_size")
    config.dtype = "auto"  # bfloat16 on TPU and GPU, float32 on a CPU
    length, dtype = config.get_ref("sequence_length"), config.get_ref("dtype")
    size = {"dim": 32, "depth": 2, "num_heads": 2, "mlp_dim": 64} if smoke else bert_base()
    feature_dim = FEATURE_DIM if smoke else 2048
    model = spec(
        VisualBert,
        stream=spec(
            VisualBertStream,
            vocab_size=config.get_ref("vocab_size"),
            length=64 if smoke else 512,  # BERT's table, of which texts read the beginning
            region_dim=size["dim"] if pictures else feature_dim,
            dropout=0.0 if smoke else 0.1,
            dtype=dtype,
            **size,
        ),
        heads=("masked_lm", "matching"),
    )
    side = 32  # of the scenes
    if pictures:
        config.image_size = 32 if smoke else 224
        side = config.get_ref("image_size")
        encoder = {"image_size": side, "patch_size": 8 if smoke else 16, "pooling": "mean"}
        model = spec(
            Pictured,
            image=spec(ViT, dtype=dtype, **encoder, **size),
            fusion=model,
            image_size=side,
        )
        seen = ("fuse", ("token_ids", "text_mask", "image", "row"))
        looks, fields = spec(Resize, size=side), {"image_from": "image"} if smoke else {}
        more = {"image_size": side}
    else:
        seen = ("fuse", ("token_ids", "text_mask", "regions", "region_mask"))
        count = 4 if smoke else 100
        looks = spec(Regions, count=count, feature_dim=feature_dim, boxes="")
        fields, more = {"image_from": ""}, {}
    config.model = model
    config.preprocess = spec(Contract, sequence_length=length, bos=True, eos=True, **more)
    transforms = (
        looks,
        spec(PickCaption),
        spec(Tokenize, partial=("tokenizer",), length=length, bos=True, eos=True),
        spec(MaskWords, partial=("tokenizer",)),
    )
    for name, split, number in (("data", "train", 64), ("eval_data", "held_out", 16)):
        scenes = spec(Scenes, split=split, num_scenes=number, image_size=side)
        config[name] = spec(
            Dataset,
            fetching=spec(Fetching),
            source=spec(SceneLabels, scenes=scenes) if smoke else None,
            fields=spec(Fields, **fields),
            transforms=transforms,
        )
    # Of a BERT's arrays all, each to its place; what looks at pictures starts anew. Its head for
    # the next sentence is the one for matching; not each published BERT has heads.
    at = "fusion/" if pictures else ""
    config.init_rules = (
        (r"(?:text/)?((?:blocks|embedding_norm|pool)/.*|\w+_embedding)", rf"{at}stream/\1"),
        ("(masked_lm/.*)", rf"{at}\1"),
        ("next_sentence_head/(.*)", rf"{at}matching_head/\1"),
    )
    config.init_fresh = (
        "(?#optional)image/.*",
        f"{at}stream/regions/.*",
        f"{at}(masked_lm|matching_head)/.*",
    )
    config.goals.words = spec(
        Goal, objective=spec(MaskedLm, fuse=seen, replace=MASKED, places=length // 5)
    )
    config.goals.matching = spec(Goal, objective=spec(Matching, fuse=seen, replace=MASKED))
    config.optimizer = falling_adamw(config, peak=5e-5, b2=0.999, eps=1e-6, weight_decay=0.01)
    config.evaluators.objectives = spec(Objectives)
    words = tuple(word for word in seen[1] if word != "row")
    config.evaluators.matching = spec(JudgeMatches, words=words)
    return config
