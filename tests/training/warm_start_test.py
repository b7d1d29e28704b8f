"""A warm start takes what it is told to take, and nothing is left over silently."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.training.checkpoint import Checkpoints, restore_params
from mmjax.training.warm_start import fit, taken, warm_start

PARAMS = {
    "image": {"kernel": np.arange(6.0, dtype=np.float32).reshape(2, 3), "bias": np.ones(3, "f4")},
    "text": {"kernel": np.full((2, 2), 5, np.float32)},
}
EMA = {"image": {"kernel": np.zeros((2, 3), "f4"), "bias": np.zeros(3, "f4")}}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    checkpoints = Checkpoints(folder / "checkpoints")
    checkpoints.save(
        1, jax.tree.map(jnp.asarray, {"params": PARAMS, "ema": EMA}), {"config.json": "{}"}
    )
    checkpoints.wait()
    return str(folder)


def warm(ours, statistics, source, rules, fresh=(), ema=False):
    theirs = restore_params(source, "ema" if ema else "params")
    return warm_start(ours, statistics, theirs, source, rules, fresh)


def warm_params(ours, source, rules, fresh=(), ema=False):
    return warm(ours, {}, source, rules, fresh, ema)[0]


def zeros():
    return {
        "image": {"kernel": np.zeros((2, 3), "f4"), "bias": np.zeros(3, "f4")},
        "text": {"kernel": np.zeros((2, 2), "f4")},
    }


SAME = (("(.*)", r"\1"),)


def test_everything_of_the_same_name_is_taken(source):
    warm = warm_params(zeros(), source, SAME)
    np.testing.assert_array_equal(warm["image"]["kernel"], PARAMS["image"]["kernel"])
    np.testing.assert_array_equal(warm["text"]["kernel"], PARAMS["text"]["kernel"])


def test_the_moving_average_can_be_taken(source):
    warm = warm_params(PARAMS, source, SAME, ema=True)
    assert not warm["image"]["kernel"].any()
    np.testing.assert_array_equal(warm["text"]["kernel"], PARAMS["text"]["kernel"])


def test_arrays_can_be_renamed_skipped_and_left_fresh(source):
    ours = {
        "tower": {"kernel": np.zeros((2, 3), "f4"), "bias": np.zeros(3, "f4")},
        "head": np.ones(2),
    }
    rules = ((r"image/(.*)", r"tower/\1"), ("text/.*", ""))
    warm = warm_params(ours, source, rules, fresh=("head",))
    np.testing.assert_array_equal(warm["tower"]["kernel"], PARAMS["image"]["kernel"])
    np.testing.assert_array_equal(warm["head"], np.ones(2))


def test_a_stack_of_layers_is_cut_and_an_array_goes_to_several_places(source):
    ours = {
        "first": {"kernel": np.zeros((1, 3), "f4")},
        "last": {"kernel": np.zeros((1, 3), "f4")},
        "one": np.zeros(3, "f4"),
        "two": np.zeros(3, "f4"),
    }
    rules = (
        ("image/(kernel)", r"first/\1[:1];last/\1[1:]"),
        ("image/bias", "one;two"),
        ("text/.*", ""),
    )
    warm = warm_params(ours, source, rules)
    np.testing.assert_array_equal(warm["first"]["kernel"], PARAMS["image"]["kernel"][:1])
    np.testing.assert_array_equal(warm["last"]["kernel"], PARAMS["image"]["kernel"][1:])
    np.testing.assert_array_equal(warm["one"], warm["two"])
    with pytest.raises(ValueError, match=r"no place for 1 of 3.*: image/bias -> three"):
        warm_params(ours, source, (rules[0], ("image/bias", "one;three"), *rules[2:]), ("two",))
    with pytest.raises(ValueError, match=r"first/kernel is \(2, 3\) there and \(1, 3\) here"):
        warm_params(ours, source, (("image/kernel", "first/kernel[:5]"), *rules[1:]), ("last/.*",))


def test_two_arrays_for_one_place_are_an_error(source):
    ours = {"kernel": np.zeros((2, 3), "f4"), "bias": np.zeros(3, "f4")}
    rules = (("image/(.*)", r"\1"), ("text/kernel", "kernel"))
    with pytest.raises(ValueError, match=r"text/kernel is the second array .* send to kernel"):
        warm_params(ours, source, rules)


def test_what_finds_no_place_is_an_error(source):
    ours = zeros()
    del ours["text"]
    with pytest.raises(ValueError, match="no place for 1 of 3 parameters: text/kernel"):
        warm_params(ours, source, SAME)
    with pytest.raises(ValueError, match="no place for 1 of 3 parameters: text/kernel"):
        warm_params(zeros(), source, (("(image/.*)", r"\1"),))


def test_what_gets_no_value_is_an_error(source):
    ours = zeros() | {"head": np.ones(2)}
    with pytest.raises(ValueError, match="nothing for 1 of our 4 parameters: head"):
        warm_params(ours, source, SAME)


STATISTICS = {"image": {"norm": {"mean": np.full(3, 2, "f4"), "var": np.full(3, 3, "f4")}}}
NONE = {"image": {"norm": {"mean": np.zeros(3, "f4"), "var": np.ones(3, "f4")}}}
ANEW = (("(.*/)?(mean|var)", ""), *SAME)
FRESH = ("(.*/)?(mean|var)",)


@pytest.fixture(scope="module")
def normed(tmp_path_factory):
    """A source whose state holds running statistics."""
    folder = tmp_path_factory.mktemp("normed")
    checkpoints = Checkpoints(folder / "checkpoints")
    state = {"params": PARAMS, "ema": EMA, "batch_stats": STATISTICS}
    checkpoints.save(1, jax.tree.map(jnp.asarray, state), {"config.json": "{}"})
    checkpoints.wait()
    return folder


@pytest.mark.parametrize("inner", ["", "checkpoints", "checkpoints/1"])
@pytest.mark.parametrize("ema", [False, True])
def test_running_statistics_come_along(normed, inner, ema):
    params, statistics = warm(zeros(), NONE, str(normed / inner), SAME, ema=ema)
    assert params["image"]["kernel"].any() != ema
    jax.tree.map(np.testing.assert_array_equal, statistics, STATISTICS)


def test_running_statistics_are_renamed_with_the_parameters_beside_them(normed):
    ours = {"tower": zeros()["image"], "text": zeros()["text"]}
    rules = (("image/(.*)", r"tower/\1"), *SAME)
    params, statistics = warm(ours, {"tower": NONE["image"]}, str(normed), rules)
    np.testing.assert_array_equal(params["tower"]["kernel"], PARAMS["image"]["kernel"])
    jax.tree.map(np.testing.assert_array_equal, statistics, {"tower": STATISTICS["image"]})


def test_running_statistics_of_the_source_are_not_dropped_silently(normed):
    with pytest.raises(ValueError, match=r"no place for 2 of 2 running stat.*: image/norm/mean"):
        warm(zeros(), {}, str(normed), SAME)
    warm(zeros(), {}, str(normed), ANEW)


def test_running_statistics_of_ours_are_not_left_anew_silently(source, normed):
    with pytest.raises(ValueError, match=r"nothing for 2 of our 2 running stat.*: image/norm/mean"):
        warm(zeros(), NONE, source, SAME)
    for given, rules in ((source, SAME), (str(normed), ANEW)):
        _, statistics = warm(zeros(), NONE, given, rules, FRESH)
        jax.tree.map(np.testing.assert_array_equal, statistics, NONE)


def test_another_shape_is_an_error_unless_it_is_a_table_of_positions(source):
    ours = zeros()
    ours["image"]["kernel"] = np.zeros((4, 3), "f4")
    with pytest.raises(ValueError, match=r"image/kernel is \(2, 3\) there and \(4, 3\) here"):
        warm_params(ours, source, SAME)


@pytest.mark.parametrize(("old", "new", "extra"), [(16, 64, 0), (17, 65, 1), (64, 16, 0)])
def test_picture_positions_are_resized_and_a_class_token_kept(old, new, extra):
    table = np.random.default_rng(0).normal(size=(old, 5)).astype(np.float32)
    made = fit("image/position_embedding", table, np.zeros((new, 5), "f4"))
    assert made.shape == (new, 5)
    np.testing.assert_array_equal(made[:extra], table[:extra])
    flat = fit("image/position_embedding", np.ones((old, 5), "f4"), np.zeros((new, 5), "f4"))
    np.testing.assert_allclose(flat, 1, rtol=1e-5)


def test_text_positions_are_cut_or_stretched():
    table = np.linspace(0, 1, 8, dtype=np.float32)[:, None] * np.ones((1, 3), "f4")
    np.testing.assert_array_equal(
        fit("text/position_embedding", table, np.zeros((5, 3), "f4")), table[:5]
    )
    longer = fit("text/position_embedding", table, np.zeros((15, 3), "f4"))
    np.testing.assert_allclose(longer[:, 0], np.linspace(0, 1, 15), atol=1e-6)


def test_a_grown_vocabulary_keeps_the_sources_rows_and_its_own_new_ones():
    theirs, ours = np.ones((5, 3), "f4"), np.full((7, 3), 2, "f4")
    made = fit("text/token_embedding", theirs, ours)
    np.testing.assert_array_equal(made, np.concatenate([theirs, ours[5:]]))
    with pytest.raises(ValueError, match=r"token_embedding is \(7, 3\) there and \(5, 3\) here"):
        fit("text/token_embedding", ours, theirs)


def test_a_tower_is_taken_where_one_of_its_arrays_is():
    assert taken(PARAMS, SAME, "text", "text")
    assert not taken(PARAMS, (("image/.*", r"\g<0>"), (".*", "")), "text", "text")
    assert taken(PARAMS, (("image/(.*)", r"image/\1"), (".*", "")), "", "image")
