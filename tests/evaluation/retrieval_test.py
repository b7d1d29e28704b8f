import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from mmjax.evaluation.base import unit, write_artifact
from mmjax.evaluation.retrieval import Retrieval
from mmjax.parallel.mesh import make_mesh
from mmjax.typing import Encoded

WAYS = ("text_to_image", "image_to_text")


def test_a_perfect_model_scores_one_both_ways(random_context):
    metrics = Retrieval()(random_context(noise=0.0)).metrics
    for way in WAYS:
        assert metrics[f"{way}/R@1"] == 1.0
        assert metrics[f"{way}/median_rank"] == 1.0
    assert (metrics["pictures"], metrics["texts"]) == (23, 69)


def test_the_numbers_are_those_of_the_definition(random_context):
    context = random_context(samples=31, captions_each=2, noise=1.0, seed=4)
    metrics = Retrieval(ks=(1, 3))(context).metrics
    images = np.concatenate(
        [context.apply(None, b).embedding[b["valid"]] for b in context.batches()]
    )
    texts = np.stack([context.encode_texts(context.captions(i)) for i in range(31)])
    similarity = np.einsum("id,jcd->ijc", images, texts)  # → [pictures, pictures, captions]
    first_picture = [
        (similarity[:, j, c] > similarity[j, j, c]).sum() for j in range(31) for c in range(2)
    ]
    wrong = ~np.eye(31, dtype=bool)
    first_text = [(similarity[i][wrong[i]] > similarity[i, i].max()).sum() for i in range(31)]
    for way, ranks in zip(WAYS, (first_picture, first_text)):
        assert 0 < metrics[f"{way}/R@1"] < 1
        assert metrics[f"{way}/R@1"] == pytest.approx(np.mean(np.array(ranks) < 1))
        assert metrics[f"{way}/R@3"] == pytest.approx(np.mean(np.array(ranks) < 3))
        assert metrics[f"{way}/median_rank"] == np.median(ranks) + 1


@pytest.mark.parametrize("batch_size", [1, 5, 23, 64])
def test_batch_and_chunk_sizes_change_no_number(random_context, batch_size):
    expected = Retrieval()(random_context()).metrics
    assert Retrieval(chunk=5)(random_context(batch_size=batch_size)).metrics == expected


def test_constant_embeddings_score_at_most_chance(context_of):
    same = unit(np.ones((20, 8)))
    captions = [(f"a {position}", f"b {position}") for position in range(20)]
    texts = {caption: same[0] for own in captions for caption in own}
    metrics = Retrieval()(context_of(same, texts, captions)).metrics
    for way in WAYS:
        for k in (1, 5, 10):
            assert metrics[f"{way}/R@{k}"] == 0.0 <= metrics[f"{way}/R@{k}_chance"]


def test_shuffled_pairs_score_chance(context_of):
    generator = np.random.default_rng(0)
    images = unit(generator.normal(size=(400, 16)))
    captions = [(f"caption {position}",) for position in range(400)]
    other = generator.permutation(400)
    texts = {captions[i][0]: images[other[i]] for i in range(400)}
    metrics = Retrieval()(context_of(images, texts, captions, batch_size=64)).metrics
    for way in WAYS:
        chance = metrics[f"{way}/R@10_chance"]
        assert chance == pytest.approx(10 / 400)
        deviation = np.sqrt(chance * (1 - chance) / 400)
        assert abs(metrics[f"{way}/R@10"] - chance) < 3 * deviation
        assert abs(metrics[f"{way}/median_rank"] - metrics[f"{way}/median_rank_chance"]) < 35


def test_the_order_of_the_data_changes_no_number(context_of):
    generator = np.random.default_rng(1)
    images = unit(generator.normal(size=(17, 4)))
    captions = [(f"a {position}", f"b {position}") for position in range(17)]
    texts = {one: unit(generator.normal(size=4)) for own in captions for one in own}
    order = generator.permutation(17)
    expected = Retrieval()(context_of(images, texts, captions)).metrics
    moved = context_of(images[order], texts, [captions[i] for i in order])
    assert Retrieval()(moved).metrics == pytest.approx(expected)


def test_groups_make_the_captions_of_other_pictures_right(context_of):
    # Each picture is nearest to the caption of its twin.
    images = np.eye(4)
    captions = [(f"caption {position}",) for position in range(4)]
    twin = [1, 0, 3, 2]
    texts = {captions[i][0]: images[twin[i]] for i in range(4)}
    options = {"groups": np.array([7, 7, 8, 8])}
    by_picture = Retrieval()(context_of(images, texts, captions, **options)).metrics
    by_group = Retrieval(positives="group")(context_of(images, texts, captions, **options)).metrics
    for way in WAYS:
        assert by_picture[f"{way}/R@1"] == 0.0
        assert by_group[f"{way}/R@1"] == 1.0
        assert by_group[f"{way}/R@1_chance"] == pytest.approx(0.5)


def test_groups_that_the_data_lacks_are_asked_for(random_context):
    with pytest.raises(ValueError, match="group_from"):
        Retrieval(positives="group")(random_context())


def test_only_the_first_captions_count_where_that_is_asked(random_context):
    metrics = Retrieval(max_captions=1)(random_context(captions_each=3)).metrics
    assert metrics["texts"] == 23


def test_pictures_may_have_different_numbers_of_captions(context_of):
    captions = [("a", "b", "c"), ("d",), ("e", "f")]
    owners = {"a": 0, "b": 0, "c": 0, "d": 1, "e": 2, "f": 2}
    texts = {caption: np.eye(3)[owner] for caption, owner in owners.items()}
    metrics = Retrieval()(context_of(np.eye(3), texts, captions)).metrics
    assert metrics["texts"] == 6
    assert all(metrics[f"{way}/R@1"] == 1.0 for way in WAYS)


def test_a_picture_without_caption_is_named(context_of):
    with pytest.raises(ValueError, match="Sample 1 "):
        Retrieval()(context_of(np.eye(2), {"a": np.eye(2)[0]}, [("a",), ()]))


def test_texts_may_stand_in_the_batches(random_context):
    context = random_context(noise=0.0)
    metrics = Retrieval(text_words=("text_features",))(context).metrics
    assert metrics["text_to_image/R@1"] == 1.0
    assert metrics["texts"] == metrics["pictures"] == 23


def test_wrong_options_are_refused():
    with pytest.raises(ValueError, match="picture, group"):
        Retrieval(positives="caption")
    with pytest.raises(ValueError, match="max_captions"):
        Retrieval(text_words=("text_features",), max_captions=5)


def test_embeddings_that_are_not_numbers_score_nothing(context_of):
    captions = [(str(position),) for position in range(12)]
    texts = {own[0]: np.eye(12)[int(own[0])] for own in captions}
    metrics = Retrieval()(context_of(np.full((12, 12), np.nan), texts, captions)).metrics
    assert all(metrics[f"{way}/R@{k}"] == 0.0 for way in WAYS for k in (1, 5, 10))


def test_eight_devices_give_the_numbers_of_one(random_context):
    """The same linear tower over 1 and 8 devices; 21 samples fill no batch of 8."""
    generator = np.random.default_rng(0)
    kernel = generator.normal(size=(8, 6)).astype(np.float32)

    def on(devices, batch_size):
        context = random_context(samples=21, dim=8, noise=0.7, batch_size=batch_size)
        rows = NamedSharding(make_mesh(devices=jax.devices()[:devices]), PartitionSpec("data"))

        @jax.jit
        def tower(inputs):
            outputs = inputs @ kernel
            return outputs / jnp.linalg.norm(outputs, axis=-1, keepdims=True)

        def encode(inputs):
            return np.asarray(tower(jax.device_put(inputs.astype(np.float32), rows)))

        features, texts = context.apply, context.encode_texts

        def apply(view, batch):
            embedding = encode(features(view, batch).embedding)
            return Encoded(None, None, embedding, embedding)

        def encode_texts(some):
            inputs = texts(some)
            filling = np.zeros((-len(inputs) % 8, 8), np.float32)
            return encode(np.concatenate([inputs, filling]))[: len(inputs)]

        object.__setattr__(context, "apply", apply)
        object.__setattr__(context, "encode_texts", encode_texts)
        return Retrieval()(context).metrics

    assert 0 < on(1, 8)["text_to_image/R@1"] < 1
    assert on(1, 8) == on(8, 8) == on(8, 16)


def test_the_artifact_marks_hits_and_is_small(random_context, tmp_path):
    result = Retrieval(heat=7, examples=4, top=3)(random_context(samples=40, noise=0.5))
    write_artifact(tmp_path, 5, "retrieval", result)
    path = tmp_path / "evaluations" / "5" / "retrieval.json"
    assert path.stat().st_size < 200_000
    artifact = json.loads(path.read_text())
    values = artifact["heat"]["values"]
    assert len(values) == len(values[0]) == len(artifact["heat"]["captions"]) == 7
    assert len(artifact["text_to_image"]) == len(artifact["image_to_text"]) == 4
    for one in artifact["text_to_image"]:
        assert len(one["answers"]) == 3
        for answer in one["answers"]:
            assert answer["hit"] == (answer["position"] == one["position"])
            assert str(answer["position"]) in artifact["thumbnails"]
        assert one["answers"][0]["hit"] == (one["rank"] == 1)
    for one in artifact["image_to_text"]:
        for answer in one["answers"]:
            assert answer["hit"] == answer["caption"].endswith(f" of {one['position']}")
