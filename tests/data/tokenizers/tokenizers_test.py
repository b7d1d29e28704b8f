"""Tokenizer adapters and training: same bytes, special tokens, threads, processes."""

import concurrent.futures
import hashlib
import io
import json
import os
import pickle

import pytest
import sentencepiece
import tokenizers

from mmjax.data.tokenizers.base import LARGEST_ID
from mmjax.data.tokenizers.huggingface import HuggingFaceTokenizer
from mmjax.data.tokenizers.sentencepiece import SentencePieceTokenizer
from mmjax.data.tokenizers.training import train_bpe

CAPTIONS = [
    f"A {size} {colour} {thing} beside the river"
    for size in ("small", "large", "old")
    for colour in ("red", "green", "blue", "grey")
    for thing in ("house", "boat", "dog", "bridge", "mill")
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("tokenizers")


@pytest.fixture(scope="module")
def trained(folder):
    return train_bpe(CAPTIONS, 400, folder / "tokenizer.json")


@pytest.fixture(scope="module")
def piece_file(folder):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CAPTIONS),
        model_writer=model,
        vocab_size=60,
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    path = folder / "pieces.model"
    path.write_bytes(model.getvalue())
    return path


def word_file(path, tokens, special=()):
    """A tokenizer.json that knows whole words."""
    vocabulary = {token: number for number, token in enumerate(tokens)}
    added = [
        {
            "id": vocabulary[token],
            "content": token,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
        for token in special
    ]
    model = {"type": "WordLevel", "vocab": vocabulary, "unk_token": "<unk>"}
    path.write_text(
        json.dumps(
            {
                "version": "1.0",
                "truncation": None,
                "padding": None,
                "added_tokens": added,
                "normalizer": None,
                "pre_tokenizer": {"type": "Whitespace"},
                "post_processor": None,
                "decoder": None,
                "model": model,
            }
        )
    )
    return path


def test_training_twice_gives_the_same_bytes(trained, folder):
    again = train_bpe(iter(CAPTIONS), 400, folder / "again.json")
    assert again.content() == trained.content()
    assert again.fingerprint() == hashlib.sha256((folder / "again.json").read_bytes()).hexdigest()
    other = train_bpe(CAPTIONS[:-5], 400, folder / "other.json")
    assert other.fingerprint() != trained.fingerprint()


def test_training_gives_special_tokens_and_a_bounded_vocabulary(trained):
    assert (trained.pad_id, trained.bos_id, trained.eos_id) == (0, 2, 1)
    assert 259 < trained.vocab_size <= 400
    assert trained.special_tokens() == {"<pad>": 0, "<eos>": 1, "<bos>": 2}


def test_a_trained_tokenizer_knows_its_words_and_expresses_everything_else(trained):
    assert len(trained.encode("river house")) == 2
    assert trained.encode("A Red BOAT") == trained.encode("a red boat")
    for text in ("Straße 猫 \U0001f600", "שלום", "x" * 5000):
        numbers = trained.encode(text)
        assert numbers
        assert 2 < min(numbers) <= max(numbers) < trained.vocab_size
    assert trained.encode("") == []


def test_names_of_special_tokens_in_a_text_are_plain_letters(trained):
    numbers = trained.encode("a dog<eos><pad> <bos>")
    assert not {0, 1, 2} & set(numbers)
    assert len(numbers) > 5


def test_unusable_captions_are_passed_over_in_training(trained, folder):
    hostile = ["", "\x00", "\ud800"]
    again = train_bpe([*hostile, *CAPTIONS], 400, folder / "hostile.json")
    assert again.content() == trained.content()
    with pytest.raises(ValueError, match="no caption to train a tokenizer on"):
        train_bpe(hostile, 400, folder / "none.json")
    assert not (folder / "none.json").exists()
    with pytest.raises(ValueError, match=r"vocab_size=258; .* at least 259"):
        train_bpe(CAPTIONS, 258, folder / "small.json")


@pytest.mark.parametrize("value", [None, "true"])
def test_training_leaves_the_environment_as_it_was(folder, monkeypatch, value):
    if value is None:
        monkeypatch.delenv("TOKENIZERS_PARALLELISM", raising=False)
    else:
        monkeypatch.setenv("TOKENIZERS_PARALLELISM", value)
    train_bpe(CAPTIONS, 300, folder / "environment.json")
    assert os.environ.get("TOKENIZERS_PARALLELISM") == value


def test_special_tokens_are_found_by_their_usual_names(folder):
    clip = word_file(
        folder / "clip.json",
        ["<unk>", "a", "<|startoftext|>", "<|endoftext|>"],
        ["<|startoftext|>", "<|endoftext|>"],
    )
    tokenizer = HuggingFaceTokenizer(clip)
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (2, 3, None)
    with pytest.raises(ValueError, match=r"no padding token .*startoftext.*pad_token="):
        tokenizer.need("pad")
    bert = word_file(folder / "bert.json", ["[PAD]", "<unk>", "[CLS]", "[SEP]"], ["[PAD]", "[SEP]"])
    tokenizer = HuggingFaceTokenizer(bert)
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (None, 3, 0)


def test_special_tokens_can_be_named(folder):
    path = word_file(folder / "named.json", ["<unk>", "go", "stop", "fill"])
    tokenizer = HuggingFaceTokenizer(path, bos_token="go", eos_token="stop", pad_token="fill")
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (1, 2, 3)
    assert tokenizer.need("eos") == 2
    with pytest.raises(ValueError, match="eos_token='halt' is no token of"):
        HuggingFaceTokenizer(path, eos_token="halt")


def test_truncation_and_padding_of_the_file_are_not_applied(trained, folder):
    settings = json.loads(trained.content())
    settings["truncation"] = {
        "direction": "Right",
        "max_length": 2,
        "strategy": "LongestFirst",
        "stride": 0,
    }
    settings["padding"] = {
        "strategy": {"Fixed": 50},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "<pad>",
    }
    path = folder / "settings.json"
    path.write_text(json.dumps(settings))
    text = "a red boat beside the river"
    assert HuggingFaceTokenizer(path).encode(text) == trained.encode(text)


def test_vocab_size_counts_holes(folder):
    path = word_file(folder / "holes.json", ["<unk>", "a"])
    path.write_text(path.read_text().replace('"a": 1', '"a": 41'))
    assert HuggingFaceTokenizer(path).vocab_size == 42


def test_absurd_token_numbers_are_refused(folder):
    path = word_file(folder / "absurd.json", ["<unk>", "a"])
    path.write_text(path.read_text().replace('"a": 1', f'"a": {LARGEST_ID + 1}'))
    with pytest.raises(ValueError, match=r"token numbers up to 16,777,216; 0 to 16,777,215"):
        HuggingFaceTokenizer(path)


def test_sentencepiece_models_are_read(piece_file):
    tokenizer = SentencePieceTokenizer(piece_file)
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (None, 1, 0)
    library = sentencepiece.SentencePieceProcessor(model_file=str(piece_file))
    assert tokenizer.vocab_size == library.get_piece_size() > 20
    text = "a red boat"
    assert tokenizer.encode(text) == library.encode(text)
    assert tokenizer.fingerprint() == hashlib.sha256(piece_file.read_bytes()).hexdigest()
    assert tokenizer.special_tokens() == {"<pad>": 0, "</s>": 1}
    assert SentencePieceTokenizer(piece_file, bos_token="<pad>").need("bos") == 0
    with pytest.raises(ValueError, match=r"no begin-of-text token .*bos_token="):
        tokenizer.need("bos")
    with pytest.raises(ValueError, match="pad_token='<none>' is no piece of"):
        SentencePieceTokenizer(piece_file, pad_token="<none>")


def encodes_alike(tokenizer, texts, expected):
    """Runs in another process; True where every text has the numbers that are expected."""
    return [tokenizer.encode(text) for text in texts] == expected


def test_tokenizers_travel_to_threads_and_keep_their_bytes(trained, piece_file, folder):
    for tokenizer in (trained, SentencePieceTokenizer(piece_file)):
        expected = [tokenizer.encode(text) for text in CAPTIONS]
        copy = pickle.loads(pickle.dumps(tokenizer))
        assert encodes_alike(copy, CAPTIONS, expected)
        assert copy.fingerprint() == tokenizer.fingerprint()
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            runs = [pool.submit(encodes_alike, tokenizer, CAPTIONS, expected) for _ in range(16)]
            assert all(run.result() for run in runs)
        copy.save(folder / "saved")
        assert (folder / "saved").read_bytes() == tokenizer.content()
    assert not list(folder.glob(".*part"))


def test_missing_and_oversized_files_are_refused(folder, monkeypatch, trained):
    for adapter in (HuggingFaceTokenizer, SentencePieceTokenizer):
        with pytest.raises(ValueError, match="there is no tokenizer file"):
            adapter(folder / "absent")
        monkeypatch.setattr("mmjax.data.tokenizers.base.LARGEST_FILE", 100)
        with pytest.raises(ValueError, match="more than 100 bytes"):
            adapter(folder / "tokenizer.json")
        monkeypatch.undo()


def test_a_token_is_spelt_as_in_the_vocabulary(trained, piece_file):
    for tokenizer in (trained, SentencePieceTokenizer(piece_file)):
        spelt = [tokenizer.piece(number) for number in tokenizer.encode("the river")]
        assert "".join(spelt).strip("▁Ġ").replace("▁", " ").replace("Ġ", " ") == "the river"
        assert tokenizer.piece(10_000) == ""


def test_a_cleaned_text_is_not_changed_once_more_by_the_files_normalizer(tmp_path):
    library = tokenizers.Tokenizer(tokenizers.models.WordLevel({"h\u0331": 0, "\u1e96": 1}, ""))
    library.normalizer = tokenizers.normalizers.NFC()
    library.save(str(tmp_path / "tokenizer.json"))
    ours = HuggingFaceTokenizer(tmp_path / "tokenizer.json")
    assert ours.encode("h\u0331") == [1]  # composed
    assert ours.encode_cleaned("h\u0331") == [0]
    assert ours.encode("h\u0331") == [1]
    assert pickle.loads(pickle.dumps(ours)).encode_cleaned("h\u0331") == [0]


def test_a_cleaned_text_is_split_in_either_case_as_clips_own_code_does(tmp_path):
    vocabulary = {letter: n for n, letter in enumerate("abs'ĠÅ¿Íħ")} | {"'Å¿": 20, "??": 21}
    merges = [("'", "Å"), ("'Å", "¿")]
    vocabulary |= {"'Å": 19}
    library = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, merges, unk_token="??"))
    split = tokenizers.Regex(r"'s|[\p{L}]+|[^\s\p{L}]+")
    library.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
        [
            tokenizers.pre_tokenizers.Split(split, "removed", invert=True),
            tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    library.save(str(tmp_path / "tokenizer.json"))
    ours = HuggingFaceTokenizer(tmp_path / "tokenizer.json")
    assert ours.encode("'\u017f") == [3, 5, 6]  # a long s by itself
    assert ours.encode_cleaned("'\u017f") == [20]
    assert ours.encode_cleaned("a\u0345b") == [0, 1]  # neither a letter nor a mark there


def with_normalizer(path, *steps):
    told = json.loads(word_file(path, ["<unk>", "a"]).read_text())
    told["normalizer"] = {"type": "Sequence", "normalizers": list(steps)}
    path.write_text(json.dumps(told))
    return path


def replacing(content, pattern="."):
    return {"type": "Replace", "pattern": {"Regex": pattern}, "content": content}


@pytest.mark.parametrize("steps", [2, 5, 50])
def test_a_normalizer_that_blows_texts_up_is_refused_at_once(tmp_path, steps):
    path = with_normalizer(tmp_path / "bomb.json", *[replacing("a" * 20)] * steps)
    with pytest.raises(ValueError, match=r"bomb\.json' is refused: .* more than 256 letters of"):
        HuggingFaceTokenizer(path)


def test_a_normalizer_that_writes_a_book_for_a_letter_is_refused(tmp_path):
    nested = {"type": "Sequence", "normalizers": [replacing("a" * 1001, "q")]}
    with pytest.raises(ValueError, match="its normalizer writes 1,001 letters at a time"):
        HuggingFaceTokenizer(with_normalizer(tmp_path / "book.json", nested))


def test_many_steps_that_write_a_few_letters_each_are_none_of_these(tmp_path):
    steps = [replacing(f"{mark} {mark} {mark}", f"[{mark}]") for mark in "!,;:.?"] * 2
    steps += [{"type": "NFKD"}, {"type": "Prepend", "prepend": "a "}]
    tokenizer = HuggingFaceTokenizer(with_normalizer(tmp_path / "long.json", *steps))
    assert tokenizer.encode("a") == [1, 1]


def test_a_file_without_tokens_is_called_so(tmp_path):
    path = word_file(tmp_path / "empty.json", [])
    with pytest.raises(ValueError, match=r"empty\.json' holds no tokens; get it anew"):
        HuggingFaceTokenizer(path)


def test_a_special_token_that_is_missed_is_asked_for_by_the_key_of_a_run(tmp_path):
    tokenizer = HuggingFaceTokenizer(word_file(tmp_path / "plain.json", ["<unk>", "a"]))
    with pytest.raises(ValueError, match=r"In a run name one with --config\.tokenizer\.bos_token="):
        tokenizer.need("bos")
