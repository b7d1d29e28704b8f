"""Captions of a sample: one drawn for each visit, and made fit for any tokenizer by rule."""

import dataclasses
import unicodedata
from typing import Any, ClassVar

import numpy as np

from mmjax.data.sources.base import BadSample

MAX_CHARACTERS = 2_000  # text towers read 64 to 77 tokens; longer ones cannot use more than this
MAX_MARKS = 8  # combining marks on one letter; written languages use up to about five
_DROPPED = frozenset(("Cc", "Cs"))
_MARKS = frozenset(("Mn", "Me"))
_BYTE_ORDER_MARK = "\ufeff"


def clean_caption(text: str, max_characters: int = MAX_CHARACTERS) -> str:
    """A caption as a tokenizer can take it.

    Pictures from the web come with any bytes beside them. The rules, in order: cut to a few times
    the limit; join surrogate pairs and drop lone surrogates; drop NUL, other control characters and
    byte-order marks; keep at most 8 combining marks in a row; compose (Unicode NFC); every run of
    white space becomes one space, none at the ends; cut to the limit. Right-to-left text, joiners
    and accents stay.

    Args:
      text: the caption as it was read.
      max_characters: the most that is kept, in code points, at least 1.

    Returns:
      A text of 1 to `max_characters` code points that UTF-8 can encode.

    Raises:
      BadSample: cause 'caption', nothing is left.
    """
    text = text[: 4 * max_characters]
    if not (text.isascii() and text.isprintable()):
        text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "ignore")
        text = unicodedata.normalize("NFC", "".join(_kept(text)))
    text = " ".join(text.split())[:max_characters].rstrip()
    if not text:
        raise BadSample("caption", "the caption is empty once cleaned")
    return text


def _kept(text: str) -> list[str]:
    """The characters that stay."""
    kept = []
    marks = 0
    for character in text:
        category = unicodedata.category(character)
        if category in _MARKS:
            marks += 1
            if marks > MAX_MARKS:
                continue
        else:
            marks = 0
        if character.isspace():
            kept.append(" ")
        elif category not in _DROPPED and character != _BYTE_ORDER_MARK:
            kept.append(character)
    return kept


@dataclasses.dataclass(frozen=True)
class PickCaption:
    """Choose one of a sample's captions and clean it: 'captions' to 'caption'.

    Where the chosen one is empty the next that is not is taken, round the list.

    Attributes:
      first: True always takes the first, as evaluation does; False draws one for each visit.
      max_characters: the most that is kept of it.
    """

    first: bool = False
    max_characters: int = MAX_CHARACTERS
    leaves_pending: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.max_characters < 1:
            raise ValueError(f"max_characters={self.max_characters}; at least 1 is needed.")

    def __call__(self, sample: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        """Set sample['caption'].

        Raises:
          BadSample: cause 'caption', there is no caption or all are empty once cleaned.
        """
        captions = sample["captions"]
        key = sample.get("key", "a sample")
        if not captions:
            raise BadSample("caption", f"{key} has no caption")
        start = 0 if self.first else int(rng.integers(len(captions)))
        for caption in (*captions[start:], *captions[:start]):
            try:
                sample["caption"] = clean_caption(caption, self.max_characters)
            except BadSample:
                continue
            return sample
        raise BadSample("caption", f"{key}: every caption is empty once cleaned")
