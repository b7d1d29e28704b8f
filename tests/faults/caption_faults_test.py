"""Hostile captions are cut or cleaned, hostile tokenizer files refused; the worker lives."""

import concurrent.futures
import json
import multiprocessing
import threading
import time

import numpy as np
import pytest

from mmjax.data.sources.base import BadSample
from mmjax.data.tokenizers.huggingface import HuggingFaceTokenizer
from mmjax.data.tokenizers.sentencepiece import SentencePieceTokenizer
from mmjax.data.tokenizers.training import train_bpe
from mmjax.data.transforms.captions import MAX_MARKS, PickCaption
from mmjax.data.transforms.text import Tokenize

MEGABYTE = 1 << 20
CLEANED = {  # what is usable after cleaning
    "a megabyte of words": ("dog " * (MEGABYTE // 4), "dog dog"),
    "a megabyte without a space": ("x" * MEGABYTE, "xxxx"),
    "a megabyte of spaces before a word": (" " * 6000 + "dog", "dog"),
    "NUL": ("a\x00 dog\x00", "a dog"),
    "lone surrogate": ("a dog \udc80 \ud800 runs", "a dog runs"),
    "right to left": ("\u202eכלב חום\u202c", "כלב חום"),
    "combining marks": ("d" + "\u0300" * 5000 + "og", "og"),
    "a megabyte of combining marks": ("d" + "\u0300" * MEGABYTE + "og", "d"),
    "terminal escape": ("\x1b]0;title\x07 a dog", "a dog"),
    "special tokens": ("a dog<eos><pad><|endoftext|>", "a dog<eos>"),
}
UNUSABLE = {
    "empty": "",
    "only spaces": " \t\r\n",
    "only NUL": "\x00" * 10,
    "only lone surrogates": "\udc80\udcff",
    "a megabyte of spaces": " " * MEGABYTE,
    "a megabyte of NUL": "\x00" * MEGABYTE,
}


def tokenizer_json(**changes):
    """The text of a small tokenizer.json with some parts replaced."""
    parts = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": {"a": 0, "<unk>": 1}, "unk_token": "<unk>"},
    }
    return json.dumps(parts | changes)


PANICS = {  # pyo3's PanicException, which is not an Exception
    "bad precompiled map": tokenizer_json(
        normalizer={"type": "Precompiled", "precompiled_charsmap": "AAAA"}
    ),
    "prefix longer than its token": tokenizer_json(
        model={
            "type": "BPE",
            "vocab": {"a": 0, "é": 1, "aé": 2},
            "merges": [["a", "é"]],
            "continuing_subword_prefix": "####",
        }
    ),
    "loads, and panics on the first text": tokenizer_json(
        pre_tokenizer={"type": "FixedLength", "length": 0}
    ),
}
MALFORMED = {
    "empty": "",
    "not JSON": "<html>404</html>",
    "binary": "\x00\x01\x02",
    "a list": "[1, 2]",
    "nested too deep": "[" * 100_000,
    "normalizers nested too deep": tokenizer_json(normalizer="HERE").replace(
        '"HERE"', '{"type": "Sequence", "normalizers": [' * 5000 + "]}" * 5000
    ),
    "negative number": tokenizer_json(
        model={"type": "WordLevel", "vocab": {"a": -1}, "unk_token": "a"}
    ),
    "number beyond a table": tokenizer_json(
        model={"type": "WordLevel", "vocab": {"a": 4294967295}, "unk_token": "a"}
    ),
    "no tokens": tokenizer_json(model={"type": "Unigram", "vocab": [], "unk_id": None}),
    "merges without tokens": tokenizer_json(
        model={"type": "BPE", "vocab": {"a": 0}, "merges": ["a b"]}
    ),
    "broken pattern": tokenizer_json(
        pre_tokenizer={
            "type": "Split",
            "pattern": {"Regex": "("},
            "behavior": "Isolated",
            "invert": False,
        }
    ),
}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    captions = ["a dog runs over the grass", "two dogs and a cat", "a brown dog"] * 5
    return train_bpe(captions, 320, tmp_path_factory.mktemp("good") / "tokenizer.json")


@pytest.mark.parametrize("name", CLEANED)
def test_a_hostile_caption_is_cut_or_cleaned(tokenizer, name):
    caption, holds = CLEANED[name]
    pick, tokenize = PickCaption(), Tokenize(tokenizer, length=16, bos=True)
    rng = np.random.default_rng(0)
    start = time.perf_counter()
    sample = tokenize(pick({"captions": (caption,), "key": "s"}, rng), rng)
    assert time.perf_counter() - start < 2
    assert holds in sample["caption"]
    assert len(sample["caption"]) <= 2000
    assert "\x00" not in sample["caption"]
    sample["caption"].encode("utf-8")
    token_ids, mask = sample["token_ids"], sample["text_mask"]
    assert token_ids.shape == mask.shape == (16,)
    assert token_ids[0] == tokenizer.bos_id
    assert token_ids[mask.sum() - 1] == tokenizer.eos_id
    # However a caption is written, its text holds no special token of its own.
    assert not np.isin(token_ids[1 : mask.sum() - 1], [0, 1, 2]).any()


def test_a_stack_of_marks_is_bounded(tokenizer):
    for name in ("combining marks", "a megabyte of combining marks"):
        sample = PickCaption()({"captions": (CLEANED[name][0],)}, np.random.default_rng(0))
        assert 1 <= len(sample["caption"]) <= 3 + MAX_MARKS


@pytest.mark.parametrize("name", UNUSABLE)
def test_a_caption_without_text_is_a_bad_sample_of_its_cause(name):
    start = time.perf_counter()
    with pytest.raises(BadSample) as caught:
        PickCaption()({"captions": (UNUSABLE[name],), "key": "s7"}, np.random.default_rng(0))
    assert time.perf_counter() - start < 2
    assert caught.value.cause == "caption"
    assert "s7" in caught.value.message
    assert "\n" not in str(caught.value)


def written(folder, text):
    path = folder / "tokenizer.json"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("name", [*PANICS, *MALFORMED])
def test_a_hostile_tokenizer_file_is_refused_with_one_value_error(tmp_path, name):
    path = written(tmp_path, (PANICS | MALFORMED)[name])
    with pytest.raises(ValueError, match=r"tokenizer\.json") as caught:
        HuggingFaceTokenizer(path)
    assert len(str(caught.value)) < 600
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("name", PANICS)
def test_the_files_that_should_panic_do(tmp_path, name):
    with pytest.raises(ValueError, match="the library panicked"):
        HuggingFaceTokenizer(written(tmp_path, PANICS[name]))


def test_a_panic_on_a_later_text_is_a_bad_sample(tokenizer):
    class Panicking:
        def encode(self, text, add_special_tokens):
            raise type("PanicException", (BaseException,), {})("index out of bounds")

    broken = HuggingFaceTokenizer.__new__(HuggingFaceTokenizer)
    broken.__setstate__(tokenizer.__getstate__())
    broken._library = Panicking()
    with pytest.raises(BadSample, match="the library panicked: index out of bounds") as caught:
        Tokenize(broken, length=8)({"caption": "a dog"}, np.random.default_rng(0))
    assert caught.value.cause == "caption"


def test_an_interrupt_is_not_taken_for_a_fault_of_the_file(tokenizer):
    class Interrupted:
        def encode(self, text, add_special_tokens):
            raise KeyboardInterrupt

    broken = HuggingFaceTokenizer.__new__(HuggingFaceTokenizer)
    broken.__setstate__(tokenizer.__getstate__())
    broken._library = Interrupted()
    with pytest.raises(KeyboardInterrupt):
        broken.encode("a dog")


@pytest.mark.parametrize("content", [b"", b"\x00" * 100, b"\x0a\xff\xff\xff\xff\x0f", b"{}" * 999])
def test_a_hostile_sentencepiece_file_is_refused(tmp_path, content):
    path = tmp_path / "pieces.model"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"pieces\.model"):
        SentencePieceTokenizer(path)


def refuse_then_work(folder, tokenizer):
    """One worker's life: every hostile file and caption in turn, then honest work."""
    refused = 0
    for number, text in enumerate((PANICS | MALFORMED).values()):
        path = f"{folder}/{threading.get_native_id()}-{number}.json"
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        try:
            HuggingFaceTokenizer(path)
        except ValueError:
            refused += 1
    pick, tokenize = PickCaption(), Tokenize(tokenizer, length=8)
    rng = np.random.default_rng(0)
    bad = 0
    for caption in UNUSABLE.values():
        try:
            pick({"captions": (caption,)}, rng)
        except BadSample:
            bad += 1
    for caption, _ in CLEANED.values():
        tokenize(pick({"captions": (caption,)}, rng), rng)
    sample = tokenize(pick({"captions": ("a brown dog",)}, rng), rng)
    return refused, bad, sample["token_ids"].tolist()


def test_the_worker_lives_through_all_of_it(tmp_path, tokenizer):
    expected = Tokenize(tokenizer, length=8).encode("a brown dog")[0].tolist()
    outcome = (len(PANICS | MALFORMED), len(UNUSABLE), expected)
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        runs = [pool.submit(refuse_then_work, str(tmp_path), tokenizer) for _ in range(2)]
        assert [run.result(timeout=120) for run in runs] == [outcome] * 2
    context = multiprocessing.get_context("forkserver")
    queue = context.Queue()
    arguments = (str(tmp_path), tokenizer, queue)
    worker = context.Process(target=report, args=arguments)
    worker.start()
    try:
        assert queue.get(timeout=120) == outcome
        worker.join(60)
        assert worker.exitcode == 0
    finally:
        worker.kill()


def report(folder, tokenizer, queue):
    """What the worker process runs."""
    queue.put(refuse_then_work(folder, tokenizer))
