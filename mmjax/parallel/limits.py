"""How long the parts of a run may take; apart from what acts, since a saved config names it."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Watchdog:
    """How long each part of a run may take before the process is taken for stuck and ended.

    Attributes:
      start_seconds: until all processes of the job have joined it.
      heartbeat_seconds: how long a process may be silent before the others give it up.
      compile_seconds: from the start to the end of the first step, on all processes: restoring,
        compiling.
      step_seconds: of each further step, waiting for its batch included.
      evaluation_seconds: of a whole evaluation.
      save_seconds: that a save may keep the training waiting.
    """

    start_seconds: float = 300.0
    heartbeat_seconds: float = 30.0
    compile_seconds: float = 3600.0
    step_seconds: float = 900.0
    evaluation_seconds: float = 7200.0
    save_seconds: float = 1800.0

    def __post_init__(self) -> None:
        wrong = {k: v for k, v in vars(self).items() if not 0 < v <= 1e9}
        if wrong:
            raise ValueError(f"watchdog: {wrong}; limits are seconds above 0.")
        if self.heartbeat_seconds < 5:
            raise ValueError(
                f"watchdog: heartbeat_seconds={self.heartbeat_seconds}; below 5 a busy machine "
                "would be taken for a dead one."
            )
