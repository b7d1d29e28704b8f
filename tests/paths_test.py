"""Paths and the ordered rules over them."""

import jax.numpy as jnp
import pytest

from mmjax import paths

TREE = {"image": {"kernel": 1, "bias": 2}, "text": {"kernel": 3}, "log_scale": 4}


def test_flatten_and_unflatten_are_inverse():
    flat = paths.flatten(TREE)
    assert flat == {"image/bias": 2, "image/kernel": 1, "log_scale": 4, "text/kernel": 3}
    assert paths.unflatten(flat) == TREE


def test_map_with_path_gives_the_whole_path():
    assert paths.map_with_path(lambda path, leaf: f"{path}={leaf}", TREE)["image"]["bias"] == (
        "image/bias=2"
    )


def test_the_first_rule_that_matches_the_whole_path_wins():
    rules = [("image/.*", "a"), (".*kernel", "b"), (".*", "c")]
    chosen = paths.choose(rules, paths.flatten(TREE), "rules")
    assert chosen == {"image/bias": "a", "image/kernel": "a", "log_scale": "c", "text/kernel": "b"}
    assert paths.match([("image", 1), (".*", 2)], "image/bias") == 2


def test_an_unmatched_path_is_an_error_that_names_it():
    with pytest.raises(ValueError, match=r"rules: no rule matches 1 of 4 arrays: log_scale"):
        paths.choose([("(image|text)/.*", 0)], paths.flatten(TREE), "rules")


def test_a_rule_that_decides_nothing_is_an_error_unless_it_is_optional():
    with pytest.raises(ValueError, match=r"'audio/.*' decides nothing"):
        paths.choose([("audio/.*", 1), (".*", 0)], paths.flatten(TREE), "rules")
    paths.choose([("(?#optional)audio/.*", 1), (".*", 0)], paths.flatten(TREE), "rules")


def test_names_of_tuples_and_arrays():
    assert list(paths.flatten({"a": (jnp.ones(1), jnp.ones(2))})) == ["a/0", "a/1"]


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        (((1, 2),), r"\(1, 2\) is no rule; write"),
        (("image/.*", 0), r"'image/\.\*' is no rule"),
        ((("(image", 0),), r"'\(image' is no regular expression: missing \)"),
    ],
)
def test_what_is_no_rule_is_an_error_that_shows_how_to_write_one(rules, message):
    with pytest.raises(ValueError, match=message):
        paths.check_rules(rules, "rules")
