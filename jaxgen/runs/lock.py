"""The lock of a run's folder: one process trains it at a time.

The operating system frees the lock of a process that ends, however it ends. The file says who has it, or had it.
"""

import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jaxgen.errors import UserError
from jaxgen.runtime.files import NO_LOCKS
from jaxgen.runtime.progress import say
from jaxgen.runtime.reading import record_of

LOCK = ".lock"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds the lock of a folder, which is made.

    The lock of a process of this host that was killed is taken over, and that is said. Raises UserError if another
    process has it, or if one of another host left it: whether that one still runs cannot be seen from here.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / LOCK
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        free, without = True, False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            free = without = error.errno in NO_LOCKS
        owner = record_of(os.pread(descriptor, 1 << 12, 0)) or {}
        who = f"process {owner.get('process', 'unknown')} of {owner.get('host', 'an unknown host')}"
        if not free:
            since = f" since {owner['since']}" if "since" in owner else ""
            raise UserError(f"{folder} is in use: {who} trains there{since}; wait for it, or choose another --out")
        if owner and owner.get("host") != socket.gethostname():
            raise UserError(f"{folder} is in use, or was when its host failed: {who} has it; if it is gone, rm {file}")
        if owner and without and _lives(owner.get("process")):
            raise UserError(f"{folder} is in use: {who} trains there; wait for it, or choose another --out")
        if owner:
            say(f"{folder} was left by {who}, which is gone: taken over")
        _write(descriptor, {"host": socket.gethostname(), "process": os.getpid(), "since": _now()})
        try:
            yield
        finally:
            os.ftruncate(descriptor, 0)  # not removed: another process may wait with the same file open
    finally:
        os.close(descriptor)


def _lives(process: Any) -> bool:
    """Whether a process of this host runs, which is asked where files have no locks."""
    if not isinstance(process, int) or process <= 0 or process == os.getpid():
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _write(descriptor: int, owner: dict[str, Any]) -> None:
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(owner).encode(), 0)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
