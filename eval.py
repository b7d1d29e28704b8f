"""Evaluates a checkpoint: python eval.py --workdir=runs/quickstart [--step=1000]"""

from collections.abc import Sequence

from mmjax.run import evaluation, flags


def run(arguments: Sequence[str]) -> None:
    """Scores one checkpoint on held-out data and renews the report."""
    evaluation.evaluate(*flags.parse_eval(arguments))


if __name__ == "__main__":
    flags.main(run)
