"""The run's numbers on disk: `metrics.jsonl` always, TensorBoard's event files beside it.

metrics.jsonl holds one JSON object a line, {"step": 10, "kind": "train", "loss": 2.5, ...}, with
kinds 'train', 'evaluate' and 'event'. Numbers that JSON does not know are the strings "nan",
"inf" and "-inf", which `float` reads. A line is appended by a single write, so that a killed run
leaves at most its last line torn, and the next start mends that.
"""

import json
import logging
import math
import os
import pathlib
import time
from collections.abc import Mapping
from typing import Any

from mmjax.parallel import hosts

FILE = "metrics.jsonl"
KINDS = ("train", "evaluate", "event")
_FLUSH_SECONDS = 10.0  # TensorBoard's file is synced to the disk no more often than this


class MetricLog:
    """Writes the run's numbers, on process 0; on the others it does nothing.

    A full or failing disk does not stop the training: the first failure is reported, each is
    counted in `failed_writes`.

    Args:
      workdir: the run's folder; made if missing.
      resumed_step: updates that the state holds at this start. Train and evaluate lines beyond it
        belong to a part of the run that was lost and is made again: they are removed, and hidden
        from TensorBoard. None keeps all lines.
      tensorboard: write event files to `workdir`/tensorboard too.
      active: whether this process writes; by default process 0 alone does.
      online: takes what TensorBoard takes, such as a `WeightsAndBiases`; closed with the log.
    """

    def __init__(
        self,
        workdir: str | os.PathLike[str],
        resumed_step: int | None = None,
        tensorboard: bool = True,
        active: bool | None = None,
        online: Any = None,
    ):
        self.failed_writes = 0
        self._active = hosts.is_main() if active is None else active
        self._file: int | None = None
        self._board: _Board | None = None
        self._online = online
        self._torn = False
        if not self._active:
            return
        folder = pathlib.Path(workdir)
        folder.mkdir(parents=True, exist_ok=True)
        _mend(folder / FILE, resumed_step)
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
        self._file = os.open(folder / FILE, flags, 0o644)
        if tensorboard:
            self._board = _Board(folder / "tensorboard", resumed_step)

    def write(self, step: int, kind: str, values: Mapping[str, Any]) -> None:
        """Appends one line.

        Args:
          step: updates made, data steps counted.
          kind: 'train', 'evaluate' or 'event'; events do not go to TensorBoard.
          values: flat; numbers (also NumPy or JAX scalars), booleans, strings.

        Raises:
          ValueError: an unknown kind, or a key that the line itself uses.
          TypeError: a value that is none of these.
        """
        if kind not in KINDS:
            raise ValueError(f"kind {kind!r} is none of {', '.join(KINDS)}.")
        if "step" in values or "kind" in values:
            raise ValueError("values may not be named 'step' or 'kind'; each line has its own.")
        if not self._active:
            return
        plain = {name: _plain(name, value) for name, value in values.items()}
        shown = {name: _shown(value) for name, value in plain.items()}
        line = json.dumps({"step": int(step), "kind": kind, **shown}, allow_nan=False)
        try:
            self._append(line)
        except OSError as error:
            self._failed(FILE, error)
        if self._board is not None and kind != "event":
            try:
                self._board.write(int(step), plain)
            except OSError as error:
                self._failed("tensorboard", error)
        if self._online is not None and kind != "event":
            try:
                self._online.write(int(step), plain)
            except Exception as error:  # a service that fails ends no training
                self._failed("online", error)

    def close(self) -> None:
        """Puts everything on the disk; further writes go nowhere."""
        if self._file is not None:
            os.close(self._file)
        if self._board is not None:
            try:
                self._board.close()
            except OSError as error:
                self._failed("tensorboard", error)
        self._file, self._board, self._active = None, None, False
        if self._online is not None:
            try:
                self._online.close()
            except Exception as error:
                self._failed("online", error)
        self._online = None

    def __enter__(self) -> "MetricLog":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _append(self, line: str) -> None:
        # After a write that was cut short, a line of its own keeps the damage to that one.
        data = (("\n" if self._torn else "") + line + "\n").encode("ascii")
        self._torn = True
        written = os.write(self._file, data)
        if written < len(data):
            raise OSError(f"only {written} of {len(data)} bytes were written")
        self._torn = False

    def _failed(self, where: str, error: Exception) -> None:
        self.failed_writes += 1
        if self.failed_writes == 1:
            logging.getLogger("mmjax").error(
                "writing metrics to %s failed (%s); the training goes on without these numbers.",
                where,
                error,
            )


class _Board:
    """TensorBoard's event file, written in the caller's thread.

    tensorboardX's own SummaryWriter hands events to a thread through a bounded queue; when a full
    disk ends that thread, the next few calls fill the queue and the training hangs in `put`.
    """

    def __init__(self, folder: pathlib.Path, resumed_step: int | None):
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto import event_pb2
        from tensorboardX.summary import scalar

        folder.mkdir(parents=True, exist_ok=True)
        self._event, self._scalar = event_pb2.Event, scalar
        # The name otherwise holds whole seconds only, and an existing file would be truncated.
        self._writer = EventsWriter(str(folder / "events"), f".{os.getpid()}.{time.time_ns()}")
        if resumed_step is not None:  # TensorBoard hides older events from this step on
            start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
            event = self._event(step=resumed_step + 1, wall_time=time.time(), session_log=start)
            self._writer.write_event(event)
        self._writer.flush()
        self._flushed = time.monotonic()

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        now = time.time()
        for name, value in values.items():
            if not isinstance(value, (str, bool)):
                summary = self._scalar(name, float(value))
                self._writer.write_event(self._event(step=step, wall_time=now, summary=summary))
        if time.monotonic() - self._flushed >= _FLUSH_SECONDS:
            self._flushed = time.monotonic()
            self._writer.flush()

    def close(self) -> None:
        self._writer.close()


def _plain(name: str, value: Any) -> bool | int | float | str:
    """`value` as Python's own number, boolean or string."""
    if hasattr(value, "item") and getattr(value, "size", 1) == 1:
        value = value.item()
    if isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"{name}={value!r}: a line holds numbers, booleans and strings only.")


def _shown(value: bool | int | float | str) -> bool | int | float | str:
    """`value` as JSON can hold it."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # 'nan', 'inf' or '-inf'
    return value


def _mend(path: pathlib.Path, resumed_step: int | None) -> None:
    """Removes torn lines, and train and evaluate lines beyond `resumed_step`."""
    if not path.exists():
        return
    before = path.read_bytes()
    kept = []
    for line in before.split(b"\n"):
        try:
            entry = json.loads(line)
            late = resumed_step is not None and entry["step"] > resumed_step
            lost = late and entry["kind"] != "event"
        except (ValueError, TypeError, KeyError):
            continue
        if not lost:
            kept.append(line + b"\n")
    after = b"".join(kept)
    if after == before:
        return
    mended = path.with_name(path.name + ".mended")
    with open(mended, "wb") as file:
        file.write(after)
        file.flush()
        os.fsync(file.fileno())
    os.replace(mended, path)
