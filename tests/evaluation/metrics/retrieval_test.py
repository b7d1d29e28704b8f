import numpy as np
import pytest

from mmjax.evaluation.metrics.retrieval import positives, ranks, summary


def unit_vectors(generator, count, dim=6):
    vectors = generator.normal(size=(count, dim)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def plain_ranks(queries, gallery, query_groups, gallery_groups):
    """The definition, one pair at a time, in float64."""
    found = []
    for query, group in zip(queries.astype(np.float64), query_groups):
        similarity = gallery.astype(np.float64) @ query
        best = max(s for s, g in zip(similarity, gallery_groups) if g == group)
        found.append(sum(s >= best for s, g in zip(similarity, gallery_groups) if g != group))
    return np.array(found)


@pytest.fixture
def case():
    generator = np.random.default_rng(3)
    query_groups = generator.integers(0, 9, size=40)
    gallery_groups = np.concatenate([np.arange(9), generator.integers(0, 9, size=24)])
    return unit_vectors(generator, 40), unit_vectors(generator, 33), query_groups, gallery_groups


def test_ranks_are_those_of_the_definition(case):
    np.testing.assert_array_equal(ranks(*case), plain_ranks(*case))


@pytest.mark.parametrize("chunk", [1, 2, 7, 33, 40, 1000])
def test_the_chunk_size_changes_no_rank(case, chunk):
    np.testing.assert_array_equal(ranks(*case, chunk=chunk), plain_ranks(*case))


def test_the_order_of_the_gallery_changes_no_rank(case):
    queries, gallery, query_groups, gallery_groups = case
    order = np.random.default_rng(0).permutation(len(gallery))
    shuffled = ranks(queries, gallery[order], query_groups, gallery_groups[order])
    np.testing.assert_array_equal(shuffled, ranks(*case))


def test_equal_embeddings_find_nothing():
    generator = np.random.default_rng(0)
    same = np.repeat(unit_vectors(generator, 1, dim=33), 50, axis=0)
    own = np.arange(50)
    for chunk in (7, 4096):
        assert (ranks(same, same, own, own, chunk) == 49).all()


def test_a_copy_of_the_right_answer_in_another_group_counts_against():
    generator = np.random.default_rng(1)
    vectors = unit_vectors(generator, 20, dim=64)
    gallery = np.concatenate([vectors, vectors])
    found = ranks(vectors, gallery, np.arange(20), np.arange(40), chunk=7)
    assert (found == 1).all()


def test_a_similarity_that_is_not_a_number_counts_against():
    gallery = np.eye(4, dtype=np.float32)
    own = np.arange(4)
    assert (ranks(np.full((4, 4), np.nan, np.float32), gallery, own, own) == 3).all()
    broken = gallery.copy()
    broken[2] = np.nan
    np.testing.assert_array_equal(ranks(gallery, broken, own, own), [1, 1, 3, 1])


def test_a_query_without_a_right_answer_is_refused():
    one = np.ones((1, 1), np.float32)
    with pytest.raises(ValueError, match="no right answer"):
        ranks(one, one, np.array([0]), np.array([1]))
    with pytest.raises(ValueError, match="chunk"):
        ranks(one, one, np.array([0]), np.array([0]), chunk=0)


def test_positives_are_counted_by_group():
    counts = positives(np.array([5, 1, 9]), np.array([1, 5, 5, 2, 5]))
    np.testing.assert_array_equal(counts, [3, 1, 0])


def test_summary_counts_from_one_and_takes_the_first_k():
    found = summary(np.array([0, 0, 4, 9]), np.ones(4, dtype=np.int64), 100, (1, 5, 10))
    assert found["R@1"] == 0.5
    assert found["R@5"] == 0.75
    assert found["R@10"] == 1.0
    assert found["median_rank"] == 3.0
    assert found["mean_rank"] == 4.25


def test_chance_of_one_right_answer_is_k_over_the_gallery():
    found = summary(np.zeros(7, dtype=np.int64), np.ones(7, dtype=np.int64), 256, (1, 5, 10))
    assert found["R@1_chance"] == pytest.approx(1 / 256)
    assert found["R@10_chance"] == pytest.approx(10 / 256)
    assert found["median_rank_chance"] == 128
    assert found["mean_rank_chance"] == 128.5


def test_chance_is_what_random_orders_give():
    generator = np.random.default_rng(0)
    gallery, rounds = 60, 4000
    counts = np.array([1, 3, 12])
    drawn = []
    for count in np.tile(counts, rounds):  # wrong answers before the first right one
        right = generator.permutation(gallery) < count
        drawn.append(int(np.argmax(right)))
    drawn = np.array(drawn)
    found = summary(drawn, np.tile(counts, rounds), gallery, (1, 5, 10))
    for name in ("R@1", "R@5", "R@10"):
        assert found[name] == pytest.approx(found[f"{name}_chance"], abs=0.015)  # 3 deviations
    assert found["mean_rank"] == pytest.approx(found["mean_rank_chance"], rel=0.04)
    assert abs(found["median_rank"] - found["median_rank_chance"]) <= 1


def test_a_gallery_smaller_than_k_is_found_whole():
    found = summary(np.array([2]), np.array([1]), 3, (10,))
    assert found["R@10"] == found["R@10_chance"] == 1.0
