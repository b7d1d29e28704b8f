"""What every objective over pairs has to do, whatever its formula."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.objectives.base import Forward
from mmjax.objectives.contrastive import Contrastive
from mmjax.objectives.metric import Margin, Triplet
from mmjax.objectives.pairs import GATHER_BYTES, lay_out
from mmjax.objectives.sigmoid import Sigmoid
from mmjax.parallel.mesh import make_mesh
from mmjax.parallel.sharding import activations
from mmjax.typing import Encoded, View

ALL = [
    Contrastive(),
    Sigmoid(),
    Triplet(),
    Triplet(negatives="semi_hard", distance="euclidean"),
    Margin(distance="euclidean"),
]
every = pytest.mark.parametrize("objective", ALL, ids=lambda objective: type(objective).__name__)


def test_equal_words_make_positives_and_padding_is_neither():
    ids = np.array([[1, 5], [1, 6], [1, 5], [0, 5], [1, 5]], np.int32)
    groups = np.array([[0, 0], [0, 1], [0, 2], [0, 1], [0, 1]], np.int32)
    embeddings = {
        "image": jnp.ones((5, 2)),
        "text": jnp.ones((5, 2)),
        "valid": jnp.array([True, True, True, True, False]),
        "sample_id": jnp.asarray(ids),
        "group": jnp.asarray(groups),
    }
    expected = np.eye(5, dtype=bool)
    expected[0, 2] = expected[2, 0] = True  # both words of the identity are equal
    expected[4] = False
    plain = lay_out(embeddings, ())
    np.testing.assert_array_equal(plain.positive, expected)
    expected[1, 3] = expected[3, 1] = True
    grouped = lay_out(embeddings, ("group",))
    np.testing.assert_array_equal(grouped.positive, expected)
    real = np.outer(embeddings["valid"], embeddings["valid"])
    np.testing.assert_array_equal(grouped.negative, real & ~expected)
    np.testing.assert_array_equal(grouped.image[4], 0)
    assert float(grouped.count) == 4


@every
def test_loss_and_gradients_are_finite_and_there(objective, make_embeddings, scalars, score):
    value, gradients, loss = score(objective, make_embeddings(), scalars)
    assert value > 0
    assert float(loss.count) == 16
    for name in ("image", "text"):
        assert np.isfinite(gradients[name]).all()
        assert np.abs(gradients[name]).max() > 1e-3


@every
def test_a_scale_of_100_stays_finite(objective, make_embeddings, scalars, score):
    embeddings = make_embeddings()
    for text in (embeddings["text"], -embeddings["image"], embeddings["image"]):
        value, gradients, _ = score(
            objective,
            {**embeddings, "text": text},
            {**scalars, "log_scale": jnp.float32(np.log(100))},
        )
        assert np.isfinite(value)
        assert all(np.isfinite(gradient).all() for gradient in gradients.values())


@every
def test_padding_does_not_change_the_loss(objective, make_embeddings, scalars, score):
    real = make_embeddings(batch=11)
    noise = make_embeddings(batch=5, seed=1)
    noise["text"] = noise["image"]  # the padding would be a strong pair
    noise["image"] = noise["image"].at[0].set(jnp.nan)  # and may be anything
    noise["sample_id"] = real["sample_id"][:5]  # even seem to be a duplicate
    noise["valid"] = jnp.zeros(5, bool)
    order = np.random.default_rng(0).permutation(16)
    padded = {name: jnp.concatenate([real[name], noise[name]])[order] for name in real}
    place = np.argsort(order)
    value, gradients, loss = score(objective, real, scalars)
    value_p, gradients_p, loss_p = score(objective, padded, scalars)
    assert value_p == pytest.approx(value, rel=1e-6)
    assert float(loss_p.count) == 11
    for name in ("image", "text"):
        np.testing.assert_allclose(gradients_p[name][place[:11]], gradients[name], atol=1e-6)
        np.testing.assert_array_equal(gradients_p[name][place[11:]], 0)
    for name, (total, count) in loss.metrics.items():
        np.testing.assert_allclose(loss_p.metrics[name][0], total, rtol=1e-6, err_msg=name)
        np.testing.assert_array_equal(loss_p.metrics[name][1], count)


@every
def test_a_batch_of_padding_alone_counts_nothing(objective, make_embeddings, scalars, score):
    embeddings = {**make_embeddings(), "valid": jnp.zeros(16, bool)}
    value, gradients, loss = score(objective, embeddings, scalars)
    assert (value, float(loss.total), float(loss.count)) == (0, 0, 0)
    assert all(not np.any(gradient) for gradient in gradients.values())


@every
def test_a_single_real_pair_gives_a_finite_loss(objective, make_embeddings, scalars, score):
    embeddings = {**make_embeddings(), "valid": jnp.arange(16) == 3}
    value, gradients, loss = score(objective, embeddings, scalars)
    assert np.isfinite(value)
    assert float(loss.count) == 1
    assert all(np.isfinite(gradient).all() for gradient in gradients.values())


@pytest.mark.optimised
@every
def test_eight_devices_equal_one(objective, make_embeddings, scalars, score):
    embeddings = make_embeddings()
    embeddings["sample_id"] = embeddings["sample_id"].at[9].set(embeddings["sample_id"][2])
    embeddings["valid"] = embeddings["valid"].at[5].set(False)
    value, gradients, loss = score(objective, embeddings, scalars)
    value_8, gradients_8, loss_8 = score(objective, embeddings, scalars, devices=8)
    assert value_8 == pytest.approx(value, rel=1e-6)
    for name, gradient in gradients.items():
        np.testing.assert_allclose(gradients_8[name], gradient, atol=1e-6, err_msg=name)
    for name, (total, count) in loss.metrics.items():
        np.testing.assert_allclose(loss_8.metrics[name][0], total, rtol=1e-6, err_msg=name)
        np.testing.assert_array_equal(loss_8.metrics[name][1], count)


@every
def test_no_device_holds_all_pairs(objective, make_embeddings, scalars, compiled):
    embeddings = make_embeddings()
    learned = {name: embeddings.pop(name) for name in ("image", "text")}
    text = compiled(objective, 8).lower(learned, scalars, embeddings).compile().as_text()
    assert "[2,16]" in text
    assert "[16,16]" not in text


@every
def test_a_duplicate_is_never_a_negative(objective, make_embeddings, scalars, score):
    embeddings = make_embeddings()
    embeddings["image"] = embeddings["image"].at[1].set(embeddings["image"][0])
    embeddings["text"] = embeddings["image"]  # every pair is perfect, and one stands there twice
    apart, _, loss_apart = score(objective, embeddings, scalars)
    embeddings["sample_id"] = embeddings["sample_id"].at[1].set(embeddings["sample_id"][0])
    together, _, loss = score(objective, embeddings, scalars)
    assert together <= apart + 1e-6
    for name in ("accuracy/image_to_text", "accuracy/text_to_image"):
        assert int(loss_apart.metrics[name][0]) == 14  # the twins tie as each other's negatives
        assert int(loss.metrics[name][0]) == 16


@every
def test_swapping_the_sides_keeps_the_loss(objective, make_embeddings, scalars, score):
    embeddings = make_embeddings()
    swapped = {**embeddings, "image": embeddings["text"], "text": embeddings["image"]}
    value, gradients, loss = score(objective, embeddings, scalars)
    value_s, gradients_s, loss_s = score(objective, swapped, scalars)
    assert value_s == pytest.approx(value, rel=1e-5)
    np.testing.assert_allclose(gradients_s["text"], gradients["image"], atol=1e-6)
    assert loss_s.metrics["accuracy/text_to_image"] == loss.metrics["accuracy/image_to_text"]


@every
def test_accuracies_count_rows_whose_pair_wins(objective, make_embeddings, scalars, score):
    embeddings = make_embeddings()
    products = np.asarray(embeddings["image"]) @ np.asarray(embeddings["text"]).T
    _, _, loss = score(objective, embeddings, scalars)
    for name, axis in (("image_to_text", 1), ("text_to_image", 0)):
        hits, count = loss.metrics[f"accuracy/{name}"]
        assert int(hits) == int(np.sum(products.argmax(axis) == np.arange(16)))
        assert 0 < int(hits) < 16 == int(count)


@every
def test_embeddings_that_are_all_the_same_have_no_accuracy(objective, make_embeddings, scalars):
    embeddings = make_embeddings()
    for name in ("image", "text"):
        embeddings[name] = jnp.broadcast_to(embeddings[name][:1], embeddings[name].shape)
    metrics = objective.compare(embeddings, scalars, ()).metrics
    assert float(metrics["accuracy/image_to_text"][0]) == 0


@every
def test_the_state_is_handed_on(objective, make_embeddings, scalars):
    assert objective.compare(make_embeddings(), scalars, "memory").state == "memory"


class Counting:
    """A model of two linear towers that counts its calls."""

    def __init__(self):
        self.calls = []

    def __call__(self, method, variables, inputs, train, rngs):
        self.calls.append((method, tuple(sorted(inputs))))
        if method == "scalars":
            return {"log_scale": jnp.float32(1.0), "bias": jnp.float32(0.0)}, {}
        x = inputs["image"] if method == "encode_image" else inputs["token_ids"]
        pooled = x @ variables["params"][method]
        unit = pooled / jnp.linalg.norm(pooled, axis=1, keepdims=True)
        return Encoded(None, None, pooled, unit), {}


def batch():
    rng = np.random.default_rng(0)
    return {
        "image": jnp.asarray(rng.normal(size=(4, 6)), jnp.float32),
        "token_ids": jnp.asarray(rng.normal(size=(4, 5)), jnp.float32),
        "text_mask": jnp.ones((4, 5), bool),
        "row": jnp.arange(4),
        "valid": jnp.ones(4, bool),
        "sample_id": jnp.stack([jnp.arange(4), jnp.arange(4)], axis=1),
        "group": jnp.stack([jnp.arange(4), jnp.arange(4) // 2], axis=1),
    }


def forward(model):
    rng = np.random.default_rng(1)
    params = {
        "encode_image": jnp.asarray(rng.normal(size=(6, 3)), jnp.float32),
        "encode_text": jnp.asarray(rng.normal(size=(5, 3)), jnp.float32),
    }
    return Forward(model, params, {}, True, jax.random.key(0))


@every
def test_an_objective_needs_what_it_reads(objective):
    words = batch()
    with_groups = type(objective)(positives=("group",))
    assert set(objective.needs) == set(words) - {"group"}
    assert set(with_groups.needs) == set(words)
    loss = with_groups(forward(Counting()), {word: words[word] for word in with_groups.needs}, ())
    assert np.isfinite(float(loss.mean()))
    assert float(loss.count) == 4


def test_several_objectives_share_one_pass_of_the_model():
    model, words = Counting(), batch()
    run = forward(model)
    for objective in ALL:
        objective(run, words, ())
    assert sorted(model.calls) == [
        ("encode_image", ("image", "row")),
        ("encode_text", ("row", "text_mask", "token_ids")),
        ("scalars", ()),
    ]


@every
def test_embed_then_compare_is_the_call(objective):
    words, run = batch(), forward(Counting())
    embeddings = objective.embed(run, words)
    assert all(value.shape[0] == 4 for value in embeddings.values())
    parts = objective.compare(embeddings, run("scalars", {}), ())
    assert float(parts.total) == float(objective(run, words, ()).total)


def test_views_may_be_plain_tuples_and_name_other_words():
    objective = Contrastive(
        image=("encode_image", ("image",)), text=View("encode_text", ("token_ids",))
    )
    assert objective.needs == ("image", "token_ids", "valid", "sample_id")
    model = Counting()
    objective(forward(model), batch(), ())
    assert model.calls[:2] == [("encode_image", ("image",)), ("encode_text", ("token_ids",))]


def test_a_word_that_is_no_identity_is_refused():
    with pytest.raises(ValueError, match="'label' is none of caption_id, group"):
        Contrastive(positives=("label",))


@pytest.mark.parametrize("objective", [Contrastive, Sigmoid, Margin])
def test_a_ring_needs_the_same_memory_on_2_4_and_8_devices(objective, compiled):
    ring = objective(comparison="ring")
    temporaries = [
        lowered(compiled, ring, devices, 32 * devices).memory_analysis().temp_size_in_bytes
        for devices in (2, 4, 8)
    ]
    assert max(temporaries) <= 1.05 * min(temporaries)


def test_a_gather_needs_more_memory_on_more_devices(compiled):
    gather = Contrastive(comparison="gather")
    few, many = (
        lowered(compiled, gather, devices, 32 * devices).memory_analysis().temp_size_in_bytes
        for devices in (2, 8)
    )
    assert many > 2 * few


def test_a_ring_never_gathers_and_a_gather_never_passes_on(compiled):
    for comparison, there, missing in (
        ("ring", "collective-permute", "all-gather"),
        ("gather", "all-gather", "collective-permute"),
    ):
        text = lowered(compiled, Sigmoid(comparison=comparison), 8, 64).as_text()
        assert there in text
        assert missing not in text


def test_the_ring_is_taken_where_a_devices_logits_are_large():
    mesh = make_mesh()
    for batch, large in ((1024, False), (3072, True)):  # 8 devices: 0.5 MiB and 4.5 MiB
        assert (batch // 8 * batch * 4 > GATHER_BYTES) == large
        embeddings = {"valid": jax.ShapeDtypeStruct((batch,), bool)}
        with activations(mesh):
            assert Contrastive().ring_mesh(embeddings) == (large, mesh)
            assert Contrastive(comparison="gather").ring_mesh(embeddings)[0] is False
            assert Contrastive(comparison="ring").ring_mesh(embeddings)[0] is True
        assert Contrastive().ring_mesh(embeddings) == (False, None)
        with activations(make_mesh(1, 1, 8)):
            assert Contrastive().ring_mesh(embeddings)[0] is False


def test_a_device_alone_cuts_its_logits_into_blocks_where_they_are_large():
    for batch, large in ((8192, False), (8193, True)):
        embeddings = {"valid": jax.ShapeDtypeStruct((batch,), bool)}
        for mesh in (make_mesh(devices=jax.devices()[:1]), make_mesh(1, 1, 8)):
            with activations(mesh):
                assert Contrastive().ring_mesh(embeddings) == (large, mesh)


def test_what_cannot_go_round_is_refused():
    with pytest.raises(ValueError, match="comparison='tree' is none of auto, gather, ring"):
        Contrastive(comparison="tree")
    embeddings = {"valid": jax.ShapeDtypeStruct((20,), bool)}
    with activations(make_mesh()), pytest.raises(ValueError, match=r"of the 8 parts.*Take 16"):
        Sigmoid(comparison="ring").ring_mesh(embeddings)


def lowered(compiled, objective, devices, batch, dim=16):
    """Loss and gradient of a batch of that size, compiled."""
    shape = jax.ShapeDtypeStruct
    vectors = {name: shape((batch, dim), jnp.float32) for name in ("image", "text")}
    scalars = {name: shape((), jnp.float32) for name in ("log_scale", "bias")}
    who = {"valid": shape((batch,), bool), "sample_id": shape((batch, 2), jnp.int32)}
    return compiled(objective, devices).lower(vectors, scalars, who).compile()
