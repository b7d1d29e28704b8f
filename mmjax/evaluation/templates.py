"""Sentences with a gap for a class name; zero-shot classification averages over them.

Bring your own as a plain tuple, `ZeroShot(templates=('an x-ray that shows {}',))`, or as a text
file with one sentence a line, read by the config: `ZeroShot(templates=read('sentences.txt'))`.
The published ImageNet numbers of CLIP need the 80 sentences of its authors, brought that way.
"""

import os
import pathlib
from collections.abc import Sequence

PLAIN = ("{}",)
"""The class name alone, for names that are captions already."""

PICTURE = (
    "a picture of {}.",
    "{} in a picture.",
    "this is {}.",
    "an image that shows {}.",
)
"""Any picture."""

PHOTO = (
    "a photo of a {}.",
    "a photo showing the {}.",
    "a {} seen from nearby.",
    "a {} far away in the picture.",
    "a sharp, well-lit photo of one {}.",
    "a dim or grainy photo of a {}.",
    "part of a {}, cut off at the edge.",
    "several of the kind {}.",
)
"""Photos of things whose names are nouns."""

DRAWING = (
    "a drawing of a {}.",
    "a {} drawn in a few lines.",
    "an icon of a {}.",
    "a cartoon {}.",
    "a flat, coloured picture of a {}.",
)
"""Drawings, icons and clip art."""


def check(templates: Sequence[str]) -> None:
    """Raises ValueError unless every template has a gap and there is at least one."""
    if isinstance(templates, str):  # its letters would be taken for templates
        raise ValueError(f"templates={templates!r} is one text; give a tuple of them.")
    if not templates:
        raise ValueError("No templates given. Give at least one, e.g. ('a photo of a {}.',).")
    for template in templates:
        if "{}" not in template:
            raise ValueError(f"Template {template!r} has no gap. Write {{}} where the name goes.")


def fill(template: str, name: str) -> str:
    """The sentence with the name in its gap; braces in the name mean nothing."""
    return template.replace("{}", name)


def read(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """The templates of a UTF-8 text file, one a line; empty lines and lines from '#' are left out.

    Raises:
      ValueError: a line without a gap, or no template at all.
    """
    lines = pathlib.Path(path).read_text(encoding="utf-8").splitlines()
    templates = tuple(line.strip() for line in lines if line.strip() and line.strip()[0] != "#")
    check(templates)
    return templates
