"""LXMERT: words and regions, trained by five tasks at once: words, regions, matching, answers.

Reproduces: Tan and Bansal 2019, "LXMERT", section 3: 9, 5 and 5 layers, 36 regions, 20 epochs (670
            thousand steps of 256 rows), all tasks of equal weight, answers in the second half;
            warm-up, lengths and losses over regions as in its authors' code.
Command:    python train.py --config=configs/lxmert.py --workdir=... \
                --config.tokenizer.path=bert-base-uncased/tokenizer.json \
                --config.answers.path=answers.json \
                --config.data.captions.data.path='captions-{00000..00599}.tar' \
                --config.data.questions.data.path='questions-{00000..00299}.tar' \
                --config.eval_data.path='questions-val-*.tar'
            with regions in shards, see docs/regions.md; a sample of questions has a .json with
            'question' and 'answers', which holds one. It begins with nothing, as in the paper; the
            words' tables and nine layers of a BERT are an option, by
            --config.init_from=hf://google-bert/bert-base-uncased. With
            --config=configs/lxmert.py:pictures it reads pictures, with a ViT-B/16 in place of a
            detector, and is told no regions; that is nobody's published recipe.
Devices:    4 Titan Xp in the paper; a v5e 2x4 slice by its memory; not run on either by us.
Expect:     72.54 % VQA v2 test-standard after fine-tuning by configs/vqa.py (published, table 2);
            not measured here.
Differs:    Captions and questions are two streams, in their shares of the paper's pairs (table 1);
            objectives count in these shares. A text is asked of with its own picture and with
            another row's; the paper draws another text for half of the rows. Another picture's
            regions are of the row half a batch away. Held-out numbers are of questions.
"""

import optax
from ml_collections import ConfigDict

from mmjax.config import spec
from mmjax.data.answers import Answers
from mmjax.data.dataset import Dataset
from mmjax.data.datasets.scene_grammar import TEXTURES
from mmjax.data.datasets.scene_labels import SceneLabels
from mmjax.data.datasets.scene_questions import SceneQuestions
from mmjax.data.datasets.scene_regions import FEATURE_DIM, KINDS
from mmjax.data.datasets.scenes import Scenes
from mmjax.data.fields import Fields
from mmjax.data.sources.fetching import Fetching
from mmjax.data.transforms.answers import AnswerScores
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
from mmjax.models.fusion.lxmert import REGIONS, Lxmert
from mmjax.models.fusion.pictured import Pictured
from mmjax.objectives.answering import Answering
from mmjax.objectives.masked_lm import MaskedLm
from mmjax.objectives.masked_regions import MaskedRegions
from mmjax.objectives.matching import Matching
from mmjax.preprocess import Contract
from mmjax.run.assembly import Stream
from mmjax.run.settings import base_config, falling_adamw
from mmjax.training.step import Goal

VARIANTS = ("pictures", "pictures_smoke")
CAPTIONS = (21, 32)  # of all pairs, 6.01 of 9.18 million (table 1)
TOLD = ("objects", "object_confidence", "attributes", "attribute_confidence")
LOSSES = {
    "objects": {"over": "all", "share": 0.15},
    "attributes": {"head": "attribute", "over": "all", "share": 0.15},
    "features": {"form": "feature", "share": 0.15},
}


def get_config(variant: str = "") -> ConfigDict:
    """The run; 'smoke' is two steps of a tiny one on drawn scenes, 'pictures' reads pictures."""
    smoke, pictures = "smoke" in variant, "pictures" in variant
    config = base_config(
        steps=2 if smoke else 670_000,
        batch_size=16 if smoke else 256,  # rows of both streams together
        log_steps=1 if smoke else 50,
        save_steps=1 if smoke else 5_000,
    )
    config.sequence_length = 16 if smoke else 20
    config.vocab_size = 512 if smoke else 30_522
    config.tokenizer.vocab_size = config.get_ref("vocab_size")
    config.dtype = "auto"  # bfloat16 on TPU and GPU, float32 on a CPU
    length, dtype = config.get_ref("sequence_length"), config.get_ref("dtype")
    size = {"dim": 32, "depth": 1, "num_heads": 2, "mlp_dim": 64} if smoke else bert_base()
    feature_dim = FEATURE_DIM if smoke else 2048
    told = (("object", len(KINDS)), ("attribute", len(TEXTURES)), ("feature", feature_dim))
    how = {"dropout": 0.0 if smoke else 0.1, "dtype": dtype}
    answers = ("yes", "no", "1", "2", "circle", "red", "small")
    model = spec(
        Lxmert,
        text=spec(
            Bert,
            vocab_size=config.get_ref("vocab_size"),
            length=64 if smoke else 512,  # BERT's table, of which texts read the beginning
            pooling="class",
            **how,
            **{**size, "depth": 1 if smoke else 9},
        ),
        image=spec(
            RegionTower,
            feature_dim=size["dim"] if pictures else feature_dim,
            **how,
            **{**size, "depth": 1 if smoke else 5},
        ),
        depth=1 if smoke else 5,
        heads=("masked_lm", "matching", *(() if pictures else ("regions",)), "answer"),
        region_outputs=told if smoke else REGIONS,
        answers=len(answers) if smoke else 9500,
    )
    side = 32  # of the scenes
    masked = (("token_ids", "masked_ids"),)
    if pictures:
        config.image_size = 32 if smoke else 224
        side = config.get_ref("image_size")
        grid = {"image_size": side, "patch_size": 8 if smoke else 16, "pooling": "mean"}
        encoder = spec(ViT, dtype=dtype, **grid, **size)
        model = spec(Pictured, image=encoder, fusion=model, image_size=side)
        seen = ("fuse", ("token_ids", "text_mask", "image", "row"))
        looks, more = (spec(Resize, size=side),), {"image_size": side}
        fields = {"image_from": "image"} if smoke else {}
    else:
        seen = ("fuse", ("token_ids", "text_mask", "regions", "boxes", "region_mask"))
        masked = (*masked, ("regions", "masked_regions"))
        places = {f"{name}_from": f"npz:{name};{name}" for name in TOLD}
        if smoke:
            places["attribute_confidence_from"] = ""  # scenes are sure of them
        reads = spec(
            Regions, count=4 if smoke else 36, feature_dim=feature_dim, boxes="corners", **places
        )
        looks, more = (reads, spec(MaskRegions, rate=0.15, zeroed=0.8, other=0.1)), {}
        fields = {"image_from": ""}
    config.model = model
    config.preprocess = spec(Contract, sequence_length=length, bos=True, eos=True, **more)

    def dataset(split: str, number: int, asks: bool) -> ConfigDict:
        """Pictures with captions, or with questions and their answers."""
        scenes = spec(Scenes, split=split, num_scenes=number, image_size=side)
        source = spec(SceneQuestions if asks else SceneLabels, scenes=scenes)
        known = {"answers": spec(Answers, names=answers)} if smoke else {"partial": ("answers",)}
        asked = {
            "caption_from": "question;json:question",
            "answers_from": "answers;json:answers",
        }
        return spec(
            Dataset,
            fetching=spec(Fetching),
            source=source if smoke else None,
            fields=spec(Fields, **fields, **(asked if asks else {})),
            transforms=(
                *looks,
                spec(PickCaption),
                spec(Tokenize, partial=("tokenizer",), length=length, bos=True, eos=True),
                spec(MaskWords, partial=("tokenizer",)),
                *((spec(AnswerScores, scoring="one", **known),) if asks else ()),
            ),
        )

    part, whole = (1, 2) if smoke else CAPTIONS
    rows = config.get_ref("batch_size")
    captions = rows * part // whole
    config.data = ConfigDict()
    config.data.captions = spec(Stream, data=dataset("train", 64, False), batch_size=captions)
    config.data.questions = spec(
        Stream, data=dataset("train", 16, True), batch_size=rows - captions
    )
    config.eval_data = dataset("held_out", 8, True)
    # Of a BERT's arrays the first layers, tables and masked words; pooling comes after crossing.
    at = "fusion/" if pictures else ""
    config.init_rules = (
        (r"(?:text/)?blocks/(.*)", rf"{at}text/blocks/\1[:{1 if smoke else 9}]"),
        (r"(?:text/)?(embedding_norm/.*|\w+_embedding)", rf"{at}text/\1"),
        ("(masked_lm/.*)", rf"{at}\1"),
        (r"((text/)?pool|next_sentence_head)/.*", ""),
    )
    config.init_fresh = (
        "image/.*",
        f"{at}(image|crossings|pool|masked_lm|(matching|regions|answer)_head)/.*",
    )
    config.init_differs = ("model.text.pooling",)
    how = {"fuse": seen, "replace": masked}
    steps = config.get_ref("steps")
    for stream, share in (("captions", part / whole), ("questions", 1 - part / whole)):
        objectives = {"words": spec(MaskedLm, places=length // 5, **how)}
        once = smoke and stream == "questions"  # no time to compile all of it twice
        if not once:
            objectives["matching"] = spec(Matching, **how)
        if not once and not pictures:
            objectives |= {
                name: spec(MaskedRegions, **how, **loss) for name, loss in LOSSES.items()
            }
        for name, objective in objectives.items():
            config.goals[f"{stream}_{name}"] = spec(
                Goal, objective=objective, weight=share, stream=stream
            )
    config.goals.answers = spec(
        Goal,
        objective=spec(Answering, form="kl", answered=True, **how),
        weight=spec(  # 0 in the first half of the run, 1 in the second
            optax.linear_schedule,
            init_value=0.0,
            end_value=1.0,
            transition_steps=1,
            transition_begin=steps // 2 - 1,
        ),
        stream="questions",
    )
    config.optimizer = falling_adamw(
        config, peak=1e-4, warmup_part=20, b2=0.999, eps=1e-6, weight_decay=0.01
    )
    config.evaluators.objectives = spec(Objectives)
    words = tuple(word for word in seen[1] if word != "row")
    config.evaluators.matching = spec(JudgeMatches, words=words)
    return config
