"""Several pictures of one sample."""

import numpy as np
import pytest

from mmjax.data.sources.base import BadSample
from mmjax.data.transforms.image import RandomResizedCrop
from mmjax.data.transforms.pictures import EachPicture
from mmjax.data.transforms.resize import Resize

RNG = np.random.default_rng(0)


def pictures(*sides):
    rng = np.random.default_rng(0)
    return {"images": tuple(rng.integers(0, 256, (n, n, 3)).astype(np.uint8) for n in sides)}


def test_each_is_cut_by_itself_and_they_are_stacked_in_order():
    sample = pictures(40, 24)
    resize = Resize(16)
    found = EachPicture((resize,))(sample, np.random.default_rng(1))["image"]
    assert found.shape == (2, 16, 16, 3)
    assert found.dtype == np.uint8
    for one, given in zip(found, sample["images"]):
        np.testing.assert_array_equal(one, resize({"image": given}, RNG)["image"])


def test_what_is_drawn_differs_between_them():
    sample = pictures(40)
    both = EachPicture((RandomResizedCrop(16),))(
        {"images": sample["images"] * 2}, np.random.default_rng(2)
    )["image"]
    assert (both[0] != both[1]).any()


def test_unlike_sizes_and_no_pictures_are_bad_samples():
    with pytest.raises(BadSample, match="cut pictures to one size"):
        EachPicture(())(pictures(8, 9), RNG)
    with pytest.raises(BadSample, match="images_from"):
        EachPicture(())({}, RNG)
