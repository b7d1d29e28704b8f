"""RandAugment's operations do what the paper names, at the strength that was asked."""

import pickle

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from mmjax.data.transforms.augment import OPERATIONS, RandAugment

FILL = (128, 128, 128)


def picture(seed: int = 0, side: int = 40) -> np.ndarray:
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(20, 200, (5, 5, 3)).astype(np.uint8))
    return np.array(coarse.resize((side, side), Image.Resampling.BICUBIC))


def apply(name: str, magnitude: float, seed: int, image: np.ndarray) -> np.ndarray:
    transform = RandAugment(1, magnitude, operations=(name,))
    return transform({"image": image}, np.random.default_rng(seed))["image"]


def sign(seed: int) -> int:
    return -1 if np.random.default_rng(seed).random((1, 2))[0, 1] < 0.5 else 1


def test_both_signs_are_among_the_seeds_of_these_tests():
    assert {sign(seed) for seed in range(4)} == {-1, 1}


def test_the_operations_are_the_papers_fourteen():
    assert len(OPERATIONS) == 14
    assert RandAugment().operations == tuple(OPERATIONS)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("magnitude", [0.0, 9.0, 30.0])
def test_colour_operations_equal_pillows_at_the_stated_amount(seed, magnitude):
    image = picture(seed)
    pillow = Image.fromarray(image)
    share = magnitude / 30
    blend = 1 + sign(seed) * 0.9 * share
    expected = {
        "identity": pillow,
        "brightness": ImageEnhance.Brightness(pillow).enhance(blend),
        "color": ImageEnhance.Color(pillow).enhance(blend),
        "contrast": ImageEnhance.Contrast(pillow).enhance(blend),
        "sharpness": ImageEnhance.Sharpness(pillow).enhance(blend),
        "auto_contrast": ImageOps.autocontrast(pillow),
        "equalize": ImageOps.equalize(pillow),
    }
    for name, result in expected.items():
        np.testing.assert_array_equal(apply(name, magnitude, seed, image), np.asarray(result))
    bits = 8 - round(4 * share)
    mask = 256 - 2 ** (8 - bits)
    np.testing.assert_array_equal(apply("posterize", magnitude, seed, image), image & mask)
    threshold = round(255 * (1 - share))
    inverted = np.where(image < threshold, image, 255 - image)
    np.testing.assert_array_equal(apply("solarize", magnitude, seed, image), inverted)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("axis", [0, 1])
def test_translation_moves_by_its_share_of_the_side_and_fills(seed, axis):
    image = picture(seed, 100)
    name = ("translate_y", "translate_x")[axis]
    shift = sign(seed) * round(10 / 30 * 150 / 331 * 100)
    moved = apply(name, 10.0, seed, image)
    expected = np.roll(image, shift, axis)
    filled = [slice(None)] * 2
    filled[axis] = slice(0, shift) if shift > 0 else slice(shift, None)
    expected[tuple(filled)] = FILL
    np.testing.assert_array_equal(moved, expected)


@pytest.mark.parametrize("seed", range(4))
def test_rotation_turns_by_degrees_about_the_middle(seed):
    image = np.zeros((101, 101, 3), np.uint8)
    image[50, 90] = 255
    turned = apply("rotate", 30.0, seed, image)
    turned[(turned == FILL).all(axis=-1)] = 0
    row, column = np.argwhere(turned[..., 0] == turned[..., 0].max())[0]
    angle = -np.degrees(np.arctan2(row - 50, column - 50))  # rows count downwards
    assert abs(angle - 30 * sign(seed)) < 1.5
    assert abs(np.hypot(row - 50, column - 50) - 40) < 1


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("axis", [0, 1])
def test_shear_shifts_each_row_by_its_distance_from_the_middle(seed, axis):
    image = np.zeros((100, 100, 3), np.uint8)
    image[:, 49:52] = 255
    image = image if axis else image.swapaxes(0, 1)
    sheared = apply(("shear_y", "shear_x")[axis], 30.0, seed, np.ascontiguousarray(image))
    sheared = sheared if axis else sheared.swapaxes(0, 1)
    lines = [float(np.mean(np.argwhere(sheared[row, :, 0] > 200))) for row in (5, 50, 95)]
    assert abs(lines[1] - 50) <= 1
    assert abs(lines[2] - lines[0] - sign(seed) * 0.3 * 90) < 2


def test_magnitude_nothing_moves_nothing():
    image = picture()
    for name in ("shear_x", "shear_y", "translate_x", "translate_y", "rotate"):
        np.testing.assert_array_equal(apply(name, 0.0, 0, image), image)


def test_several_operations_follow_one_another_in_the_drawn_order():
    names = ("posterize", "solarize", "equalize")
    transform = RandAugment(3, 20.0, operations=names)
    image = picture(3)
    orders = set()
    for seed in range(10):
        draws = np.random.default_rng(seed).random((3, 2))
        order = tuple(names[int(draw * 3)] for draw in draws[:, 0])
        expected = image
        for name in order:
            expected = apply(name, 20.0, seed, expected)
        result = transform({"image": image}, np.random.default_rng(seed))["image"]
        np.testing.assert_array_equal(result, expected)
        orders.add(order)
    assert len(orders) > 5


def test_all_operations_are_drawn_equally_often():
    draws = np.random.default_rng(0).random((14_000, 2))[:, 0]
    counts = np.bincount((draws * 14).astype(int), minlength=14)
    assert counts.min() > 850
    assert RandAugment(0)({"image": picture()}, np.random.default_rng(0))["image"].shape


def test_the_draws_do_not_depend_on_the_picture_and_the_source_stays():
    after = set()
    for image in (picture(), picture(side=7), picture()[:, ::-1]):
        before = image.copy()
        for seed in range(20):
            rng = np.random.default_rng(seed)
            result = RandAugment(2, 15.0)({"image": image}, rng)["image"]
            assert result.shape == image.shape
            assert not np.shares_memory(result, image)
        after.add(rng.random())
        np.testing.assert_array_equal(image, before)
    assert len(after) == 1


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"num_ops": -1}, "num_ops=-1"),
        ({"magnitude": 31.0}, "0 to 30"),
        ({"operations": ("flip",)}, "shear_x"),
        ({"operations": ()}, "shear_x"),
    ],
)
def test_wrong_options_are_named_with_what_is_allowed(options, name):
    with pytest.raises(ValueError, match=name):
        RandAugment(**options)


def test_it_travels_between_processes():
    transform = RandAugment(3, 12.0)
    assert pickle.loads(pickle.dumps(transform)) == transform
