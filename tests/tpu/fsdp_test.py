"""The step under FSDP, compiled by libtpu for a TPU v5e 4x4 that is not here."""

import re
import time

import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.models.dual.two_tower import TwoTower
from mmjax.models.encoders.text_transformer import TextTransformer
from mmjax.models.encoders.vit import ViT
from mmjax.objectives.contrastive import Contrastive
from mmjax.parallel.mesh import make_mesh
from mmjax.paths import flatten
from mmjax.preprocess import Contract
from mmjax.training.compiled import Compiled
from mmjax.training.optimizers.adamw import AdamW
from mmjax.training.schedules import constant
from mmjax.training.step import Goal, Recipe

ROWS, SIDE, LENGTH, DEPTH = 80, 32, 8, 2
WIDTH = {"dim": 256, "depth": DEPTH, "num_heads": 2, "mlp_dim": 512, "dtype": "auto"}


@pytest.fixture(scope="module")
def compiled(chips):
    model = TwoTower(
        image=ViT(image_size=SIDE, patch_size=16, pooling="mean", **WIDTH),
        text=TextTransformer(vocab_size=128, length=LENGTH, **WIDTH),
        embed_dim=256,
    )
    recipe = Recipe(
        model=model,
        goals={"contrastive": Goal(Contrastive())},
        optimizer=AdamW(schedule=constant(1e-3)),
        contract=Contract(image_size=SIDE, sequence_length=LENGTH),
        seed=0,
    )
    words = {
        "image": ((ROWS, SIDE, SIDE, 3), jnp.uint8),
        "token_ids": ((ROWS, LENGTH), jnp.int32),
        "text_mask": ((ROWS, LENGTH), jnp.bool_),
        "row": ((ROWS,), jnp.int32),
        "valid": ((ROWS,), jnp.bool_),
        "bad_samples": ((ROWS, 7), jnp.int32),
        "sample_id": ((ROWS, 2), jnp.int32),
    }
    return Compiled(recipe, make_mesh(4, 4, 1, devices=chips("v5e:4x4")), {"main": words})


@pytest.fixture(scope="module")
def made(compiled):
    """(the compiled step, seconds it took); the flags for TPUs are among what is compiled with."""
    began = time.monotonic()
    lowered = compiled.step.lower(compiled.state, compiled.batches, compiled.stop)
    return lowered.compile(), time.monotonic() - began


def test_a_step_of_two_layers_compiles_in_short(made):
    assert made[1] < 300


def test_gradients_are_summed_by_reduce_scatter_in_the_loops_over_layers(made):
    found = re.findall(r" reduce-scatter\(.*", made[0].as_text())
    assert len([line for line in found if "while/body" in line]) >= 2 * 6  # kernels of a block


def test_no_stack_is_gathered_and_the_global_batch_of_tokens_is_on_no_chip(made, compiled):
    shapes = {
        tuple(map(int, sizes.split(",")))
        for sizes in re.findall(r"\b(?:f32|bf16)\[([\d,]+)\]", made[0].as_text())
    }
    kernels = {
        leaf.shape
        for path, leaf in flatten(compiled.state.params).items()
        if "/blocks/" in path and path.endswith("kernel")
    }
    assert len(kernels) == 3
    assert (DEPTH, 256 // 4, 512) in shapes
    assert not kernels & shapes
    tokens = {(ROWS, n, width) for n in (4, LENGTH) for width in (256, 512)}
    flat = {(ROWS * n, width) for n in (4, LENGTH) for width in (256, 512)}
    assert not (tokens | flat) & shapes


def test_the_donated_state_is_not_copied(made, compiled):
    held = sum(place.device_bytes for place in compiled.layout.values())
    assert made[0].memory_analysis().alias_size_in_bytes >= held  # padded as the chip lays it out


@pytest.mark.parametrize("sizes", [(16, 1, 1), (4, 2, 2), (2, 8, 1), (1, 2, 8)])
def test_any_mesh_lies_on_the_torus(chips, sizes):
    mesh = make_mesh(*sizes, devices=chips("v5e:4x4"))
    assert len({device.id for device in mesh.devices.flat}) == 16


@pytest.mark.parametrize("sizes", [(8, 8, 1), (32, 1, 2)])
def test_a_torus_of_three_dimensions_takes_meshes_that_split_one(chips, sizes):
    devices = chips("v5p:4x4x4")
    assert make_mesh(*sizes, devices=devices).devices.shape == sizes


def test_slices_stand_one_after_the_other_along_data(chips):
    devices = chips("v5e:4x4*2")
    mesh = make_mesh(8, 4, 1, devices=devices)
    slices = np.vectorize(lambda device: device.slice_index)(mesh.devices)
    assert (slices[:4] == 0).all()
    assert (slices[4:] == 1).all()
    with pytest.raises(ValueError, match=r"2 slices of 16.*32x1x1, 16x2x1"):
        make_mesh(1, 32, 1, devices=devices)
