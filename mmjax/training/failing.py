"""What ends a run; it loads no JAX, since the command line asks for it before anything else."""


class Failed(RuntimeError):
    """The run cannot go on; the message says why and what to do."""


class Replaced(Failed):
    """Another run writes the workdir now; this one writes nothing more."""

    def __init__(self, step: int):
        super().__init__(
            f"step {step}: another process has taken over this workdir, since this one was silent "
            "for too long; it writes nothing more. Look at lock.json for who goes on."
        )
