"""Words of a text masked for masked language modelling, as a function of seed and sample index."""

import dataclasses
import functools
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Bool, Int32

from mmjax.data.tokenizers.base import Tokenizer

UNASKED = -100  # label of a place that is not asked for
MASK_NAMES = ("[MASK]", "<mask>", "<|mask|>")
CONTINUING, BEGINNING, ENDING = "##", ("▁", "Ġ"), "</w>"  # WordPiece; SentencePiece, GPT-2; CLIP


@dataclasses.dataclass(frozen=True)
class MaskWords:
    """Set 'masked_ids' and 'mlm_labels' beside 'token_ids', which stay.

    Of the real tokens that are not special a fixed share is asked for. Each of these is replaced by
    the mask token, by a random word, or stays as it is. Draws are keyed by seed and sample index.

    Attributes:
      tokenizer: the one of the text; given at run time.
      rate: share of the tokens that is asked for, above 0 to below 1; at least one is, where there
        is one.
      masked: share of these that the mask token replaces.
      random: share of these that a random word replaces; the rest stays.
      whole_words: whether all tokens of a word are asked for together. Words are then drawn until
        the share is reached, and one that would exceed it is passed over unless it is the first.
      mask_id: number of the mask token; None looks for the usual names among the tokenizer's
        special tokens.

    Source: Devlin et al. 2018 (BERT), section 3.1; google-research/bert,
    create_pretraining_data.py `create_masked_lm_predictions`, for the number and whole words.
    """

    tokenizer: Tokenizer
    rate: float = 0.15
    masked: float = 0.8
    random: float = 0.1
    whole_words: bool = False
    mask_id: int | None = None
    leaves_pending: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 < self.rate < 1:
            raise ValueError(f"rate={self.rate} is not above 0 and below 1.")
        if min(self.masked, self.random) < 0 or self.masked + self.random > 1:
            raise ValueError(
                f"masked={self.masked} and random={self.random} are no shares of a whole."
            )
        if self.mask_id is None and self._named() is None:
            names = ", ".join(list(self.tokenizer.special_tokens())[:8]) or "none at all"
            raise ValueError(
                f"the tokenizer has no mask token among its special tokens ({names}). Set mask_id "
                "to a number that no word has, and the model's vocab_size above it."
            )
        if self.whole_words and self.tokenizer.piece(0) is None:
            raise ValueError(
                "whole_words=True needs a tokenizer that tells how its tokens are spelt; this one "
                "does not."
            )

    def _named(self) -> int | None:
        special = self.tokenizer.special_tokens()
        return next((special[name] for name in MASK_NAMES if name in special), None)

    @functools.cached_property
    def _mask(self) -> int:
        """The number of the mask token."""
        found = self._named() if self.mask_id is None else self.mask_id
        assert found is not None  # checked when made
        return found

    @functools.cached_property
    def _plain(self) -> Bool[np.ndarray, " vocab"]:
        """Which numbers are no special tokens."""
        t = self.tokenizer
        special = {*t.special_tokens().values(), t.bos_id, t.eos_id, t.pad_id, self.mask_id}
        plain = np.ones(t.vocab_size, bool)
        plain[[number for number in special if number is not None and number < len(plain)]] = False
        return plain

    @functools.cached_property
    def _choices(self) -> Int32[np.ndarray, " words"]:
        """The numbers that a random word is drawn from."""
        return np.flatnonzero(self._plain).astype(np.int32)

    @functools.cached_property
    def _spelt(self) -> tuple[str, ...]:
        """How each number is spelt."""
        return tuple(self.tokenizer.piece(n) or "" for n in range(self.tokenizer.vocab_size))

    @functools.cached_property
    def _form(self) -> str:
        """How the tokenizer tells words apart: by their end, their continuation or beginning."""
        ends = any(piece.endswith(ENDING) for piece in self._spelt)
        continues = any(piece.startswith(CONTINUING) for piece in self._spelt)
        return "ending" if ends else "continuing" if continues else "beginning"

    def words(self, token_ids: Int32[np.ndarray, " tokens"]) -> list[list[int]]:
        """Places of tokens that may be asked for, grouped by word where whole words are wanted.

        Args:
          token_ids: the real tokens of a text.
        """
        made: list[list[int]] = []
        before: int | None = None  # the place before, where it may be asked for too
        for place, number in enumerate(token_ids.tolist()):
            if not self._plain[number]:
                before = None
                continue
            if self.whole_words and before is not None and self._goes_on(token_ids, place):
                made[-1].append(place)
            else:
                made.append([place])
            before = place
        return made

    def _goes_on(self, token_ids: Int32[np.ndarray, " tokens"], place: int) -> bool:
        """Whether the token at a place is of the same word as the one before."""
        if self._form == "ending":
            return not self._spelt[token_ids[place - 1]].endswith(ENDING)
        piece = self._spelt[token_ids[place]]
        if self._form == "continuing":
            return piece.startswith(CONTINUING)
        return not piece.startswith(BEGINNING)

    def __call__(self, sample: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        """Set sample['masked_ids'] and sample['mlm_labels'].

        Raises:
          ValueError: the text was not tokenised before.
        """
        if "token_ids" not in sample:
            raise ValueError("MaskWords needs token_ids; put Tokenize(...) before it.")
        ids = sample["token_ids"]
        words = self.words(ids[: int(sample["text_mask"].sum())])
        most = max(1, round(self.rate * sum(map(len, words))))
        places: list[int] = []
        for word in rng.permutation(len(words)):
            if not places or len(places) + len(words[word]) <= most:
                places += words[word]
        made, labels = ids.copy(), np.full(len(ids), UNASKED, np.int32)
        labels[places] = ids[places]
        drawn = rng.random(len(places))
        others = rng.choice(self._choices, len(places))
        stays = np.where(drawn < self.masked + self.random, others, ids[places])
        made[places] = np.where(drawn < self.masked, self._mask, stays)
        sample["masked_ids"], sample["mlm_labels"] = made, labels
        return sample
