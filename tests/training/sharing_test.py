"""A step of many goals costs what its parts cost: no tower runs twice for the same input.

What a step needs is found without it: each part alone, forward and backward, is compiled and
XLA's own count of its FLOPs is taken; then they are added up.
"""

import dataclasses
import functools
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.data.sources.base import CAUSES
from mmjax.models.encoders.bert import Bert
from mmjax.models.encoders.vit import ViT
from mmjax.models.fusion.general import GeneralFusion
from mmjax.objectives.answering import Answering
from mmjax.objectives.classification import Classification
from mmjax.objectives.contrastive import Contrastive
from mmjax.objectives.masked_lm import MaskedLm
from mmjax.objectives.matching import Matching
from mmjax.preprocess import Contract
from mmjax.training.flops import step_flops
from mmjax.training.optimizers.adamw import AdamW
from mmjax.training.schedules import constant
from mmjax.training.step import Goal, Recipe, init_state, loss_and_grads
from mmjax.typing import MadeOf, View

ROWS, SIDE, LENGTH, ANSWERS, CLASSES = 32, 32, 12, 6, 5
TOWER = {"dim": 32, "depth": 1, "num_heads": 2, "mlp_dim": 128, "scan": False, "remat": "none"}
FUSE = View("fuse", ("token_ids", "text_mask", "image"))
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


def batch():
    rng = np.random.default_rng(0)
    ids = rng.integers(3, 40, (ROWS, LENGTH)).astype(np.int32)
    hidden = rng.random((ROWS, LENGTH)) < 0.3
    made = {
        "image": rng.integers(0, 256, (ROWS, SIDE, SIDE, 3)).astype(np.uint8),
        "token_ids": ids,
        "text_mask": np.ones((ROWS, LENGTH), bool),
        "masked_ids": np.where(hidden, 2, ids).astype(np.int32),
        "mlm_labels": np.where(hidden, ids, -1).astype(np.int32),
        "answer_scores": rng.random((ROWS, ANSWERS)).astype(np.float32),
        "label": rng.integers(0, CLASSES, ROWS).astype(np.int32),
        "row": np.arange(ROWS, dtype=np.int32),
        "valid": np.ones(ROWS, bool),
        "bad_samples": np.zeros((ROWS, len(CAUSES)), np.int32),
        "sample_id": np.stack([np.arange(ROWS)] * 2, 1).astype(np.int32),
    }
    return jax.tree.map(jnp.asarray, made)


MODEL = GeneralFusion(
    image=ViT(image_size=SIDE, patch_size=8, pooling="mean", **TOWER),
    text=Bert(vocab_size=40, length=LENGTH, **TOWER),
    embed_dim=32,
    form="hierarchical",
    depth=1,
    heads=("masked_lm", "matching", "answer", "classify"),
    answers=ANSWERS,
    classes=CLASSES,
)
FIELDS = [f.name for f in dataclasses.fields(MODEL) if f.name not in ("parent", "name")]


class Apart(GeneralFusion):
    """The same, but it does not say of what it makes its methods."""

    made_of: ClassVar[dict[str, MadeOf]] = {}


GOALS = {
    "contrastive": Contrastive(),
    "words": MaskedLm(FUSE),
    "answers": Answering(FUSE),
    "classes": Classification(),
}


def flops(function, *given):
    """XLA's count, of the compiled program."""
    made = jax.jit(function).lower(*given).compile(compiler_options=QUICK)
    return made.cost_analysis()["flops"]


def gradient_step(model, negatives):
    """(the gradient of all goals together, what it is of)."""
    objectives = {**GOALS, "matching": Matching(FUSE, negatives=negatives)}
    recipe = Recipe(
        model=model,
        goals={name: Goal(objective) for name, objective in objectives.items()},
        optimizer=AdamW(schedule=constant(1e-3)),
        contract=Contract(image_size=SIDE, sequence_length=LENGTH),
        seed=0,
    )
    given = {"main": batch()}
    state, key = jax.eval_shape(lambda: (init_state(recipe, given), jax.random.key(0)))
    return lambda *given: loss_and_grads(recipe, *given)[::3], (state, given, key)


def part(method, params, *inputs):
    """(one pass of a method and its way back, to the parameters and to what was made; given)."""

    def run(params, floats, rest):
        inputs = united(floats, rest)
        return divided(MODEL.apply({"params": params}, *inputs, method=method))[0]

    floats, rest = divided(inputs)
    slopes = jax.eval_shape(lambda *given: run(*given, rest), params, floats)

    def both(params, floats, slopes):
        if method == "encode_image":  # pixels need no gradient
            made, back = jax.vjp(lambda params: run(params, floats, rest), params)
        else:
            made, back = jax.vjp(lambda params, floats: run(params, floats, rest), params, floats)
        return made, back(slopes)

    return both, (params, floats, slopes)


def divided(tree):
    """(the arrays that have a gradient, the rest)."""
    leaves, structure = jax.tree.flatten(tree)
    which = [jnp.issubdtype(x.dtype, jnp.floating) for x in leaves]
    floats = [x for x, one in zip(leaves, which) if one]
    return floats, ([x for x, one in zip(leaves, which) if not one], which, structure)


def united(floats, rest):
    others, which, structure = rest
    floats, others = iter(floats), iter(others)
    return jax.tree.unflatten(structure, [next(floats if one else others) for one in which])


@pytest.fixture(scope="module")
def needed():
    """[(how often a step needs it, a part, what it is given)]."""
    given = batch()
    image = jnp.zeros((ROWS, SIDE, SIDE, 3))
    texts = given["token_ids"], given["text_mask"]
    params = jax.eval_shape(lambda: MODEL.init(jax.random.key(0), image, *texts))["params"]

    def made(method, *inputs):
        run = functools.partial(MODEL.apply, method=method)
        return jax.eval_shape(lambda params: run({"params": params}, *filled(inputs)), params)

    seen, read = made("encode_image", image), made("encode_text", *texts)
    fused = made("join", seen, read)
    parts = [
        (1, "encode_image", image),
        (2, "encode_text", *texts),  # as it is, and with words masked
        (4, "join", seen, read),  # right, wrong text, wrong picture, words masked
        (3, "matching_logits", fused),
        (1, "masked_lm_logits", fused.text),
        (1, "answer_logits", fused),
        (1, "class_logits", seen),
    ]
    return [(times, *part(method, params, *filled(given))) for times, method, *given in parts]


def filled(tree):
    """Zeros where only a shape is known."""
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), tree)


def test_a_step_of_five_goals_costs_what_its_parts_cost(needed):
    towers, heads = needed[:3], needed[3:]
    passes = [times * flops(function, *given) for times, function, given in towers]
    wanted = sum(passes) + sum(times * step_flops(f, *given) for times, f, given in heads)
    assert min(passes[0], passes[1] / 2) > 0.08 * wanted  # so a second one could not hide
    function, given = gradient_step(MODEL, "hardest")
    # Below 1, as words that look at one picture several times share its keys and values.
    assert 0.95 < flops(function, *given) / wanted < 1.02


def test_a_tower_that_runs_twice_would_be_found(needed):
    """Traced and not compiled, where nothing that is computed twice is merged."""
    image, text, join, match, *heads = (times * step_flops(f, *g) for times, f, g in needed)
    function, given = gradient_step(MODEL, "hardest")
    wanted = image + text + join + match + sum(heads)
    assert step_flops(function, *given) == pytest.approx(wanted, rel=2e-3)
    wanted -= join / 4 + match / 3  # 'random' has no wrong texts
    apart = Apart(**{field: getattr(MODEL, field) for field in FIELDS})
    function, given = gradient_step(apart, "random")
    # Right pairs, wrong pairs, masked words and classes each see the picture themselves; the first
    # two read the text again.
    assert step_flops(function, *given) == pytest.approx(wanted + 4 * image + text, rel=2e-3)
