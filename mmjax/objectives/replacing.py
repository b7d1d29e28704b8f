"""Words that a model reads in place of others, so that several objectives share one pass."""

from mmjax.typing import Batch, View

__all__ = ["Replace", "check_replace", "read_words", "replaced"]

Replace = tuple[
    tuple[str, str], ...
]  # ((word of the view, word of the batch it is read from), ...)


def check_replace(fuse: tuple[str, tuple[str, ...]], replace: Replace, needed: str = "") -> None:
    """Refuses, when an objective is made, words in place of what the model does not read.

    Args:
      fuse: the model's view.
      replace: what stands in for what.
      needed: a word that must not be read itself, since it holds what is asked for.

    Raises:
      ValueError: the first thing found wrong.
    """
    words, wrong = View(*fuse).words, [pair for pair in replace if len(pair) != 2]
    if wrong:
        raise ValueError(f"replace={replace!r}: {wrong[0]!r} is no pair of two words.")
    for word, _ in replace:
        if word not in words:
            raise ValueError(
                f"replace={replace!r}: the model does not read {word!r} but {', '.join(words)}."
            )
    if needed and needed not in dict(replace):
        raise ValueError(
            f"replace={replace!r} lets the model read {needed!r}, which holds what is asked for; "
            "name the word that stands in for it."
        )


def read_words(fuse: tuple[str, tuple[str, ...]], replace: Replace) -> tuple[str, ...]:
    """The words of a batch that a view reads, those that stand in for others last."""
    own = (word for word in View(*fuse).words if word not in dict(replace))
    return (*own, *(other for _, other in replace))


def replaced(batch: Batch, replace: Replace) -> Batch:
    """The batch with some words' arrays under other words.

    The arrays stay the same objects, so that `Forward` knows equal calls as such.
    """
    return {**batch, **{word: batch[other] for word, other in replace}}
