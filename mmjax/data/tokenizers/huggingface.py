"""Any `tokenizer.json` as a `Tokenizer`, through the `tokenizers` library."""

import functools
import json
import os
import string
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import tokenizers

from mmjax.data.tokenizers.base import (
    SPECIAL_NAMES,
    Tokenizer,
    check_ids,
    read_whole,
)

Result = TypeVar("Result")

# Encoded once on loading: files exist that load and then panic on the first text.
PROBES = ("", "a photo of a cat, 2 dogs!", "É猫 שלום e\u0301 \U0001f600")

MOST_GROWTH = 256  # letters that a file's normalizer may make of one; Unicode's own makes up to 18
_LONGEST = 1000  # letters that one step of it may write at a time
_LETTERS = sorted({*string.printable, *"".join(PROBES)})


def guarded(call: Callable[[], Result], doing: str) -> Result:
    """The result of a call into the library, with everything it can raise as ValueError.

    A panic of its Rust code arrives as pyo3's PanicException, which is no Exception; left alone it
    would end the thread or the worker that it meets.

    Args:
      call: what to do.
      doing: the beginning of the message, e.g. "tokenizer file 'x.json' cannot be read".

    Raises:
      ValueError: the call failed or panicked.
    """
    try:
        return call()
    except Exception as error:
        raise ValueError(f"{doing}: {_short(error)}") from None
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise ValueError(f"{doing}: the library panicked: {_short(error)}") from None


def _short(error: BaseException) -> str:
    return str(error).split("\n")[0][:200]


class HuggingFaceTokenizer(Tokenizer):
    """A `tokenizer.json`; its padding, truncation and templates are left to `Tokenize`.

    Args:
      path: the file.
      bos_token: which token begins a text, by name; None looks for the usual names among the file's
        special tokens.
      eos_token: which token ends a text.
      pad_token: which token fills up.

    Raises:
      ValueError: the file is missing, too large, malformed, makes the library panic, or has no
        token of a name that was given.

    Source: format and names of https://github.com/huggingface/tokenizers.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        bos_token: str | None = None,
        eos_token: str | None = None,
        pad_token: str | None = None,
    ):
        self._open(os.fspath(path), read_whole(path), bos_token, eos_token, pad_token)

    @classmethod
    def of(
        cls,
        content: bytes,
        name: str,
        bos_token: str | None = None,
        eos_token: str | None = None,
        pad_token: str | None = None,
    ) -> "HuggingFaceTokenizer":
        """The tokenizer of a file's content.

        Args:
          content: of a tokenizer.json.
          name: what to call it in errors.
          bos_token: as of the class.
          eos_token: as of the class.
          pad_token: as of the class.

        Raises:
          ValueError: as of the class.
        """
        made = cls.__new__(cls)
        made._open(name, content, bos_token, eos_token, pad_token)
        return made

    def _open(self, name: str, content: bytes, *tokens: str | None) -> None:
        self._state = (name, content, *tokens)
        self._library = guarded(
            functools.partial(_load, content), f"tokenizer file {name!r} is refused"
        )
        vocabulary = self._library.get_vocab(with_added_tokens=True)
        largest = max(vocabulary.values(), default=-1)
        check_ids(name, largest)
        self.vocab_size = largest + 1
        self._special = {
            token.content: number
            for number, token in sorted(self._library.get_added_tokens_decoder().items())
            if token.special
        }
        for role, token in zip(("bos", "eos", "pad"), tokens):
            setattr(self, f"{role}_id", self._find(role, token, vocabulary, name))

    def _find(
        self, role: str, token: str | None, vocabulary: dict[str, int], name: str
    ) -> int | None:
        if token is None:
            found = (self._special[n] for n in SPECIAL_NAMES[role] if n in self._special)
            return next(found, None)
        if token not in vocabulary:
            raise ValueError(
                f"{role}_token={token!r} is no token of {name!r}; its special tokens are "
                f"{', '.join(self._special) or 'none'}."
            )
        return vocabulary[token]

    def encode(self, text: str) -> list[int]:
        """See `Tokenizer.encode`."""
        return guarded(
            lambda: self._library.encode(text, add_special_tokens=False).ids,
            "the tokenizer cannot encode a text",
        )

    def piece(self, number: int) -> str:
        """See `Tokenizer.piece`."""
        return self._library.id_to_token(number) or ""

    def encode_cleaned(self, text: str) -> list[int]:
        """See `Tokenizer.encode_cleaned`: the file's normalizer is left out."""
        return guarded(
            lambda: self._bare.encode(text, add_special_tokens=False).ids,
            "the tokenizer cannot encode a text",
        )

    @functools.cached_property
    def _bare(self) -> tokenizers.Tokenizer:
        """The library's object without a normalizer, whose pattern takes both cases.

        CLIP's own code splits by a pattern that ignores case, so that a long s after an apostrophe
        is an ending. Published files hold the pattern without the flag. One mark, U+0345, is by
        that flag neither a letter nor anything else, and so is left out there.
        """
        library = _load(_ignoring_case(self.content()))
        library.normalizer = tokenizers.normalizers.Replace("\u0345", " ")
        return library

    def content(self) -> bytes:
        """See `Tokenizer.content`."""
        return self._state[1]

    def special_tokens(self) -> dict[str, int]:
        """See `Tokenizer.special_tokens`."""
        return dict(self._special)

    def __getstate__(self) -> tuple[Any, ...]:
        return self._state

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self._open(*state)


def _ignoring_case(content: bytes) -> bytes:
    """A tokenizer.json whose text is split by patterns that take both cases."""
    told = json.loads(content)
    first = told.get("pre_tokenizer") or {}
    split = False
    for step in first.get("pretokenizers", (first,)):
        pattern = step.get("pattern")
        if step.get("type") == "Split" and isinstance(pattern, dict) and "Regex" in pattern:
            pattern["Regex"] = f"(?i:{pattern['Regex']})"
            split = True
        elif step.get("type") == "ByteLevel" and split:
            step["use_regex"] = False  # it would split once more, by a pattern of its own
    return json.dumps(told).encode()


def _load(content: bytes) -> tokenizers.Tokenizer:
    """The library's object, set to do nothing but encode, and tried once."""
    _check_growth(content)
    library = tokenizers.Tokenizer.from_buffer(content)
    library.no_truncation()
    library.no_padding()
    # Without this, a caption that holds '<|endoftext|>' would end itself.
    library.encode_special_tokens = True
    for probe in PROBES:
        try:
            library.encode(probe, add_special_tokens=False)
        except Exception:
            # No token for unknown letters; such a caption is a bad sample, the file may be good.
            continue
    return library


def _check_growth(content: bytes) -> None:
    """Refuses a file whose normalizer blows letters up, which a few short steps do without end.

    Before the library loads it, which normalizes the names of tokens; and step by step, each of
    which is short.
    """
    try:
        told = json.loads(content)
    except ValueError:  # the library says it better
        return
    steps = list(_steps(told.get("normalizer") if isinstance(told, dict) else None))
    for step in steps:
        for name in ("content", "prepend"):
            if isinstance(written := step.get(name), str) and len(written) > _LONGEST:
                raise ValueError(f"its normalizer writes {len(written):,} letters at a time.")
    normalizers = [_alone(step) for step in steps]
    for letter in _LETTERS:
        text = letter
        for normalizer in normalizers:
            text = normalizer.normalize_str(text)
            if len(text) > MOST_GROWTH:
                raise ValueError(
                    f"its normalizer makes more than {MOST_GROWTH} letters of {letter!r}, and so "
                    "of each text; take another tokenizer."
                )


def _steps(step: Any) -> Iterator[dict[str, Any]]:
    """The steps of a normalizer, as a tokenizer.json writes it, one after the other."""
    if isinstance(step, dict) and "normalizers" in step:
        for inner in step["normalizers"]:
            yield from _steps(inner)
    elif isinstance(step, dict):
        yield step


def _alone(step: dict[str, Any]) -> Any:
    """The library's object for one step."""
    model = {"type": "WordLevel", "vocab": {}, "unk_token": ""}
    told = {"version": "1.0", "added_tokens": [], "normalizer": step, "model": model}
    return tokenizers.Tokenizer.from_str(json.dumps(told)).normalizer
