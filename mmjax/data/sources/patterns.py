"""From what a user writes for files to the files: globs, braces, and no addresses."""

import glob
import itertools
import os
import re
from collections.abc import Iterator

__all__ = ["expand", "is_address", "names", "refuse_address", "split"]

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_NESTED = re.compile(r"\{[^}]*\{")
_MOST_FILES = 100_000


def expand(path: str | tuple[str, ...], leave_out: tuple[str, ...] = ()) -> tuple[str, ...]:
    """The files that patterns name, in the order of the patterns, each one's by name.

    Args:
      path: one pattern or several: globs ('*', '?', '[ab]', '**'), braces ('{000..009}',
        '{train,val}'), '~' for the home folder.
      leave_out: endings of files that a glob may meet but does not mean.

    Raises:
      ValueError: an address instead of a file ('pipe:...', 'https://...'), or a file named twice.
      FileNotFoundError: a pattern that matches nothing, or files of a range that are not there.
    """
    patterns = (path,) if isinstance(path, str) else path
    if not patterns or not all(patterns):
        raise ValueError(f"No files are named by {path!r}; give a path, a glob or several of them.")
    found: dict[str, str] = {}
    missing: list[str] = []
    for pattern in patterns:
        refuse_address(pattern)
        names = list(itertools.islice(_braces(pattern), _MOST_FILES + 1))
        if len(found) + len(missing) + len(names) > _MOST_FILES:
            raise ValueError(f"{pattern!r} names more than {_MOST_FILES:,} files.")
        for name in map(os.path.expanduser, names):
            refuse_address(name)
            files = [name] if os.path.exists(name) else sorted(glob.glob(name, recursive=True))
            files = [file for file in files if not leave_out or not file.endswith(leave_out)]
            if not files:
                missing.append(name)
            for file in files:
                if file in found:
                    raise ValueError(
                        f"{file} is named twice, by {found[file]!r} and {pattern!r}; to draw from "
                        "it more often give it a weight in a mixture."
                    )
                found[file] = pattern
    if missing:
        shown = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
        raise FileNotFoundError(
            f"Nothing is there for {len(missing):,} of the files or patterns asked for: {shown}. "
            f"Correct the path {path!r} or get the files."
        )
    return tuple(found)


def names(written: tuple[str, ...]) -> Iterator[str]:
    """Every name that some patterns' braces stand for, globs left as they are.

    Raises:
      ValueError: braces that cannot be read, or too many names.
    """
    for number, name in enumerate(itertools.chain.from_iterable(map(_braces, written))):
        if number == _MOST_FILES:
            raise ValueError(f"{' '.join(written)!r} names more than {_MOST_FILES:,} files.")
        yield name


def split(text: str) -> tuple[str, ...]:
    """The patterns of a text that holds one, or several with spaces between them.

    Folders may have spaces in their names. So the whole text is taken as one pattern where that
    finds anything, and is split only where it does not. Several patterns of which one has a space
    cannot be written as text: give a source a tuple of them.

    Args:
      text: not blank, as typed.

    Raises:
      ValueError: braces that cannot be read.
    """
    text = text.strip()
    if len(text.split()) == 1:
        return (text,)
    names = map(os.path.expanduser, itertools.islice(_braces(text), _MOST_FILES))
    if any(os.path.exists(name) or _matches(name) for name in names):
        return (text,)
    return tuple(text.split())


def _matches(name: str) -> bool:
    return glob.has_magic(name) and next(glob.iglob(name, recursive=True), None) is not None


def is_address(text: str) -> bool:
    """Whether a text begins like 'gs://'."""
    return _ADDRESS.match(text) is not None


def refuse_address(name: str) -> None:
    """Refuses everything that is not a file of this machine: no shell, no network.

    Raises:
      ValueError: `name` begins with a scheme such as 'pipe:' or 'gs:'.
    """
    if _SCHEME.match(name):
        raise ValueError(
            f"{name!r} is an address, not a file: but for .tar and .array_record shards only local "
            "or mounted files are read, and nothing is run. Mount or copy the data (or write './' "
            "before a name that has a ':')."
        )


def _braces(pattern: str) -> Iterator[str]:
    """Every name that a pattern's braces stand for, the last pair running fastest."""
    if _NESTED.search(pattern):
        raise ValueError(f"{pattern!r}: braces inside braces; give several patterns instead.")
    pair = _BRACES.search(pattern)
    if pair is None:
        yield pattern
        return
    for choice in _choices(pair[1], pattern):
        yield from _braces(pattern[: pair.start()] + choice + pattern[pair.end() :])


def _choices(inside: str, pattern: str) -> Iterator[str]:
    numbers = _RANGE.fullmatch(inside)
    if numbers is None:
        if ".." in inside:
            raise ValueError(f"{pattern!r}: {{{inside}}} is no range; write it as {{000..009}}.")
        yield from inside.split(",")
        return
    low, high = int(numbers[1]), int(numbers[2])
    if low > high:
        raise ValueError(f"{pattern!r}: the range {{{inside}}} runs backwards.")
    for number in range(low, high + 1):
        yield str(number).zfill(len(numbers[1]))
