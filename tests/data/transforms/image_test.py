"""Crops are drawn as published, decoded no larger than needed, and flips heed the caption."""

import copy
import io
import math
import pickle

import numpy as np
import pytest
from PIL import Image

from mmjax.data.sources.base import BadSample
from mmjax.data.transforms.decode import EncodedImage, pixels
from mmjax.data.transforms.image import ATTEMPTS, RandomFlip, RandomResizedCrop


def photo(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Detail at every size, falling off with it as in photographs."""
    rng = np.random.default_rng(seed)
    total = np.zeros((height, width, 3))
    for octave in range(2, 9):
        shape = (2**octave, 2**octave, 3)
        coarse = Image.fromarray(rng.integers(0, 256, shape).astype(np.uint8))
        total += np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)) / 2.0**octave
    total = (total - total.mean()) / total.std() * 55 + 128
    return np.clip(total, 0, 255).astype(np.uint8)


def jpeg(image: np.ndarray, **options) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=95, **options)
    return file.getvalue()


def crop(transform: RandomResizedCrop, image: EncodedImage | np.ndarray, seed: int) -> np.ndarray:
    return pixels(transform({"image": image}, np.random.default_rng(seed))["image"])


def reference_box(rng, height: int, width: int, scale, ratio) -> tuple[int, int, int, int]:
    """torchvision's RandomResizedCrop.get_params, with numpy's generator."""
    for _ in range(10):
        area = height * width * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            top, left = rng.integers(0, height - h + 1), rng.integers(0, width - w + 1)
            return int(top), int(left), h, w
    if width / height < min(ratio):
        w, h = width, round(width / min(ratio))
    elif width / height > max(ratio):
        w, h = round(height * max(ratio)), height
    else:
        w, h = width, height
    return (height - h) // 2, (width - w) // 2, h, w


@pytest.mark.parametrize("scale", [(0.08, 1.0), (0.9, 1.0)])
@pytest.mark.parametrize("size", [(375, 500), (640, 480), (300, 300), (100, 900)])
def test_boxes_lie_within_the_picture_and_are_spread_as_the_published_ones(scale, size):
    transform = RandomResizedCrop(32, scale)
    rng, other = np.random.default_rng(1), np.random.default_rng(2)
    count = 4000
    ours = np.array([transform.box(*size, rng.random(22).tolist()) for _ in range(count)])
    theirs = np.array(
        [reference_box(other, *size, scale, transform.ratio) for _ in range(count)], float
    )
    top, left, height, width = ours.T
    assert min(top.min(), left.min()) >= 0
    assert min(height.min(), width.min()) >= 1
    assert (top + height).max() <= size[0]
    assert (left + width).max() <= size[1]

    def features(boxes: np.ndarray) -> np.ndarray:
        top, left, height, width = boxes.T
        values = np.stack(
            [height * width / math.prod(size), np.log(width / height), top / size[0], left]
        )
        return np.concatenate([values, values**2])

    a, b = features(ours.astype(float)), features(theirs)
    error = np.sqrt((a.var(axis=1) + b.var(axis=1)) / count) + 1e-9
    assert np.all(np.abs(a.mean(axis=1) - b.mean(axis=1)) < 4.5 * error)


def test_box_areas_and_shapes_stay_within_what_was_asked():
    transform = RandomResizedCrop(32, (0.3, 0.6), (0.5, 2.0))
    rng = np.random.default_rng(0)
    boxes = np.array([transform.box(800, 800, rng.random(22).tolist()) for _ in range(2000)])
    height, width = boxes[:, 2], boxes[:, 3]
    area, ratio = height * width / 800**2, width / height
    assert 0.297 < area.min() < 0.31
    assert 0.59 < area.max() < 0.603
    assert 0.495 < ratio.min() < 0.52
    assert 1.92 < ratio.max() < 2.02


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (7, 1), (2, 4000)])
def test_boxes_of_tiny_and_thin_pictures_are_not_empty(size):
    rng = np.random.default_rng(0)
    transform = RandomResizedCrop(8, (0.01, 1.0))
    for _ in range(200):
        top, left, height, width = transform.box(*size, rng.random(22).tolist())
        assert height >= 1
        assert width >= 1
        assert 0 <= top <= size[0] - height
        assert 0 <= left <= size[1] - width


def test_the_last_attempt_is_the_middle_in_the_nearest_allowed_shape():
    draws = [0.99, 0.5] * ATTEMPTS + [0.9, 0.9]
    assert RandomResizedCrop(8, (0.9, 1.0)).box(30, 300, draws) == (0, 130, 30, 40)
    assert RandomResizedCrop(8, (0.9, 1.0)).box(300, 30, draws) == (130, 0, 40, 30)


@pytest.mark.parametrize("size", [(768, 1024), (375, 500), (480, 640), (1201, 901)])
@pytest.mark.parametrize("target", [64, 100])
def test_the_reduced_path_is_within_two_grey_levels_of_the_whole_one(size, target):
    image = photo(*size)
    encoded = EncodedImage(jpeg(image), "x")
    transform = RandomResizedCrop(target, (0.3, 1.0))
    reduced, differences = 0, []
    for seed in range(8):
        top, left, height, width = transform.box(
            *size, np.random.default_rng(seed).random(22).tolist()
        )
        reduced += min(height, width) >= 2 * target
        whole = Image.fromarray(encoded.decode()[top : top + height, left : left + width])
        exact = np.asarray(whole.resize((target, target), Image.Resampling.BICUBIC), int)
        differences.append(np.abs(crop(transform, encoded, seed) - exact).mean())
    assert reduced >= 7
    assert np.mean(differences) < 2
    # A picture shifted by one of its own pixels is further off than that.
    shifted = np.abs(exact[1:] - exact[:-1]).mean()
    assert np.mean(differences) < shifted / 2


def test_a_jpeg_is_decoded_at_the_smallest_scale_that_holds_the_crop(monkeypatch):
    asked = []
    decode = EncodedImage.decode

    def spy(self, denominator=1, scratch=False):
        asked.append(denominator)
        return decode(self, denominator, scratch)

    monkeypatch.setattr(EncodedImage, "decode", spy)
    data = jpeg(photo(480, 640))
    for target, expected in ((600, 1), (241, 1), (240, 2), (121, 2), (120, 4), (60, 8), (10, 8)):
        transform = RandomResizedCrop(target, (1.0, 1.0), (4 / 3, 4 / 3))
        assert crop(transform, EncodedImage(data, "x"), 0).shape == (target, target, 3)
        assert asked.pop() == expected
    file = io.BytesIO()
    Image.fromarray(photo(480, 640)).save(file, "PNG")
    crop(RandomResizedCrop(32), EncodedImage(file.getvalue(), "x"), 0)
    assert asked == [1]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_crops_of_rotated_pictures_are_upright(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    encoded = EncodedImage(jpeg(photo(160, 240), exif=exif, subsampling=0), "x")
    upright = EncodedImage(jpeg(np.ascontiguousarray(encoded.decode()), subsampling=0), "y")
    assert upright.header.orientation == 1
    for target in (200, 60, 30):
        transform = RandomResizedCrop(target, (0.5, 0.9))
        for seed in range(3):
            expected = crop(transform, upright, seed).astype(int)
            assert np.abs(crop(transform, encoded, seed) - expected).mean() < 1.5


def test_the_same_draws_give_the_same_crop_and_others_another():
    encoded = EncodedImage(jpeg(photo(200, 300)), "x")
    transform = RandomResizedCrop(48, (0.3, 1.0))
    first = crop(transform, encoded, 3)
    assert first.dtype == np.uint8
    np.testing.assert_array_equal(first, crop(transform, encoded, 3))
    assert np.abs(first.astype(int) - crop(transform, encoded, 4)).mean() > 3


@pytest.mark.parametrize("transform", [RandomResizedCrop(16), RandomFlip(0.5)])
def test_what_is_drawn_does_not_depend_on_the_picture(transform):
    after = set()
    for image in (
        photo(50, 40),
        photo(16, 16),
        photo(3, 900),
        EncodedImage(jpeg(photo(90, 70)), ""),
    ):
        rng = np.random.default_rng(5)
        transform({"image": image, "caption": "left" if image is not None else ""}, rng)
        transform({"image": photo(20, 20)}, rng)
        after.add(rng.random())
    assert len(after) == 1


def test_source_arrays_are_not_changed_and_not_handed_on():
    for size, transform in (
        ((16, 16), RandomResizedCrop(16, (1.0, 1.0), (1.0, 1.0))),
        ((40, 60), RandomResizedCrop(16)),
        ((10, 9), RandomResizedCrop(16)),
        ((16, 16), RandomFlip(1.0)),
    ):
        source = photo(*size)
        before = source.copy()
        result = pixels(transform({"image": source}, np.random.default_rng(0))["image"])
        assert not np.shares_memory(result, source)
        result[:] = 0
        np.testing.assert_array_equal(source, before)


def test_crops_do_not_lie_in_the_memory_that_the_next_decode_uses():
    encoded = EncodedImage(jpeg(photo(64, 64, 1)), "1")
    transform = RandomResizedCrop(64, (1.0, 1.0), (1.0, 1.0))
    first = crop(transform, encoded, 0)
    before = first.copy()
    crop(transform, EncodedImage(jpeg(photo(64, 64, 2)), "2"), 0)
    np.testing.assert_array_equal(first, before)
    np.testing.assert_array_equal(first, encoded.decode())


def test_bad_pictures_are_bad_samples():
    data = jpeg(photo(200, 300))
    for image, cause in (
        (EncodedImage(data[: len(data) // 2], "x"), "decode"),
        (EncodedImage(b"<html>", "x"), "format"),
        (np.zeros((5, 5), np.uint8), "format"),
    ):
        with pytest.raises(BadSample) as caught:
            crop(RandomResizedCrop(32), image, 0)
        assert caught.value.cause == cause


def mirrored(transform: RandomFlip, sample: dict, seed: int = 0) -> bool:
    sample = {"image": photo(8, 12), **sample}
    original = sample["image"].copy()
    result = transform(sample, np.random.default_rng(seed))["image"]
    flipped = np.array_equal(result, original[:, ::-1])
    assert flipped or np.array_equal(result, original)
    return flipped


def test_a_flip_mirrors_with_its_probability():
    share = np.mean([mirrored(RandomFlip(0.3), {}, seed) for seed in range(600)])
    assert abs(share - 0.3) < 4 * math.sqrt(0.3 * 0.7 / 600)
    assert not any(mirrored(RandomFlip(0.0), {}, seed) for seed in range(20))
    assert all(mirrored(RandomFlip(1.0), {}, seed) for seed in range(20))


@pytest.mark.parametrize(
    ("caption", "flips"),
    [
        ("a cat on the left", False),
        ("Left: a dog", False),
        ("the RIGHT-hand man", False),
        ("the leftmost of three", False),
        ("(right)", False),
        ("copyright 2019, all rights reserved", True),
        ("bright leftovers", True),
        ("", True),
    ],
)
def test_a_caption_that_tells_left_from_right_forbids_the_flip(caption, flips):
    assert mirrored(RandomFlip(1.0), {"caption": caption}) is flips
    assert mirrored(RandomFlip(1.0), {"captions": ("a dog", caption)}) is flips
    assert mirrored(RandomFlip(1.0, guard=()), {"caption": caption})


def test_only_the_picked_caption_counts_and_the_words_may_be_chosen():
    picked = {"caption": "a dog", "captions": ("a dog", "a dog on the left")}
    assert mirrored(RandomFlip(1.0), picked)
    chinese = RandomFlip(1.0, guard=("左", "右", "links"))
    assert not mirrored(chinese, {"caption": "一只狗在左边"})
    assert not mirrored(chinese, {"caption": "Ein Hund, Links im Bild"})
    assert mirrored(chinese, {"caption": "a dog on the left"})


def test_a_flip_decodes_what_is_still_encoded():
    encoded = EncodedImage(jpeg(photo(8, 12)), "x")
    result = RandomFlip(1.0)({"image": encoded}, np.random.default_rng(0))["image"]
    np.testing.assert_array_equal(result, encoded.decode()[:, ::-1])


@pytest.mark.parametrize(
    ("build", "name"),
    [
        (lambda: RandomResizedCrop(0), "size=0"),
        (lambda: RandomResizedCrop(8, (0.0, 1.0)), "scale="),
        (lambda: RandomResizedCrop(8, (0.5, 1.1)), "scale="),
        (lambda: RandomResizedCrop(8, (0.9, 0.5)), "scale="),
        (lambda: RandomResizedCrop(8, ratio=(2.0, 1.0)), "ratio="),
        (lambda: RandomFlip(1.5), "probability="),
    ],
)
def test_wrong_options_are_named(build, name):
    with pytest.raises(ValueError, match=name):
        build()


def test_transforms_travel_between_processes():
    for transform in (RandomResizedCrop(16, (0.2, 0.9)), RandomFlip(0.2, ("links",))):
        assert pickle.loads(pickle.dumps(transform)) == transform == copy.deepcopy(transform)


@pytest.mark.parametrize("size", [(40, 60), (32, 32), (200, 300), (20, 24)])
@pytest.mark.parametrize("flips", [0.0, 1.0])
def test_a_pending_picture_is_made_in_place_just_as_elsewhere(size, flips):
    source = EncodedImage(jpeg(photo(*size)), "x", may_pend=True)
    whole = RandomResizedCrop(32, scale=(1.0, 1.0), ratio=(1.0, 1.0))
    for crop_to in (RandomResizedCrop(32), whole):
        rng = np.random.default_rng(1)
        sample = RandomFlip(flips)(crop_to({"image": source}, rng), rng)
        place = np.full((3, 32, 32, 3), 7, np.uint8)
        sample["image"].render(place[1])
        expected = crop(crop_to, source, 1)
        np.testing.assert_array_equal(place[1], expected[:, ::-1] if flips else expected)
        assert (place[[0, 2]] == 7).all()
        assert sample["image"].shape == (32, 32, 3)
