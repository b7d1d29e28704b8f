"""What shapes alone say of a step's memory."""

import jax
import jax.numpy as jnp

from mmjax.data.sources.base import CAUSES
from mmjax.models.dual.two_tower import TwoTower
from mmjax.models.encoders.text_transformer import TextTransformer
from mmjax.models.encoders.vit import ViT
from mmjax.objectives.contrastive import Contrastive
from mmjax.parallel.mesh import make_mesh
from mmjax.preprocess import Contract
from mmjax.training.compiled import Compiled
from mmjax.training.estimates import kept_bytes
from mmjax.training.optimizers.adamw import AdamW
from mmjax.training.schedules import constant
from mmjax.training.step import Goal, Recipe


def words(rows):
    return {
        "image": ((rows, 16, 16, 3), jnp.uint8),
        "token_ids": ((rows, 7), jnp.int32),
        "text_mask": ((rows, 7), jnp.bool_),
        "row": ((rows,), jnp.int32),
        "valid": ((rows,), jnp.bool_),
        "bad_samples": ((rows, len(CAUSES)), jnp.int32),
        "sample_id": ((rows, 2), jnp.int32),
    }


def kept(first, second):
    """Of a step with two streams of so many rows."""
    width = {"dim": 10, "depth": 1, "num_heads": 2, "mlp_dim": 18}
    recipe = Recipe(
        model=TwoTower(
            image=ViT(image_size=16, patch_size=16, **width),
            text=TextTransformer(vocab_size=31, length=7, **width),
            embed_dim=10,
        ),
        goals={name: Goal(Contrastive(), stream=name) for name in ("first", "second")},
        optimizer=AdamW(constant(1e-3)),
        contract=Contract(image_size=16, sequence_length=7),
        seed=0,
    )
    mesh = make_mesh(devices=jax.devices()[:2])
    shapes = {"first": words(first), "second": words(second)}
    return kept_bytes(Compiled(recipe, mesh, shapes, ((".*", ()),)))


def test_streams_of_unlike_batches_keep_what_each_of_them_keeps():
    small, unlike, large = kept(64, 64), kept(64, 88), kept(88, 88)
    assert small < unlike < large
    assert kept(88, 64) == unlike
