"""Colours change by the drawn factors, and by nothing where nothing is asked."""

import colorsys
import io
import pickle

import numpy as np
import pytest
from PIL import Image

from mmjax.data.transforms.color import ColorJitter, turn_hue
from mmjax.data.transforms.decode import EncodedImage

NONE = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0}


def picture(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (20, 30, 3)).astype(np.uint8)


def jitter(transform: ColorJitter, image: np.ndarray, seed: int) -> np.ndarray:
    return transform({"image": image}, np.random.default_rng(seed))["image"]


def factor(seed: int, which: int, amount: float) -> float:
    """The factor that draw number `which` means."""
    draw = np.random.default_rng(seed).random(5)[1 + which]
    least = max(0.0, 1 - amount)
    return least + draw * (1 + amount - least)


def grey(image: np.ndarray) -> np.ndarray:
    """ITU-R 601 luma, rounded as Pillow does."""
    weights = np.array([19595, 38470, 7471])
    return (image.astype(np.int64) @ weights + 0x8000) >> 16


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("amount", [0.4, 1.5])
@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
def test_each_change_blends_with_black_mean_grey_or_grey(seed, amount, name):
    image = picture(seed)
    base = {
        "brightness": np.zeros(image.shape),
        "contrast": np.full(image.shape, int(grey(image).mean() + 0.5)),
        "saturation": np.repeat(grey(image)[..., None], 3, axis=-1),
    }[name]
    which = ["brightness", "contrast", "saturation"].index(name)
    blend = base + factor(seed, which, amount) * (image.astype(float) - base)
    result = jitter(ColorJitter(**{**NONE, name: amount}), image, seed)
    assert result.dtype == np.uint8
    assert np.abs(result - np.clip(blend, 0, 255)).max() <= 1


@pytest.mark.parametrize("turn", [-0.5, -0.2, 0.1, 0.37])
def test_a_turned_hue_keeps_brightness_and_saturation(turn):
    colours = np.array([[(250, 20, 20), (20, 250, 20), (90, 60, 200), (70, 70, 70)]], np.uint8)
    turned = np.asarray(turn_hue(Image.fromarray(colours), turn))
    for before, after in zip(colours[0] / 255, turned[0] / 255):
        hue, saturation, value = colorsys.rgb_to_hsv(*before)
        expected = colorsys.hsv_to_rgb((hue + turn) % 1.0, saturation, value)
        assert np.abs(np.array(expected) - after).max() < 9 / 255  # hues have 256 steps


def test_hue_is_drawn_within_its_range():
    red = np.full((4, 4, 3), (255, 0, 0), np.uint8)
    hues = []
    for seed in range(200):
        result = jitter(ColorJitter(**{**NONE, "hue": 0.1}), red, seed)[0, 0] / 255
        hues.append((colorsys.rgb_to_hsv(*result)[0] + 0.5) % 1 - 0.5)
    assert -0.105 < min(hues) < -0.08
    assert 0.08 < max(hues) < 0.105


def test_the_order_of_changes_is_random():
    image = picture()
    only = ColorJitter(**{**NONE, "brightness": 0.9, "saturation": 0.9})
    # The same factors in another order give other pixels, where something was clipped.
    orders = set()
    for seed in range(12):
        draws = np.random.default_rng(seed)
        draws.random(5)
        order = tuple(step for step in draws.permutation(4) if step in (0, 2))
        result = image
        for step in order:
            one = ColorJitter(**{**NONE, ("brightness", "", "saturation")[step]: 0.9})
            result = jitter(one, result, seed)
        np.testing.assert_array_equal(jitter(only, image, seed), result)
        orders.add(order)
    assert len(orders) == 2


def test_nothing_asked_changes_nothing_and_probability_is_kept():
    image = picture()
    np.testing.assert_array_equal(jitter(ColorJitter(**NONE), image, 0), image)
    changed = [
        not np.array_equal(jitter(ColorJitter(probability=0.3), image, seed), image)
        for seed in range(400)
    ]
    assert abs(np.mean(changed) - 0.3) < 0.1


def test_the_draws_do_not_depend_on_the_picture_or_the_options():
    after = set()
    for transform in (ColorJitter(), ColorJitter(**NONE), ColorJitter(probability=0.0)):
        for image in (picture(), picture()[:3]):
            rng = np.random.default_rng(9)
            transform({"image": image}, rng)
            after.add(rng.random())
    assert len(after) == 1


def test_the_source_stays_as_it_is_and_equal_draws_give_equal_pixels():
    image = picture()
    before = image.copy()
    first = jitter(ColorJitter(), image, 4)
    np.testing.assert_array_equal(first, jitter(ColorJitter(), image, 4))
    assert np.abs(first.astype(int) - jitter(ColorJitter(), image, 5)).mean() > 1
    first[:] = 0
    np.testing.assert_array_equal(image, before)
    np.testing.assert_array_equal(
        jitter(ColorJitter(), image[:, ::-1], 4), jitter(ColorJitter(), image, 4)[:, ::-1]
    )


def test_encoded_pictures_are_decoded_first():
    file = io.BytesIO()
    Image.fromarray(picture()).save(file, "PNG")
    encoded = EncodedImage(file.getvalue(), "x")
    np.testing.assert_array_equal(
        jitter(ColorJitter(), encoded, 1), jitter(ColorJitter(), picture(), 1)
    )


@pytest.mark.parametrize(
    "options", [{"brightness": -0.1}, {"hue": 0.6}, {"saturation": np.inf}, {"probability": 2.0}]
)
def test_wrong_options_are_named(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        ColorJitter(**options)


def test_a_jitter_travels_between_processes():
    assert pickle.loads(pickle.dumps(ColorJitter(hue=0.2))) == ColorJitter(hue=0.2)
