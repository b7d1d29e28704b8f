"""Who holds a lock: host, process and start, written so that another process can ask for it."""

import json
import os
import pathlib
import socket
from typing import Any

WIDTH = 512  # bytes of a lock; a file is rewritten in place, so a full disk stops no heartbeat


def this_process() -> dict[str, Any]:
    """What a lock says of the process that takes it."""
    pid = os.getpid()
    return {
        "host": socket.gethostname(),
        "boot": _text("/proc/sys/kernel/random/boot_id"),
        "space": _link("/proc/self/ns/pid"),
        "pid": pid,
        "started": started(pid),
    }


def started(pid: int) -> str | None:
    """When a process started, as its system counts; None where there is none, or a zombie."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except (PermissionError, OverflowError):
        pass  # another user's is alive; a number that is none is caught below
    if not os.path.isdir("/proc/self"):
        return "unknown"
    fields = _text(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return fields[19] if len(fields) > 19 and fields[0] not in "ZX" else None


def name(found: dict[str, Any]) -> str:
    """A lock's holder, in words."""
    return f"process {found.get('pid')} on {found.get('host')}"


def ask(found: dict[str, Any]) -> str | None:
    """A holder on this very host (boot, process namespace): in words, or '' where it is dead.

    Returns:
      None where the holder is elsewhere, so that only its heartbeat can tell.
    """
    me, pid = this_process(), found.get("pid")
    if not isinstance(pid, int) or any(found.get(k) != me[k] for k in ("host", "boot", "space")):
        return None
    if found.get("started") != started(pid):
        return ""  # dead, or its number belongs to another process by now
    return "this process already" if pid == me["pid"] else name(found)


def _text(path: str) -> str:
    try:
        return pathlib.Path(path).read_text(errors="replace").strip()
    except OSError:
        return ""


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""


def encode(body: dict[str, Any]) -> bytes:
    """A lock's content; always of one width."""
    return json.dumps(body).ljust(WIDTH - 1).encode() + b"\n"


def decode(data: bytes) -> dict[str, Any]:
    """What a lock says; {} where it cannot be read."""
    try:
        body = json.loads(data)
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}
