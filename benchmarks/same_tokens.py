"""Whether texts become the numbers that open_clip makes of them, with CLIP's own vocabulary.

    pip install -e '.[peers]'                   # this script's own extra
    python benchmarks/same_tokens.py
    python benchmarks/same_tokens.py --captions=DIR

One JSON line: how many strings were compared, how many differ and the first of these. A
tokenizer.json is made of the list of pairs that open_clip ships, in the form that published folders
hold, and read as `mmjax.load` reads it; the other side is open_clip's `SimpleTokenizer`. Strings
are awkward ones, made-up ones of letters from all over Unicode, and the captions in a folder of
WebDataset tars (a line each in `txt`).
"""

import argparse
import gzip
import json
import pathlib
import tarfile
import tempfile
import time
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import peer

LENGTH = 77
PAIRS = 49_152 - 256 - 2  # of the list, CLIP's vocabulary takes so many
WORD = (
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d"
    r"|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
)
SPECIAL = ("<|startoftext|>", "<|endoftext|>")
AWKWARD = (
    "",
    "   ",
    "A photo of a CAT.",
    "na\u00efve caf\u00e9, \u732b and \U0001f600!",
    "\u00e2\u0153\u201d No problems",
    "sch\u00c3\u00b6n &eacute; &amp;lt;b&amp;gt; &#128512; cafe&#769;",
    "THEY'LL say it's WE'VE and 'S o'clock 's '\u017f",
    "\uff26\uff35\uff2c\uff2c \uff57\uff49\uff44\uff54\uff48 \ufb01\u201cquoted\u201d\u2026",
    "\u0130stanbul \u03a3\u03a3 \u039f\u03a3 stra\u00dfe \u1e9e H\u0331",
    "\U0001f469\u200d\U0001f469\u200d\U0001f467 \U0001f1e9\U0001f1ea \u270c\U0001f3fd",
    "a\u200bb so\u00adft\tta\x0bb\x1cz\x85 \u2028end \u00a0 \u3000",
    "\uff11\uff12\uff13 \u00bd \u00b2 \u0663 1,234.5 12.5% of $30",
    "...!!!??? -- __init__ @user #tag http://a.b/c?d=e&f",
    "\u05e9\u05dc\u05d5\u05dd \u0645\u0631\u062d\u0628\u0627 \u0928\u092e\u0938\u094d\u0924\u0947",
    "\u732b\u3068\u72ac \ud55c\uad6d\uc5b4 \u1112\u1161\u11ab",
    "x" * 400,
    "word " * 200,
)


def published(pairs: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """A tokenizer.json of CLIP's pairs.

    Source: transformers, models/clip/tokenization_clip.py.
    """
    printing = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = [chr(n) for n in printing] + [chr(256 + n) for n in range(256 - len(printing))]
    names = [*letters, *(f"{c}</w>" for c in letters), *map("".join, pairs), *SPECIAL]
    vocabulary = {name: n for n, name in enumerate(names)}
    start, end = (vocabulary[name] for name in SPECIAL)
    special = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    added = [{"id": vocabulary[n], "content": n, **special, "special": True} for n in SPECIAL]
    space = {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "}
    split = {"type": "Split", "pattern": {"Regex": WORD}, "behavior": "Removed", "invert": True}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    return {
        "version": "1.0",
        "added_tokens": added,
        "normalizer": {
            "type": "Sequence",
            "normalizers": [{"type": "NFC"}, space, {"type": "Lowercase"}],
        },
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [split, {**level, "use_regex": True}],
        },
        "post_processor": {
            "type": "RobertaProcessing",
            "sep": [SPECIAL[1], end],
            "cls": [SPECIAL[0], start],
            "trim_offsets": False,
            "add_prefix_space": False,
        },
        "model": {
            "type": "BPE",
            "unk_token": SPECIAL[1],
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "</w>",
            "vocab": vocabulary,
            "merges": [list(pair) for pair in pairs],
        },
    }


def our_encode(pairs: Sequence[tuple[str, str]]) -> Any:
    """`encode` of the transform that a loaded open_clip folder uses."""
    from mmjax.data.transforms.text import Tokenize
    from mmjax.interop import tokenizing

    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "tokenizer.json"
        path.write_text(json.dumps(published(pairs)), encoding="utf-8")
        words = tokenizing.find(path.parent)
    return Tokenize(
        words.tokenizer,
        length=LENGTH,
        bos=words.bos,
        eos=words.eos,
        pad_id=0,
        cleaning="clip",
        allow_empty=True,
    ).encode


def captions(folder: str) -> Iterator[str]:
    """The lines of every text in the folder's tars."""
    for path in sorted(pathlib.Path(folder).glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                if member.name.endswith(".txt"):
                    yield from tar.extractfile(member).read().decode().splitlines()


def made_up(number: int) -> Iterator[str]:
    """Strings of letters, marks and symbols from all over the first plane and a little beyond.

    Of those alone that Python knows: what is a letter among the newest depends on each library's
    version of Unicode, open_clip's own included.
    """
    rng = np.random.default_rng(0)
    for _ in range(number):
        points = rng.integers(1, rng.choice([0x100, 0x500, 0x3000, 0xD800, 0x1FB00]), 12)
        known = [chr(n) for n in points if unicodedata.category(chr(n)) not in ("Cn", "Cs")]
        letters = np.array(known or ["?"])
        letters[rng.random(len(letters)) < 0.2] = " "
        yield "".join(letters)


def compare(folder: str, number: int) -> dict[str, Any]:
    """Counts of what was compared and what differs, of each kind of string."""
    open_clip = peer.load_open_clip()
    with gzip.open(open_clip.tokenizer.default_bpe()) as file:
        lines = file.read().decode("utf-8").split("\n")[1 : PAIRS + 1]
    encode = our_encode([tuple(line.split()) for line in lines])
    theirs = open_clip.SimpleTokenizer(context_length=LENGTH)
    kinds = {"awkward": AWKWARD, "made_up": made_up(number)}
    if folder:
        kinds["captions"] = captions(folder)
    result: dict[str, Any] = {"benchmark": "same_tokens", "vocabulary": theirs.vocab_size}
    for kind, strings in kinds.items():
        strings = list(strings)
        wanted = theirs(strings).numpy()
        start = time.perf_counter()
        found = np.stack([encode(text)[0] for text in strings])
        seconds = time.perf_counter() - start
        differ = np.flatnonzero((found != wanted).any(axis=1))
        result[kind] = {
            "strings": len(strings),
            "differences": len(differ),
            "first": [strings[n] for n in differ[:3]],
            "strings_per_second": round(len(strings) / seconds),
        }
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--captions", default="", help="folder of tars with captions in txt")
    parser.add_argument("--made-up", type=int, default=5000, help="strings of random letters")
    options = parser.parse_args()
    print(json.dumps(compare(options.captions, options.made_up)), flush=True)


if __name__ == "__main__":
    main()
