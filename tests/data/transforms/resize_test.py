"""The published forms of resizing, pixel for pixel; and the fast one near them."""

import io
import pickle

import cv2
import numpy as np
import pytest
from PIL import Image

from mmjax.data.sources.base import BadSample
from mmjax.data.transforms.decode import EncodedImage
from mmjax.data.transforms.resize import FORMS, INTERPOLATIONS, Resize, resize_fast

SIZES = [(375, 500), (500, 375), (64, 64), (33, 100), (101, 30), (20, 21), (1, 1), (5, 301)]


def photo(height: int, width: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3)).astype(np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), np.int16)
    return np.clip(smooth + rng.integers(-9, 10, smooth.shape), 0, 255).astype(np.uint8)


def squash(picture: Image.Image, size: int, method) -> np.ndarray:
    """SigLIP's processor: both sides to the size."""
    return np.asarray(picture.resize((size, size), method))


def shortest(picture: Image.Image, size: int, method) -> np.ndarray:
    """torchvision's Resize(size), then CenterCrop(size): CLIP's."""
    width, height = picture.size
    short, long = (width, height) if width <= height else (height, width)
    new_long = int(size * long / short)
    new = (size, new_long) if width <= height else (new_long, size)
    resized = picture.resize(new, method)
    top, left = round((new[1] - size) / 2.0), round((new[0] - size) / 2.0)
    return np.asarray(resized.crop((left, top, left + size, top + size)))


def longest(picture: Image.Image, size: int, method, pad: int) -> np.ndarray:
    """open_clip's ResizeKeepRatio(longest=1), then CenterCropOrPad."""
    width, height = picture.size
    ratio = max(height / size, width / size)
    new = [max(1, round(side / ratio)) for side in (width, height)]
    canvas = Image.new("RGB", (size, size), (pad, pad, pad))
    canvas.paste(picture.resize(new, method), ((size - new[0]) // 2, (size - new[1]) // 2))
    return np.asarray(canvas)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("target", [64, 37])
@pytest.mark.parametrize("encoded", [False, True])
def test_each_form_equals_pillow_bit_for_bit(size, interpolation, target, encoded):
    image = photo(*size)
    if encoded:
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=90)
        picture = Image.open(io.BytesIO(file.getvalue())).convert("RGB")
    else:
        picture = Image.fromarray(image)
    method = getattr(Image.Resampling, interpolation.upper())
    expected = {
        "squash": squash(picture, target, method),
        "shortest": shortest(picture, target, method),
        "longest": longest(picture, target, method, 99),
    }
    for form in FORMS:
        transform = Resize(target, form, interpolation, pad_value=99)
        source = EncodedImage(file.getvalue(), "x") if encoded else image
        result = transform({"image": source}, np.random.default_rng(0))["image"]
        assert result.dtype == np.uint8
        assert result.shape == (target, target, 3)
        np.testing.assert_array_equal(result, expected[form], err_msg=form)


def test_every_interpolation_is_pillows_of_that_name():
    image = photo(90, 70)
    results = []
    for name in INTERPOLATIONS:
        method = getattr(Image.Resampling, name.upper())
        results.append(Resize(32, interpolation=name).apply(image))
        np.testing.assert_array_equal(results[-1], squash(Image.fromarray(image), 32, method))
    assert len({result.tobytes() for result in results}) == len(INTERPOLATIONS)


def test_nothing_is_drawn_and_the_source_stays_as_it_is():
    for form in FORMS:
        for size in ((32, 32), (50, 40), (20, 31)):
            image = photo(*size)
            before = image.copy()
            rng = np.random.default_rng(3)
            result = Resize(32, form)({"image": image}, rng)["image"]
            assert rng.random() == np.random.default_rng(3).random()
            assert not np.shares_memory(result, image)
            result[:] = 7
            np.testing.assert_array_equal(image, before)


def test_views_that_are_not_contiguous_resize_as_their_copies():
    image = photo(60, 80)
    for view in (image[::-1], image[:, ::-1], image.swapaxes(0, 1), image[3:50, 5:60]):
        copy = np.ascontiguousarray(view)
        np.testing.assert_array_equal(Resize(32).apply(view), Resize(32).apply(copy))
        np.testing.assert_array_equal(resize_fast(view, 32), resize_fast(copy, 32))


def test_a_thread_of_a_picture_is_refused_where_its_short_side_would_blow_it_up():
    image = np.zeros((1, 16_000, 3), np.uint8)
    with pytest.raises(BadSample, match="224") as caught:
        Resize(224, "shortest").apply(image)
    assert caught.value.cause == "too_large"
    assert Resize(224, "longest", pad_value=9).apply(image).shape == (224, 224, 3)
    assert Resize(224, "squash").apply(image).shape == (224, 224, 3)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"size": 0}, "size=0"),
        ({"size": 8, "form": "crop"}, "squash, shortest, longest"),
        ({"size": 8, "interpolation": "area"}, "bicubic"),
        ({"size": 8, "pad_value": 256}, "pad_value=256"),
        ({"size": 8, "crop_rounding": "up"}, "even, down"),
    ],
)
def test_wrong_options_are_named_with_what_is_allowed(options, name):
    with pytest.raises(ValueError, match=name):
        Resize(**options)


@pytest.mark.parametrize("odd", [1, 3, 5, 7])
def test_an_odd_cut_begins_where_each_published_library_begins(odd):
    image = photo(24, 24 + odd)
    even = Resize(24, "shortest").apply(image)
    down = Resize(24, "shortest", crop_rounding="down").apply(image)
    np.testing.assert_array_equal(even, shortest(Image.fromarray(image), 24, None))  # torchvision
    np.testing.assert_array_equal(down, image[:, odd // 2 :][:, :24])  # transformers
    assert (even != down).any() == (odd % 4 == 3)


@pytest.mark.parametrize("down", [0.4, 0.9, 1.0, 1.2, 1.7, 2.0, 2.5, 3.0, 3.7, 6.5])
@pytest.mark.parametrize("across", [0.4, 1.0, 1.3, 2.0, 3.0, 5.1])
def test_the_fast_resize_is_near_pillows_and_nearer_than_skipping_pixels(down, across):
    target = 48
    rng = np.random.default_rng(0)
    size = (round(target * down), round(target * across))
    ours, theirs = [], []
    for _ in range(4):
        coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3)).astype(np.uint8))
        smooth = np.asarray(coarse.resize(size[::-1], Image.Resampling.BICUBIC), np.int16)
        noise = rng.integers(-6, 7, smooth.shape)  # down to single pixels
        image = np.clip(smooth + noise, 0, 255).astype(np.uint8)
        exact = np.asarray(Image.fromarray(image).resize((target, target), 3), int)
        linear = cv2.resize(image, (target, target), interpolation=cv2.INTER_LINEAR)
        ours.append(np.abs(resize_fast(image, target) - exact).mean())
        theirs.append(np.abs(linear - exact).mean())
    assert np.mean(ours) < 2
    assert max(down, across) <= 2 or np.mean(ours) < np.mean(theirs)


def test_the_fast_resize_keeps_flat_colours_and_the_middle_in_place():
    flat = np.full((123, 77, 3), (10, 200, 90), np.uint8)
    for target in (8, 50, 64, 200):
        np.testing.assert_array_equal(
            resize_fast(flat, target), np.full((target, target, 3), flat[0, 0])
        )
    ramp = np.broadcast_to(np.arange(240, dtype=np.uint8)[None, :, None], (240, 240, 3))
    for target in (20, 64, 100, 239):
        resized = resize_fast(ramp, target).astype(int)
        centres = (np.arange(target) + 0.5) * 240 / target - 0.5
        assert np.abs(resized[target // 2, 2:-2, 0] - centres[2:-2]).max() < 1.5


def test_opencv_keeps_to_the_calling_thread():
    assert cv2.getNumThreads() == 1


def test_a_resize_travels_between_processes():
    transform = Resize(64, "longest", pad_value=3)
    assert pickle.loads(pickle.dumps(transform)) == transform
