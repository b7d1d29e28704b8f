"""ViLT: words and patches in one stream, trained on masked words, matching and alignment.

Reproduces: Kim et al. 2021, "ViLT", section 4.1 (ViLT-B/32, whole words masked).
Command:    python train.py --config=configs/vilt.py --workdir=... \
                --config.tokenizer.path=bert-base-uncased/tokenizer.json \
                --config.init_from=hf://google/vit-base-patch32-384 \
                --config.data.path='train-{00000..01023}.tar' --config.eval_data.path='val-*.tar'
            The paper begins with a ViT of ImageNet; without init_from it begins with nothing.
Differs:    every text is asked of with its own picture and with another row's, so matching and the
            alignment of words with patches (section 3.2) see both; the paper draws one of the two.
Devices:    64 V100 in the paper; a v5e 8x8 slice by its memory; not run on either by us.
Expect:     71.26 % VQA v2 test-dev after fine-tuning by configs/vqa.py (published, 200,000 steps);
            not measured here.
"""

from ml_collections import ConfigDict

from mmjax.config import spec
from mmjax.data.dataset import Dataset
from mmjax.data.datasets.scenes import Scenes
from mmjax.data.fields import Fields
from mmjax.data.sources.fetching import Fetching
from mmjax.data.transforms.captions import PickCaption
from mmjax.data.transforms.masking import MaskWords
from mmjax.data.transforms.padded import Padded
from mmjax.data.transforms.text import Tokenize
from mmjax.evaluation.matching import Matching as JudgeMatches
from mmjax.evaluation.objectives import Objectives
from mmjax.models.encoders.bert import bert_base
from mmjax.models.fusion.vilt import Vilt, ViltStream
from mmjax.objectives.masked_lm import MaskedLm
from mmjax.objectives.matching import Matching
from mmjax.objectives.word_patch import WordPatch
from mmjax.preprocess import Contract
from mmjax.run.settings import base_config, falling_adamw
from mmjax.training.step import Goal

SEEN = ("fuse", ("token_ids", "text_mask", "image", "image_mask", "row"))


def get_config(variant: str = "") -> ConfigDict:
    """The run; 'smoke' is two steps of a tiny one on drawn scenes."""
    smoke = variant == "smoke"
    config = base_config(
        steps=2 if smoke else 200_000,
        batch_size=8 if smoke else 4096,
        log_steps=1 if smoke else 50,
        save_steps=1 if smoke else 2_000,
    )
    config.shortest_side = 32 if smoke else 384  # of a picture; its shape is kept
    config.sequence_length = 16 if smoke else 40
    config.vocab_size = 512 if smoke else 30_522
    config.tokenizer.vocab_size = config.get_ref("vocab_size")
    config.dtype = "auto"  # bfloat16 on TPU and GPU, float32 on a CPU
    patch = 8 if smoke else 32
    shortest, length = config.get_ref("shortest_side"), config.get_ref("sequence_length")
    size = {"dim": 32, "depth": 2, "num_heads": 2, "mlp_dim": 64} if smoke else bert_base()
    config.model = spec(
        Vilt,
        stream=spec(
            ViltStream,
            vocab_size=config.get_ref("vocab_size"),
            length=length,
            image_size=shortest,
            patch_size=patch,
            max_patches=200,  # of a longer picture some are drawn in training
            dropout=0.0 if smoke else 0.1,
            dtype=config.get_ref("dtype"),
            **size,
        ),
        heads=("masked_lm", "matching"),
    )
    # The canvas of `Padded`, on which a picture lies at the upper left.
    canvas = shortest * 1333 // 800 // patch * patch
    config.preprocess = spec(
        Contract, image_size=canvas, sequence_length=length, bos=True, eos=True
    )
    transforms = (
        spec(Padded, shortest=shortest, patch_size=patch),
        spec(PickCaption),
        spec(Tokenize, partial=("tokenizer",), length=length, bos=True, eos=True),
        spec(MaskWords, partial=("tokenizer",), whole_words=True),
    )
    for name, split, scenes in (("data", "train", 64), ("eval_data", "held_out", 16)):
        config[name] = spec(
            Dataset,
            fetching=spec(Fetching),
            source=spec(Scenes, split=split, num_scenes=scenes, image_size=shortest)
            if smoke
            else None,
            fields=spec(Fields, **({"image_from": "image"} if smoke else {})),
            transforms=transforms,
        )
    # Of a ViT's arrays, each to its place; the words' own start anew.
    config.init_rules = (
        ("((blocks|norm)/.*)", r"stream/\1"),
        ("(class_token|position_embedding)", r"stream/patches/\1"),
        ("patches/(.*)", r"stream/patches/pixels/\1"),
        (".*", ""),
    )
    config.init_fresh = (
        "(masked_lm|matching_head|stream/pool|stream/embedding_norm)/.*",
        "stream/(.*_embedding)",
    )
    config.goals.words = spec(Goal, objective=spec(MaskedLm, fuse=SEEN, places=8))
    config.goals.matching = spec(Goal, objective=spec(Matching, fuse=SEEN))
    config.goals.patches = spec(Goal, objective=spec(WordPatch, fuse=SEEN), weight=0.1)
    config.optimizer = falling_adamw(config, peak=1e-4, b2=0.98, weight_decay=0.01)
    config.evaluators.objectives = spec(Objectives)
    config.evaluators.matching = spec(JudgeMatches, words=SEEN[1][:-1])
    return config
