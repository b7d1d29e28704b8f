"""Training of a tokenizer on a dataset's own captions, for runs that name none."""

import os
from collections.abc import Iterable, Iterator

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from mmjax.data.sources.base import BadSample
from mmjax.data.tokenizers.base import write_whole
from mmjax.data.tokenizers.huggingface import HuggingFaceTokenizer
from mmjax.data.transforms.captions import clean_caption

# Not <eos> third: the published CLIP class pools elsewhere if end-of-text has the number 2.
SPECIAL_TOKENS = ("<pad>", "<eos>", "<bos>")
MASK = "<mask>"
SMALLEST_VOCABULARY = 256 + len(SPECIAL_TOKENS)
_SWITCH = "TOKENIZERS_PARALLELISM"


def train_bpe(
    captions: Iterable[str],
    vocab_size: int,
    path: str | os.PathLike[str],
    mask: bool = False,
) -> HuggingFaceTokenizer:
    """Train a byte-level BPE with lower-casing, and keep it as a `tokenizer.json`.

    Every text can be expressed, in any language. The same captions in the same order give the same
    bytes: it runs in one thread, which also keeps the library from warning about later forks.

    Args:
      captions: texts, any number; those with nothing left after cleaning are passed over.
      vocab_size: most tokens, at least 259 (256 bytes, padding, begin and end of text). Few
        captions give fewer tokens.
      path: where the file goes.
      mask: whether there is a mask token too, after the other special ones.

    Returns:
      The tokenizer, read back from the file.

    Raises:
      ValueError: `vocab_size` is too small, or no caption has any text.

    Source: Sennrich et al. 2016, algorithm 1; bytes after Radford et al. 2019, section 2.2;
    lower-casing after Radford et al. 2021, section 2.4.
    """
    special = [*SPECIAL_TOKENS, *([MASK] if mask else [])]
    if vocab_size < 256 + len(special):
        raise ValueError(
            f"vocab_size={vocab_size}; a byte-level vocabulary has at least {256 + len(special)}."
        )
    library = tokenizers.Tokenizer(models.BPE())
    library.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    library.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=special,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    counter = [0]
    before = os.environ.get(_SWITCH)
    os.environ[_SWITCH] = "false"
    try:
        library.train_from_iterator(_cleaned(captions, counter), trainer)
    finally:
        if before is None:
            del os.environ[_SWITCH]
        else:
            os.environ[_SWITCH] = before
    if not counter[0]:
        raise ValueError("no caption to train a tokenizer on: none has any text.")
    write_whole(path, library.to_str().encode())
    return HuggingFaceTokenizer(path)


def _cleaned(captions: Iterable[str], counter: list[int]) -> Iterator[str]:
    """Captions fit for the library, counted."""
    for caption in captions:
        try:
            text = clean_caption(caption)
        except BadSample:
            continue
        counter[0] += 1
        yield text
