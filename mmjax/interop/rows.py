"""Tables: which array of a published model is which of ours, with nothing left over on either side.

A family's table is a tuple of rows, written in the names of published files. `read` and `write`
walk the same table in both directions, so what can be read can be written back.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from mmjax.interop.forms import SAME, Form
from mmjax.interop.tensors import Tensors, WeightsError
from mmjax.parallel.cpu import aligned

__all__ = ["Aside", "Read", "Row", "Table", "Tied", "gradients", "layers", "read", "write"]

LAYER = "{n}"
SHOWN, LONGEST = 6, 120  # names in an error, and letters of each


@dataclasses.dataclass(frozen=True)
class Row:
    """One array of theirs, or one a layer, and its place among ours.

    Attributes:
      theirs: its published name; '{n}' stands for the number of a layer.
      ours: our path below 'params' or 'batch_stats'; several where theirs packs equal parts along
        its first axis (queries, keys, values).
      form: how the numbers lie.
      depth: layers, stacked along our first axis; 0 where the name has no '{n}'.
      statistics: True for running statistics (our 'batch_stats').
      first: number of the first layer.
      instead: another published name, under which files hold it that have none of the first.
    """

    theirs: str
    ours: str | tuple[str, ...]
    form: Form = SAME
    depth: int = 0
    statistics: bool = False
    first: int = 0
    instead: str = ""

    @property
    def paths(self) -> tuple[str, ...]:
        """Our paths, with the collection first."""
        ours = (self.ours,) if isinstance(self.ours, str) else self.ours
        collection = "batch_stats" if self.statistics else "params"
        return tuple(f"{collection}/{path}" for path in ours)

    @property
    def names(self) -> list[str]:
        """Their names, a layer each."""
        if not self.depth:
            return [self.theirs]
        numbers = range(self.first, self.first + self.depth)
        return [self.theirs.replace(LAYER, str(n)) for n in numbers]


@dataclasses.dataclass(frozen=True)
class Tied:
    """A copy of another array that some files hold: checked to be equal, then left out.

    Attributes:
      theirs: its published name.
      same_as: the published name of the array that is kept.
      written: whether the published files hold the copy too.
      checked: False for one that their model holds and does not read: it need not be equal, and is
        set aside by another row.
    """

    theirs: str
    same_as: str
    written: bool = False
    checked: bool = True


@dataclasses.dataclass(frozen=True)
class Aside:
    """Arrays that our model has no use for; kept beside the weights and written back.

    Attributes:
      pattern: of their names, as for `re.fullmatch`.
      reason: why nothing is lost by it.
    """

    pattern: str
    reason: str


@dataclasses.dataclass(frozen=True)
class Table:
    """All rows of a model, and the other names under which its arrays are found.

    Attributes:
      rows: mapped, tied and set aside.
      renames: ordered (pattern, replacement) as in `re.sub`, from a name as found to the published
        one; all are applied. In-memory names, old spellings and prefixes go here.
    """

    rows: tuple[Row | Tied | Aside, ...]
    renames: tuple[tuple[str, str], ...] = ()

    def published(self, name: str) -> str:
        """The published name of an array that was found under `name`."""
        for pattern, replacement in self.renames:
            name = re.sub(pattern, replacement, name)
        return name

    def of(self, kind: type) -> Iterator[Any]:
        """The rows of one kind."""
        return (row for row in self.rows if isinstance(row, kind))


@dataclasses.dataclass(frozen=True)
class Read:
    """What was read.

    Attributes:
      arrays: {our path, with its collection first: array}.
      aside: {published name: array} that our model has no use for.
      found: {published name: name as it was found}.
    """

    arrays: dict[str, Any]
    aside: dict[str, np.ndarray]
    found: dict[str, str]

    def trees(self) -> dict[str, dict[str, Any]]:
        """{'params': {path: array}, 'batch_stats': ...}, each flat."""
        made: dict[str, dict[str, Any]] = {"params": {}, "batch_stats": {}}
        for path, array in self.arrays.items():
            collection, _, rest = path.partition("/")
            made[collection][rest] = array
        return made


def layers(
    theirs: str, ours: str, depth: int, entries: Sequence[tuple[str, Any, Form]], first: int = 0
) -> tuple[Row, ...]:
    """Rows of stacked blocks.

    Args:
      theirs: what stands before each name, with '{n}'.
      ours: what stands before each path.
      depth: number of layers.
      entries: (name, path or paths, form) within a layer.
      first: number of the first layer.
    """

    def below(path: str | tuple[str, ...]) -> str | tuple[str, ...]:
        if isinstance(path, str):
            return f"{ours}/{path}"
        return tuple(f"{ours}/{one}" for one in path)

    return tuple(
        Row(f"{theirs}.{name}", below(path), form, depth, first=first)
        for name, path, form in entries
    )


def read(
    table: Table,
    tensors: Tensors,
    shapes: Mapping[str, tuple[int, ...]],
    place: Callable[[str, np.ndarray], Any] = lambda _, array: array,
    kind: Callable[[tuple[int, ...]], Any] = lambda _: None,
) -> Read:
    """Their arrays at our paths, one of ours after the other.

    Sizes are compared before anything is read. What is in memory beside the arrays that were
    placed is one of ours and one layer of theirs.

    Args:
      table: of the model.
      tensors: the file.
      shapes: {our path with its collection: shape} of every array of our model.
      place: is given each of our arrays as soon as it is whole, e.g. to put it on devices; what
        it returns is kept, and the array itself is let go.
      kind: the element type of an array of ours, by its shape; None leaves it as it is found.

    Raises:
      WeightsError: arrays are left over, missing or of another shape, on either side.
    """
    found = _names(table, tensors)
    rows = list(table.of(Row))
    wanted = {name for row in rows for name in row.names}
    ours = {path for row in rows for path in row.paths}
    ties = [row for row in table.of(Tied) if row.checked and row.theirs in found]
    set_aside = [
        name
        for name in found
        if name not in wanted
        and not any(name == row.theirs for row in ties)
        and any(re.fullmatch(row.pattern, name) for row in table.of(Aside))
    ]
    known = wanted | {row.theirs for row in ties} | set(set_aside)
    _complain(
        tensors.name,
        (
            ("it lacks", [name for row in rows for name in row.names if name not in found]),
            ("it holds besides", [found[name] for name in found if name not in known]),
            ("our model lacks", sorted(ours - set(shapes))),
            ("nothing is there for our", sorted(set(shapes) - ours)),
        ),
    )
    for row in rows:
        _compare_sizes(row, tensors, found, shapes)
    for row in ties:
        if not _equal(tensors, found[row.theirs], found[row.same_as]):
            raise WeightsError(
                f"{tensors.name}: {row.theirs} should be a copy of {row.same_as}, and differs."
            )
    arrays = {}
    for row in rows:
        for part, path in enumerate(row.paths):
            shape = shapes[path]
            arrays[path] = place(path, _stack(row, part, tensors, found, shape, kind(shape)))
    return Read(arrays, {name: tensors.get(found[name]) for name in set_aside}, found)


def write(
    table: Table, arrays: Mapping[str, Any], aside: Mapping[str, np.ndarray] | None = None
) -> dict[str, np.ndarray]:
    """{published name: array} of our arrays.

    Args:
      table: of the model.
      arrays: {our path with its collection: array}.
      aside: what `read` set aside.

    Raises:
      WeightsError: arrays are left over on either side.
    """
    rows = list(table.of(Row))
    ours = {path for row in rows for path in row.paths}
    _complain(
        "what is to be written",
        (
            ("it lacks", sorted(ours - set(arrays))),
            ("the format has no place for", sorted(set(arrays) - ours)),
        ),
    )
    made: dict[str, np.ndarray] = {}
    for row in rows:
        values = [np.asarray(arrays[path]) for path in row.paths]
        for number, name in enumerate(row.names):
            parts = [row.form.to_theirs(v[number] if row.depth else v) for v in values]
            made[name] = parts[0] if len(parts) == 1 else np.concatenate(parts)
    for row in table.of(Tied):
        if row.written:
            made[row.theirs] = made[row.same_as]
    return {**made, **(aside or {})}


def gradients(table: Table, arrays: Mapping[str, Any], found: Mapping[str, str]) -> dict[str, Any]:
    """{name as found: L2 norm}, in float64, of gradients that lie at our paths.

    Args:
      table: of the model.
      arrays: {our path with its collection: gradient}.
      found: of `Read`.
    """
    learned = (row for row in table.of(Row) if not row.statistics)
    made = write(dataclasses.replace(table, rows=tuple(learned)), arrays)
    return {
        name: np.linalg.norm(np.asarray(made[published], np.float64).ravel())
        for published, name in found.items()
        if published in made
    }


def _names(table: Table, tensors: Tensors) -> dict[str, str]:
    """{published name: name as it was found}."""
    found: dict[str, str] = {}
    for name in tensors.names():
        published = table.published(name)
        if published in found:
            raise WeightsError(
                f"{tensors.name}: {name!r} and {found[published]!r} are both {published!r}."
            )
        found[published] = name
    for row in table.of(Row):
        if row.instead in found and row.theirs not in found:
            found[row.theirs] = found.pop(row.instead)
    return found


def _compare_sizes(
    row: Row, tensors: Tensors, found: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]]
) -> None:
    """Raises WeightsError where an array of theirs has not as many numbers as its place."""
    wanted = [shapes[path][1:] if row.depth else shapes[path] for path in row.paths]
    numbers = sum(math.prod(shape) for shape in wanted)
    for name in row.names:
        there = tensors.shape(found[name])
        if math.prod(there) != numbers:
            raise _two_models(tensors, row, name, there, wanted[0])


def _two_models(
    tensors: Tensors, row: Row, name: str, there: tuple[int, ...], wanted: tuple[int, ...]
) -> WeightsError:
    return WeightsError(
        f"{tensors.name}: {name} has the shape {there}, and {row.paths[0].partition('/')[2]} of "
        f"ours {wanted}; the config and the weights are of two models."
    )


def _equal(tensors: Tensors, one: str, other: str) -> bool:
    """Whether two arrays are the same; of neither more than a piece is in memory."""
    if tensors.shape(one) != tensors.shape(other):
        return False
    pairs = zip(tensors.pieces(one), tensors.pieces(other), strict=True)
    return all(np.array_equal(first, second) for first, second in pairs)


def _stack(
    row: Row,
    part: int,
    tensors: Tensors,
    found: Mapping[str, str],
    shape: tuple[int, ...],
    kind: Any,
) -> np.ndarray:
    """One of our arrays: as it is, or filled layer by layer."""
    if row.form is SAME and not row.depth and len(row.paths) == 1:
        return _whole(row, tensors, found[row.theirs], shape, kind)
    stack = None if kind is None and row.names else aligned(shape, kind or np.float32)
    for number, name in enumerate(row.names):
        array = _theirs(row, part, tensors, found[name])
        if stack is None:
            stack = aligned(shape, array.dtype)
        place = stack[number] if row.depth else stack
        try:
            row.form.into(array, place)
        except ValueError:
            there = tensors.shape(found[name])
            raise _two_models(tensors, row, name, there, place.shape) from None
    return stack


def _whole(row: Row, tensors: Tensors, found: str, shape: tuple[int, ...], kind: Any) -> np.ndarray:
    """An array of ours that lies as theirs does, in our element type."""
    there = tensors.shape(found)
    if there != shape:
        raise _two_models(tensors, row, row.theirs, there, shape)
    first = None if kind is None or not shape else next(tensors.pieces(found))
    if first is None or first.dtype == kind or first.shape == shape:
        whole = tensors.get(found)
        return whole if kind is None else whole.astype(kind, copy=False)
    made, done = aligned(shape, kind), 0
    for piece in tensors.pieces(found):
        made[done : done + len(piece)] = piece
        done += len(piece)
    return made


def _theirs(row: Row, part: int, tensors: Tensors, found: str) -> np.ndarray:
    """What belongs to one layer of one of our arrays."""
    parts = len(row.paths)
    return tensors.get(found) if parts == 1 else tensors.part(found, part, parts)


def _complain(where: str, complaints: Sequence[tuple[str, Sequence[str]]]) -> None:
    """Raises WeightsError where anything is left over."""
    told = [f"{what} {_some(names)}" for what, names in complaints if names]
    if told:
        raise WeightsError(f"{where}: {'; '.join(told)}.")


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(name[:LONGEST] for name in names[:SHOWN])
    return f"{shown}, ... ({len(names)} in all)" if len(names) > SHOWN else shown
