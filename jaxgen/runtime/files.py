"""Files that are replaced whole: a reader, or a crash, sees the old one or the new one."""

import errno
import os
import re
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from jaxgen.errors import UserError

if TYPE_CHECKING:
    import numpy as np

PARTIAL = ".partial"
PLACES = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG}
"""Errors of a place that cannot be written to."""
DISKS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.ESTALE}
"""Errors of a full or failing disk."""
NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP}
"""Errors of a file system without locks."""
SYSTEM = ("/dev", "/proc", "/sys")
"""Folders that hold no files of users', but for /dev/shm."""

_partials: set[Path] = set()


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to, which takes its place at the end, or is removed where writing failed.

    Folders above are made, and what was written is on the disk at the end. The name is the process's own, so that of
    two that write the last one stays, whole. An OSError names `path`.
    """
    # The name stays within the 255 bytes that file systems allow.
    partial = path.with_name(f".{path.name[:50]}.{os.getpid()}{PARTIAL}")
    _partials.add(partial)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        sync(partial)
        partial.replace(path)
        sync(path.parent)
    except OSError as error:
        # Errors of write() name no file.
        if error.filename in (None, partial, str(partial)):
            error.filename, error.filename2 = str(path), None
        raise
    finally:
        with suppress(OSError):
            partial.unlink()
        _partials.discard(partial)


def remove_partials() -> None:
    """Removes what `replacing` has not finished, for a process that ends at once."""
    for partial in list(_partials):
        with suppress(OSError):
            partial.unlink()


def sync(path: Path) -> None:
    """Waits until a file's contents, or a folder's names, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some file systems cannot sync a folder
            raise
    finally:
        os.close(descriptor)


def write_bytes(path: Path, data: bytes | bytearray) -> None:
    with replacing(path) as partial:
        partial.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    write_bytes(path, text.encode())


def write_tensors(path: Path, arrays: "Mapping[str, np.ndarray]", metadata: dict[str, str] | None = None) -> None:
    """Writes a safetensors file."""
    import numpy as np  # imported here, as by all of this module that is slow: a command's Ctrl-C waits for it
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    with replacing(path) as partial:
        try:
            save_file({name: np.asarray(array, order="C") for name, array in arrays.items()}, partial, metadata)
        except SafetensorError as error:
            number = re.search(r"os error (\d+)", str(error))
            if number is None:
                raise
            raise OSError(int(number[1]), os.strerror(int(number[1]))) from error


@contextmanager
def disk_errors() -> Iterator[None]:
    """Turns the errors of a full or failing disk, and of a place that cannot be written to, into a UserError."""
    try:
        yield
    except OSError as error:
        where = f" to {error.filename}" if error.filename else ""
        if error.errno in DISKS:
            advice = "files written before are whole. Free space; the same command goes on"
        elif error.errno in PLACES:
            advice = "make it writable, or choose another place"
        else:
            raise
        raise UserError(f"cannot write{where} ({error.strerror}): {advice}") from error


def check_output(path: Path, folder: bool) -> None:
    """Raises UserError unless `path` can become a folder with files in it, or a file. Makes nothing."""
    try:
        reason = _refused(path, folder)
    except (OSError, RuntimeError, ValueError) as error:  # loops, names that are too long, NUL characters
        reason = error.strerror if isinstance(error, OSError) else str(error)
    if reason:
        other = "choose another with --out" if folder else "name another file"
        raise UserError(f"cannot write to {str(path)!r} ({reason}): {other}")


def _refused(path: Path, folder: bool) -> str:
    """Why `path` cannot become a folder, or a file; "" if it can."""
    for place in (path.absolute(), path.resolve()):
        if any(place.is_relative_to(root) for root in SYSTEM) and not place.is_relative_to("/dev/shm"):
            return "it belongs to the system"
    if not folder:
        if (mode := _mode(path)) and not stat.S_ISREG(mode):
            return "it is no file"
        path = path.parent
    there = path.resolve()
    while not (mode := _mode(there)):
        there = there.parent
    if not stat.S_ISDIR(mode):
        return f"{there} is no folder"
    return "" if os.access(there, os.W_OK | os.X_OK) else f"{there} may not be written to, or is on a read-only disk"


def _mode(path: Path) -> int:
    """The mode of what is at `path`, 0 for nothing."""
    try:
        return path.stat().st_mode
    except FileNotFoundError:
        return 0
