"""Trains a config: python train.py --config=configs/quickstart.py --workdir=runs/quickstart"""

from collections.abc import Sequence

from mmjax.run import flags, training


def run(arguments: Sequence[str]) -> None:
    """One training run, from where its workdir stands to its last step."""
    config, workdir, options = flags.parse_train(arguments)
    training.train(config, workdir, options)


if __name__ == "__main__":
    flags.main(run)
