"""The smallest run that has everything a run can have: what the fault tests train.

Pictures and captions in tars, dropout, running statistics, an objective with a memory, moving
average, held-out data; every random draw and every part of the state is in it.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from mmjax.config import spec
from mmjax.data.dataset import Dataset
from mmjax.data.fields import Fields
from mmjax.data.transforms.captions import PickCaption
from mmjax.data.transforms.image import RandomResizedCrop
from mmjax.data.transforms.resize import Resize
from mmjax.data.transforms.text import Tokenize
from mmjax.evaluation.objectives import Objectives
from mmjax.models.dual.two_tower import unit_length
from mmjax.objectives.contrastive import Contrastive
from mmjax.preprocess import Contract
from mmjax.run.settings import base_config
from mmjax.training.optimizers.adamw import AdamW
from mmjax.training.schedules import cosine
from mmjax.training.step import Goal
from mmjax.typing import Encoded

DIM, LENGTH, VOCABULARY, SIZE = 8, 12, 300, 16


def unit(pooled: Any) -> Encoded:
    return Encoded(None, None, pooled, unit_length(pooled))


class Tiny(nn.Module):
    """Two linear towers; the first with dropout and running statistics."""

    def setup(self):
        self.image = nn.Dense(DIM, use_bias=False)  # a norm follows: Adam would amplify noise
        self.dropout = nn.Dropout(0.1)
        self.norm = nn.BatchNorm(momentum=0.9)
        self.text = nn.Embed(VOCABULARY, DIM)
        self.log_scale = self.param("log_scale", nn.initializers.constant(2.0), ())

    def encode_image(self, image, row=None, train=False):
        blocks = image.reshape(image.shape[0], 4, SIZE // 4, 4, SIZE // 4, 3).mean((2, 4))
        x = self.dropout(blocks.reshape(image.shape[0], -1), deterministic=not train)
        return unit(self.norm(self.image(x), use_running_average=not train))

    def encode_text(self, token_ids, text_mask, row=None, train=False):
        return unit((self.text(token_ids) * text_mask[..., None]).sum(1))

    def scalars(self):
        return {"log_scale": self.log_scale}

    def __call__(self, image, token_ids, text_mask, train=False):
        self.encode_image(image, train=train)
        self.encode_text(token_ids, text_mask)


@dataclasses.dataclass(frozen=True)
class Remembering(Contrastive):
    """A contrastive objective that keeps the average picture."""

    def init_state(self, batch: Any) -> Any:
        return {"average": jnp.zeros(DIM)}

    def compare(self, embeddings: Any, scalars: Any, state: Any) -> Any:
        loss = super().compare(embeddings, scalars, state)
        mean = jax.lax.stop_gradient(embeddings["image"]).mean(0)
        return dataclasses.replace(loss, state={"average": 0.9 * state["average"] + 0.1 * mean})


def get_config(variant: str = "") -> ConfigDict:
    """24 steps, saved every 2; `--config.data.path` and `--config.eval_data.path` are tars."""
    config = base_config(steps=24, batch_size=8, log_steps=1, save_steps=2)
    config.ema = 0.9
    config.tensorboard = False
    config.tokenizer.vocab_size = VOCABULARY
    config.model = spec(Tiny)
    config.preprocess = spec(Contract, image_size=SIZE, sequence_length=LENGTH)
    tokenize = spec(Tokenize, partial=("tokenizer",), length=LENGTH)
    config.data = spec(
        Dataset,
        source=None,
        fields=spec(Fields),
        transforms=(spec(PickCaption), spec(RandomResizedCrop, size=SIZE), tokenize),
    )
    config.eval_data = spec(
        Dataset,
        source=None,
        fields=spec(Fields),
        transforms=(spec(PickCaption, first=True), spec(Resize, size=SIZE), tokenize),
    )
    config.goals.remembering = spec(Goal, objective=spec(Remembering))
    config.optimizer = spec(
        AdamW, schedule=spec(cosine, peak=1e-2, steps=config.get_ref("steps"), warmup_steps=2)
    )
    config.evaluators.objectives = spec(Objectives)
    return config
