"""The words that rooms of the house share: array types, axis words and the Batch vocabulary.

Data and models meet only through these words. A `Batch` is a plain dict from a word of `WORDS` to
an array whose first axis is the batch; every array has the global batch as its first axis once it
is on the devices.
"""

from typing import Any, NamedTuple

from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, UInt8

__all__ = [
    "WORDS",
    "Array",
    "Batch",
    "Bool",
    "Encoded",
    "Float",
    "Int",
    "MadeOf",
    "PRNGKeyArray",
    "PyTree",
    "UInt8",
    "View",
    "Word",
]

Batch = dict[str, Any]
PyTree = Any


class Word(NamedTuple):
    """What stands behind one key of a Batch.

    Attributes:
      shape: axis words, first always `batch`.
      dtype: numpy name of the element type on the way into the step.
      meaning: one line for people; also printed when the word is missing.
      made_by: what to add to a config so that batches carry it.
    """

    shape: str
    dtype: str
    meaning: str
    made_by: str


WORDS: dict[str, Word] = {
    "image": Word(
        "batch height width channels",
        "uint8",
        "RGB picture, before scaling and normalisation",
        "an image transform such as RandomResizedCrop or Resize",
    ),
    "patches": Word(
        "batch patches values",
        "uint8",
        "RGB patches of a picture in reading order, before scaling and normalisation",
        "the NaFlex transform",
    ),
    "patch_mask": Word(
        "batch patches", "bool", "True where patches is no padding", "the NaFlex transform"
    ),
    "patch_grid": Word(
        "batch two", "int32", "rows and columns of a picture's patches", "the NaFlex transform"
    ),
    "token_ids": Word("batch length", "int32", "text as token numbers", "the Tokenize transform"),
    "text_mask": Word(
        "batch length", "bool", "True where token_ids is a real token", "the Tokenize transform"
    ),
    "token_type": Word(
        "batch length",
        "int32",
        "which kind of text a token is of, such as first and second sentence",
        "the transform Stored('token_type', ...)",
    ),
    "masked_ids": Word(
        "batch length", "int32", "token_ids with some of them masked", "the MaskWords transform"
    ),
    "mlm_labels": Word(
        "batch length",
        "int32",
        "the token that stood where masked_ids is masked, a number below 0 elsewhere",
        "the MaskWords transform",
    ),
    "image_mask": Word(
        "batch height width",
        "bool",
        "True where image is no padding",
        "the Padded transform",
    ),
    "regions": Word(
        "batch regions region_features",
        "float32",
        "features of a picture's regions, made by a detector or as cells of a grid",
        "the Regions transform",
    ),
    "region_mask": Word(
        "batch regions",
        "bool",
        "True where regions is no padding",
        "the Regions transform",
    ),
    "masked_regions": Word(
        "batch regions region_features",
        "float32",
        "regions with the features of some of them set to zero",
        "the MaskRegions transform",
    ),
    "region_other": Word(
        "batch regions",
        "int32",
        "which region of another row's picture stands in masked_regions in this one's place, -1 "
        "for none",
        "MaskRegions(other=...)",
    ),
    "region_asked": Word(
        "batch regions",
        "bool",
        "True where a region is to be told from the others and the text",
        "the MaskRegions transform",
    ),
    "region_classes": Word(
        "batch regions classes",
        "float32",
        "the probabilities of classes that a detector gave each region",
        "Regions(classes_from=...)",
    ),
    "object_labels": Word(
        "batch regions",
        "int32",
        "number of the object that a detector took a region for, below 0 for unknown",
        "Regions(objects_from=...)",
    ),
    "object_confidence": Word(
        "batch regions",
        "float32",
        "how sure the detector was of object_labels, 0 to 1",
        "Regions(objects_from=...)",
    ),
    "attribute_labels": Word(
        "batch regions",
        "int32",
        "number of the attribute that a detector gave a region, below 0 for unknown",
        "Regions(attributes_from=...)",
    ),
    "attribute_confidence": Word(
        "batch regions",
        "float32",
        "how sure the detector was of attribute_labels, 0 to 1",
        "Regions(attributes_from=...)",
    ),
    "region_types": Word(
        "batch regions",
        "int32",
        "which kind of region it is, such as of the first and of the second picture",
        "the transform Stored('region_types', ...)",
    ),
    "region_words": Word(
        "batch regions aligned",
        "int32",
        "places in the text of the words that name a region, -1 for none",
        "the transform Stored('region_words', ...)",
    ),
    "phrases": Word(
        "batch phrases",
        "int32",
        "place of each phrase's token in the sequence of text and regions, -1 for none",
        "Stored('phrases', 'npz:phrases', ...)",
    ),
    "phrase_regions": Word(
        "batch phrases regions",
        "float32",
        "how much each region is meant by each phrase, each phrase's sum 1",
        "Stored('phrase_regions', 'npz:phrase_regions', ...)",
    ),
    "boxes": Word(
        "batch regions places",
        "float32",
        "where a picture's regions are: x1, y1, x2, y2 as parts of its width and height, and for "
        "ViLBERT the part of the picture that a region covers as a fifth",
        "the Regions transform",
    ),
    "task": Word("batch", "int32", "number of a row's task", "the transform Stored('task', ...)"),
    "image_features": Word(
        "batch image_features",
        "float32",
        "a picture's features made elsewhere",
        "a Features transform that keeps 'image_features'",
    ),
    "text_features": Word(
        "batch text_features",
        "float32",
        "a text's features made elsewhere",
        "a Features transform that keeps 'text_features'",
    ),
    "label": Word("batch", "int32", "class number", "Fields(label_from=...)"),
    "labels": Word(
        "batch classes",
        "float32",
        "1 for each class that suits, 0 for the others",
        "the transform Stored('labels', ...)",
    ),
    "answer_scores": Word(
        "batch answers",
        "float32",
        "what each answer of the vocabulary is worth, 0 to 1",
        "the AnswerScores transform",
    ),
    "truth": Word(
        "batch",
        "int32",
        "1 where a statement is true, 0 where it is false",
        "Fields(truth_from=...)",
    ),
    "row": Word("batch", "int32", "row number within the global batch", "the pipeline, always"),
    "valid": Word("batch", "bool", "False for rows that only fill up", "the pipeline, always"),
    "sample_id": Word(
        "batch two",
        "int32",
        "64-bit identity of the source sample as two words; equal rows are positives",
        "the pipeline, always",
    ),
    "caption_id": Word(
        "batch two", "int32", "64-bit hash of the caption's text", "a caption field, always"
    ),
    "group": Word(
        "batch two",
        "int32",
        "64-bit hash of the group key; rows of a group are positives of each other",
        "Fields(group_from=...)",
    ),
    "bad_samples": Word(
        "batch causes",
        "int32",
        "how many samples were thrown away for this row, by cause",
        "the pipeline, always",
    ),
}


class Encoded(NamedTuple):
    """What an encoder's `encode_*` method returns; contrastive and fusion goals share one call.

    No array annotations here: a NamedTuple is a pytree, and tree maps put other things in.

    Attributes:
      tokens: the last sequence of vectors, [batch, length, dim], or None.
      mask: True where a token is real, [batch, length], or None when all are.
      pooled: one vector a row in the shared space before unit length, [batch, dim], float32.
      embedding: `pooled` at unit length, [batch, dim], float32.
    """

    tokens: Any
    mask: Any
    pooled: Any
    embedding: Any


class View(NamedTuple):
    """One side of a comparison: which method of the model reads which words of the batch."""

    method: str
    words: tuple[str, ...]


class MadeOf(NamedTuple):
    """How a model makes a method of others, so that a step runs each of these once, whoever asks.

    A model says so by {method: MadeOf} as its attribute `made_of`.

    Attributes:
      method: what makes the result of the parts.
      parts: {argument of `method`: the view whose outcome it is given}; of a view's words those
        that are there are handed on.
      words: words that `method` is given as they are.
    """

    method: str
    parts: dict[str, View]
    words: tuple[str, ...] = ()
