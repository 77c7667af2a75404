"""Decoded pictures in the user's cache: written once by one process, whole or not at all, and read row by row."""

import errno
import fcntl
import os
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

from jaxgen.errors import UserError
from jaxgen.runtime.files import DISKS, NO_LOCKS, PARTIAL, replacing
from jaxgen.runtime.progress import say

CHUNK = 64 << 20
"""Bytes of pictures that are decoded at once, and then written."""

Decode = Callable[[range, np.ndarray], list[str]]
"""(indices, out) -> errors: writes the pictures `indices` into `out`, uint8[len(indices), H, W, C], and says why each
could not be decoded, "" for a good one."""


class PictureFile:
    """N pictures on the disk, uint8[N, H, W, C], and a byte for each behind them: 1 for good, 0 for corrupt.

    Pictures are read into the caller's arrays. The file is not mapped: a page fault for every 4 KiB took five times as
    long from a cold disk as one read of a picture, and mapped pages count as the memory of this process.
    """

    def __init__(self, file: Path, shape: tuple[int, int, int, int]):
        self.file, self.shape = file, shape
        self.row = int(np.prod(shape[1:]))
        self._descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
        weakref.finalize(self, os.close, self._descriptor)
        needed, there = shape[0] * (self.row + 1), os.fstat(self._descriptor).st_size
        if there != needed:
            raise UserError(f"{file} has {there} bytes, {needed} are expected: remove it to decode again")
        self.good = np.zeros(shape[0], bool)
        self._into(self.good.view(np.uint8).data, shape[0] * self.row)

    def read(self, indices: np.ndarray) -> np.ndarray:
        """uint8[len(indices), H, W, C]. Raises UserError if the file has lost its end, or the disk fails."""
        out = np.empty((len(indices), *self.shape[1:]), np.uint8)
        rows = out.reshape(-1).data
        # In rising order, so that the file is read forwards.
        for place in np.argsort(indices).tolist():
            self._into(rows[place * self.row : (place + 1) * self.row], int(indices[place]) * self.row)
        return out

    def _into(self, out: memoryview, offset: int) -> None:
        done = 0
        try:
            while done < len(out):
                count = os.preadv(self._descriptor, [out[done:]], offset + done)
                if count == 0:
                    raise OSError(errno.EIO, "it has lost its end")
                done += count
        except OSError as error:
            raise UserError(f"{self.file} cannot be read ({error.strerror}): remove it to decode again") from error


def cached_pictures(file: Path, shape: tuple[int, int, int, int], decode: Decode, judge: Callable) -> PictureFile:
    """The pictures of `file`, decoded into it if it is not there or not whole.

    Of several processes that start at once one decodes, and the others wait for it. What a killed one left is removed.

    judge: takes the errors of all pictures and raises, or says, what is to be made of them.
    Raises UserError if the disk is full or fails; then nothing is left of the file.
    """
    if found := _whole(file, shape):
        return found
    try:
        with _alone(file) as alone:
            # Another process may have been first.
            if found := _whole(file, shape):
                return found
            if alone:
                for left in file.parent.glob(f".{file.name}.*{PARTIAL}"):
                    left.unlink(missing_ok=True)
            say(f"decoding {shape[0]:,} pictures into {file}, once")
            with replacing(file) as partial:
                _write(partial, shape, decode, judge)
    except OSError as error:
        if error.errno not in DISKS:
            raise
        size = shape[0] * (int(np.prod(shape[1:])) + 1) / 2**30
        raise UserError(
            f"cannot write {file} ({error.strerror}), which takes {size:.1f} GiB: free space, or name another "
            "folder by JAXGEN_CACHE"
        ) from error
    return PictureFile(file, shape)


def _write(partial: Path, shape: tuple[int, int, int, int], decode: Decode, judge: Callable) -> None:
    errors: list[str] = []
    step = max(CHUNK // int(np.prod(shape[1:])), 16)
    # Written, not mapped: a full disk is an error of write(), but kills a process that writes to mapped pages.
    with partial.open("wb", buffering=0) as out:
        for first in range(0, shape[0], step):
            indices = range(first, min(first + step, shape[0]))
            pixels = np.zeros((len(indices), *shape[1:]), np.uint8)
            errors += decode(indices, pixels)
            _all(out.write, pixels)
        judge(errors)
        _all(out.write, np.array([not error for error in errors], np.uint8))


def _all(write: Callable[[memoryview], int | None], array: np.ndarray) -> None:
    """Writes an array; a single write() may take a part of it."""
    left = array.reshape(-1).data
    while len(left):
        left = left[write(left) or 0 :]


def _whole(file: Path, shape: tuple[int, int, int, int]) -> PictureFile | None:
    with suppress(FileNotFoundError, UserError):
        return PictureFile(file, shape)
    return None


@contextmanager
def _alone(file: Path) -> Iterator[bool]:
    """Waits until no other process writes `file`; False where the file system cannot tell.

    The operating system frees the lock of a process that ends, however it ends.
    """
    lock = file.with_suffix(".lock")
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        alone = True
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"waiting for another process that decodes pictures into {file}")
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            alone = False
        yield alone
        # No longer needed: whoever waits for it, or makes it anew, finds the file.
        lock.unlink(missing_ok=True)
    finally:
        os.close(descriptor)
