"""Weights & Biases for a run in a workdir: the run's id there, kept in the checkpoints here."""

import json
import pathlib
import uuid
from collections.abc import Mapping

from ml_collections import ConfigDict

from mmjax.config import ConfigError, plain
from mmjax.parallel import hosts
from mmjax.training.weights_and_biases import WeightsAndBiases

FILE = "wandb.json"  # among a checkpoint's files


def begin(
    config: ConfigDict, folder: pathlib.Path, saved: Mapping[str, bytes]
) -> tuple[WeightsAndBiases | None, dict[str, str]]:
    """(the run there, on process 0, or None; the files that each checkpoint is to hold).

    Args:
      config: of the run.
      folder: the workdir.
      saved: {name: content} of the checkpoint that the run goes on from, {} for a new one.

    Raises:
      ConfigError: the service refused, in one line, on all processes.
    """
    project = config.wandb_project
    if not project:
        return None, {}
    kept = json.loads(saved[FILE]) if FILE in saved else {}
    run_id = uuid.uuid4().hex[:8]
    if kept.get("project") == project:  # another project gets a run of its own
        run_id = kept["id"]
    online, problem = None, ""
    if hosts.is_main():
        try:
            online = WeightsAndBiases(project, run_id, folder.name, plain(config), folder)
        except Exception as error:  # theirs, of many classes
            problem = f"{type(error).__name__}: {error}".splitlines()[0].rstrip(".")
    problem = hosts.broadcast_bytes(problem.encode()).decode()
    if problem:
        raise ConfigError(
            f"wandb_project={project!r}: {problem}. Log in (wandb login), set WANDB_MODE=offline, "
            "or leave the project ''."
        )
    return online, {FILE: json.dumps({"project": project, "id": run_id})}
