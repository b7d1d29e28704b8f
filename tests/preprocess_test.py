"""The preprocessing contract."""

import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.preprocess import (
    CLIP_MEAN,
    CLIP_STD,
    Contract,
    exchange_regions,
    preprocess,
    preprocess_image,
)


def test_pixels_become_normalised_numbers():
    image = np.random.default_rng(0).integers(0, 256, (2, 3, 3, 3)).astype(np.uint8)
    contract = Contract(mean=CLIP_MEAN, std=CLIP_STD)
    wanted = (image / 255.0 - np.array(CLIP_MEAN)) / np.array(CLIP_STD)
    np.testing.assert_allclose(preprocess_image(jnp.asarray(image), contract), wanted, atol=2e-6)


def test_patches_are_normalised_as_their_pictures_are_and_padding_is_zero():
    image = np.random.default_rng(0).integers(0, 256, (2, 4, 2, 3)).astype(np.uint8)
    contract = Contract(mean=CLIP_MEAN, std=CLIP_STD)
    patches = image.reshape(2, 2, 12)  # two patches, one below the other
    batch = {"patches": jnp.asarray(patches), "patch_mask": jnp.asarray([[1, 1], [1, 0]], bool)}
    made = preprocess(batch, contract)["patches"]
    wanted = np.array(preprocess_image(jnp.asarray(image), contract)).reshape(2, 2, 12)
    wanted[1, 1] = 0
    np.testing.assert_allclose(made, wanted, atol=1e-6)


def test_only_pictures_are_touched():
    batch = {"token_ids": np.ones((2, 3), np.int32)}
    assert preprocess(batch, Contract()) == batch


@pytest.mark.parametrize("pictures", [(), (2,)])
def test_regions_of_the_row_half_a_batch_away_stand_where_it_says_so(pictures):
    rng = np.random.default_rng(0)
    shape = (4, *pictures, 5)
    batch = {
        "regions": rng.normal(size=(*shape, 2)).astype(np.float32),
        "masked_regions": np.zeros((*shape, 2), np.float32),
        "region_mask": np.arange(5) < rng.integers(1, 6, (*shape[:-1], 1)),
        "region_other": rng.integers(-1, 5, shape).astype(np.int32),
        "region_asked": np.ones(shape, bool),
    }
    batch["region_mask"][3] = False  # a row that only fills up
    made = preprocess({word: jnp.asarray(value) for word, value in batch.items()}, Contract())
    assert set(made) == set(batch) - {"region_other"}
    seen = 0
    for place in np.ndindex(shape):
        asked = batch["region_other"][place]
        other = ((place[0] - 2) % 4, *place[1:-1])
        wanted, number = np.zeros(2), batch["region_mask"][other].sum()
        if asked >= 0 and number:
            wanted = batch["regions"][other][asked % number]
            seen += 1
        np.testing.assert_array_equal(made["masked_regions"][place], wanted)
    assert seen > 5
    assert exchange_regions(made) is made


def test_a_contract_survives_its_file():
    contract = Contract(image_size=96, mean=CLIP_MEAN, std=CLIP_STD, tokenizer="abc")
    assert Contract.from_json(contract.to_json()) == contract


def test_a_standard_deviation_of_zero_is_refused():
    with pytest.raises(ValueError, match="std above 0"):
        Contract(std=(1.0, 0.0, 1.0))
