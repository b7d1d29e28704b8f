"""Where texts look, by models of each kind; the numbers are worked out from what blocks sow."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.models.encoders.bert import Bert
from mmjax.models.encoders.cnn import Cnn
from mmjax.models.encoders.regions import RegionTower
from mmjax.models.fusion.general import GeneralFusion
from mmjax.models.fusion.lxmert import Lxmert
from mmjax.models.fusion.pictured import Pictured
from mmjax.models.fusion.task_bert import TaskBert
from mmjax.models.fusion.vilbert import Vilbert
from mmjax.models.fusion.vilt import Vilt, ViltStream
from mmjax.models.fusion.visualbert import VisualBert, VisualBertStream
from mmjax.models.layers.looking import text_over_picture

LENGTH, REGIONS = 4, 4  # alike, so that shapes alone do not tell words from places
SIZES = {"vocab_size": 20, "length": LENGTH, "dim": 8, "num_heads": 2, "mlp_dim": 8}
ALONE = {"dim": 8, "num_heads": 2, "mlp_dim": 8, "depth": 1}
RNG = np.random.default_rng(0)
BOXES = np.sort(RNG.random((2, REGIONS, 2, 2)), axis=2).reshape(2, REGIONS, 4).astype(np.float32)
TEXT = {
    "token_ids": jnp.asarray(RNG.integers(1, 20, (2, LENGTH)), jnp.int32),
    "text_mask": jnp.asarray([[True] * LENGTH, [True, True, False, False]]),
}
SEEN = jnp.asarray([[True] * REGIONS, [True, True, True, False]])


def regions(boxes=BOXES, pictures=0):
    x = jnp.asarray(RNG.normal(size=(2, REGIONS, 5)), jnp.float32)
    found = {"regions": x, "boxes": jnp.asarray(boxes), "region_mask": SEEN}
    return {word: jnp.stack([x] * pictures, 1) if pictures else x for word, x in found.items()}


def both(model, words, random_variables, boxes=None):
    """(what is told of attention, what the blocks sowed, what is told without boxes)."""
    first = {"regions": 4, "boxes": 4, "region_mask": 3}  # `__call__` takes one picture of these
    one = [x[:, 0] if x.ndim == first.get(word) else x for word, x in words.items()]
    variables = random_variables(model, *one)

    @jax.jit
    def run():
        kinds = ["attention", "intermediates"]
        fused, sown = model.apply(variables, **words, method="fuse", mutable=kinds)
        made = [text_over_picture(sown["attention"], fused, known) for known in (boxes, None)]
        return made[0], sown["intermediates"], made[1]

    return run()


def over_words(weights):
    """[layers, batch, heads, words, places] as the mean over layers, heads and real words."""
    each = np.asarray(weights).mean((0, 2))
    real = np.asarray(TEXT["text_mask"], np.float64)
    return np.einsum("bwp,bw->bp", each, real) / real.sum(1, keepdims=True)


def test_a_stream_of_words_and_patches_tells_the_cells_of_the_real_patches(random_variables):
    model = Vilt(ViltStream(depth=3, **SIZES, image_size=12, patch_size=4), ())
    mask = np.zeros((2, 8, 12), bool)
    mask[:, :, 4:] = True  # the left of three columns of patches is padding
    image = jnp.asarray(RNG.normal(size=(2, 8, 12, 3)), jnp.float32)
    words = {**TEXT, "image": image, "image_mask": jnp.asarray(mask)}
    looks, sown, _ = both(model, words, random_variables)
    weights = sown["stream"]["blocks"]["attention"]["weights"][0][-2:, :, :, :LENGTH, LENGTH:]
    np.testing.assert_allclose(looks.values, over_words(weights), rtol=1e-5, atol=1e-12)
    assert looks.boxes.shape == (2, 1 + 6, 4)  # a class token, which lies nowhere, comes first
    np.testing.assert_array_equal(looks.boxes[0, 0], np.zeros(4))
    np.testing.assert_allclose(looks.boxes[0, 1], [1 / 3, 0, 2 / 3, 0.5], rtol=1e-6)
    np.testing.assert_allclose(looks.boxes[1, 4], [2 / 3, 0.5, 1, 1], rtol=1e-6)
    np.testing.assert_array_equal(np.asarray(looks.values[:, 5:]), 0)  # padding comes last
    assert (looks.values[:, :5] > 0).all()


def test_two_pictures_stand_beside_each_other(random_variables):
    model = Vilt(ViltStream(depth=1, **SIZES, image_size=8, patch_size=4, modalities=3), ())
    words = {**TEXT, "image": jnp.asarray(RNG.normal(size=(2, 2, 8, 8, 3)), jnp.float32)}
    looks, sown, _ = both(model, words, random_variables)
    assert looks.boxes.shape == (2, 10, 4)
    np.testing.assert_allclose(looks.boxes[0, 1], [0, 0, 0.25, 0.5], rtol=1e-6)
    np.testing.assert_allclose(looks.boxes[0, 6], [0.5, 0, 0.75, 0.5], rtol=1e-6)
    weights = np.asarray(sown["stream"]["blocks"]["attention"]["weights"][0])
    weights = weights[..., :LENGTH, LENGTH:].reshape(1, 2, 2, 2, LENGTH, 5)  # text, then picture
    for number in range(2):
        part = np.asarray(looks.values)[:, 5 * number :][:, :5]
        np.testing.assert_allclose(part, over_words(weights[:, :, number]) / 2, rtol=1e-5)


def test_a_stream_of_words_and_regions_tells_their_boxes(random_variables):
    model = VisualBert(VisualBertStream(depth=2, **SIZES, region_dim=5), ())
    words = regions()
    boxes = words.pop("boxes")
    looks, sown, unknown = both(model, TEXT | words, random_variables, boxes)
    weights = sown["stream"]["blocks"]["attention"]["weights"][0][..., :LENGTH, LENGTH:]
    np.testing.assert_allclose(looks.values, over_words(weights) * np.asarray(SEEN), rtol=1e-5)
    np.testing.assert_array_equal(looks.boxes, BOXES)
    assert unknown is None


def test_in_two_streams_it_is_the_crossing_from_the_text(random_variables):
    text = Bert(depth=1, pooling="class", **SIZES)
    model = Lxmert(text, RegionTower(feature_dim=5, **ALONE), 2, ())
    words = regions(pictures=2)
    looks, sown, _ = both(model, TEXT | words, random_variables, words["boxes"])
    weights = np.asarray(sown["crossings"]["cross"]["weights"][0])
    weights = weights.reshape(2, 2, 2, 2, LENGTH, REGIONS)[:, :, 0]  # each text's first picture
    values = over_words(weights) * np.asarray(SEEN) / 2
    np.testing.assert_allclose(np.asarray(looks.values)[:, :REGIONS], values, rtol=1e-5)
    assert looks.boxes.shape == (2, 2 * REGIONS, 4)


def test_over_a_bridge_it_is_the_texts_side(random_variables):
    text = TaskBert(depth=1, pooling="class", **SIZES)
    image = RegionTower(feature_dim=5, box_dim=5, join="sum", **ALONE)
    model = Vilbert(text, image, 1, 8, 2, heads=())
    boxes = np.concatenate([BOXES, np.ones((2, REGIONS, 1), np.float32)], axis=-1)
    words = regions(boxes)
    looks, sown, _ = both(model, TEXT | words, random_variables, words["boxes"])
    weights = np.asarray(sown["crossings"]["text_bridge"]["attention"]["weights"][0])
    weights = np.delete(weights, 1, axis=3)  # the task's own token
    values = over_words(weights) * np.asarray(SEEN)
    np.testing.assert_allclose(looks.values, values, rtol=1e-5)
    np.testing.assert_array_equal(looks.boxes, BOXES)


@pytest.mark.parametrize("form", ["early", "hierarchical"])
def test_the_cells_of_a_picture_encoder_are_told_in_any_fusion(form, random_variables):
    text = Bert(**SIZES, depth=1, pooling="class")
    model = GeneralFusion(Cnn((8, 8), 4), text, embed_dim=8, form=form, depth=1, heads=())
    told, _, _ = both(model, {"image": jnp.ones((2, 8, 12, 3)), **TEXT}, random_variables)
    assert told.values.shape == (2, 6)
    np.testing.assert_allclose(told.boxes[0, 0], [0, 0, 1 / 3, 1 / 2], atol=1e-6)
    np.testing.assert_allclose(told.boxes[1, 5], [2 / 3, 1 / 2, 1, 1], atol=1e-6)
    assert float(told.values.min()) > 0
    assert float(told.values.sum(1).max()) < 1 + 1e-5


def test_the_cells_before_a_model_of_regions_are_told_too(random_variables):
    stream = VisualBertStream(**SIZES, depth=1, region_dim=8)
    model = Pictured(Cnn((8, 8), 4), VisualBert(stream, ()), image_size=8)
    told, _, _ = both(model, {**TEXT, "image": jnp.ones((2, 8, 8, 3))}, random_variables)
    assert told.values.shape == (2, 4)
    np.testing.assert_allclose(told.boxes[0, 3], [1 / 2, 1 / 2, 1, 1], atol=1e-6)
