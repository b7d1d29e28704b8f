"""The command `mmjax`: weights, parity, answers, others' data as shards, a look at the machine."""

import argparse
import sys
from collections.abc import Sequence

from mmjax import commands
from mmjax.interop.tensors import WeightsError

EXIT_WRONG = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; its exit status.

    Args:
      arguments: of the command line; None takes the process's own.
    """
    parser = argparse.ArgumentParser(prog="mmjax", description=__doc__, allow_abbrev=False)
    commands_of = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add(commands_of)
    known = parser.parse_args(arguments)
    try:
        return known.run(known)
    except (WeightsError, OSError) as error:  # the latter: a disk that refuses what is written
        print(f"error: {error}", file=sys.stderr)
        return EXIT_WRONG


if __name__ == "__main__":
    sys.exit(main())
