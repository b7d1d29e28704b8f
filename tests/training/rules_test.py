import numpy as np
import pytest

from mmjax.training.rules import decide

SHAPES = {
    "image/blocks/mlp/kernel": (4, 3, 5),
    "image/blocks/norm/scale": (4, 3),
    "image/patches/kernel": (2, 3),
    "text/blocks/mlp/kernel": (2, 3, 5),
    "log_scale": (),
}


def test_the_first_matching_rule_decides_each_layer():
    rules = ((r"image/blocks[0:2]/.*", 0.1), (r"image/blocks[1:]/.*", 0.5), (".*", 1.0))
    chosen = decide(rules, SHAPES, "rules")
    np.testing.assert_array_equal(
        chosen["image/blocks/mlp/kernel"],
        np.array([0.1, 0.1, 0.5, 0.5], np.float32).reshape(4, 1, 1),
    )
    assert chosen["image/blocks/norm/scale"].shape == (4, 1)
    assert {path: chosen[path] for path in list(SHAPES)[2:]} == {
        "image/patches/kernel": 1.0,
        "text/blocks/mlp/kernel": 1.0,
        "log_scale": 1.0,
    }


@pytest.mark.parametrize(
    ("bracket", "layers"),
    [
        ("[0:2]", [0, 1]),
        ("[2:]", [2, 3]),
        ("[:1]", [0]),
        ("[:]", [0, 1, 2, 3]),
        ("[-1:]", [3]),
        ("[1:-1]", [1, 2]),
        ("[3]", [3]),
        ("[-4]", [0]),
    ],
)
def test_a_slice_of_layers_means_what_it_means_in_python(bracket, layers):
    rules = ((f"image/blocks{bracket}/.*", 2.0), (".*", 1.0))
    chosen = decide(rules, SHAPES, "rules")["image/blocks/norm/scale"]
    assert [layer for layer in range(4) if chosen[layer, 0] == 2.0] == layers


def test_a_rule_for_whole_arrays_before_a_slice_wins():
    rules = ((".*/kernel", 3.0), ("image/blocks[0:2]/.*", 2.0), (".*", 1.0))
    chosen = decide(rules, SHAPES, "rules")
    assert chosen["image/blocks/mlp/kernel"] == 3.0
    assert chosen["image/blocks/norm/scale"].ravel().tolist() == [2.0, 2.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ((("image/blocks[0:6]/.*", 1.0), (".*", 1.0)), r"beyond the 4 of 'image/blocks/mlp"),
        ((("image/blocks[4]/.*", 1.0), (".*", 1.0)), "beyond the 4"),
        ((("image/blocks[2:2]/.*", 1.0), (".*", 1.0)), "beyond the 4"),
        ((("log_scale[0:1]", 1.0), (".*", 1.0)), r"beyond the 0 of 'log_scale'"),
        ((("image/blocks[0:3]/.*", 1.0), ("text.*", 1.0)), r"layers \[3\] of 'image/blocks/mlp"),
        ((("image/blocks[0:4]/.*", 1.0), ("text.*", 1.0)), "'image/patches/kernel'"),
        ((("image/blocks[0:4]/.*", 1.0), ("imgae/.*", 0.1), (".*", 1.0)), "'imgae/.*' decides"),
        (
            (("image/blocks[0:4]/.*", 1.0), ("image/blocks[0]/.*", 0.1), (".*", 1.0)),
            r"'image/blocks\[0\]/.*' decides nothing",
        ),
        ((("(image/blocks[0:1]|text/blocks[1])/.*", 1.0), (".*", 1.0)), "two slices"),
        ((("image/.*", 1.0),), "no rule matches 2 of 5 arrays"),
    ],
)
def test_rules_that_leave_something_open_or_decide_nothing_are_refused(rules, message):
    with pytest.raises(ValueError, match=message):
        decide(rules, SHAPES, "rules")
