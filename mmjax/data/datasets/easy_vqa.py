"""easy-VQA: questions about one drawn shape on a picture."""

from mmjax.data.datasets.question_lists import QuestionLists

__all__ = ["EASY_VQA_ANSWERS", "EasyVQA"]

COLOURS = ("red", "green", "blue", "black", "gray", "teal", "brown", "yellow")
EASY_VQA_ANSWERS = ("yes", "no", "circle", "rectangle", "triangle", *COLOURS)


class EasyVQA(QuestionLists):
    """easy-VQA from shards, one question a record; 13 answers, see `EASY_VQA_ANSWERS`.

    A record holds 'png' (64 x 64), 'question', 'answers' (a list of the one), 'question_type'
    ('yes/no', 'colour', 'shape'), 'answer_type' ('yes/no', 'other'), 'question_id', 'image_id'. The
    set shows that a model's head for answers learns; it is too easy to show more.

    Licence: MIT (Victor Zhou, 2019). Source of the data: github.com/vzhou842/easy-VQA, put into
    shards as `QuestionLists` reads them.

    Args:
      path: one pattern of `.tar` shards or several.
      split: 'train' or 'held_out'.
      held_out: how many pictures, the last by number, are held out of training.

    Raises:
      ValueError: as `QuestionLists`.
      FileNotFoundError: no such shards.
    """

    def __init__(self, path: str | tuple[str, ...], split: str = "train", held_out: int = 500):
        super().__init__(path, split, held_out)
