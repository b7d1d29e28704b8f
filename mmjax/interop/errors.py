"""The one error of weights that cannot be read or written."""

__all__ = ["WeightsError", "line"]


class WeightsError(ValueError):
    """Weights that cannot be read or written; what is wrong, in one line.

    Args:
      message: names of files and arrays in it may be a stranger's, so whatever would begin a new
        line or move a terminal's cursor is written as its number.
    """

    def __init__(self, message: str):
        shown = (c if c.isprintable() else c.encode("unicode_escape").decode() for c in message)
        super().__init__("".join(shown))


def line(error: BaseException, most: int = 200) -> str:
    """The first line of what an error says, without its full stop.

    Args:
      error: any.
      most: letters.
    """
    lines = str(error).splitlines() or [type(error).__name__]
    return lines[0].rstrip(".")[:most]
