"""A sentencepiece model as a `Tokenizer`, as SigLIP, T5 and mT5 publish theirs."""

import os
from typing import Any

import sentencepiece

from mmjax.data.tokenizers.base import Tokenizer, check_ids, read_whole


class SentencePieceTokenizer(Tokenizer):
    """A sentencepiece `.model` file.

    Args:
      path: the file.
      bos_token: which piece begins a text, by name; None takes the one the file declares, if any.
      eos_token: which piece ends a text.
      pad_token: which piece fills up.

    Raises:
      ValueError: the file is missing, too large or malformed, or has no piece of a name that was
        given.

    Source: https://github.com/google/sentencepiece.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        bos_token: str | None = None,
        eos_token: str | None = None,
        pad_token: str | None = None,
    ):
        self._open(os.fspath(path), read_whole(path), bos_token, eos_token, pad_token)

    def _open(self, name: str, content: bytes, *tokens: str | None) -> None:
        self._state = (name, content, *tokens)
        library = sentencepiece.SentencePieceProcessor()
        try:
            library.LoadFromSerializedProto(content)
            size = library.GetPieceSize()
        except Exception as error:
            reason = str(error).split("\n")[0][:200]
            raise ValueError(f"tokenizer file {name!r} is refused: {reason}") from None
        check_ids(name, size - 1)
        self._library = library
        self.vocab_size = size
        self._special = {
            library.IdToPiece(number): number for number in range(size) if library.IsControl(number)
        }
        declared = (library.bos_id(), library.eos_id(), library.pad_id())
        for role, token, number in zip(("bos", "eos", "pad"), tokens, declared):
            if token is not None:
                number = library.PieceToId(token)
                if library.IdToPiece(number) != token:
                    raise ValueError(
                        f"{role}_token={token!r} is no piece of {name!r}; its control pieces are "
                        f"{', '.join(self._special) or 'none'}."
                    )
            setattr(self, f"{role}_id", number if number >= 0 else None)

    def encode(self, text: str) -> list[int]:
        """See `Tokenizer.encode`."""
        try:
            return self._library.EncodeAsIds(text)
        except Exception as error:
            reason = str(error).split("\n")[0][:200]
            raise ValueError(f"the tokenizer cannot encode a text: {reason}") from None

    def piece(self, number: int) -> str:
        """See `Tokenizer.piece`."""
        return self._library.IdToPiece(number) if 0 <= number < self.vocab_size else ""

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
