"""Text to token numbers of one length, with the mask of what is real."""

import dataclasses
import functools
import html
import re
import string
from typing import Any, ClassVar

import ftfy
import numpy as np
from jaxtyping import Bool, Int32

from mmjax.data.sources.base import BadSample
from mmjax.data.tokenizers.base import Tokenizer

CLEANINGS = ("none", "lower", "clip", "canonicalize", "siglip")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_SPACE = re.compile(r"\s+")


def clean_text(text: str, cleaning: str) -> str:
    """A text as a published model's own code cleans it before tokenising.

    Args:
      text: any text.
      cleaning: 'none'; 'lower' (HTML entities resolved twice, white space collapsed, lower case);
        'clip' (CLIP: 'lower' after the repair of wrongly decoded text by the package ftfy, a few
        times slower); 'canonicalize' (SigLIP: underscores to spaces, ASCII punctuation dropped,
        lower case, white space collapsed); or 'siglip' (the same as transformers does it, with
        underscores dropped too).

    Returns:
      The cleaned text, perhaps empty.

    Raises:
      ValueError: no such cleaning.

    Source: openai/CLIP clip/simple_tokenizer.py `basic_clean` and `whitespace_clean`;
    google-research/big_vision evaluators/proj/image_text/prompt_engineering.py `canonicalize`;
    transformers models/siglip/tokenization_siglip.py `canonicalize_text`.
    """
    if cleaning == "none":
        return text
    if cleaning in ("lower", "clip"):
        text = ftfy.fix_text(text) if cleaning == "clip" else text
        text = html.unescape(html.unescape(text))
        return _SPACE.sub(" ", text).strip().lower()
    if cleaning in ("canonicalize", "siglip"):
        text = text.replace("_", " ") if cleaning == "canonicalize" else text
        text = text.translate(_PUNCTUATION).lower()
        return _SPACE.sub(" ", text).strip()
    raise ValueError(f"cleaning={cleaning!r}; use one of {', '.join(CLEANINGS)}.")


@dataclasses.dataclass(frozen=True)
class Tokenize:
    """Turn sample['caption'] into 'token_ids' and 'text_mask' of one length.

    Attributes:
      tokenizer: text to numbers; given at run time.
      length: tokens of every text, special ones included.
      bos: True puts the begin-of-text token first.
      eos: True ends the text with the end-of-text token; it is last even where the text is cut.
      pad_id: the number that fills up; None takes the tokenizer's own. (SigLIP fills up with its
        end-of-text token, 1, and CLIP with 0.)
      cleaning: how the text is cleaned before, see `clean_text`.
      allow_empty: whether a text without tokens is nothing but its special ones; else it is a bad
        sample.
    """

    tokenizer: Tokenizer
    length: int = 64
    bos: bool = False
    eos: bool = True
    pad_id: int | None = None
    cleaning: str = "none"
    allow_empty: bool = False
    leaves_pending: ClassVar[bool] = True

    def __post_init__(self) -> None:
        clean_text("", self.cleaning)
        if self.length < 1 + self.bos + self.eos:
            raise ValueError(
                f"length={self.length}; with bos={self.bos} and eos={self.eos} at least "
                f"{1 + self.bos + self.eos} tokens are needed."
            )
        for role in ("bos", "eos"):
            if getattr(self, role):
                self.tokenizer.need(role)
        if not 0 <= self.filler < self.tokenizer.vocab_size:
            raise ValueError(
                f"pad_id={self.filler}; the tokenizer has tokens 0 to "
                f"{self.tokenizer.vocab_size - 1}."
            )

    @functools.cached_property
    def filler(self) -> int:
        """The number that fills up."""
        return self.tokenizer.need("pad") if self.pad_id is None else self.pad_id

    def encode(self, text: str) -> tuple[Int32[np.ndarray, " length"], Bool[np.ndarray, " length"]]:
        """Token numbers of one text, and which of them are real.

        Args:
          text: without lone surrogates, see `clean_caption`.

        Returns:
          (token_ids, text_mask), each of `length`; special tokens count as real, padding does not.

        Raises:
          BadSample: cause 'caption', no token is left or the tokenizer cannot express the text.
        """
        try:
            cleaned = clean_text(text, self.cleaning)
            # CLIP's own code lowers the case last; the normalizer in published files would compose
            # letters once more after that.
            whole = self.cleaning == "clip"
            encode = self.tokenizer.encode_cleaned if whole else self.tokenizer.encode
            found = encode(cleaned)
        except ValueError as error:
            raise BadSample("caption", str(error)) from None
        if not found and not self.allow_empty:
            raise BadSample("caption", f"no token is left of {text[:40]!r}")
        numbers = [self.tokenizer.need("bos")] if self.bos else []
        numbers += found[: self.length - self.bos - self.eos]
        if self.eos:
            numbers.append(self.tokenizer.need("eos"))
        real, filling = len(numbers), self.length - len(numbers)
        # Lists first: half the time of filling arrays, where the code has left the cache.
        token_ids = np.array(numbers + [self.filler] * filling, np.int32)
        return token_ids, np.array([True] * real + [False] * filling)

    def __call__(self, sample: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        """Set sample['token_ids'] and sample['text_mask']; `rng` is not used.

        Raises:
          BadSample: see `encode`.
          ValueError: no caption was chosen before.
        """
        if "caption" not in sample:
            raise ValueError("Tokenize needs a caption; put PickCaption() before it.")
        sample["token_ids"], sample["text_mask"] = self.encode(sample["caption"])
        return sample


def check_tokenizer(
    tokenize: Tokenize, vocab_size: int, length: int, eos_id: int | None = None
) -> None:
    """Compare a tokenizer with the text tower that will read it, before anything is compiled.

    A number beyond the embedding table would silently read its last row, and a tower that looks for
    another end-of-text token would pool a wrong place.

    Args:
      tokenize: the transform, with its tokenizer, length and special tokens.
      vocab_size: rows of the model's embedding table.
      length: positions that the model has.
      eos_id: the number at which the model pools, or None where it pools otherwise.

    Raises:
      ValueError: they do not go together; with the numbers.
    """
    size = tokenize.tokenizer.vocab_size
    if size > vocab_size:
        raise ValueError(
            f"the tokenizer has {size:,} tokens and the model's table {vocab_size:,} rows; set the "
            f"model's vocab_size to at least {size}."
        )
    if tokenize.length > length:
        raise ValueError(
            f"Tokenize makes {tokenize.length} tokens and the model has {length} positions; make "
            "the two equal."
        )
    if eos_id is None:
        return
    if not tokenize.eos:
        raise ValueError(
            f"the model pools at its end-of-text token {eos_id}, and Tokenize adds none; set "
            "eos=True."
        )
    if eos_id != tokenize.tokenizer.need("eos"):
        raise ValueError(
            f"the model pools at its end-of-text token {eos_id}, and the tokenizer's is "
            f"{tokenize.tokenizer.need('eos')}; set the model's eos_id to it."
        )
