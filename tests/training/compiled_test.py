"""What a recipe compiled for a mesh says of itself."""

import jax
import jax.numpy as jnp

from mmjax.data.sources.base import CAUSES
from mmjax.models.dual.two_tower import TwoTower
from mmjax.models.encoders.text_transformer import TextTransformer
from mmjax.models.encoders.vit import ViT
from mmjax.models.layers import attend
from mmjax.objectives.contrastive import Contrastive
from mmjax.parallel.mesh import make_mesh
from mmjax.preprocess import Contract
from mmjax.training.compiled import Compiled
from mmjax.training.optimizers.adamw import AdamW
from mmjax.training.optimizers.muon import Muon
from mmjax.training.schedules import constant
from mmjax.training.step import Goal, Recipe

WORDS = {
    "image": ((8, 16, 16, 3), jnp.uint8),
    "token_ids": ((8, 6), jnp.int32),
    "text_mask": ((8, 6), jnp.bool_),
    "row": ((8,), jnp.int32),
    "valid": ((8,), jnp.bool_),
    "bad_samples": ((8, len(CAUSES)), jnp.int32),
    "sample_id": ((8, 2), jnp.int32),
}


def flops(optimizer=AdamW, **fields):
    width = {"dim": 16, "depth": 2, "num_heads": 2, "mlp_dim": 32, **fields}
    recipe = Recipe(
        model=TwoTower(
            image=ViT(image_size=16, patch_size=8, **width),
            text=TextTransformer(vocab_size=32, length=6, **width),
            embed_dim=16,
        ),
        goals={"contrastive": Goal(Contrastive())},
        optimizer=optimizer(constant(1e-3)),
        contract=Contract(image_size=16, sequence_length=6),
        seed=0,
    )
    mesh = make_mesh(devices=jax.devices()[:2])
    return Compiled(recipe, mesh, {"main": WORDS}, ((".*", ()),)).flops


def test_a_steps_flops_are_the_models_whatever_remat_attention_and_optimizer_are(monkeypatch):
    monkeypatch.setattr(attend, "platform", lambda: "tpu")
    plain = flops(remat="none", attention="xla")
    assert flops(remat="full", attention="xla") == plain
    assert flops(remat="attention", attention="splash") == plain
    assert flops(Muon) == plain
