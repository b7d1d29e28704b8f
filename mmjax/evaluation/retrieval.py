"""Pictures found by texts and texts found by pictures."""

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from mmjax.evaluation import pictures
from mmjax.evaluation.base import Context, Evaluator, Held, Result
from mmjax.evaluation.metrics import retrieval as metrics
from mmjax.typing import View

POSITIVES = ("picture", "group")


@dataclasses.dataclass(frozen=True)
class Retrieval(Evaluator):
    """R@k and median rank both ways, exact, with one or several captions a picture.

    Image to text: any right caption among the first k is a hit. Text to image: each caption is a
    query of its own. Ties count against the model. The numbers of random order stand beside.

    Attributes:
      positives: 'picture': a picture's own captions are right; 'group': the captions of all
        pictures with the same group key are.
      ks: the k of R@k.
      max_captions: captions of a picture that count, the first ones; 0 is all. Published numbers
        on COCO and Flickr30k take the first 5.
      image_method, image_words: how pictures are encoded.
      text_method, text_words: how texts are encoded where batches hold the text itself, one a
        picture, such as ('text_features',); without words all captions are read and tokenised.
      chunk: about chunk × chunk similarities are held at once; changes no number.
      heat: pairs in the report's heat map.
      examples: queries each way whose first `top` answers the report shows.
      top: answers shown.

    Source: the two protocols of COCO and Flickr30k retrieval, as in Karpathy & Fei-Fei, CVPR 2015.
    """

    positives: str = "picture"
    ks: tuple[int, ...] = (1, 5, 10)
    max_captions: int = 0
    image_method: str = "encode_image"
    image_words: tuple[str, ...] = ("image",)
    text_method: str = "encode_text"
    text_words: tuple[str, ...] = ()
    chunk: int = 4096
    heat: int = 16
    examples: int = 6
    top: int = 5

    def __post_init__(self) -> None:
        if self.positives not in POSITIVES:
            raise ValueError(f"positives is one of {', '.join(POSITIVES)}; got {self.positives!r}.")
        if not self.ks or not all(isinstance(k, int) and k > 0 for k in self.ks):
            raise ValueError(f"ks={self.ks!r}: give whole numbers from 1 up, at least one.")
        for name, least in (("chunk", 1), ("max_captions", 0), ("top", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}={getattr(self, name)}: {least} or more.")
        if self.text_words and self.max_captions:
            raise ValueError("text_words gives one text a picture; set max_captions to 0.")

    @property
    def reads(self) -> tuple[str, ...]:
        """What is encoded, and the group where it says what is right."""
        group = ("group",) if self.positives == "group" else ()
        return (*self.image_words, *self.text_words, *group)

    def __call__(self, context: Context) -> Result:
        """Encodes pictures and texts once, ranks both ways.

        Returns:
          'text_to_image/…' and 'image_to_text/…' of `metrics.retrieval.summary`, and the numbers of
          'pictures' and 'texts'.

        Raises:
          ValueError: a sample has no caption, or groups are asked for and the data has none.
        """
        found = self._encode(context)
        texts_of = found.picture_groups[found.owners]
        ranks = {
            "text_to_image": metrics.ranks(
                found.texts, found.images, texts_of, found.picture_groups, self.chunk
            ),
            "image_to_text": metrics.ranks(
                found.images, found.texts, found.picture_groups, texts_of, self.chunk
            ),
        }
        right_pictures = metrics.positives(texts_of, found.picture_groups)
        right_texts = metrics.positives(found.picture_groups, texts_of)
        sizes = {"pictures": len(found.images), "texts": len(found.texts)}
        summaries = {
            "text_to_image": metrics.summary(
                ranks["text_to_image"], right_pictures, sizes["pictures"], self.ks
            ),
            "image_to_text": metrics.summary(
                ranks["image_to_text"], right_texts, sizes["texts"], self.ks
            ),
        }
        numbers = {
            f"{way}/{name}": value
            for way, summary in summaries.items()
            for name, value in summary.items()
        }
        numbers |= {name: float(size) for name, size in sizes.items()}
        return Result(numbers, self._artifact(context, found, ranks))

    def _encode(self, context: Context) -> "_Found":
        image_view = View(self.image_method, self.image_words)
        text_view = View(self.text_method, self.text_words)
        held = context.encode(image_view, *([text_view] if self.text_words else []))
        captions, owners = self._captions(context, held)
        if self.text_words:
            texts = held.embeddings[text_view]
        else:
            texts = np.asarray(context.encode_texts(captions), dtype=np.float32)
        groups = np.arange(len(held), dtype=np.int64)
        if self.positives == "group":
            if held.groups is None:
                raise ValueError(
                    "Retrieval(positives='group') needs batches with 'group'. Add "
                    "Fields(group_from=...) to eval_data, or use positives='picture'."
                )
            groups = held.groups
        return _Found(
            images=held.embeddings[image_view],
            texts=texts,
            captions=captions,
            owners=owners,
            positions=held.positions,
            picture_groups=groups,
        )

    def _captions(
        self, context: Context, held: Held
    ) -> tuple[list[str], Int[np.ndarray, " texts"]]:
        captions: list[str] = []
        owners: list[int] = []
        for index, position in enumerate(held.positions.tolist()):
            own = tuple(context.captions(position))
            if self.max_captions or self.text_words:
                own = own[: self.max_captions or 1]
            if self.text_words and not own:
                own = (f"text {position}",)  # features need no words to be compared
            if not own:
                raise ValueError(
                    f"Sample {position} of the held-out data has no caption, so nothing to "
                    "retrieve. Check eval_data's caption_from."
                )
            captions += own
            owners += [index] * len(own)
        return captions, np.asarray(owners, dtype=np.int64)

    def _artifact(
        self, context: Context, found: "_Found", ranks: dict[str, Int[np.ndarray, " queries"]]
    ) -> dict[str, Any]:
        shown = pictures.spread(len(found.images), self.heat)
        first_text = np.searchsorted(found.owners, np.arange(len(found.images)))  # owners ascend
        positions = found.positions
        heat = {
            "pictures": positions[shown],
            "captions": [pictures.shorten(found.captions[first_text[index]]) for index in shown],
            "values": np.round(found.images[shown] @ found.texts[first_text[shown]].T, 4),
        }
        used = {int(positions[index]) for index in shown}
        from_text = []
        for text in pictures.spread(len(found.texts), self.examples):
            owner = found.owners[text]
            answers = []
            for index, similarity in _best(found.texts[text], found.images, self.top):
                used.add(int(positions[index]))
                answers.append(
                    {
                        "position": int(positions[index]),
                        "similarity": similarity,
                        "hit": bool(found.picture_groups[index] == found.picture_groups[owner]),
                    }
                )
            used.add(int(positions[owner]))
            from_text.append(
                {
                    "caption": pictures.shorten(found.captions[text]),
                    "position": int(positions[owner]),
                    "rank": int(ranks["text_to_image"][text]) + 1,
                    "answers": answers,
                }
            )
        from_image = []
        for index in pictures.spread(len(found.images), self.examples):
            used.add(int(positions[index]))
            answers = []
            for text, similarity in _best(found.images[index], found.texts, self.top):
                group = found.picture_groups[found.owners[text]]
                answers.append(
                    {
                        "caption": pictures.shorten(found.captions[text]),
                        "similarity": similarity,
                        "hit": bool(group == found.picture_groups[index]),
                    }
                )
            from_image.append(
                {
                    "position": int(positions[index]),
                    "rank": int(ranks["image_to_text"][index]) + 1,
                    "answers": answers,
                }
            )
        return {
            "kind": "retrieval",
            "positives": self.positives,
            "heat": heat,
            "text_to_image": from_text,
            "image_to_text": from_image,
            "thumbnails": pictures.thumbnails(context, used),
        }


@dataclasses.dataclass(frozen=True)
class _Found:
    images: np.ndarray  # [pictures, dim]
    texts: np.ndarray  # [texts, dim]
    captions: list[str]
    owners: np.ndarray  # [texts], index of the text's picture, ascending
    positions: np.ndarray  # [pictures]
    picture_groups: np.ndarray  # [pictures]


def _best(
    query: Float[np.ndarray, " dim"], gallery: Float[np.ndarray, "gallery dim"], top: int
) -> list[tuple[int, float]]:
    similarity = gallery @ query
    order = np.argsort(-similarity, kind="stable")[:top]
    return [(int(index), round(float(similarity[index]), 4)) for index in order]
