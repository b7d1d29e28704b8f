"""A config of a model that fuses text and picture, from its spec to a checkpoint."""

import json
import pathlib

import pytest

from mmjax.config import ConfigError, spec
from mmjax.data.tokenizers.training import train_bpe
from mmjax.data.transforms.masking import MaskWords
from mmjax.models.fusion.vilt import Vilt, ViltStream
from mmjax.objectives.masked_lm import MaskedLm
from mmjax.run.assembly import assemble, open_tokenizer, with_tokenizer
from mmjax.run.config_file import load
from mmjax.run.options import Options
from mmjax.run.training import train
from mmjax.training.step import Goal
from mmjax.typing import View

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"
SEEN = View("fuse", ("token_ids", "text_mask", "image"))


def masked(vocab_size=600):
    """The quickstart's drawn scenes, read by a small ViLT that is told nothing but masked words."""
    config = load(f"{CONFIGS / 'quickstart.py'}:smoke")
    stream = spec(
        ViltStream,
        vocab_size=vocab_size,
        length=config.sequence_length,
        image_size=config.image_size,
        patch_size=8,
        dim=16,
        depth=1,
        num_heads=2,
        mlp_dim=16,
    )
    config.model = spec(Vilt, stream=stream, heads=("masked_lm",))
    masking = spec(MaskWords, partial=("tokenizer",))  # the tokenizer gets a mask token for it
    config.data.transforms = (*config.data.transforms, masking)
    config.goals = {"words": spec(Goal, objective=spec(MaskedLm, fuse=SEEN, places=4))}
    config.eval_data, config.evaluators = None, {}
    config.optimizer.clamps = ()
    config.steps = 3
    return config


def test_masked_words_are_learnt_from_pictures(tmp_path):
    train(masked(), str(tmp_path / "run"), Options())
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    losses = [line["loss/words"] for line in map(json.loads, lines) if line["kind"] == "train"]
    assert len(losses) == 3
    assert 0 < losses[-1] < losses[0]
    assert (tmp_path / "run" / "checkpoints" / "3" / "manifest.json").exists()
    tokenizer = open_tokenizer(tmp_path / "run" / "tokenizer.json")
    assert tokenizer.special_tokens() == {"<pad>": 0, "<eos>": 1, "<bos>": 2, "<mask>": 3}


def test_a_tokenizer_larger_than_the_stream_is_refused(tmp_path):
    train_bpe(["a red cube beside a blue ball"] * 4, 400, tmp_path / "tokenizer.json", mask=True)
    tokenizer = open_tokenizer(tmp_path / "tokenizer.json")
    with pytest.raises(ConfigError, match="the model's table 20 rows"):
        with_tokenizer(assemble(masked(vocab_size=20)), tokenizer)
