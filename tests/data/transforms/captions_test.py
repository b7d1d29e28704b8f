"""Captions: drawing one of several, and cleaning by rule."""

import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmjax.data.sources.base import BadSample
from mmjax.data.transforms.captions import MAX_MARKS, PickCaption, clean_caption

ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=300)


@pytest.mark.parametrize(
    ("given_text", "cleaned"),
    [
        ("a dog", "a dog"),
        ("  a \t dog\r\n\n runs ", "a dog runs"),
        ("a\x00dog\x07 \x1b[0m", "adog [0m"),
        ("\ufeffa dog", "a dog"),
        ("a \ud83d dog \ude00", "a dog"),
        ("a \ud83d\ude00 dog", "a \U0001f600 dog"),
        ("cafe\u0301", "café"),
        ("שלום לכל", "שלום לכל"),
        ("\u200fمرحبا", "\u200fمرحبا"),
        ("q\u0307\u0323", "q\u0323\u0307"),
        ("two\u00a0words\u3000here", "two words here"),
        ("\U0001f469\u200d\U0001f680", "\U0001f469\u200d\U0001f680"),
    ],
)
def test_captions_are_cleaned_by_rule(given_text, cleaned):
    assert clean_caption(given_text) == cleaned


@pytest.mark.parametrize("text", ["", "  \n\t", "\x00\x01", "\ud800", "\ufeff", "\u2028"])
def test_nothing_left_is_a_bad_caption(text):
    with pytest.raises(BadSample, match="empty once cleaned") as caught:
        clean_caption(text)
    assert caught.value.cause == "caption"


def test_long_captions_are_cut():
    assert clean_caption("ab " * 400_000, 10) == "ab ab ab a"
    assert clean_caption("a " + "b" * 2_000_000, 100) == "a " + "b" * 98


def test_stacks_of_marks_are_bounded_and_ordinary_ones_stay():
    stack = clean_caption("z" + "\u0301" * 1000 + "y")
    assert len(unicodedata.normalize("NFD", stack)) == 2 + MAX_MARKS
    assert stack.endswith("y")
    vietnamese = "Tiếng Việt"
    assert clean_caption(unicodedata.normalize("NFD", vietnamese)) == vietnamese


@settings(deadline=None, max_examples=300)
@given(ANY_TEXT, st.integers(1, 50))
def test_whatever_comes_in_what_comes_out_is_clean_text(text, limit):
    try:
        cleaned = clean_caption(text, limit)
    except BadSample:
        return
    assert 1 <= len(cleaned) <= limit
    assert cleaned == " ".join(cleaned.split())
    assert not any(unicodedata.category(c) in ("Cc", "Cs") for c in cleaned)
    assert cleaned.encode("utf-8").decode("utf-8") == cleaned
    assert clean_caption(cleaned, limit) == cleaned


def test_each_visit_draws_one_of_the_captions():
    captions = ("one", "two", "three")
    found = [
        PickCaption()({"captions": captions}, np.random.default_rng(i))["caption"]
        for i in range(300)
    ]
    counts = [found.count(caption) for caption in captions]
    assert sum(counts) == 300
    assert min(counts) > 70


def test_the_first_caption_is_taken_without_a_draw():
    rng = np.random.default_rng(0)
    before = rng.bit_generator.state
    assert PickCaption(first=True)({"captions": ("one", "two")}, rng)["caption"] == "one"
    assert rng.bit_generator.state == before


def test_empty_captions_are_passed_over_and_only_empty_ones_are_a_bad_sample():
    rng = np.random.default_rng(0)
    for _ in range(20):
        assert PickCaption()({"captions": ("", "\x00", "two")}, rng)["caption"] == "two"
    assert PickCaption(first=True)({"captions": (" ", "two")}, rng)["caption"] == "two"
    for captions in ((), ("", " ")):
        with pytest.raises(BadSample, match="s1") as caught:
            PickCaption()({"captions": captions, "key": "s1"}, rng)
        assert caught.value.cause == "caption"


def test_a_limit_below_one_is_refused():
    with pytest.raises(ValueError, match="max_characters=0; at least 1"):
        PickCaption(max_characters=0)
