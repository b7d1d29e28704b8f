"""What the command line says of a run beside its config, and how a signal ends one."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Options:
    """What the command line says beside the config.

    Attributes:
      resume: go on although the config differs.
      overwrite: start anew in a workdir that holds a run.
      restart_data: go on although the data differs; the new data begins at its beginning.
      profile: 'start:stop', the steps between which a trace is taken; '' takes none.
      require: 'tpu' or 'gpu', without which the run is refused; '' takes what there is.
      replay_check: every how many steps one is computed twice and compared; 0 never does.
      plan: a topology to plan for instead of training; '' trains.
      plan_json: file for the plan's numbers, '' for none.
      price: of a device and hour, for the plan's cost; 0 leaves it out.
      show_sharding: print how the state would lie on the devices, and train nothing.
      search: how many candidates of a search over plans are compiled; 0 makes one plan.
    """

    resume: bool = False
    overwrite: bool = False
    restart_data: bool = False
    profile: str = ""
    require: str = ""
    replay_check: int = 0
    plan: str = ""
    plan_json: str = ""
    price: float = 0.0
    show_sharding: bool = False
    search: int = 0


PLAIN = Options()
COMPILES = 6  # of a search over plans, unless it is told another number


class Stopped(Exception):
    """A signal ended the run; its state is saved, the same command goes on."""

    def __init__(self, number: int, step: int, last: bool = False):
        then = "the same command goes on from there"
        if last:
            then = "all steps are made; eval.py makes the last evaluation, which was cut short"
        super().__init__(f"stopped at step {step}; {then}.")
        self.number = number
