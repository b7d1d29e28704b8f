"""MaskRegions: how many, what becomes of them, what never is masked, and the same for a seed."""

import numpy as np
import pytest

from mmjax.data.transforms.mask_regions import MaskRegions, overlaps

DIM = 3


def sample(count=6, real=None, mean_first=False, seed=0):
    rng = np.random.default_rng(seed)
    real = count if real is None else real
    low = rng.uniform(0, 0.5, (count, 2))
    boxes = np.concatenate([low, low + rng.uniform(0.1, 0.5, (count, 2))], axis=1)
    mask = np.arange(count) < real
    regions = rng.uniform(1, 2, (count, DIM)).astype(np.float32) * mask[:, None]
    if mean_first:
        regions[0] = regions[1:real].mean(axis=0)
        boxes[0] = (0, 0, 1, 1)
    made = {"regions": regions, "region_mask": mask, "boxes": boxes.astype(np.float32)}
    return {**made, "mean_first": mean_first}


def run(transform, given, seed=0):
    made = transform(dict(given), np.random.default_rng(seed))
    np.testing.assert_array_equal(made["regions"], given["regions"])  # they stay
    return made["masked_regions"], made["region_asked"]


def test_each_region_is_asked_for_with_the_rate_and_most_become_zero():
    given = sample(20_000)
    masked, asked = run(MaskRegions(rate=0.15, zeroed=0.9), given)
    assert masked.dtype == np.float32
    zero = (masked == 0).all(axis=1)
    assert abs(asked.mean() - 0.15) < 0.01
    assert abs(zero[asked].mean() - 0.9) < 0.02
    assert not zero[~asked].any()
    np.testing.assert_array_equal(masked[~zero], given["regions"][~zero])


def test_the_generator_alone_decides():
    given, transform = sample(), MaskRegions(rate=0.5)
    first = run(transform, given, seed=3)
    for made, again in zip(first, run(transform, given, seed=3)):
        np.testing.assert_array_equal(made, again)
    draws = {tuple(run(transform, given, seed)[1]) for seed in range(20)}
    assert len(draws) > 5


def test_padding_is_never_asked_for_and_changes_nothing():
    transform = MaskRegions(rate=0.9, overlap=0.2)
    longer = sample(9, real=6, seed=2)
    shorter = {**longer, **{w: longer[w][:6] for w in ("regions", "region_mask", "boxes")}}
    masked, asked = run(transform, longer)
    assert not asked[6:].any()
    assert asked.any()
    for made, wanted in zip(run(transform, shorter), (masked, asked)):
        np.testing.assert_array_equal(made, wanted[:6])


@pytest.mark.parametrize("seed", range(3))
def test_the_mean_is_never_asked_for_and_does_not_tell_of_what_is_masked(seed):
    given = sample(6, real=5, mean_first=True)
    masked, asked = run(MaskRegions(rate=0.6, zeroed=1.0), given, seed)
    assert not asked[0]
    left = [place for place in range(1, 5) if not asked[place]]
    assert 0 < len(left) < 4
    np.testing.assert_allclose(masked[0], given["regions"][left].mean(axis=0), rtol=1e-6)
    np.testing.assert_array_equal(masked[left], given["regions"][left])


def test_where_nothing_is_left_the_mean_is_zero_and_where_nothing_is_masked_it_stays():
    given = sample(4, mean_first=True)
    masked, asked = run(MaskRegions(rate=0.999999, zeroed=1.0), given)
    assert asked[1:].all()
    assert (masked == 0).all()
    masked, asked = run(MaskRegions(rate=1e-9), given)
    assert not asked.any()
    np.testing.assert_array_equal(masked, given["regions"])


def test_what_overlaps_a_zeroed_region_becomes_zero_too_and_is_not_asked_for():
    given = sample(4)
    given["boxes"] = np.array(
        [[0, 0, 0.4, 0.4], [0, 0, 0.4, 0.3], [0.2, 0.2, 0.6, 0.6], [0.7, 0.7, 1, 1]], np.float32
    )
    found = overlaps(given["boxes"])
    np.testing.assert_allclose(found[0], [1, 0.75, 1 / 7, 0], rtol=1e-5)
    seeds = [s for s in range(200) if run(MaskRegions(), given, s)[1].tolist() == [1, 0, 0, 0]]
    kept = zeroed = 0
    for seed in seeds:
        alone, asked = run(MaskRegions(), given, seed)
        masked, again = run(MaskRegions(overlap=0.4), given, seed)
        np.testing.assert_array_equal(again, asked)
        zero = (masked == 0).all(axis=1).tolist()
        hidden = bool((alone[0] == 0).all())
        assert zero == [hidden, hidden, False, False]
        kept, zeroed = kept + (not hidden), zeroed + hidden
    assert kept
    assert zeroed
    everything, _ = run(MaskRegions(overlap=0.1), given, seeds[0])
    assert (everything[2] == 0).all() == (everything[0] == 0).all()


def test_the_whole_pictures_box_overlaps_nothing():
    given = sample(4, mean_first=True)
    given["boxes"][1:] = ((0, 0, 1, 0.9), (0, 0.95, 0.5, 1), (0.5, 0.95, 1, 1))
    transform = MaskRegions(zeroed=1.0, overlap=0.4)
    seed = next(s for s in range(200) if run(transform, given, s)[1].tolist() == [0, 1, 0, 0])
    masked, _ = run(transform, given, seed)
    assert (masked[1] == 0).all()
    np.testing.assert_array_equal(masked[2:], given["regions"][2:])
    np.testing.assert_allclose(masked[0], given["regions"][2:].mean(axis=0), rtol=1e-6)


def test_empty_boxes_overlap_nothing():
    np.testing.assert_array_equal(overlaps(np.zeros((2, 4), np.float32)), np.zeros((2, 2)))


def test_wrong_options_and_missing_words_are_refused():
    for options in ({"rate": 0.0}, {"rate": 1.0}, {"zeroed": 1.1}, {"overlap": -0.1}):
        with pytest.raises(ValueError, match=next(iter(options))):
            MaskRegions(**options)
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match=r"put Regions\(\.\.\.\) before it"):
        MaskRegions()({}, rng)
    without = {word: x for word, x in sample().items() if word != "boxes"}
    with pytest.raises(ValueError, match=r"overlap=0\.4 needs boxes"):
        MaskRegions(overlap=0.4)(without, rng)


def test_a_share_of_those_asked_for_is_drawn_from_another_picture():
    given = sample(20_000)
    made = MaskRegions(zeroed=0.8, other=0.1)(dict(given), np.random.default_rng(0))
    masked, asked, other = (made[w] for w in ("masked_regions", "region_asked", "region_other"))
    taken = other >= 0
    assert other.dtype == np.int32
    assert not taken[~asked].any()
    assert abs(taken[asked].mean() - 0.1) < 0.02
    assert other.max() < len(other)
    assert len(set(other[taken].tolist())) > 0.9 * taken.sum()  # of all places
    np.testing.assert_array_equal(masked[taken], given["regions"][taken])  # until the step
    plain = MaskRegions(zeroed=0.8)(dict(given), np.random.default_rng(0))
    assert "region_other" not in plain
    np.testing.assert_array_equal(plain["masked_regions"], masked)


def test_too_large_a_share_and_a_mean_of_all_are_refused():
    with pytest.raises(ValueError, match=r"other=0.2 is of 0 to 0.1, what zeroed=0.9 leaves"):
        MaskRegions(zeroed=0.9, other=0.2)
    assert MaskRegions(zeroed=0.9, other=0.1).other == 0.1
    with pytest.raises(ValueError, match="the mean of the regions, which comes first"):
        run(MaskRegions(zeroed=0.8, other=0.1), sample(mean_first=True))
