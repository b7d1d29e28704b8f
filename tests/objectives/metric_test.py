import numpy as np
import pytest

from mmjax.objectives.metric import DISTANCES, NEGATIVES, Margin, Triplet


def distance_matrix(image, text, distance):
    image, text = np.float64(image), np.float64(text)
    if distance == "cosine":
        return 1 - image @ text.T
    squares = np.sum((image[:, None] - text[None]) ** 2, axis=-1)
    return squares if distance == "squared_euclidean" else np.sqrt(squares)


def reference(objective, embeddings, positive, valid):
    """The losses in numpy float64, row by row."""
    distances = distance_matrix(embeddings["image"], embeddings["text"], objective.distance)
    total = 0.0
    for d, known in ((distances, positive), (distances.T, positive.T)):
        for row in np.flatnonzero(valid):
            own = d[row, row]
            wrong = d[row, valid & ~known[row]]
            hinges = np.maximum(0, objective.margin + own - wrong)
            if isinstance(objective, Margin):
                total += hinges.sum()
            elif objective.negatives == "all":
                total += hinges.mean()
            elif objective.negatives == "hardest":
                total += hinges.max()
            else:
                farther = wrong[wrong > own]
                chosen = farther.min() if farther.size else wrong.max()
                total += max(0, objective.margin + own - chosen)
    return total / valid.sum()


def name(objective):
    return f"{type(objective).__name__}-{objective.distance}-{vars(objective).get('negatives')}"


CASES = [
    objective
    for distance in DISTANCES
    for objective in (
        *(Triplet(distance=distance, negatives=negatives) for negatives in NEGATIVES),
        Margin(distance=distance),
    )
]


@pytest.mark.parametrize("objective", CASES, ids=name)
def test_it_equals_numpy_with_duplicates_and_padding(objective, make_embeddings, scalars, score):
    valid = np.ones(16, bool)
    valid[[3, 8]] = False
    embeddings = make_embeddings(valid=valid)
    embeddings["sample_id"] = embeddings["sample_id"].at[7].set(embeddings["sample_id"][2])
    positive = np.eye(16, dtype=bool)
    positive[2, 7] = positive[7, 2] = True
    value, _, _ = score(objective, embeddings, scalars)
    assert value == pytest.approx(reference(objective, embeddings, positive, valid), rel=1e-5)
    assert value > 0.01


def test_the_ways_to_choose_negatives_differ(make_embeddings, scalars, score):
    values = [
        score(Triplet(negatives=negatives), make_embeddings(), scalars)[0]
        for negatives in NEGATIVES
    ]
    assert len({round(value, 4) for value in values}) == 3
    assert max(values) == values[NEGATIVES.index("hardest")]


def test_without_a_semi_hard_negative_the_farthest_is_taken(make_embeddings, scalars, score):
    embeddings = make_embeddings(batch=3)
    embeddings["text"] = -embeddings["image"]  # the right text is the farthest of all
    objective = Triplet(negatives="semi_hard", margin=0.1)
    value, _, _ = score(objective, embeddings, scalars)
    expected = reference(objective, embeddings, np.eye(3, dtype=bool), np.ones(3, bool))
    assert value == pytest.approx(expected, rel=1e-5)
    assert value > 0.1


@pytest.mark.parametrize("distance", DISTANCES)
def test_pairs_that_are_far_from_all_others_cost_nothing(distance, make_embeddings, scalars, score):
    embeddings = make_embeddings()
    embeddings["text"] = embeddings["image"]
    for objective in (Triplet(distance=distance), Margin(distance=distance)):
        value, gradients, loss = score(objective, embeddings, scalars)
        assert value == 0
        assert not np.any(gradients["image"])
        assert float(loss.metrics["active/image_to_text"][0]) == 0


def test_the_share_of_active_rows_is_reported(make_embeddings, scalars, score):
    embeddings = make_embeddings()
    _, _, loss = score(Triplet(), embeddings, scalars)
    d = distance_matrix(embeddings["image"], embeddings["text"], "cosine")
    wrong = np.where(np.eye(16, dtype=bool), 9.0, d)
    for name, axis in (("image_to_text", 1), ("text_to_image", 0)):
        active, count = loss.metrics[f"active/{name}"]
        assert int(active) == int(np.sum(0.2 + np.diag(d) - wrong.min(axis) > 0))
        assert 0 < int(active) <= 16 == int(count)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Triplet(margin=0.0), "margin=0.0"),
        (lambda: Margin(distance="manhattan"), "'manhattan' is none of cosine, euclidean"),
        (lambda: Triplet(negatives="soft"), "'soft' is none of hardest, semi_hard, all"),
    ],
)
def test_what_is_not_allowed_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
