"""What a tokenizer is to the rest of the package: text in, numbers out, and its special numbers."""

import abc
import hashlib
import os
import pathlib

LARGEST_FILE = 128 << 20  # bytes; the largest published vocabularies take under 40 MB
LARGEST_ID = (1 << 24) - 1  # a number above it makes an embedding table nobody has memory for
ROLES = {"bos": "begin-of-text", "eos": "end-of-text", "pad": "padding"}
# Names that published tokenizers give to their special tokens, tried in this order.
SPECIAL_NAMES = {
    "bos": ("<bos>", "<s>", "<|startoftext|>", "<start_of_text>", "<|begin_of_text|>", "[CLS]"),
    "eos": ("<eos>", "</s>", "<|endoftext|>", "<end_of_text>", "<|end_of_text|>", "[SEP]"),
    "pad": ("<pad>", "[PAD]", "<|pad|>", "<|padding|>"),
}


class Tokenizer(abc.ABC):
    """Text to token numbers.

    Threads may share one, and it travels to worker processes with the bytes it was made from, so
    that a file changed meanwhile does not matter.

    Attributes:
      vocab_size: one more than the largest token number.
      bos_id: number of the begin-of-text token, or None.
      eos_id: number of the end-of-text token, or None.
      pad_id: number of the padding token, or None.
    """

    vocab_size: int
    bos_id: int | None
    eos_id: int | None
    pad_id: int | None

    @abc.abstractmethod
    def encode(self, text: str) -> list[int]:
        """Token numbers of a text, without special tokens, not cut.

        The name of a special token within the text is taken as plain letters.

        Args:
          text: without lone surrogates, see `clean_caption`.

        Returns:
          Numbers from 0 to vocab_size - 1.

        Raises:
          ValueError: this tokenizer cannot express the text.
        """

    def encode_cleaned(self, text: str) -> list[int]:
        """`encode` of a text that a rule outside has brought into its last form already.

        A tokenizer whose file changes letters before it cuts them leaves that out here.
        """
        return self.encode(text)

    @abc.abstractmethod
    def content(self) -> bytes:
        """The bytes of the file that the tokenizer was made from."""

    @abc.abstractmethod
    def special_tokens(self) -> dict[str, int]:
        """The names of the special tokens, with their numbers."""

    def piece(self, number: int) -> str | None:
        """How a token is spelt in the vocabulary, with the marks by which it tells words apart.

        Args:
          number: of the token.

        Returns:
          '' for a number that no token has; None where the tokenizer cannot tell of any.
        """
        del number
        return None

    def fingerprint(self) -> str:
        """SHA-256 of `content`, in hex."""
        return hashlib.sha256(self.content()).hexdigest()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write `content` to a file, whole or not at all.

        Args:
          path: the file; one that is there is replaced.
        """
        write_whole(path, self.content())

    def need(self, role: str) -> int:
        """The number of a special token that has to be there.

        Args:
          role: 'bos', 'eos' or 'pad'.

        Raises:
          ValueError: there is none; the message names the option that chooses one.
        """
        number = getattr(self, f"{role}_id")
        if number is None:
            names = ", ".join(list(self.special_tokens())[:8]) or "none at all"
            raise ValueError(
                f"the tokenizer has no {ROLES[role]} token among its special tokens ({names}). "
                f"In a run name one with --config.tokenizer.{role}_token=..., or choose a "
                "tokenizer that has one."
            )
        return number


def read_whole(path: str | os.PathLike[str]) -> bytes:
    """The bytes of a tokenizer's file.

    Raises:
      ValueError: there is no such file, or it is larger than any tokenizer.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise ValueError(f"there is no tokenizer file {str(path)!r}.")
    with path.open("rb") as file:
        content = file.read(LARGEST_FILE + 1)
    if len(content) > LARGEST_FILE:
        raise ValueError(
            f"tokenizer file {str(path)!r} has more than {LARGEST_FILE:,} bytes; that is no "
            "tokenizer."
        )
    return content


def write_whole(path: str | os.PathLike[str], content: bytes) -> None:
    """Write a file beside its place and move it there, so that nobody sees half of it."""
    path = pathlib.Path(path)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(content)
        os.replace(part, path)
    except OSError as error:
        if error.errno:
            error.filename = str(path)  # a write that fails does not know of what
        raise
    finally:
        part.unlink(missing_ok=True)


def check_ids(name: str, largest: int) -> None:
    """Refuse a vocabulary whose largest number could not be a row of a table.

    Raises:
      ValueError: `largest` is below 0 (no tokens) or above `LARGEST_ID`.
    """
    if largest < 0:
        raise ValueError(f"tokenizer file {name!r} holds no tokens; get it anew, or train one.")
    if largest > LARGEST_ID:
        raise ValueError(
            f"tokenizer file {name!r} has token numbers up to {largest:,}; 0 to {LARGEST_ID:,} "
            "are allowed."
        )
