"""Who of a job's processes is still there: beats through the service that joined them.

JAX itself ends a process whose peers have been silent for too long, and does so with a number among
lines of C++. Here every process tells its name and goes on telling that it lives; process 0 reads
all and tells all who fell silent or failed, so that the end can be put in words. Nothing is ended
by it.
"""

import json
import threading
import time
from typing import Any

from mmjax.parallel.watchdog import Witness

_BEAT, _GONE = "mmjax/beat", "mmjax/gone"
_SILENT_BEATS = 3.5
_START_SECONDS = 60.0  # in which a process that joined may be too busy for its first beat
_LAST_SECONDS = 2.0  # for words to a service that may be gone


class Peers:
    """Beats in a thread from `start` to `stop`.

    Args:
      client: of JAX's distributed service; has key_value_set and key_value_dir_get.
      process: this process's number.
      processes: of the job.
      seconds: between two beats.
      witness: hears of what is found.
    """

    def __init__(self, client: Any, process: int, processes: int, seconds: float, witness: Witness):
        self._client = client
        self._process = process
        self._processes = processes
        self._seconds = seconds
        self._witness = witness
        self._ended = threading.Event()
        self._count = 0
        self._beats: dict[int, tuple[str, float]] = {}
        self._names: dict[int, str] = {}
        self._gone: list[str] = []
        self._heard = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="peers", daemon=True)

    def start(self) -> None:
        """Begins to beat."""
        self._witness.tell(patience=_SILENT_BEATS * self._seconds)
        self._beat("")
        self._thread.start()

    def stop(self, failed: str = "") -> None:
        """Ends the beats.

        Args:
          failed: why this process leaves the others alone, in one line; '' where it does not.
        """
        if self._ended.is_set():
            return
        self._ended.set()
        self._thread.join(timeout=_LAST_SECONDS)
        if failed:
            last = threading.Thread(target=self._last, args=(failed,), daemon=True)
            last.start()
            last.join(timeout=_LAST_SECONDS)

    def gone(self) -> str:
        """Who is gone, in words, as soon as it is known; '' where nobody is."""
        deadline = time.monotonic() + (_SILENT_BEATS + 2) * self._seconds
        while time.monotonic() < deadline:
            if self._gone:
                return "; ".join(self._gone)
            if self._process and time.monotonic() - self._heard > _SILENT_BEATS * self._seconds:
                return f"{self._names.get(0, 'process 0')} is gone"
            time.sleep(0.1)
        return ""

    def _run(self) -> None:
        while not self._ended.wait(self._seconds):
            try:
                self._beat("")
                found = self._judge() if self._process == 0 else self._told()
            except Exception:  # the service is gone; JAX will say so
                continue
            self._heard = time.monotonic()
            self._witness.tell(heard=True, leader=f"{self._names.get(0, 'process 0')} is gone")
            if found != self._gone:
                self._gone = found
                self._witness.tell(gone=found)

    def _last(self, failed: str) -> None:
        try:
            self._beat(failed)
            if self._process == 0:
                found = [f"{self._witness.name} failed ({failed})", *self._gone]
                self._client.key_value_set(f"{_GONE}/list", json.dumps(found), True)
        except Exception:
            return  # the service went first

    def _beat(self, failed: str) -> None:
        self._count += 1
        text = json.dumps([self._witness.name, self._count, failed])
        self._client.key_value_set(f"{_BEAT}/{self._process}", text, True)

    def _told(self) -> list[str]:
        if 0 not in self._names:  # once: all of many processes' beats are much to read
            for key, text in self._client.key_value_dir_get(_BEAT):
                if key.endswith("/0"):
                    self._names[0] = json.loads(text)[0]
        for _, text in self._client.key_value_dir_get(_GONE):
            return [line for line in json.loads(text) if not line.startswith(self._witness.name)]
        return []

    def _judge(self) -> list[str]:
        """Process 0's reading of everybody's beats, put where the others read it."""
        now, found = time.monotonic(), []
        texts = {int(k.rsplit("/", 1)[1]): t for k, t in self._client.key_value_dir_get(_BEAT)}
        for process in range(1, self._processes):
            text = texts.get(process, "")
            last, since = self._beats.get(process, ("", now))
            if text != last or process not in self._beats:
                self._beats[process] = (text, now)
                since = now
            name, _, failed = json.loads(text) if text else (f"process {process}", 0, "")
            if failed:
                found.append(f"{name} failed ({failed})")
            elif now - since > (_SILENT_BEATS * self._seconds if text else _START_SECONDS):
                found.append(f"{name} is gone: nothing was heard of it for {now - since:.0f} s")
        found.sort(key=lambda line: "is gone" in line)
        if [line.split(":")[0] for line in found] != [line.split(":")[0] for line in self._gone]:
            self._client.key_value_set(f"{_GONE}/list", json.dumps(found), True)
        return found
