"""Models in loops draw the same parameters as models whose blocks are written out."""

import jax
import jax.numpy as jnp
import numpy as np

from mmjax.models.dual.two_tower import TwoTower
from mmjax.models.encoders.text_transformer import TextTransformer
from mmjax.models.encoders.vit import ViT
from mmjax.models.rolled import rolled

SMALL = {"dim": 16, "depth": 3, "num_heads": 2, "mlp_dim": 32, "scan": False}


def test_the_same_numbers_are_drawn_in_a_smaller_program():
    model = TwoTower(
        image=ViT(image_size=16, patch_size=8, **SMALL),
        text=TextTransformer(vocab_size=20, length=6, **SMALL),
        embed_dim=8,
    )
    inputs = (jnp.zeros((1, 16, 16, 3)), jnp.ones((1, 6), jnp.int32), jnp.ones((1, 6), bool))
    programs = [
        jax.jit(one.init).lower(jax.random.key(3), *inputs) for one in (model, rolled(model))
    ]
    compiled = [program.compile() for program in programs]
    drawn = [program(jax.random.key(3), *inputs) for program in compiled]
    jax.tree.map(np.testing.assert_array_equal, *drawn)
    sizes = [len(program.as_text()) for program in compiled]
    assert sizes[1] < 0.7 * sizes[0]
    assert not model.image.scan
    assert not model.text.scan


def test_what_has_no_choice_stays_as_it_is():
    model = ViT(dim=16, scan=True)
    assert rolled(model) is model
    assert rolled("no module") == "no module"
