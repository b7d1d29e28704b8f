"""Evaluates a checkpoint: python eval.py --workdir=runs/quickstart [--step=1000]"""

from collections.abc import Sequence

from mmjax.run import flags


def run(arguments: Sequence[str]) -> None:
    """Scores one checkpoint on held-out data and renews the report."""
    parsed = flags.parse_eval(arguments)
    # Loaded after the command line is read, so that a mistyped one is told at once.
    from mmjax.run import evaluation

    evaluation.evaluate(*parsed)


if __name__ == "__main__":
    flags.main(run)
