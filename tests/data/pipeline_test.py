"""The batch at step k is a function of (seed, k) alone, whoever makes it."""

import contextlib
import dataclasses
import io
import tarfile

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from mmjax.data.dataset import Dataset, Mixture, members_of
from mmjax.data.fields import Fields
from mmjax.data.mixture import Order
from mmjax.data.pipeline import BatchMaker, Mismatch, Reading, batches
from mmjax.data.rows import ATTEMPTS, evaluation_rows, text_identity, training_rows
from mmjax.data.sources.base import CAUSES, BadSample, Source
from mmjax.data.tokenizers.base import Tokenizer
from mmjax.data.transforms.captions import PickCaption
from mmjax.data.transforms.image import RandomFlip, RandomResizedCrop
from mmjax.data.transforms.text import Tokenize


class Numbers(Source):
    """Pictures whose pixels say which sample they are; some cannot be used."""

    def __init__(self, size: int, first: int = 0, bad: frozenset = frozenset()):
        self.size, self.first, self.bad = size, first, bad

    def __len__(self):
        return self.size

    def __getitem__(self, position):
        if position in self.bad:
            raise BadSample("decode", f"{position}")
        pixels = np.full((4, 4, 3), (self.first + position) % 251, np.uint8)
        return {"jpg": pixels, "txt": f"one {self.first + position}\ntwo {self.first + position}"}

    def fingerprint(self):
        return f"{self.size}-{self.first}"

    def describe(self):
        return f"{self.size} numbers"


@dataclasses.dataclass(frozen=True)
class Noise:
    """Stands for any random transform: picks a caption, shifts the pixels, makes tokens."""

    def __call__(self, sample, rng):
        captions = sample["captions"]
        sample["caption"] = captions[rng.integers(len(captions))]
        sample["image"] = sample["image"] + rng.integers(0, 5, dtype=np.uint8)
        sample["token_ids"] = np.full(3, len(sample["caption"]), np.int32)
        sample["text_mask"] = np.ones(3, bool)
        return sample


def dataset(size=20, first=0, bad=frozenset(), weight=1.0):
    return Dataset(source=Numbers(size, first, bad), transforms=(Noise(),), weight=weight)


def maker(data=None, batch_size=8, process=0, processes=1, threads=1, seed=0, stream="main"):
    rows = training_rows(members_of(data or dataset()), seed, stream)
    return BatchMaker(rows, batch_size, process, processes, threads)


def same(a, b):
    assert a.keys() == b.keys()
    for word in a:
        np.testing.assert_array_equal(a[word], b[word], err_msg=word)


def joined(blocks):
    return {word: np.concatenate([block[word] for block in blocks]) for word in blocks[0]}


@pytest.mark.parametrize("processes", [2, 4])
@pytest.mark.parametrize("threads", [1, 3])
def test_any_number_of_processes_makes_the_same_batch(processes, threads):
    data = Mixture((dataset(20, weight=3.0), dataset(7, first=100, bad=frozenset({2, 5}))))
    whole = maker(data)
    parts = [maker(data, process=p, processes=processes, threads=threads) for p in range(processes)]
    for number in (0, 1, 17):
        same(whole(number), joined([part(number) for part in parts]))


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_any_number_of_workers_makes_the_same_batches(workers):
    made = maker()
    iterator = batches(made, 5, 9, Reading(workers=workers, threads=2))
    try:
        for number in range(5, 9):
            same(next(iterator), made(number))
        with pytest.raises(StopIteration):
            next(iterator)
    finally:
        iterator.close()


class Bytes(Tokenizer):
    """UTF-8 bytes as tokens."""

    vocab_size, bos_id, eos_id, pad_id = 258, None, 257, 256

    def encode(self, text):
        return list(text.encode())

    def content(self):
        return b"bytes"

    def special_tokens(self):
        return {"<pad>": 256, "<eos>": 257}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A maker of the batches of a tar of JPEGs of unlike sizes, each with several captions."""
    path = tmp_path_factory.mktemp("photos") / "photos.tar"
    rng = np.random.default_rng(0)
    with tarfile.open(path, "w") as file:
        for number in range(13):
            pixels = rng.integers(0, 256, (24 + number, 40 - number, 3), np.uint8)
            jpeg = io.BytesIO()
            Image.fromarray(pixels).save(jpeg, "JPEG")
            text = "\n".join(f"caption {way} of {number}" for way in ("a", "b", "c"))
            for kind, data in (("jpg", jpeg.getvalue()), ("txt", text.encode())):
                entry = tarfile.TarInfo(f"{number:03}.{kind}")
                entry.size = len(data)
                file.addfile(entry, io.BytesIO(data))
    transforms = (RandomResizedCrop(16, scale=(0.3, 1.0)), PickCaption(), Tokenize(Bytes(), 24))
    data = Dataset(path=str(path), transforms=transforms)
    return lambda process, processes: maker(data, 8, process, processes, threads=2)


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("processes", [1, 2, 4])
def test_pixels_captions_and_order_are_equal_for_any_processes_and_workers(
    photos, processes, workers
):
    whole = [photos(0, 1)(number) for number in range(2)]
    assert whole[0]["image"].shape == (8, 16, 16, 3)
    assert len(np.unique(joined(whole)["caption_id"], axis=0)) > 8  # of 13 pictures in 16 rows
    with contextlib.ExitStack() as stack:
        feeds = [
            batches(photos(process, processes), 0, 2, Reading(workers=workers))
            for process in range(processes)
        ]
        for feed in feeds:
            stack.callback(feed.close)
            if workers:
                feed.start_prefetch()  # so that all start at once
        for batch in whole:
            same(batch, joined([next(feed) for feed in feeds]))


def test_a_process_may_feed_rows_that_are_no_neighbours():
    whole = maker()(3)
    rows = maker().rows
    part = BatchMaker(rows, len(whole["row"]), 0, 2, 1, np.array([1, 2, 6]))(3)
    same({word: value[[1, 2, 6]] for word, value in whole.items()}, part)


def test_a_seed_a_stream_and_a_step_each_change_the_batch():
    base = maker()(3)["image"]
    for other in (maker(seed=1)(3), maker(stream="other")(3), maker()(4)):
        assert (other["image"] != base).any()


def test_each_epoch_shows_each_sample_once_in_another_order():
    made = maker(batch_size=10)
    epochs = [joined([made(2 * e), made(2 * e + 1)])["sample_id"][:, 1] for e in range(3)]
    for epoch in epochs:
        assert sorted(epoch) == list(range(20))
    assert (epochs[0] != epochs[1]).any()
    assert (epochs[1] != epochs[2]).any()


def test_a_mixture_keeps_its_weights_and_each_source_its_own_epoch():
    order = Order((10, 1000), (0.25, 0.75), seed=3)
    drawn = [order(index) for index in range(4000)]
    sources = np.array([source for source, _ in drawn])
    assert abs((sources == 0).mean() - 0.25) < 0.001
    assert abs((sources[:40] == 0).mean() - 0.25) <= 0.025
    small = [position for source, position in drawn if source == 0]
    for epoch in range(5):
        assert sorted(small[epoch * 10 : (epoch + 1) * 10]) == list(range(10))
    large = [position for source, position in drawn if source == 1]
    assert sorted(large[:1000]) == list(range(1000))


def test_a_weight_that_gives_no_turn_is_refused_before_anything_is_drawn():
    with pytest.raises(ValueError, match=r"smallest of 2 gives its source 1\.0e-07 of the samples"):
        training_rows((dataset(weight=1e-7), dataset()), 0, "main")


@pytest.mark.parametrize("high", [1 << 63, (1 << 64) - 2])
def test_every_bit_of_a_key_changes_what_is_drawn(high):
    rows = training_rows((dataset(),), 0, "main")
    drawn = []
    for key in (high, high + 1):
        rows._key = key
        drawn.append([rows._row(rows.datasets[0], 0, 0, i, 0)["image"][0, 0, 0] for i in range(40)])
    assert drawn[0] != drawn[1]


def test_one_of_several_captions_is_drawn_for_each_visit():
    made = maker(batch_size=20)
    ids = np.stack(
        [
            made(epoch)["caption_id"][np.argsort(made(epoch)["sample_id"][:, 1])]
            for epoch in range(6)
        ]
    )
    assert len(np.unique(ids[:, 0], axis=0)) == 2
    one, two = text_identity("one 0"), text_identity("two 0")
    assert all((row == one).all() or (row == two).all() for row in ids[:, 0])


def test_an_unusable_sample_is_replaced_counted_and_named_by_what_stands_there():
    data = dataset(20, bad=frozenset({3, 11}))
    batch = maker(data, batch_size=20)(0)
    assert batch["valid"].all()
    assert batch["bad_samples"].sum() >= 2
    assert batch["bad_samples"][:, CAUSES.index("decode")].sum() == batch["bad_samples"].sum()
    assert not np.isin(batch["sample_id"][:, 1], [3, 11]).any()
    replaced = np.flatnonzero(batch["bad_samples"].sum(axis=1))
    for row in replaced:
        position = batch["sample_id"][row, 1]
        assert np.isin(batch["image"][row, 0, 0, 0], position + np.arange(5))
    same(batch, maker(data, batch_size=20)(0))


class Jpegs(Numbers):
    """The same as files; the bad ones have a header and half of their data."""

    def __getitem__(self, position):
        noise = np.random.default_rng(position).integers(0, 256, (24, 32, 3), np.uint8)
        data = simplejpeg.encode_jpeg(noise)
        return {"jpg": data[: len(data) // 2] if position in self.bad else data, "txt": "a dog"}


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("training", [True, False])
def test_pictures_that_are_made_in_the_batch_are_those_of_single_rows(threads, training):
    transforms = (RandomResizedCrop(16), RandomFlip())
    data = Dataset(
        source=Jpegs(40, bad=frozenset({3, 11})),
        fields=Fields(caption_from=""),
        transforms=transforms,
    )
    rows = training_rows((data,), 0, "main") if training else evaluation_rows((data,), 0)
    batch = BatchMaker(rows, 40, 0, 1, threads)(0)
    assert batch["bad_samples"][:, CAUSES.index("decode")].sum() == batch["bad_samples"].sum() >= 2
    assert batch["valid"].sum() == (40 if training else 38)
    for number in range(40):
        row, bad = rows.load(number)
        np.testing.assert_array_equal(batch["bad_samples"][number], bad)
        if row is None:
            assert not batch["image"][number].any()
            assert not batch["sample_id"][number].any()
        else:
            same(row, {word: batch[word][number] for word in row})


def test_a_transform_of_ones_own_after_the_crop_sees_pixels():
    def darker(sample, rng):
        sample["image"] = sample["image"] // 2
        return sample

    made = {}
    for name, transforms in {"plain": (), "own": (darker,)}.items():
        chain = (RandomResizedCrop(16), RandomFlip(), *transforms, RandomFlip())
        data = Dataset(source=Jpegs(8), fields=Fields(caption_from=""), transforms=chain)
        made[name] = BatchMaker(training_rows((data,), 0, "main"), 8, 0, 1, 1)(0)["image"]
    np.testing.assert_array_equal(made["own"], made["plain"] // 2)


@dataclasses.dataclass(frozen=True)
class Odd:
    """Gives some samples another shape, or a word of their own."""

    positions: frozenset
    word: str = ""

    def __call__(self, sample, rng):
        if int(sample["captions"][0].split()[1]) in self.positions:
            if self.word:
                sample[self.word] = 1
            else:
                sample["image"] = sample["image"][:3]
        return sample


class Labelled:
    """The number of a sample as its label."""

    def __call__(self, sample, rng):
        return sample | {"label": np.int32(sample["captions"][0].split()[1])}


def odd(positions, word=""):
    return Dataset(source=Numbers(20), transforms=(Noise(), Odd(frozenset(positions), word)))


def test_a_sample_of_another_shape_is_replaced_and_counted_as_of_bad_format():
    batch = maker(odd({3, 11}), batch_size=20)(0)
    assert batch["valid"].all()
    assert batch["bad_samples"].sum() >= 2
    assert batch["bad_samples"][:, CAUSES.index("format")].sum() == batch["bad_samples"].sum()
    assert not np.isin(batch["sample_id"][:, 1], [3, 11]).any()
    right = maker(dataset(20), batch_size=20)(0)
    kept = batch["bad_samples"].sum(axis=1) == 0
    same({w: batch[w][kept] for w in batch}, {w: right[w][kept] for w in right})


def test_a_held_out_sample_of_another_shape_leaves_an_empty_row():
    batch = BatchMaker(evaluation_rows((odd({4}),), 0), 8, 0, 1, threads=2)(0)
    assert list(np.flatnonzero(~batch["valid"])) == [4]
    assert batch["bad_samples"].sum() == batch["bad_samples"][4, CAUSES.index("format")] == 1


def test_a_sample_with_another_word_ends_the_run():
    with pytest.raises(ValueError, match="need the same fields"):
        maker(odd({3, 11}, word="label"), batch_size=20)(0)


def test_a_label_of_no_class_ends_the_run_and_is_named():
    """Taken as bad samples, a whole class could vanish where labels are counted from 1."""
    data = Dataset(source=Numbers(20), transforms=(Noise(), Labelled()))
    rows = training_rows((data,), 0, "main")
    right = BatchMaker(rows, 40, 0, 1, threads=2, classes=20)(0)
    assert set(right["label"]) <= set(range(20))
    with pytest.raises(Mismatch, match=r"sample 19 of dataset 0 has label 19, .* 0 to 18"):
        BatchMaker(rows, 40, 0, 1, threads=2, classes=19)(0)


def test_a_row_without_a_usable_sample_stays_empty():
    data = dataset(20, bad=frozenset(range(1, 20)))
    batches_made = [maker(data, batch_size=20)(number) for number in range(5)]
    empty = np.concatenate([~batch["valid"] for batch in batches_made])
    assert empty.any()
    counts = np.concatenate([batch["bad_samples"].sum(axis=1) for batch in batches_made])
    assert (counts[empty] == ATTEMPTS + 1).all()
    assert (counts[~empty] <= ATTEMPTS).all()


def test_evaluation_shows_each_sample_once_and_fills_up_with_invalid_rows():
    data = dataset(10, bad=frozenset({4}))
    made = BatchMaker(evaluation_rows((data,), 0), 8, 0, 1, threads=2)
    pair = joined([made(0), made(1)])
    assert list(np.flatnonzero(pair["valid"])) == [0, 1, 2, 3, 5, 6, 7, 8, 9]
    assert list(pair["sample_id"][pair["valid"]][:, 1]) == [0, 1, 2, 3, 5, 6, 7, 8, 9]
    assert pair["bad_samples"].sum() == 1


def test_data_without_a_usable_sample_stops_before_training():
    with pytest.raises(ValueError, match="none of the first 5 samples can be used"):
        maker(dataset(5, bad=frozenset(range(5))))


def test_unlike_datasets_in_a_mixture_are_refused():
    small = Dataset(source=Numbers(4), transforms=())
    with pytest.raises(ValueError, match="like rows"):
        maker(Mixture((dataset(), small)))


@pytest.mark.parametrize("seconds", [0.0, -1.0, 1e12, float("inf")])
def test_a_wait_that_no_lock_can_keep_is_refused(seconds):
    with pytest.raises(ValueError, match=r"reading: .*stall_seconds=.*above 0, at most"):
        Reading(stall_seconds=seconds)
