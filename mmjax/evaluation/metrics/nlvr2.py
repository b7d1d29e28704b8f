"""Accuracy and consistency of statements about two pictures.

Source: Suhr et al. 2019, "A Corpus for Reasoning About Natural Language Grounded in Photographs",
section 5; identifiers as in the official files of lil-lab/nlvr.
"""

from collections.abc import Mapping

__all__ = ["accuracy", "consistency", "group"]


def group(identifier: str) -> tuple[str, str, str]:
    """(split, set, sentence) of an identifier 'split-set-pair-sentence'.

    The pairs of a set come with the same sentences, so these are the statements that have to hold,
    or not, on several pairs of pictures.

    Raises:
      ValueError: an identifier of another form.
    """
    parts = identifier.split("-")
    if len(parts) != 4:
        raise ValueError(f"{identifier!r} is no identifier; they read 'split-set-pair-sentence'.")
    return parts[0], parts[1], parts[3]


def accuracy(predicted: Mapping[str, bool], labels: Mapping[str, bool]) -> float:
    """The share of statements that are told rightly.

    Args:
      predicted: {identifier: whether it is said to be true}.
      labels: {identifier: whether it is}.

    Raises:
      ValueError: an identifier without a prediction, or none at all.
    """
    _check(predicted, labels)
    return sum(predicted[one] == label for one, label in labels.items()) / len(labels)


def consistency(predicted: Mapping[str, bool], labels: Mapping[str, bool]) -> float:
    """The share of (set, sentence) groups in which every pair of pictures is told rightly.

    Args:
      predicted: as in `accuracy`.
      labels: as in `accuracy`.

    Raises:
      ValueError: as `accuracy`.
    """
    _check(predicted, labels)
    whole: dict[tuple[str, str, str], bool] = {}
    for one, label in labels.items():
        key = group(one)
        whole[key] = whole.get(key, True) and predicted[one] == label
    return sum(whole.values()) / len(whole)


def _check(predicted: Mapping[str, bool], labels: Mapping[str, bool]) -> None:
    missing = [one for one in labels if one not in predicted]
    if missing or not labels:
        raise ValueError(
            f"{len(missing)} of {len(labels)} identifiers have no prediction: {missing[:3]}."
        )
