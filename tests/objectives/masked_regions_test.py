"""Masked regions beside numpy, on parts of a batch, on devices, and in one pass with others.

That LXMERT's and ViLBERT's published losses and gradients are these is shown where their fixtures
are run, `tests/interop/parity_test.py`.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.models.interfaces import Fused
from mmjax.objectives.answering import Answering
from mmjax.objectives.base import Forward, check_needs
from mmjax.objectives.masked_lm import MaskedLm
from mmjax.objectives.masked_regions import MaskedRegions
from mmjax.objectives.matching import Matching
from mmjax.parallel.mesh import make_mesh
from mmjax.parallel.sharding import batch_sharding
from mmjax.typing import View

ROWS, REGIONS, DIM, CLASSES = 8, 4, 3, 5
BOTH = (("token_ids", "masked_ids"), ("regions", "masked_regions"))


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    real = np.arange(REGIONS) < rng.integers(1, REGIONS + 1, ROWS)[:, None]
    real[0] = True
    shares = rng.dirichlet(np.ones(CLASSES), (ROWS, REGIONS))
    shares[1, 0] = np.eye(CLASSES)[2]
    made = {
        "token_ids": rng.integers(1, 9, (ROWS, 6)),
        "text_mask": np.ones((ROWS, 6), bool),
        "regions": rng.normal(size=(ROWS, REGIONS, DIM)),
        "boxes": rng.random((ROWS, REGIONS, 4)),
        "masked_regions": 2 * rng.normal(size=(ROWS, REGIONS, DIM)),
        "region_mask": real,
        "region_asked": (rng.random((ROWS, REGIONS)) < 0.6) & real,
        "region_classes": shares,
        "object_labels": rng.integers(-1, CLASSES, (ROWS, REGIONS)),
        "object_confidence": rng.random((ROWS, REGIONS)),
        "attribute_labels": rng.integers(-1, 2, (ROWS, REGIONS)),
        "attribute_confidence": rng.random((ROWS, REGIONS)),
        "valid": np.arange(ROWS) != 3,
    }
    made["region_asked"][0] = True
    single = {np.dtype("float64"): np.float32, np.dtype("int64"): np.int32}
    return {word: jnp.asarray(x, single.get(x.dtype, x.dtype)) for word, x in made.items()}


TABLES = {
    name: np.random.default_rng(n).normal(size=(DIM, size)).astype(np.float32)
    for n, (name, size) in enumerate((("object", CLASSES), ("attribute", 2), ("feature", DIM)))
}


def stub(method, variables, inputs, train, rngs):
    """A region's vector is its features, and scores are products with a table."""
    if method == "region_logits":
        return {name: inputs["tokens"] @ table for name, table in TABLES.items()}, {}
    seen = inputs["regions"].reshape(inputs["regions"].shape[0], -1, DIM)  # pictures in a row
    return Fused(None, None, seen, None, None), {}


def scored(objective, batch, apply=stub):
    return objective(Forward(apply, {}, {}, False, None), batch, ())


def softmax(x):
    return np.exp(x) / np.exp(x).sum()


def value(objective, batch, row, region, head):
    """(value, right) of one region, or None where it has no label."""
    scores = np.asarray(batch["masked_regions"][row, region], np.float64) @ TABLES[head]
    if objective.form == "feature":
        far = np.abs(scores - np.asarray(batch["regions"][row, region]))
        return np.where(far < 1, far**2 / 2, far - 0.5).mean(), 0
    if objective.form == "kl":
        wanted = np.asarray(batch["region_classes"][row, region], np.float64)
        some = wanted > 0
        logs = np.log(wanted[some]) - np.log(softmax(scores))[some]
        return (wanted[some] * logs).sum(), scores.argmax() == wanted.argmax()
    label = int(batch[f"{head}_labels"][row, region])
    if label < 0:
        return None
    confidence = float(batch[f"{head}_confidence"][row, region])
    return -np.log(softmax(scores)[label]) * confidence, scores.argmax() == label


OBJECTIVES = {
    "objects": MaskedRegions(),
    "attributes": MaskedRegions(head="attribute"),
    "objects, all regions, over a share": MaskedRegions(over="all", share=0.15),
    "features": MaskedRegions(form="feature"),
    "features over a share": MaskedRegions(form="feature", share=0.15),
    "classes": MaskedRegions(form="kl"),
}


def reference(objective, batch):
    """(total, count, right ones, regions), a region at a time."""
    head = objective.head or {"feature": "feature"}.get(objective.form, "object")
    total = number = right = real = 0
    for row, region in np.ndindex(ROWS, REGIONS):
        if not (batch["valid"][row] and batch["region_mask"][row, region]):
            continue
        real += 1
        if objective.over == "asked" and not batch["region_asked"][row, region]:
            continue
        found = value(objective, batch, row, region, head)
        if found is not None:
            total, right, number = total + found[0], right + found[1], number + 1
    count = number if objective.share is None else objective.share * real
    return total, count, right, number


@jax.jit
def losses(batch):
    """Every objective's loss; compiled once for all tests of one shape."""
    return {name: scored(objective, batch) for name, objective in OBJECTIVES.items()}


def agree(made, wanted):
    for name in OBJECTIVES:
        np.testing.assert_allclose(made[name].total, wanted[name].total, rtol=1e-5)
        np.testing.assert_allclose(made[name].count, wanted[name].count, rtol=1e-6)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_it_is_the_mean_over_regions_that_are_asked_for(name, batch):
    made, objective = losses(batch)[name], OBJECTIVES[name]
    total, count, right, number = reference(objective, batch)
    assert number > 5
    np.testing.assert_allclose(made.total, total, rtol=1e-5)
    np.testing.assert_allclose(made.count, count, rtol=1e-6)
    if objective.form == "feature":
        assert made.metrics == {}
    else:
        assert [float(x) for x in made.metrics["accuracy"]] == [right, number]


@pytest.mark.parametrize("over", ["asked", "all"])
def test_padding_rows_that_fill_up_and_what_is_not_asked_for_change_nothing(over, batch):
    rng = np.random.default_rng(5)
    given = {word: np.asarray(x) for word, x in batch.items()}
    seen = given["region_mask"] & given["valid"][:, None]
    counts = seen & (given["region_asked"] | (over == "all"))
    other = dict(given)
    for word in ("regions", "masked_regions", "region_classes", "object_confidence"):
        noise = rng.random(given[word].shape).astype(np.float32)
        there = counts.reshape(counts.shape + (1,) * (noise.ndim - 2))
        other[word] = np.where(there, given[word], noise)
    other["region_asked"] = given["region_asked"] | ~seen
    for word in ("object_labels", "attribute_labels"):
        other[word] = np.where(counts, given[word], 0)
    made, wanted = losses(other), losses(batch)
    for name, objective in OBJECTIVES.items():
        if objective.over == over:
            np.testing.assert_allclose(made[name].total, wanted[name].total, rtol=1e-6)
            np.testing.assert_allclose(made[name].count, wanted[name].count, rtol=1e-6)


def test_parts_of_a_batch_and_devices_give_the_same_sums(batch):
    whole, half = losses(batch), ROWS // 2
    parts = [
        losses({word: np.asarray(x)[rows] for word, x in batch.items()})
        for rows in (slice(0, half), slice(half, ROWS))
    ]
    agree(jax.tree.map(lambda *sums: sum(sums), *parts), whole)
    rows = batch_sharding(make_mesh(8, 1, 1))
    agree(losses({word: jax.device_put(x, rows) for word, x in batch.items()}), whole)


def test_several_pictures_of_a_row_are_asked_about_together(batch):
    every = {**batch, "valid": np.ones(ROWS, bool)}
    pairs = {
        word: np.asarray(x).reshape(ROWS // 2, 2, *x.shape[1:])
        for word, x in batch.items()
        if x.ndim > 1 and word not in ("token_ids", "text_mask")
    }
    pairs |= {word: np.asarray(batch[word])[: ROWS // 2] for word in ("token_ids", "text_mask")}
    agree(losses({**pairs, "valid": np.ones(ROWS // 2, bool)}), losses(every))


def test_where_nothing_is_asked_for_loss_and_gradient_are_zero(batch):
    none = {**batch, "region_asked": jnp.zeros((ROWS, REGIONS), bool)}
    names = ("objects", "attributes", "features", "classes")

    @jax.jit
    def run(masked):
        given = {**none, "masked_regions": masked}
        return sum(scored(OBJECTIVES[name], given).mean() for name in names)

    value, gradient = jax.value_and_grad(run)(batch["masked_regions"])
    assert value == 0
    assert not np.asarray(gradient).any()


def test_one_pass_serves_words_regions_answers_and_matching(batch):
    view = View("fuse", ("token_ids", "text_mask", "regions", "boxes", "region_mask"))
    objectives = [
        MaskedLm(view, replace=BOTH),
        *(MaskedRegions(form=form, replace=BOTH) for form in ("class", "feature", "kl")),
        MaskedRegions(head="attribute", replace=BOTH),
        Answering(view, replace=BOTH),
        Matching(view, replace=BOTH),
    ]
    calls = []

    def apply(method, variables, inputs, train, rngs):
        if method == "fuse":
            calls.append(inputs)
            fused, _ = stub(method, variables, inputs, train, rngs)
            return fused._replace(text=jnp.ones((ROWS, 6, 2)), pooled=fused.image[:, 0]), {}
        if method == "masked_lm_logits":
            return jnp.zeros((ROWS, inputs["tokens"].shape[1], 9)), {}
        if method == "answer_logits":
            return inputs["fused"].pooled, {}
        if method == "matching_logits":
            return inputs["fused"].pooled[:, 0], {}
        return stub(method, variables, inputs, train, rngs)

    def trace(words):
        forward = Forward(apply, {}, {}, False, None)
        made = [objective(forward, words, ()) for objective in objectives]
        own, other = calls  # the second is of the texts with other rows' pictures
        for word, read in (("token_ids", "masked_ids"), ("regions", "masked_regions")):
            assert own[word] is words[read]
        assert other["token_ids"] is words["masked_ids"]
        assert other["regions"] is not words["masked_regions"]
        return made

    more = {
        "masked_ids": batch["token_ids"],
        "mlm_labels": batch["token_ids"],
        "answer_scores": np.ones((ROWS, DIM), np.float32),
        "sample_id": np.zeros((ROWS, 2), np.int32),
    }
    jax.eval_shape(trace, {**batch, **more})
    needed = {"masked_ids", "text_mask", "masked_regions", "boxes", "region_mask"}
    assert set(objectives[-1].needs) == needed
    assert set(objectives[-2].needs) == {*needed, "answer_scores"}
    assert set(objectives[0].needs) == {*needed, "mlm_labels"}
    assert set(objectives[2].needs) == {*needed, "region_asked", "regions"}


def test_what_does_not_fit_is_refused_or_seen(batch):
    wrong = {**batch, "object_labels": np.full((ROWS, REGIONS), CLASSES, np.int32)}
    assert np.isnan(losses(wrong)["objects"].total)
    wide = {**batch, "region_classes": jnp.ones((ROWS, REGIONS, CLASSES + 1))}
    with pytest.raises(ValueError, match=r"'region_classes' is \(8, 4, 6\).*as wide as the data"):
        scored(MaskedRegions(form="kl"), wide)
    with pytest.raises(ValueError, match="gives object, attribute, feature, not 'other'"):
        scored(MaskedRegions(form="kl", head="other"), batch)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"form": "l2"}, "form='l2' is none of class, feature, kl"),
        ({"over": "some"}, "over='some' is none of asked, all"),
        ({"head": "feature"}, "object or attribute for form='class'"),
        ({"share": 0.0}, "share=0.0; give a number above 0"),
        ({"replace": ()}, "lets the model read 'regions'"),
        ({"replace": (("regions", "masked_regions"), ("image", "x"))}, "does not read 'image'"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        MaskedRegions(**options)


def test_masked_words_may_not_be_read_in_the_clear():
    with pytest.raises(ValueError, match="lets the model read 'token_ids'"):
        MaskedLm(replace=(("regions", "masked_regions"),))
    for objective in (Answering, Matching):
        with pytest.raises(ValueError, match="does not read 'boxes'"):
            objective(replace=(("boxes", "x"),))


def test_what_it_needs_is_named():
    with pytest.raises(ValueError, match=r"needs 'masked_regions'.*Add the MaskRegions transform"):
        check_needs(
            {"regions": MaskedRegions()}, ("token_ids", "text_mask", "boxes", "region_mask")
        )
    words = set(MaskedRegions(form="kl").needs) - {"region_classes"}
    with pytest.raises(ValueError, match=r"needs 'region_classes'.*Regions\(classes_from"):
        check_needs({"regions": MaskedRegions(form="kl")}, words)
