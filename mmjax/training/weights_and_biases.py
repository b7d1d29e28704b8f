"""The run's numbers to Weights & Biases: one run there for one run here, however often it resumes.

The package is an extra and imported only where a project is named. `WANDB_MODE=offline` and the
other variables of theirs hold as usual.
"""

import importlib.util
import os
import sys
from collections.abc import Mapping
from typing import Any

INSTALL = "pip install 'mmjax[wandb]'"


def check_installed(project: str) -> None:
    """Raises ValueError where the package is missing; quick, for before any long work."""
    if importlib.util.find_spec("wandb") is None:
        raise ValueError(
            f"wandb_project={project!r} needs the package wandb: {INSTALL}, or leave it ''."
        )


class WeightsAndBiases:
    """A run of a project, made or gone on with.

    A step may come twice, where a resumed run makes again what a crash had lost. W&B's own steps
    only grow, so ours is a number beside the others and the axis that they are drawn over; the
    later value is the one drawn last.

    Args:
      project: on their side; made where there is none.
      run_id: of the run there, kept in the checkpoints.
      name: shown for the run.
      config: of the run, shown beside it.
      folder: for their files.

    Raises:
      Exception: what their package raises where it cannot begin: no login, no network.
    """

    def __init__(
        self,
        project: str,
        run_id: str,
        name: str,
        config: Mapping[str, Any],
        folder: str | os.PathLike[str],
    ):
        import wandb

        self._run = wandb.init(
            project=project,
            id=run_id,
            name=name,
            config=dict(config),
            dir=os.fspath(folder),
            resume="allow",
        )
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Hands over the numbers of a step; sent by a process of theirs."""
        self._run.log({**values, "step": step})

    def close(self) -> None:
        """Sends the rest; the run there counts as failed where an exception is under way."""
        self._run.finish(exit_code=int(sys.exc_info()[0] is not None))
