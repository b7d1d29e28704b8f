"""Tokenize: one length, end-of-text kept, padding masked; and the check against the model."""

import numpy as np
import pytest

from mmjax.data.sources.base import BadSample
from mmjax.data.tokenizers.base import Tokenizer
from mmjax.data.transforms.text import Tokenize, check_tokenizer, clean_text


class Letters(Tokenizer):
    """A letter is its place in the alphabet and three; anything else cannot be expressed."""

    def __init__(self, bos_id=1, eos_id=2, pad_id=0):
        self.vocab_size = 29
        self.bos_id, self.eos_id, self.pad_id = bos_id, eos_id, pad_id

    def encode(self, text: str) -> list[int]:
        text = text.replace(" ", "")
        if any(not "a" <= letter <= "z" for letter in text):
            raise ValueError(f"no number for {text!r}")
        return [ord(letter) - ord("a") + 3 for letter in text]

    def content(self) -> bytes:
        return b"letters"

    def special_tokens(self) -> dict[str, int]:
        return {"<pad>": 0, "<bos>": 1, "<eos>": 2}


def run(tokenize, caption):
    sample = tokenize({"caption": caption}, np.random.default_rng(0))
    return sample["token_ids"].tolist(), sample["text_mask"].astype(int).tolist()


def test_a_short_text_is_filled_up_and_masked():
    tokenize = Tokenize(Letters(), length=6, bos=True)
    assert run(tokenize, "abc") == ([1, 3, 4, 5, 2, 0], [1, 1, 1, 1, 1, 0])


def test_a_long_text_is_cut_and_still_ends_with_end_of_text():
    assert run(Tokenize(Letters(), length=4), "abcdef") == ([3, 4, 5, 2], [1, 1, 1, 1])
    assert run(Tokenize(Letters(), length=4, bos=True), "abcdef") == ([1, 3, 4, 2], [1, 1, 1, 1])
    assert run(Tokenize(Letters(), length=4, eos=False), "abcdef")[0] == [3, 4, 5, 6]


def test_a_text_of_exactly_the_length_is_whole():
    assert run(Tokenize(Letters(), length=4), "abc") == ([3, 4, 5, 2], [1, 1, 1, 1])


def test_padding_may_be_another_number():
    assert run(Tokenize(Letters(), length=5, pad_id=2), "a") == ([3, 2, 2, 2, 2], [1, 1, 0, 0, 0])
    without = Letters(pad_id=None)
    assert run(Tokenize(without, length=3, pad_id=0), "a")[0] == [3, 2, 0]


def test_arrays_have_the_types_of_a_batch():
    sample = Tokenize(Letters(), length=4)({"caption": "a"}, np.random.default_rng(0))
    assert sample["token_ids"].dtype == np.int32
    assert sample["text_mask"].dtype == np.bool_


@pytest.mark.parametrize(
    ("cleaning", "expected"),
    [
        ("none", "A_Dog &amp;amp; two  CATS!\n"),
        ("lower", "a_dog & two cats!"),
        ("canonicalize", "a dog ampamp two cats"),
    ],
)
def test_cleaning_is_that_of_the_published_models(cleaning, expected):
    assert clean_text("A_Dog &amp;amp; two  CATS!\n", cleaning) == expected


def test_cleaning_comes_before_the_tokenizer():
    assert run(Tokenize(Letters(), length=4, cleaning="canonicalize"), "A-B!")[0] == [3, 4, 2, 0]


def test_a_text_that_cannot_be_used_is_a_bad_sample():
    for caption, reason in (("a1", "no number for"), ("...", "no token is left")):
        with pytest.raises(BadSample, match=reason) as caught:
            run(Tokenize(Letters(), length=4, cleaning="canonicalize"), caption)
        assert caught.value.cause == "caption"


def test_options_are_checked():
    with pytest.raises(ValueError, match="put PickCaption"):
        Tokenize(Letters())({}, np.random.default_rng(0))
    with pytest.raises(ValueError, match="length=2; with bos=True and eos=True at least 3"):
        Tokenize(Letters(), length=2, bos=True)
    with pytest.raises(
        ValueError, match=r"cleaning='ascii'; use one of none, lower, clip, canonicalize, siglip"
    ):
        Tokenize(Letters(), cleaning="ascii")
    with pytest.raises(ValueError, match=r"no padding token .*pad_token="):
        Tokenize(Letters(pad_id=None))
    with pytest.raises(ValueError, match=r"no end-of-text token .*eos_token="):
        Tokenize(Letters(eos_id=None))
    with pytest.raises(ValueError, match=r"no begin-of-text token .*bos_token="):
        Tokenize(Letters(bos_id=None), bos=True)
    with pytest.raises(ValueError, match="pad_id=29; the tokenizer has tokens 0 to 28"):
        Tokenize(Letters(), pad_id=29)


def test_a_tokenizer_is_compared_with_the_model():
    tokenize = Tokenize(Letters(), length=16)
    check_tokenizer(tokenize, vocab_size=29, length=16, eos_id=2)
    check_tokenizer(tokenize, vocab_size=64, length=32)
    with pytest.raises(ValueError, match="has 29 tokens and the model's table 28 rows"):
        check_tokenizer(tokenize, vocab_size=28, length=16)
    with pytest.raises(ValueError, match="makes 16 tokens and the model has 8 positions"):
        check_tokenizer(tokenize, vocab_size=29, length=8)
    with pytest.raises(ValueError, match="end-of-text token 5, and the tokenizer's is 2"):
        check_tokenizer(tokenize, vocab_size=29, length=16, eos_id=5)
    with pytest.raises(ValueError, match="Tokenize adds none; set eos=True"):
        check_tokenizer(
            Tokenize(Letters(), length=16, eos=False), vocab_size=29, length=16, eos_id=2
        )
