"""Objectives that score each row by itself, beside numpy and the published losses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.objectives.answering import Answering
from mmjax.objectives.base import Forward
from mmjax.objectives.classification import Classification
from mmjax.objectives.reasoning import Reasoning

RNG = np.random.default_rng(0)
ROWS, CLASSES = 6, 5
VALID = np.array([1, 1, 0, 1, 1, 1], bool)


def scored(objective, logits, **words):
    """(loss, gradient of the logits) where every method of the model gives `logits`."""
    batch = {word: jnp.asarray(value) for word, value in words.items()}
    batch |= {word: jnp.zeros(ROWS) for word in objective.needs if word not in batch}
    batch["valid"] = jnp.asarray(VALID)

    def loss(logits):
        def apply(method, variables, inputs, train, rngs):
            return (("fused",) if method == "fuse" else logits), {}

        forward = Forward(apply, {}, {}, False, None)
        made = objective(forward, batch, ())
        return made.mean(), made

    (_, made), gradient = jax.value_and_grad(loss, has_aux=True)(jnp.asarray(logits, "f4"))
    return made, np.asarray(gradient)


@pytest.fixture(scope="module")
def logits():
    return RNG.normal(size=(ROWS, CLASSES)) * 3


@pytest.fixture(scope="module")
def worth():
    return RNG.choice([0, 0, 0.3, 0.6, 1.0], size=(ROWS, CLASSES))


def log_softmax(x):
    return x - np.log(np.exp(x).sum(1, keepdims=True))


def test_binary_answers_are_the_sum_of_each_answers_cross_entropy(logits, worth):
    made, gradient = scored(Answering(), logits, answer_scores=worth)
    sigmoid = 1 / (1 + np.exp(-logits))
    each = -(worth * np.log(sigmoid) + (1 - worth) * np.log(1 - sigmoid)).sum(1)
    assert made.mean() == pytest.approx(each[VALID].mean(), rel=1e-5)
    expected = np.where(VALID[:, None], (sigmoid - worth) / VALID.sum(), 0)
    np.testing.assert_allclose(gradient, expected, atol=1e-6)
    chosen = worth[np.arange(ROWS), logits.argmax(1)]
    total, count = made.metrics["score"]
    assert total / count == pytest.approx(chosen[VALID].mean(), rel=1e-6)


def test_kl_answers_are_the_divergence_from_the_worths(logits, worth):
    made, gradient = scored(Answering(form="kl"), logits, answer_scores=worth)
    logs = np.log(np.where(worth > 0, worth, 1))
    each = (worth * (logs - log_softmax(logits))).sum(1)
    assert made.mean() == pytest.approx(each[VALID].mean(), rel=1e-5)
    assert np.isfinite(gradient).all()


def test_questions_without_an_answer_count_or_are_passed_over(logits, worth):
    worth = np.where(np.arange(ROWS)[:, None] == 1, 0, worth)
    words = {"answer_scores": worth}
    each = (worth * (np.log(np.where(worth > 0, worth, 1)) - log_softmax(logits))).sum(1)
    counted, _ = scored(Answering(form="kl"), logits, **words)
    assert counted.mean() == pytest.approx(each[VALID].sum() / VALID.sum(), rel=1e-5)
    passed, gradient = scored(Answering(form="kl", answered=True), logits, **words)
    assert passed.mean() == pytest.approx(each[VALID].sum() / (VALID.sum() - 1), rel=1e-5)
    assert not gradient[1].any()
    chosen = worth[np.arange(ROWS), logits.argmax(1)]
    total, count = passed.metrics["score"]
    assert (total, count) == (pytest.approx(chosen[VALID].sum(), rel=1e-6), VALID.sum() - 1)


def test_a_vocabulary_of_another_size_than_the_head_is_refused(logits, worth):
    with pytest.raises(ValueError, match="the data has 4 answers and the model's head 5"):
        scored(Answering(), logits, answer_scores=worth[:, :4])
    with pytest.raises(ValueError, match="form='softmax' is none of binary, kl"):
        Answering(form="softmax")


def test_statements_are_told_by_the_larger_score_and_a_tie_is_wrong():
    logits = np.array([[0, 1], [1, 0], [9, 9], [2, 2], [0, 3], [3, 0]])
    truth = np.array([1, 0, 1, 1, 0, 1])
    made, _ = scored(Reasoning(), logits, truth=truth)
    each = -log_softmax(logits)[np.arange(ROWS), truth]
    assert made.mean() == pytest.approx(each[VALID].mean(), rel=1e-5)
    assert float(made.metrics["accuracy"][0]) == 2  # of the real rows, the first two


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_classes_are_the_cross_entropy_with_its_target_smoothed(logits, smoothing):
    label = np.array([0, 1, 2, 3, 4, 0])
    objective = Classification(smoothing=smoothing)
    made, gradient = scored(objective, logits, label=label)
    target = np.eye(CLASSES)[label] * (1 - smoothing) + smoothing / CLASSES
    each = -(target * log_softmax(logits)).sum(1)
    assert made.mean() == pytest.approx(each[VALID].mean(), rel=1e-5)
    expected = (np.exp(log_softmax(logits)) - target) / VALID.sum()
    np.testing.assert_allclose(gradient, np.where(VALID[:, None], expected, 0), atol=1e-6)
    right = (logits.argmax(1) == label)[VALID].sum()
    assert float(made.metrics["accuracy"][0]) == right


def test_a_label_that_is_no_class_makes_the_row_not_a_number(logits):
    for label in (5, -1):
        made, _ = scored(Classification(), logits, label=np.array([label, 1, 2, 3, 4, 0]))
        assert np.isnan(made.mean())


def test_several_labels_are_each_told_by_itself(logits, worth):
    labels = (worth > 0).astype(float)
    made, _ = scored(Classification(form="multi_label"), logits, labels=labels)
    each = (np.logaddexp(0, logits) - labels * logits).sum(1)
    assert made.mean() == pytest.approx(each[VALID].mean(), rel=1e-5)
    right = ((logits > 0) == (labels > 0)).mean(1)[VALID].sum()
    assert float(made.metrics["accuracy"][0]) == pytest.approx(right, rel=1e-6)


def test_padding_does_not_change_the_loss(logits, worth):
    other = np.where(VALID[:, None], logits, np.nan)
    for objective, words in (
        (Answering(), {"answer_scores": worth}),
        (Answering(form="kl"), {"answer_scores": worth}),
        (Classification(), {"label": np.array([0, 1, 9, 3, 4, 0])}),
    ):
        first, _ = scored(objective, np.where(VALID[:, None], logits, 0), **words)
        second, _ = scored(objective, other, **words)
        assert first.mean() == second.mean()


@pytest.mark.parametrize("kind", [Answering, Reasoning, Classification])
def test_a_view_may_be_a_plain_tuple_as_a_config_gives_it(kind):
    field = "view" if kind is Classification else "fuse"
    plain = kind(**{field: ("ask", ("token_ids", "image"))})
    assert plain.needs[:-1] == ("token_ids", "image")
