"""Pictures in their own shape, beside the published processor."""

import pathlib

import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.data.dataset import Dataset
from mmjax.data.datasets.scenes import Scenes
from mmjax.data.fields import Fields
from mmjax.data.rows import evaluation_rows
from mmjax.data.transforms.naflex import NaFlex, grid_of, picture_of
from mmjax.preprocess import Contract, preprocess
from mmjax.typing import WORDS

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def theirs():
    with np.load(pathlib.Path(__file__).parents[2] / "golden" / "naflex.npz") as file:
        return {name: file[name] for name in file.files}


def test_patches_masks_and_grids_equal_the_reference(theirs):
    transform = NaFlex(patch_size=4, max_patches=12)
    samples = [transform({"image": theirs[f"image{n}"], "label": n}, RNG) for n in range(6)]
    assert all(
        set(sample) == {"patches", "patch_mask", "patch_grid", "label"} for sample in samples
    )
    batch = {name: np.stack([sample[name] for sample in samples]) for name in samples[0]}
    np.testing.assert_array_equal(batch["patch_mask"], theirs["pixel_attention_mask"])
    np.testing.assert_array_equal(batch["patch_grid"], theirs["spatial_shapes"])
    assert not batch["patch_mask"].all()
    words = {name: jnp.asarray(array) for name, array in batch.items()}
    made = preprocess(words, Contract())["patches"]
    np.testing.assert_allclose(made, theirs["pixel_values"], atol=2e-6)


def test_grids_at_the_published_sizes_equal_the_reference(theirs):
    for height, width, side, limit, *size in theirs["sizes"].tolist():
        rows, columns = grid_of(height, width, side, limit)
        assert [rows * side, columns * side] == size
        assert 1 <= rows * columns <= limit


def test_a_picture_of_patches_goes_through_untouched():
    image = RNG.integers(0, 256, (6, 6, 3)).astype(np.uint8)
    patches, mask, grid = NaFlex(patch_size=2, max_patches=9).apply(image)
    assert mask.all()
    assert grid.tolist() == [3, 3]
    np.testing.assert_array_equal(patches[4].reshape(2, 2, 3), image[2:4, 2:4])


def test_a_picture_is_put_together_again_without_its_padding():
    image = RNG.integers(0, 256, (4, 6, 3)).astype(np.uint8)
    patches, _, grid = NaFlex(patch_size=2, max_patches=7).apply(image)
    np.testing.assert_array_equal(picture_of(patches, grid), image)


def test_a_stream_of_patches_holds_their_words_and_no_pictures():
    fields = Fields(image_from="image", caption_from="")
    source = Scenes(num_scenes=3, image_size=32)
    transforms = (NaFlex(patch_size=8, max_patches=6),)
    row, _ = evaluation_rows(
        (Dataset(source=source, fields=fields, transforms=transforms),), 0
    ).load(0)
    assert row["patches"].shape == (6, 192)
    assert row["patch_grid"].tolist() == [2, 2]
    assert "image" not in row
    assert {"patches", "patch_mask", "patch_grid"} <= set(WORDS)
    for word in ("patches", "patch_mask", "patch_grid"):
        assert row[word].dtype == WORDS[word].dtype


def test_options_out_of_range_are_refused():
    with pytest.raises(ValueError, match="give at least one of each"):
        NaFlex(max_patches=0)
    with pytest.raises(ValueError, match="use one of nearest"):
        NaFlex(interpolation="area")
