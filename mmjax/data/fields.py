"""What the members of a record mean: which is the picture, which the captions, which the group."""

import dataclasses
from typing import Any

import numpy as np

from mmjax.data.members import as_group, as_label, as_text, as_texts, as_truth
from mmjax.data.places import Reader, places_of
from mmjax.data.sources.base import BadSample, Record, Source
from mmjax.data.transforms.decode import EncodedImage

__all__ = ["Fields", "check_first"]

_SPLITS = ("lines", "none")
_TRIES = 64
_SINGLE = ("image_from", "caption_from", "group_from", "label_from", "answers_from", "truth_from")
_SEVERAL = ("images_from", "facts_from")


@dataclasses.dataclass(frozen=True)
class Fields:
    """Turns a record (members of one sample) into a sample (what transforms work on).

    A place is a member's name ('txt'), or a member that holds JSON and the field in it
    ('json:caption', nested as 'json:photo.title'); several with ';' between them are tried in
    order. '' leaves a field out.

    Attributes:
      image_from: the picture: an encoded file, or RGB pixels as a uint8 array.
      caption_from: the captions; a JSON list holds several.
      caption_split: 'lines': each line of a text is a caption of its own; 'none': a text is one.
      group_from: what pictures of one thing share, a text or number; such rows are positives of
        each other. '__key__' is the record's own name.
      label_from: the class number.
      images_from: the places of several pictures of a sample, in order, in place of `image_from`.
      answers_from: the answers to a question, one text or a list of them.
      truth_from: whether a statement is true.
      facts_from: places of what evaluation tells errors apart by, such as 'json:answer_type'; a
        fact is named by the last part of its place.
      background: the colour that transparent pixels are laid on, red, green, blue, 0 to 255.

    Raises:
      ValueError: an option outside of these.
    """

    image_from: str = "jpg;jpeg;png;webp"
    caption_from: str = "txt"
    caption_split: str = "lines"
    group_from: str = ""
    label_from: str = ""
    images_from: tuple[str, ...] = ()
    answers_from: str = ""
    truth_from: str = ""
    facts_from: tuple[str, ...] = ()
    background: tuple[int, int, int] = (255, 255, 255)

    def __post_init__(self) -> None:
        if self.caption_split not in _SPLITS:
            raise ValueError(
                f"caption_split={self.caption_split!r}; it is one of {', '.join(_SPLITS)}."
            )
        if len(self.background) != 3 or not all(0 <= level <= 255 for level in self.background):
            raise ValueError(f"background={self.background}; give red, green, blue from 0 to 255.")
        for option in (*_SINGLE, *_SEVERAL):
            given = getattr(self, option)
            for place in given if option in _SEVERAL else (given,):
                for member, path in places_of(place):
                    if not member or path == "":
                        raise ValueError(
                            f"{option}={given!r}; write it as 'txt', 'json:field' or 'jpg;png', "
                            "or leave it empty to do without."
                        )

    def __call__(self, record: Record) -> dict[str, Any]:
        """The sample, as far as asked for.

        Args:
          record: of a source.

        Returns:
          'image' (`EncodedImage` or uint8 [height, width, 3]) or 'images' (a tuple of them),
          'captions' (one at least), 'group', 'label', 'answers' (texts, one at least), 'truth' (0
          or 1), 'facts' ({name: text}), and always 'key' and the 'record' itself.

        Raises:
          BadSample: 'missing', with the members that were found; 'format' or 'caption' where a
            member holds something else than the option says.
        """
        sample: dict[str, Any] = {"key": str(record.get("__key__", "")), "record": record}
        read = Reader(record)
        if self.images_from:
            found = (read.find("images_from", place) for place in self.images_from)
            sample["images"] = tuple(self._image(value, read.where(name)) for name, value in found)
        elif self.image_from:
            name, value = read.find("image_from", self.image_from)
            sample["image"] = self._image(value, read.where(name))
        if self.caption_from:
            name, value = read.find("caption_from", self.caption_from)
            sample["captions"] = self._captions(value, read.where(name))
        if self.group_from:
            name, value = read.find("group_from", self.group_from)
            sample["group"] = as_group(value, read.where(name))
        if self.label_from:
            name, value = read.find("label_from", self.label_from)
            sample["label"] = np.int32(as_label(value, read.where(name)))
        if self.answers_from:
            name, value = read.find("answers_from", self.answers_from)
            sample["answers"] = as_texts(value, read.where(name))
            if not sample["answers"]:
                raise BadSample("format", f"{read.where(name)} holds no answer.")
        if self.truth_from:
            name, value = read.find("truth_from", self.truth_from)
            sample["truth"] = np.int32(as_truth(value, read.where(name)))
        if self.facts_from:
            sample["facts"] = dict(self._fact(read, place) for place in self.facts_from)
        return sample

    def _fact(self, read: Reader, place: str) -> tuple[str, str]:
        name, value = read.find("facts_from", place)
        last = place.split(";")[0].replace(":", ".").split(".")[-1]
        number = isinstance(value, int | float | np.number)
        return last, str(value) if number else as_text(value, read.where(name)).strip()

    def _image(self, value: Any, where: str) -> EncodedImage | np.ndarray:
        if isinstance(value, bytes):
            return EncodedImage(value, where, self.background)
        if getattr(value, "dtype", None) == np.uint8 and np.shape(value)[2:] == (3,) and value.size:
            return value
        what = getattr(value, "shape", type(value).__name__)
        raise BadSample("format", f"{where} is no picture but {what}.")

    def _captions(self, value: Any, where: str) -> tuple[str, ...]:
        if isinstance(value, bytes | str) and self.caption_split == "lines":
            value = as_text(value, where).replace("\r", "\n").split("\n")
        captions = as_texts(value, where)
        if not captions:
            raise BadSample("caption", f"{where} is empty.")
        return captions


def check_first(source: Source, fields: Fields) -> dict[str, Any]:
    """The first usable sample, so that a wrong option stops a run before it trains.

    Args:
      source: where records come from.
      fields: what their members mean.

    Raises:
      ValueError: none of the first 64 samples gives the fields; says what the first one held.
    """
    problem = None
    for position in range(min(_TRIES, len(source))):
        try:
            return fields(source[position])
        except BadSample as error:
            problem = problem or error
    raise ValueError(
        f"{source.describe()}: none of the first {min(_TRIES, len(source))} samples can be used: "
        f"{problem}"
    )
