"""Running statistics in a step: whose normalise in training, and which of them stay as they are.

The collection 'batch_stats' is what a model keeps of the batches that it saw. By the collection
'fixed_stats' at its path a layer is told to use what it has kept, in training too (see
`mmjax.models.layers.batch_norm`). So it is in a frozen tower, which is one function of its
pictures, whatever others are in the batch.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from mmjax import paths
from mmjax.models.layers.batch_norm import FIXED
from mmjax.typing import PyTree

CHOICES = ("batch", "micro", "frozen")


def check_choice(statistics: str) -> None:
    """Raises ValueError where a recipe's `statistics` is none of `CHOICES`."""
    if statistics not in CHOICES:
        raise ValueError(f"statistics={statistics!r} is none of {', '.join(CHOICES)}.")


def fixed_statistics(
    statistics: PyTree, trainable: PyTree, frozen: PyTree, choice: str = "batch"
) -> frozenset[str]:
    """Paths of the running statistics that a step uses and leaves as they are.

    Those of a layer are fixed where all of its parameters are frozen. A layer without parameters
    goes with the nearest module around it that has some.

    Args:
      statistics: all running statistics, or their shapes.
      trainable: the parameters that are trained.
      frozen: those that are not.
      choice: 'frozen' fixes all.
    """
    flat = paths.flatten(statistics)
    if choice == "frozen":
        return frozenset(flat)
    trained, kept = _folders(paths.flatten(trainable)), _folders(paths.flatten(frozen))

    def is_fixed(path: str) -> bool:
        folder = _parent(path)
        while folder and folder not in trained and folder not in kept:
            folder = _parent(folder)
        return bool(folder) and folder not in trained

    return frozenset(filter(is_fixed, flat))


def with_fixed(variables: Mapping[str, Any], fixed: frozenset[str]) -> Mapping[str, Any]:
    """A model's variables that tell the layers whose statistics are fixed."""
    if not fixed:
        return variables
    flat = paths.flatten(variables["batch_stats"])
    return {**variables, FIXED: paths.unflatten({path: flat[path] for path in sorted(fixed)})}


def held(after: PyTree, before: PyTree, fixed: frozenset[str]) -> PyTree:
    """The statistics after a step, with the fixed ones as before, whatever layers there are."""
    return paths.map_with_path(lambda path, new, old: old if path in fixed else new, after, before)


def _parent(path: str) -> str:
    return path.rpartition("/")[0]


def _folders(names: Iterable[str]) -> set[str]:
    """All that stands before a '/' in some path."""
    found = set()
    for name in names:
        while name := _parent(name):
            found.add(name)
    return found
