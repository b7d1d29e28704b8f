"""ViLBERT: two streams and bridges, trained on masked words, masked regions and matching.

Reproduces: Lu et al. 2019, "ViLBERT", section 3.1, on Conceptual Captions: 3.1 million pictures,
            10 epochs, batch 512, a rate of 1e-4; lengths and warm-up as in its authors' code.
Command:    python train.py --config=configs/vilbert.py --workdir=... \
                --config.tokenizer.path=bert-base-uncased/tokenizer.json \
                --config.init_from=hf://google-bert/bert-base-uncased \
                --config.data.path='train-{00000..03124}.tar' --config.eval_data.path='val-*.tar'
            with captions and regions in shards, see docs/regions.md. Without init_from it begins
            with nothing. What overlaps a masked region is masked too, as in 12-in-1 (Lu et al.
            2020, section 3.1), by --config.data.transforms[1].overlap=0.4. With
            --config=configs/vilbert.py:pictures it reads pictures, with a ViT-B/16 in place of a
            detector, and is told no regions; that is nobody's published recipe.
Devices:    8 TitanX in the paper; a v5e 2x4 slice by its memory; not run on either by us.
Expect:     70.55 % VQA v2 test-dev after fine-tuning by configs/vqa.py (published, table 1);
            not measured here.
Differs:    A text is asked of with its own picture and with another row's, and words and regions of
            the first alone (as in 12-in-1); the paper draws another text for half of the rows.
            BERT's own arrays train at the same rate as the others; the authors' code has a tenth.
"""

from ml_collections import ConfigDict

from mmjax.config import spec
from mmjax.data.dataset import Dataset
from mmjax.data.datasets.scene_labels import SceneLabels
from mmjax.data.datasets.scene_regions import FEATURE_DIM, KINDS
from mmjax.data.datasets.scenes import Scenes
from mmjax.data.fields import Fields
from mmjax.data.sources.fetching import Fetching
from mmjax.data.transforms.captions import PickCaption
from mmjax.data.transforms.mask_regions import MaskRegions
from mmjax.data.transforms.masking import MaskWords
from mmjax.data.transforms.regions import Regions
from mmjax.data.transforms.resize import Resize
from mmjax.data.transforms.text import Tokenize
from mmjax.evaluation.matching import Matching as JudgeMatches
from mmjax.evaluation.objectives import Objectives
from mmjax.models.encoders.bert import Bert, bert_base
from mmjax.models.encoders.regions import RegionTower
from mmjax.models.encoders.vit import ViT
from mmjax.models.fusion.pictured import Pictured
from mmjax.models.fusion.vilbert import Vilbert
from mmjax.objectives.masked_lm import MaskedLm
from mmjax.objectives.masked_regions import MaskedRegions
from mmjax.objectives.matching import Matching
from mmjax.preprocess import Contract
from mmjax.run.settings import base_config, falling_adamw
from mmjax.training.step import Goal

VARIANTS = ("pictures", "pictures_smoke")
TINY = {"dim": 32, "num_heads": 2, "mlp_dim": 64}


def get_config(variant: str = "") -> ConfigDict:
    """The run; 'smoke' is two steps of a tiny one on drawn scenes, 'pictures' reads pictures."""
    smoke, pictures = "smoke" in variant, "pictures" in variant
    config = base_config(
        steps=2 if smoke else 60_500,  # 10 epochs of 3.1 million pairs
        batch_size=8 if smoke else 512,
        log_steps=1 if smoke else 50,
        save_steps=1 if smoke else 2_000,
    )
    config.sequence_length = 16 if smoke else 36
    config.vocab_size = 512 if smoke else 30_522
    config.tokenizer.vocab_size = config.get_ref("vocab_size")
    config.dtype = "auto"  # bfloat16 on TPU and GPU, float32 on a CPU
    length, dtype = config.get_ref("sequence_length"), config.get_ref("dtype")
    bridges = 1 if smoke else 6
    text = TINY if smoke else bert_base()
    image = TINY if smoke else {"dim": 1024, "num_heads": 8, "mlp_dim": 1024}
    encoder = {**text, "depth": 2 if smoke else 12}
    feature_dim = FEATURE_DIM if smoke else 2048
    dropout = 0.0 if smoke else 0.1
    model = spec(
        Vilbert,
        text=spec(
            Bert,
            vocab_size=config.get_ref("vocab_size"),
            length=64 if smoke else 512,  # BERT's table, of which texts read the beginning
            pooling="class",
            dropout=dropout,
            dtype=dtype,
            **{**text, "depth": 1 if smoke else 6},  # of BERT's layers those before the bridges
        ),
        image=spec(
            RegionTower,
            feature_dim=text["dim"] if pictures else feature_dim,
            box_dim=5,
            join="sum",
            depth=0,
            dropout=dropout,
            dtype=dtype,
            **image,
        ),
        depth=bridges,
        bridge_dim=32 if smoke else 1024,
        bridge_heads=2 if smoke else 8,
        heads=("masked_lm", "matching") if pictures else ("masked_lm", "matching", "regions"),
        region_classes=len(KINDS) if smoke else 1601,
    )
    side = 32  # of the scenes
    masked = (("token_ids", "masked_ids"),)
    if pictures:
        config.image_size = 32 if smoke else 224
        side = config.get_ref("image_size")
        grid = {"image_size": side, "patch_size": 8 if smoke else 16, "pooling": "mean"}
        model = spec(
            Pictured,
            image=spec(ViT, dtype=dtype, **grid, **encoder),
            fusion=model,
            image_size=side,
        )
        seen = ("fuse", ("token_ids", "text_mask", "image", "row"))
        looks, more = (spec(Resize, size=side),), {"image_size": side}
        fields = {"image_from": "image"} if smoke else {}
    else:
        seen = ("fuse", ("token_ids", "text_mask", "regions", "boxes", "region_mask"))
        masked = (*masked, ("regions", "masked_regions"))
        reads = spec(
            Regions,
            count=4 if smoke else 36,
            feature_dim=feature_dim,
            boxes="area",
            classes_from="npz:classes;classes",
        )
        looks, more = (reads, spec(MaskRegions, rate=0.15, zeroed=0.9)), {}
        fields = {"image_from": ""}
    config.model = model
    config.preprocess = spec(Contract, sequence_length=length, bos=True, eos=True, **more)
    transforms = (
        *looks,
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
    # Of a BERT's arrays its layers, tables and masked words; poolers here are of another width.
    at, first = "fusion/" if pictures else "", 1 if smoke else 6
    layers = rf"{at}text/blocks/\1[:{first}];{at}crossings/text/\1[{first}:]"
    config.init_rules = (
        (r"(?:text/)?blocks/(.*)", layers),
        (r"(?:text/)?(embedding_norm/.*|\w+_embedding)", rf"{at}text/\1"),
        ("(masked_lm/.*)", rf"{at}\1"),
        (r"((text/)?pool|next_sentence_head)/.*", ""),
    )
    config.init_fresh = (
        "image/.*",
        f"{at}(image|masked_lm|matching_head|regions_head|text_pool|image_pool)/.*",
        f"{at}crossings/(image|text_bridge|image_bridge)/.*",
    )
    config.init_differs = ("model.text.pooling",)  # it comes after the bridges
    how = {"fuse": seen, "replace": masked}
    config.goals.words = spec(Goal, objective=spec(MaskedLm, places=length // 5, **how))
    if not pictures:
        config.goals.regions = spec(Goal, objective=spec(MaskedRegions, form="kl", **how))
    config.goals.matching = spec(Goal, objective=spec(Matching, **how))
    config.optimizer = falling_adamw(config, peak=1e-4, b2=0.999, eps=1e-6, weight_decay=0.01)
    config.evaluators.objectives = spec(Objectives)
    words = tuple(word for word in seen[1] if word != "row")
    config.evaluators.matching = spec(JudgeMatches, words=words)
    return config
