"""Transforms of a user's own: what they must not give is told before the first batch."""

import dataclasses

import numpy as np
import pytest
import simplejpeg

from mmjax.data.dataset import Dataset
from mmjax.data.pipeline import BatchMaker
from mmjax.data.rows import training_rows
from mmjax.data.transforms.captions import PickCaption
from mmjax.data.transforms.decode import pixels


@dataclasses.dataclass(frozen=True)
class Decode:
    def __call__(self, sample, rng):
        return {**sample, "image": pixels(sample["image"])}


@dataclasses.dataclass(frozen=True)
class Scaled(Decode):
    """What other libraries' transforms end with, and the step does here."""

    def __call__(self, sample, rng):
        sample = super().__call__(sample, rng)
        return {**sample, "image": sample["image"].astype(np.float32) / 255}


@dataclasses.dataclass(frozen=True)
class Forgetful:
    def __call__(self, sample, rng):
        del sample, rng


def made(folder, transform, growing=0):
    """The maker of batches of four pictures, each higher than the one before."""
    for number in range(4):
        image = np.zeros((20 + growing * number, 30, 3), np.uint8)
        (folder / f"{number}.jpg").write_bytes(simplejpeg.encode_jpeg(image, quality=90))
        (folder / f"{number}.txt").write_text("a black box")
    data = Dataset(path=str(folder), transforms=(PickCaption(), transform))
    return BatchMaker(training_rows((data,), 0, "main"), 2, 0, 1, threads=1)


def test_pixels_as_they_come_are_taken(tmp_path):
    assert made(tmp_path, Decode())(0)["image"].shape == (2, 20, 30, 3)


def test_a_forgotten_resize_is_said(tmp_path):
    with pytest.raises(ValueError, match=r"unlike shapes.*transform of fixed size"):
        made(tmp_path, Decode(), growing=1)


def test_pictures_that_were_scaled_already_are_refused(tmp_path):
    """As float32 they would be scaled again, and train as black ones without a word."""
    with pytest.raises(ValueError, match=r"image is float32.*uint8.* as preprocess says"):
        made(tmp_path, Scaled())


def test_a_transform_that_gives_no_sample_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"Forgetful gives NoneType, no sample; .*return sample"):
        made(tmp_path, Forgetful())
