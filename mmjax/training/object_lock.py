"""The lock of a workdir in a store: an object with host, process and heartbeat.

A store has no lock and no rename, and not each can create an object only where there is none. So a
lock that was put is read back a moment later, and the last who put it has it. A holder on this host
is asked for directly, any other is judged by its heartbeat alone, without trust in clocks: it is
given up when its lock stays unchanged while it is watched, for as long as a living one may be
silent. A holder that could not renew its lock for a while looks at it before it writes anything.
"""

import contextlib
import logging
import time
import uuid
from typing import Any

from mmjax.data.sources.retrying import FIRST_WAIT, TRIES
from mmjax.training.heart import Heart
from mmjax.training.holder import ask, decode, encode, name, this_process
from mmjax.training.lock import LOCK, STALE_SECONDS, WATCHED_BEATS, Busy
from mmjax.training.store import Store, StoreError

_SETTLE_SECONDS = 0.5  # after a put, before it is read back
_TRUSTED_BEATS = 2.0  # how long a holder needs not look; less, so that it looks before it is lost


class ObjectLock(Heart):
    """Holds the object `lock.json` of a workdir from `acquire` to `release`, as `Lock` does a file.

    Args:
      url: of the workdir.
      stale_seconds: without a heartbeat for so long, a process on another host is given up.

    Raises:
      ValueError: an unknown protocol, or one whose package is missing.
      OSError: the store cannot be reached.
    """

    _glance_seconds = 1.0

    def __init__(self, url: str, stale_seconds: float = STALE_SECONDS):
        super().__init__(stale_seconds)
        self._store = Store(url)
        self._quick = Store(url, tries=1)  # for heartbeats, of which the next one tries again
        self._confirmed = 0.0  # when the lock was last seen to be ours

    def acquire(self) -> None:
        """Takes the lock, from a dead process too; then keeps its heart beating.

        Raises:
          Busy: another process writes here.
          StoreError: the store refused.
        """
        found = self._found()
        if found is not None:
            if problem := self._alive(found):
                raise Busy(
                    f"{self._store.url} is being written by {problem}. Wait for it, stop it, or "
                    "choose another --workdir."
                )
            self._take_away(found)
        mine = {**this_process(), "token": uuid.uuid4().hex}
        self._store.create(LOCK, encode({**mine, "heartbeat": time.time()}))
        time.sleep(_SETTLE_SECONDS)
        asked = time.monotonic()
        if not self._is_held(self._store, mine):
            raise self._overtaken()
        self._mine, self._confirmed, self.taken = mine, asked, False
        self._start()

    @property
    def lost(self) -> bool:
        """True when another process took the lock, this one having been silent for too long.

        Raises:
          StoreError: the store does not answer.
        """
        if not self._mine:
            return False
        asked = time.monotonic()
        self.taken = not self._is_held(self._store, self._mine)
        if not self.taken:
            self._confirmed = asked
        return self.taken

    def guard(self) -> None:
        """For `Store.guard`: nothing is written any more once the lock may be another's.

        Raises:
          StoreError: it is, or the store does not tell.
        """
        silent = time.monotonic() - self._confirmed > _TRUSTED_BEATS * self._beat_seconds
        if self.taken or (silent and self.lost):
            raise StoreError(f"{self._store.url}: another process has taken over this workdir")

    def _take_away(self, found: dict[str, Any]) -> None:
        for attempt in range(1, TRIES + 1):
            now = self._found()  # before each try, which may meet one that is another's by then
            if now is not None and now.get("token") != found.get("token"):
                raise self._overtaken()
            try:
                self._quick.delete([LOCK])
                return
            except StoreError:
                if attempt == TRIES:
                    raise
                time.sleep(FIRST_WAIT)

    def _overtaken(self) -> Busy:
        return Busy(f"{self._store.url} was taken by another process this very moment.")

    def _alive(self, found: dict[str, Any]) -> str | None:
        """Who writes here, in words; None where nobody does any more."""
        asked = ask(found)
        if asked is not None:
            return asked or None
        beat, seconds = found.get("heartbeat"), WATCHED_BEATS * self._beat_seconds
        if not isinstance(beat, int | float):
            return self._watch(found, f"a process that left no heartbeat in {LOCK}", seconds)
        age = time.time() - beat
        who = f"{name(found)} (heartbeat {max(age, 0):.0f} s ago)"
        if abs(age) <= self._stale_seconds:
            seconds = self._stale_seconds
            logging.getLogger("mmjax").warning(
                "%s is held by %s; it is watched for up to %.0f s, and taken over where that "
                "process is silent.",
                self._store.url,
                who,
                seconds,
            )
        return self._watch(found, name(found), seconds)

    def _beat(self) -> None:
        with contextlib.suppress(OSError):  # the next one tries again; `guard` minds the time
            self.taken = not self._is_held(self._quick, self._mine)
            if not self.taken:
                asked = time.monotonic()  # who watches may see the put long before its answer
                self._quick.write(LOCK, encode({**self._mine, "heartbeat": time.time()}))
                self._confirmed = asked

    def _is_held(self, store: Store, mine: dict[str, Any]) -> bool:
        """Whether the lock is ours; looked at twice, since half of it or a wrong byte may come."""
        return any((self._read(store) or {}).get("token") == mine["token"] for _ in range(2))

    def _found(self) -> dict[str, Any] | None:
        return self._read(self._store)

    def _remove(self) -> None:
        if (self._read(self._quick) or {}).get("token") == self._mine["token"]:
            self._quick.delete([LOCK])

    def _read(self, store: Store) -> dict[str, Any] | None:
        data = store.read(LOCK)
        return None if data is None else decode(data)
