"""MaskWords: how many are asked for, what replaces them, whole words, and the same for a seed."""

import numpy as np
import pytest

from mmjax.data.tokenizers.base import Tokenizer
from mmjax.data.transforms.masking import MaskWords

SPECIAL = {"[PAD]": 0, "[CLS]": 1, "[SEP]": 2, "[MASK]": 3}


class Spelt(Tokenizer):
    """Numbers with a spelling each, after four special ones."""

    def __init__(self, *pieces, special=SPECIAL):
        self.pieces = [*SPECIAL, *pieces]
        self.special = special
        self.vocab_size = len(self.pieces)
        self.bos_id, self.eos_id, self.pad_id = 1, 2, 0

    def encode(self, text: str) -> list[int]:
        return [self.pieces.index(piece) for piece in text.split()]

    def content(self) -> bytes:
        return " ".join(self.pieces).encode()

    def special_tokens(self) -> dict[str, int]:
        return dict(self.special)

    def piece(self, number: int) -> str:
        return self.pieces[number]


class Silent(Spelt):
    """Does not tell how its tokens are spelt."""

    def piece(self, number: int) -> None:
        return None


LETTERS = Spelt(*"abcdefghijklmnopqrstuvwxyz")


def text(*numbers, length=None):
    """A text between its special tokens, filled up to a length."""
    real = [1, *numbers, 2]
    filling = (length or len(real)) - len(real)
    return {
        "token_ids": np.asarray(real + [0] * filling, np.int32),
        "text_mask": np.asarray([True] * len(real) + [False] * filling),
    }


def run(transform, sample, seed=0):
    made = transform(dict(sample), np.random.default_rng(seed))
    return made["masked_ids"], made["mlm_labels"]


@pytest.mark.parametrize(("words", "asked"), [(20, 3), (10, 2), (1, 1)])
def test_a_fixed_share_is_asked_for_and_at_least_one(words, asked):
    transform, sample = MaskWords(LETTERS), text(*range(4, 4 + words), length=30)
    for seed in range(5):
        ids, labels = run(transform, sample, seed)
        places = labels >= 0
        assert places.sum() == asked
        np.testing.assert_array_equal(labels[places], sample["token_ids"][places])
        np.testing.assert_array_equal(labels[~places], -100)
        np.testing.assert_array_equal(ids[~places], sample["token_ids"][~places])


def test_neither_special_tokens_nor_padding_are_asked_for():
    _, labels = run(MaskWords(LETTERS, rate=0.99), text(5, 3, 6, length=9))
    np.testing.assert_array_equal(labels, [-100, 5, -100, 6, -100, -100, -100, -100, -100])
    ids, labels = run(MaskWords(LETTERS), text(length=4))
    np.testing.assert_array_equal(ids, [1, 2, 0, 0])
    assert (labels == -100).all()


def test_the_text_itself_stays():
    sample = text(*range(4, 24))
    before = sample["token_ids"].copy()
    run(MaskWords(LETTERS), sample)
    np.testing.assert_array_equal(sample["token_ids"], before)


def test_the_shares_of_what_replaces_a_word_are_those_asked_for():
    transform, sample = MaskWords(LETTERS, rate=0.5), text(*[4] * 4000)
    ids, labels = run(transform, sample)
    asked = ids[labels >= 0]
    assert np.mean(asked == 3) == pytest.approx(0.8, abs=0.03)
    other = asked[(asked != 3) & (asked != 4)]
    assert len(other) / len(asked) == pytest.approx(0.1 * 25 / 26, abs=0.02)
    assert set(other) == set(range(5, 30))  # never a special one
    stays, labels = run(MaskWords(LETTERS, rate=0.5, masked=0.0, random=0.0), sample)
    assert (labels >= 0).sum() == 2000
    np.testing.assert_array_equal(stays, sample["token_ids"])


def test_a_mask_is_a_function_of_the_generator_alone():
    transform, sample = MaskWords(LETTERS), text(*range(4, 30))
    for seed in range(3):
        for one, other in zip(run(transform, sample, seed), run(transform, sample, seed)):
            np.testing.assert_array_equal(one, other)
    assert any((run(transform, sample)[1] != run(transform, sample, s)[1]).any() for s in (1, 2))


@pytest.mark.parametrize(
    ("pieces", "groups"),
    [
        (("un", "##der", "the", "riv", "##er", "##s"), [[1, 2], [3], [4, 5, 6]]),
        (("▁un", "der", "▁the", "▁riv", "er", "s"), [[1, 2], [3], [4, 5, 6]]),
        (("un", "der", "Ġthe", "Ġriv", "er", "s"), [[1, 2], [3], [4, 5, 6]]),
        (("un", "der</w>", "the</w>", "riv", "er", "s</w>"), [[1, 2], [3], [4, 5, 6]]),
    ],
)
def test_the_tokens_of_a_word_are_asked_for_together(pieces, groups):
    transform = MaskWords(Spelt(*pieces), rate=0.4, whole_words=True)
    sample = text(*range(4, 10))
    assert transform.words(sample["token_ids"]) == groups
    seen = set()
    for seed in range(20):
        asked = np.flatnonzero(run(transform, sample, seed)[1] >= 0).tolist()
        assert all(set(group) <= set(asked) or not set(group) & set(asked) for group in groups)
        seen.add(tuple(asked))
    # Two tokens are wanted: a word of three is taken where it comes first, and passed over later.
    assert seen == {(1, 2), (3,), (4, 5, 6)}


def test_a_special_token_parts_words():
    transform = MaskWords(Spelt("un", "##der"), whole_words=True)
    assert transform.words(np.asarray([1, 4, 5, 2, 5, 5], np.int32)) == [[1, 2], [4, 5]]


def test_a_number_that_no_word_has_may_be_the_mask():
    transform = MaskWords(Spelt("a", "b", special={}), rate=0.9, masked=1.0, random=0.0, mask_id=99)
    ids, _ = run(transform, text(4, 5))
    np.testing.assert_array_equal(ids, [1, 99, 99, 2])


@pytest.mark.parametrize(
    ("tokenizer", "fields", "message"),
    [
        (LETTERS, {"rate": 1.0}, "rate=1.0 is not above 0 and below 1"),
        (LETTERS, {"masked": 0.8, "random": 0.3}, "masked=0.8 and random=0.3 are no shares"),
        (Spelt("a", special={"<eos>": 2}), {}, r"no mask token .*\(<eos>\).*Set mask_id"),
        (Silent("a"), {"whole_words": True}, "needs a tokenizer that tells how"),
    ],
)
def test_what_does_not_fit_is_refused(tokenizer, fields, message):
    with pytest.raises(ValueError, match=message):
        MaskWords(tokenizer, **fields)


def test_a_text_that_is_not_tokenised_yet_is_named():
    with pytest.raises(ValueError, match=r"put Tokenize\(\.\.\.\) before it"):
        MaskWords(LETTERS)({"caption": "a"}, np.random.default_rng(0))
