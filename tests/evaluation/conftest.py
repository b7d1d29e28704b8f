"""A made-up world for evaluators: embeddings are given, so every number can be worked out."""

import numpy as np
import pytest

from mmjax.evaluation.base import Context, unit
from mmjax.typing import Encoded


def make_context(
    images,
    texts,
    captions,
    batch_size=4,
    groups=None,
    labels=None,
    classes=(),
    spoil_padding=True,
    loss=None,
):
    """A context over fixed embeddings.

    Args:
      images: [samples, dim] unit vectors.
      texts: {caption: unit vector}.
      captions: for each sample, a tuple of captions.
      batch_size: rows of a batch; the last batch is filled up.
      groups, labels: one number a sample, or None.
      classes: names that the data knows.
      spoil_padding: give filling rows embeddings, groups and labels that would win if counted.
      loss: what `Context.loss` does with a batch.
    """
    samples = len(images)

    def batches():
        for start in range(0, samples, batch_size):
            position = np.arange(start, start + batch_size)
            valid = position < samples
            batch = {"valid": valid, "position": np.where(valid, position, position % samples)}
            for word, values in (("group", groups), ("label", labels)):
                if values is not None:
                    batch[word] = np.asarray(values)[batch["position"]]
            yield batch

    def apply(view, batch):
        del view
        embedding = images[batch["position"]].astype(np.float32)
        if spoil_padding:
            embedding = np.where(batch["valid"][:, None], embedding, np.float32(np.nan))
        return Encoded(None, None, embedding, embedding)

    def sample(position):
        colour = np.full((120, 200, 3), position * 20 % 255, dtype=np.uint8)
        return {"image": colour, "captions": captions[position]}

    return Context(
        apply=apply,
        batches=batches,
        captions=lambda position: captions[position],
        sample=sample,
        encode_texts=lambda some: np.stack([texts[one] for one in some]).astype(np.float32),
        loss=loss or (lambda batch: {}),
        classes=classes,
    )


def make_random_context(samples=23, captions_each=3, dim=8, noise=0.8, seed=0, **options):
    """Pictures at random, captions near them; noise 0 is a perfect model."""
    generator = np.random.default_rng(seed)
    images = unit(generator.normal(size=(samples, dim)))
    captions, texts = [], {}
    for position in range(samples):
        own = tuple(f"caption {number} of {position}" for number in range(captions_each))
        captions.append(own)
        for caption in own:
            texts[caption] = unit(images[position] + noise * generator.normal(size=dim))
    return make_context(images, texts, captions, **options)


@pytest.fixture(scope="session")
def context_of():
    return make_context


@pytest.fixture(scope="session")
def random_context():
    return make_random_context


def make_judged_context(scores, facts, batch_size=4, wrong=None, attention=None, **words):
    """A context whose head's scores are given.

    Args:
      scores: [samples, ...] of the head.
      facts: position -> what is known of the sample.
      batch_size: rows of a batch; the last batch is filled up.
      wrong: [samples, samples]: the score of each text with each picture; None refuses to pair.
      attention: what `Context.attention` gives, as a function of positions; None cannot tell.
      words: 'group', 'label' and 'labels', one entry a sample.
    """
    scores = np.asarray(scores, np.float32)
    names = {word: tuple(words.pop(word, ())) for word in ("classes", "answers")}

    def unused(*_):
        raise AssertionError("no evaluator of a head encodes")

    def picked(positions, others=(), pictures=()):
        positions = np.asarray(positions)
        for start in range(0, len(positions), batch_size):
            rows = np.arange(start, start + batch_size)
            batch = {"valid": rows < len(positions), "position": np.resize(positions, rows[-1] + 1)}
            batch["position"] = batch["position"][rows]
            batch |= {word: np.asarray(value)[batch["position"]] for word, value in words.items()}
            if pictures:
                batch["other"] = np.resize(others, rows[-1] + 1)[rows]
            yield batch

    def score(view, head, batch):
        del view, head
        if "other" in batch:
            return wrong[batch["position"], batch["other"]]
        found = scores[batch["position"]].copy()
        found[~batch["valid"]] = np.nan
        return found

    def sample(position):
        return {"image": np.full((40, 80, 3), position * 20 % 255, np.uint8), "captions": ()}

    return Context(
        apply=unused,
        batches=lambda: picked(np.arange(len(scores))),
        captions=unused,
        sample=sample,
        encode_texts=unused,
        loss=unused,
        classes=names["classes"],
        facts=lambda position: facts[position],
        scores=score,
        answers=names["answers"],
        chosen=picked,
        attention=attention and (lambda view, batch: attention(batch["position"])),
    )


@pytest.fixture(scope="session")
def judged_context():
    return make_judged_context
