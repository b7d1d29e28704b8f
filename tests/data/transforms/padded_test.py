"""Pictures in their own shape on a canvas, beside the published processor."""

import pathlib

import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.data.dataset import Dataset
from mmjax.data.datasets.scenes import Scenes
from mmjax.data.fields import Fields
from mmjax.data.rows import evaluation_rows
from mmjax.data.transforms.padded import Padded, size_of
from mmjax.preprocess import Contract, preprocess
from mmjax.typing import WORDS

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def theirs():
    with np.load(pathlib.Path(__file__).parents[2] / "golden" / "padded.npz") as file:
        return {name: file[name] for name in file.files}


def test_pixels_and_masks_equal_the_reference_where_the_picture_is(theirs):
    transform = Padded(shortest=16, patch_size=4)
    assert (transform.side, transform.most_patches) == (24, 24)
    samples = [transform({"image": theirs[f"image{n}"]}, RNG) for n in range(6)]
    batch = {name: jnp.stack([sample[name] for sample in samples]) for name in samples[0]}
    made = preprocess({"image": batch["image"]}, Contract(image_size=24))["image"]
    height, width = theirs["pixel_mask"].shape[1:]
    assert batch["image_mask"].sum() == theirs["pixel_mask"].sum()
    np.testing.assert_array_equal(batch["image_mask"][:, :height, :width], theirs["pixel_mask"])
    seen = theirs["pixel_mask"] == 1
    wanted = theirs["pixel_values"].transpose(0, 2, 3, 1)
    np.testing.assert_allclose(made[:, :height, :width][seen], wanted[seen], atol=2e-6)


def test_sizes_at_the_published_size_equal_the_reference(theirs):
    most = Padded()
    assert (most.side, most.most_patches) == (608, 228)
    for height, width, *size in theirs["sizes"].tolist():
        assert list(size_of(height, width, 384, 32)) == size
        assert max(size) <= most.side
        assert np.prod(size) // 32**2 <= most.most_patches


def test_a_long_thin_picture_keeps_a_row_of_patches():
    image = RNG.integers(0, 256, (3, 300, 3)).astype(np.uint8)
    _, mask = Padded(shortest=16, patch_size=4).apply(image)
    assert mask.any(axis=1).sum() == 4
    assert mask.any(axis=0).sum() == 24


def test_a_stream_holds_the_canvas_and_its_mask():
    fields = Fields(image_from="image", caption_from="")
    source = Scenes(num_scenes=3, image_size=32)
    dataset = Dataset(source=source, fields=fields, transforms=(Padded(16, 8),))
    row, _ = evaluation_rows((dataset,), 0).load(0)
    assert row["image"].shape == (24, 24, 3)
    assert row["image_mask"].sum() == 16 * 16
    assert row["image_mask"].dtype == WORDS["image_mask"].dtype


def test_options_out_of_range_are_refused():
    with pytest.raises(ValueError, match="give a patch of at least one pixel"):
        Padded(shortest=8, patch_size=16)
    with pytest.raises(ValueError, match="use one of nearest"):
        Padded(interpolation="area")
