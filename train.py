"""Trains a config: python train.py --config=configs/quickstart.py --workdir=runs/quickstart"""

from collections.abc import Sequence

from mmjax.run import flags


def run(arguments: Sequence[str]) -> None:
    """One training run, from where its workdir stands to its last step."""
    config, workdir, options = flags.parse_train(arguments)
    # Loaded after the command line is read, so that a mistyped one is told at once.
    from mmjax.run import planning, showing, training

    if options.plan:
        given = (options.plan, options.plan_json, options.price, options.search)
        planning.plan(config, *given)
    elif options.show_sharding:
        print(showing.show_sharding(config))
    else:
        training.train(config, workdir, options)


if __name__ == "__main__":
    flags.main(run)
