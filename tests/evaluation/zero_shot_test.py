import numpy as np
import pytest

from mmjax.evaluation.base import unit
from mmjax.evaluation.templates import PICTURE, fill
from mmjax.evaluation.zero_shot import ZeroShot, class_embeddings

NAMES = ("cat", "dog", "hen", "pig", "cow", "bee", "ant")
PLAIN = ("a {}",)


def texts_of(vectors, templates=PLAIN, noise=0.0):
    generator = np.random.default_rng(1)
    return {
        fill(template, name): unit(vectors[i] + noise * generator.normal(size=vectors.shape[1]))
        for i, name in enumerate(NAMES)
        for template in templates
    }


@pytest.fixture
def world(context_of):
    def make(noise=0.0, samples=40, classes=NAMES, **options):
        generator = np.random.default_rng(0)
        centres = unit(generator.normal(size=(7, 12)))
        labels = np.arange(samples) % 7
        images = unit(centres[labels] + noise * generator.normal(size=(samples, 12)))
        captions = [(f"caption {i}",) for i in range(samples)]
        settings = {"labels": labels, "classes": classes, **options}
        return context_of(images, texts_of(centres), captions, **settings)

    return make


def test_a_perfect_model_scores_one(world):
    metrics = ZeroShot(templates=PLAIN)(world()).metrics
    assert metrics["top1"] == metrics["top5"] == metrics["mean_per_class"] == 1.0
    assert metrics["top1_chance"] == pytest.approx(1 / 7)
    assert metrics["top5_chance"] == pytest.approx(5 / 7)
    assert (metrics["classes"], metrics["samples"]) == (7, 40)


def test_the_numbers_are_those_of_the_definition(world):
    context = world(noise=0.5)
    result = ZeroShot(templates=PLAIN)(context)
    images = np.concatenate(
        [context.apply(None, b).embedding[b["valid"]] for b in context.batches()]
    )
    labels = np.arange(40) % 7
    scores = images @ context.encode_texts([f"a {name}" for name in NAMES]).T
    predicted = scores.argmax(axis=1)
    assert 0.2 < result.metrics["top1"] < 1.0
    assert result.metrics["top1"] == pytest.approx(np.mean(predicted == labels))
    five = np.argsort(-scores, axis=1)[:, :5]
    assert result.metrics["top5"] == pytest.approx(np.mean((five == labels[:, None]).any(axis=1)))
    by_class = [np.mean(predicted[labels == label] == label) for label in range(7)]
    assert result.metrics["mean_per_class"] == pytest.approx(np.mean(by_class))
    expected = np.zeros((7, 7), int)
    np.add.at(expected, (labels, predicted), 1)
    np.testing.assert_array_equal(result.artifact["matrix"], expected)


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_the_batch_size_changes_no_number(world, batch_size):
    evaluator = ZeroShot(templates=PLAIN)
    expected = evaluator(world(noise=0.5)).metrics
    assert evaluator(world(noise=0.5, batch_size=batch_size)).metrics == expected


def test_constant_embeddings_are_never_right(context_of):
    same = unit(np.ones((21, 12)))
    labels = np.arange(21) % 7
    context = context_of(same, texts_of(same[:7]), [()] * 21, labels=labels, classes=NAMES)
    metrics = ZeroShot(templates=PLAIN)(context).metrics
    assert metrics["top1"] == metrics["top5"] == metrics["mean_per_class"] == 0.0


def test_random_embeddings_score_near_chance(context_of):
    generator = np.random.default_rng(5)
    images = unit(generator.normal(size=(1400, 12)))
    texts = texts_of(unit(generator.normal(size=(7, 12))))
    labels = generator.permutation(np.arange(1400) % 7)
    context = context_of(images, texts, [()] * 1400, labels=labels, classes=NAMES, batch_size=100)
    metrics = ZeroShot(templates=PLAIN)(context).metrics
    assert abs(metrics["top1"] - 1 / 7) < 3 * np.sqrt(1 / 7 * 6 / 7 / 1400)


def test_templates_are_averaged_at_unit_length_and_brought_to_it_again(context_of):
    generator = np.random.default_rng(2)
    texts = texts_of(unit(generator.normal(size=(7, 12))), PICTURE, noise=1.0)
    long = {text: 1.0 + 9.0 * generator.random() for text in texts}  # lengths must not matter
    stretched = {text: vector * long[text] for text, vector in texts.items()}
    context = context_of(unit(np.ones((1, 12))), stretched, [()])
    found = class_embeddings(context, NAMES, PICTURE)
    for row, name in zip(found, NAMES):
        mean = np.mean([texts[fill(template, name)] for template in PICTURE], axis=0)
        np.testing.assert_allclose(row, mean / np.linalg.norm(mean), atol=1e-6)


def test_the_evaluator_s_own_class_names_win_over_the_data_s(world):
    context = world(classes=("x", "y"))
    assert ZeroShot(classes=NAMES, templates=PLAIN)(context).metrics["top1"] == 1.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": ()}, "at least 2 class names"),
        ({"labels": None}, "label_from"),
        ({"labels": np.full(40, 7)}, "from 7 to 7 and there are 7 class names"),
        ({"labels": np.full(40, -1)}, "from -1"),
    ],
)
def test_what_is_missing_is_named(world, options, message):
    with pytest.raises(ValueError, match=message):
        ZeroShot(templates=PLAIN)(world(**options))


def test_two_classes_have_no_top5(context_of):
    texts = {"a cat": np.eye(2)[0], "a dog": np.eye(2)[1]}
    context = context_of(np.eye(2), texts, [(), ()], labels=[0, 1], classes=("cat", "dog"))
    metrics = ZeroShot(templates=PLAIN)(context).metrics
    assert metrics["top1"] == 1.0
    assert "top5" not in metrics


def test_a_matrix_too_large_to_draw_is_left_out(context_of):
    names = tuple(f"class {number}" for number in range(70))
    texts = {f"a {name}": np.eye(70)[(i + (i == 3)) % 70] for i, name in enumerate(names)}
    context = context_of(np.eye(70), texts, [()] * 70, labels=np.arange(70), classes=names)
    artifact = ZeroShot(templates=PLAIN)(context).artifact
    assert artifact["matrix"] is None
    assert artifact["right"].sum() == 68  # classes 3 and 4 share a vector: both are ties or wrong
    assert all(right in (3, 4) for right, _, _ in artifact["confused"])
