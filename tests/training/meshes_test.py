"""Any product of data parallel, FSDP and tensor parallel gives one device's losses."""

import dataclasses
import re
from typing import Any

import jax
import numpy as np
import optax
import pytest

from mmjax.data.sources.base import CAUSES
from mmjax.models.dual.two_tower import TwoTower
from mmjax.models.encoders.text_transformer import TextTransformer
from mmjax.models.encoders.vit import ViT
from mmjax.objectives.contrastive import Contrastive
from mmjax.objectives.sigmoid import Sigmoid
from mmjax.parallel.mesh import make_mesh
from mmjax.paths import flatten
from mmjax.preprocess import Contract
from mmjax.training.compiled import Compiled
from mmjax.training.optimizers.adamw import AdamW
from mmjax.training.schedules import constant
from mmjax.training.step import Goal, Recipe

ROWS, SIDE, LENGTH, STEPS = 24, 32, 6, 3  # no kernel is as large as a batch of tokens
WIDTH = {"dim": 32, "depth": 2, "num_heads": 4, "mlp_dim": 64}
WIDTHS = (32, 64, 8)  # of tokens, inside a perceptron, of a head
# What the compiler would do for speed alone; it does not change how arrays are laid out.
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


@dataclasses.dataclass(frozen=True)
class Plain(AdamW):
    """Gradient descent and nothing else: what AdamW's division could hide shows in it."""

    def transform(self, params: Any) -> optax.GradientTransformation:
        return optax.named_chain(("schedule", optax.scale_by_learning_rate(self.schedule)))


OPTIMIZERS = {
    "gradient descent": Plain(schedule=constant(0.05)),
    "AdamW": AdamW(schedule=constant(1e-3)),
}


def recipe(optimizer):
    model = TwoTower(
        image=ViT(image_size=SIDE, patch_size=16, **WIDTH),
        text=TextTransformer(
            vocab_size=32, length=LENGTH, pooling="end_of_text", eos_id=2, causal=True, **WIDTH
        ),
        embed_dim=32,
        bias_init=-10.0,
    )
    return Recipe(
        model=model,
        goals={"softmax": Goal(Contrastive()), "sigmoid": Goal(Sigmoid())},
        optimizer=optimizer,
        contract=Contract(image_size=SIDE, sequence_length=LENGTH),
        seed=0,
    )


def batch(seed):
    rng = np.random.default_rng(seed)
    ids = rng.integers(3, 32, (ROWS, LENGTH)).astype(np.int32)
    ids[:, -1] = 2
    return {
        "image": rng.integers(0, 256, (ROWS, SIDE, SIDE, 3)).astype(np.uint8),
        "token_ids": ids,
        "text_mask": np.ones((ROWS, LENGTH), bool),
        "row": np.arange(ROWS, dtype=np.int32),
        "valid": np.ones(ROWS, bool),
        "bad_samples": np.zeros((ROWS, len(CAUSES)), np.int32),
        "sample_id": np.stack([np.zeros(ROWS), np.arange(ROWS)], 1).astype(np.int32),
    }


class Trained:
    """The compiled step on a mesh and what it made of the first batches."""

    def __init__(self, name, mesh, start=None):
        shapes = {word: (value.shape, value.dtype) for word, value in batch(0).items()}
        compiled = Compiled(recipe(OPTIMIZERS[name]), mesh, {"main": shapes})
        lowered = compiled.step.lower(compiled.state, compiled.batches, compiled.stop)
        self.step = lowered.compile(compiler_options=QUICK)
        self.compiled = compiled
        self.start = jax.device_get(compiled.init()) if start is None else start
        transform = OPTIMIZERS[name].transform(self.start.params)
        state = dataclasses.replace(self.start, opt_state=transform.init(self.start.params))
        state, self.losses = jax.device_put(state, compiled.shardings), []
        stop = jax.device_put(np.zeros(mesh.size, np.int32), compiled.stop.sharding)
        for seed in range(STEPS):
            places = jax.tree.map(lambda leaf: leaf.sharding, compiled.batches)
            state, metrics = self.step(state, jax.device_put({"main": batch(seed)}, places), stop)
            self.losses.append([float(metrics[f"loss/{goal}"]) for goal in ("softmax", "sigmoid")])
        self.params = jax.device_get(state.params)


@pytest.fixture(scope="module")
def trained():
    """Makes each pair of optimizer and mesh once."""
    known = {}

    def get(name, sizes):
        if (name, sizes) not in known:
            alone = sizes == (1, 1, 1)
            mesh = make_mesh(*sizes, devices=jax.devices()[: 1 if alone else 8])
            first = alone and name == "AdamW"
            start = None if first else get("AdamW", (1, 1, 1)).start
            known[name, sizes] = Trained(name, mesh, start)
        return known[name, sizes]

    return get


# Each mesh once, the optimizers in turn.
@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("AdamW", (4, 2, 1)),
        ("AdamW", (2, 1, 4)),
        ("gradient descent", (1, 8, 1)),
        ("gradient descent", (2, 2, 2)),
    ],
)
def test_a_mesh_gives_the_losses_of_one_device(name, sizes, trained):
    alone, together = trained(name, (1, 1, 1)), trained(name, sizes)
    assert len({losses[0] for losses in alone.losses}) == STEPS
    np.testing.assert_allclose(together.losses, alone.losses, rtol=1e-5)
    if name == "gradient descent":  # linear in the gradients, so that these are compared too
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
            together.params,
            alone.params,
        )


def shapes_in(text):
    """Every array's shape in a compiled program."""
    found = re.findall(r"\b(?:f32|bf16|f16)\[([\d,]+)\]", text)
    return {tuple(map(int, sizes.split(","))) for sizes in found}


@pytest.mark.parametrize(
    ("name", "sizes"), [("gradient descent", (1, 8, 1)), ("gradient descent", (2, 2, 2))]
)
def test_neither_the_global_batch_of_tokens_nor_a_stack_lies_whole_on_a_device(
    name, sizes, trained
):
    made = trained(name, sizes)
    shapes = shapes_in(made.step.as_text())
    stacks = {
        leaf.shape
        for path, leaf in flatten(made.compiled.state.params).items()
        if "/blocks/" in path and path.endswith("kernel")
    }
    assert len(stacks) == 3
    # In parts each of them is there, so that what is looked for below is written as shapes are.
    for stack in stacks:
        assert any(len(s) == 3 and s[0] == 2 and np.prod(s) * 8 >= np.prod(stack) for s in shapes)
    assert not stacks & shapes
    tokens = {(ROWS, n, w) for n in (4, LENGTH) for w in WIDTHS}
    flat = {(ROWS * n, w) for n in (4, LENGTH) for w in WIDTHS}
    assert not (tokens | flat) & shapes


@pytest.mark.parametrize("sizes", [(1, 8, 1), (2, 2, 2)])
def test_gradients_of_kernels_are_summed_in_parts(sizes, trained):
    text = trained("gradient descent", sizes).step.as_text()
    assert len(re.findall(r" reduce-scatter\(", text)) >= 12  # six kernels of each tower's block
    whole = {(WIDTH["dim"], WIDTH["dim"]), (WIDTH["dim"], WIDTH["mlp_dim"])}
    for line in re.findall(r"= (.*) all-reduce\(", text):
        assert not whole & {shape[-2:] for shape in shapes_in(line)}


@pytest.mark.parametrize(("name", "sizes"), [("gradient descent", (1, 8, 1)), ("AdamW", (2, 1, 4))])
def test_the_donated_state_is_not_copied(name, sizes, trained):
    made = trained(name, sizes)
    held = sum(place.device_bytes for place in made.compiled.layout.values())
    assert made.step.memory_analysis().alias_size_in_bytes == held
    heads = made.step.as_text().split("input_output_alias={", 1)[1].split("}, entry", 1)[0]
    assert heads.count("may-alias") + heads.count("must-alias") == len(made.compiled.layout)
