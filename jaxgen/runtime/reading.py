"""One reader for each kind of file. Whatever is wrong with a file is one UserError that begins with its name.

Only regular files are opened: a pipe or a device would be waited for, or never end. No reader takes more memory than a
small multiple of what the file holds.
"""

import errno
import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any

import numpy as np

from jaxgen.errors import UserError

MOST_TEXT = 1 << 28
"""Bytes of a text that is read at once."""
MOST_JSON = 1 << 25
"""Bytes of a JSON file: empty lists within a list take 25 times as much memory."""
PICKLES = (b"PK\x03\x04", b"\x80\x02")
"""How files of PyTorch begin, of its newer and its older layout."""
ARE_PICKLES = (".bin", ".pt", ".pth", ".ckpt")
DEEPEST = 100
"""Levels of lists and dicts within each other in a JSON file."""


def user_path(name: str | Path) -> Path:
    """A path that a user gave: ~ and ~NAME stand for home folders. Raises UserError where there is no such home."""
    if "\0" in str(name):
        raise UserError(f"{str(name)!r} holds a NUL character, which no file name can")
    try:
        return Path(name).expanduser()
    except RuntimeError as error:
        raise UserError(f"{name} cannot be found ({error}): give the whole path") from error


@contextmanager
def opened(path: Path) -> Iterator[BufferedReader]:
    """A regular file, open for reading. OSError of the block too becomes a UserError."""
    try:
        # Without O_NONBLOCK, opening a pipe waits for a writer.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
        with os.fdopen(descriptor, "rb") as file:
            mode = os.fstat(descriptor).st_mode
            if not stat.S_ISREG(mode):
                raise UserError(f"{path} is {_kind(mode)}, a regular file is expected: name another")
            yield file
    except OSError as error:
        if error.errno == errno.EISDIR:
            raise UserError(f"{path} is a folder, a regular file is expected: name another") from error
        raise UserError(f"{path} cannot be read ({error.strerror or error}): check the path") from error


def check_regular(path: Path) -> None:
    """Raises UserError unless `path` is a regular file that can be opened, for readers that open it themselves."""
    with opened(path):
        pass


def _kind(mode: int) -> str:
    kinds = ((stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a pipe"), (stat.S_ISSOCK, "a socket"))
    return next((name for test, name in kinds if test(mode)), "a device")


def why(error: BaseException) -> str:
    """The first line of an error, or its type's name; at most 160 characters."""
    lines = str(error).strip().splitlines()
    return lines[0][:160] if lines else type(error).__name__


def read_bytes(path: Path, most: int | None = None) -> bytes:
    """The contents. most: number of bytes that the kind of file can have."""
    with opened(path) as file:
        size = os.fstat(file.fileno()).st_size
        if most is not None and size > most:
            raise UserError(f"{path} has {size} bytes, at most {most} are expected: name another file")
        try:
            return file.read()
        except MemoryError as error:
            raise UserError(f"{path} has {size} bytes, which do not fit in memory") from error


def read_text(path: Path, encoding: str = "utf-8-sig", most: int = MOST_TEXT) -> str:
    """Text in UTF-8; a byte-order mark at its beginning is left out. Line ends become newlines. most: bytes."""
    data = read_bytes(path, most)
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is not UTF-8 text ({error.reason} at byte {error.start}): save it again as UTF-8"
        ) from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_lines(path: Path, what: str) -> tuple[str, ...]:
    """The lines of a text file that are not blank, without white space at their ends. Raises UserError where there is
    none. what: they are, in the error's words."""
    if not (lines := tuple(line.strip() for line in read_text(path).splitlines() if line.strip())):
        raise UserError(f"{path} has no {what}: write one a line")
    return lines


def read_json(path: Path, most: int = MOST_JSON) -> Any:
    """The value of a JSON file. most: bytes that it can have; the value takes up to 25 times as much memory."""
    return parse_json(read_text(path, most=most), str(path))


def parse_json(text: str, where: str) -> Any:
    """The value of JSON text. where: what it is called in errors."""
    try:
        value = json.loads(text, parse_int=_integer)
    except RecursionError:
        raise UserError(f"{where} cannot be read (lists within lists without end): restore it") from None
    except ValueError as error:
        raise UserError(f"{where} cannot be read as JSON ({why(error)}): restore it") from error
    if _depth(value) > DEEPEST:
        raise UserError(f"{where} cannot be read (more than {DEEPEST} lists within lists): restore it")
    return value


def _integer(digits: str) -> int:
    """An integer of at most 64 bits: larger ones overflow when they become floats or array elements."""
    if len(digits) > 20 or not -(1 << 63) <= (value := int(digits)) < 1 << 64:
        raise ValueError(f"the number {digits[:20]}... of {len(digits)} digits")
    return value


def _depth(value: Any) -> int:
    """Levels of lists and dicts, counted without recursion."""
    level, depth = [value], 0
    while level := [v for v in level if isinstance(v, list | dict)]:
        depth += 1
        level = [w for v in level for w in (v.values() if isinstance(v, dict) else v)]
    return depth


def read_records(path: Path) -> tuple[list[dict[str, Any]], int]:
    """The records of a file of JSON lines, and how many of its lines are none, such as one cut by a crash."""
    with opened(path) as file:
        lines = [line for line in file.read().split(b"\n") if line.strip()]
    records = [record for line in lines if (record := record_of(line)) is not None]
    return records, len(lines) - len(records)


def record_of(line: bytes) -> dict[str, Any] | None:
    """The record of one JSON line, None if it is none."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def read_array(path: Path) -> np.ndarray:
    """The numbers of a .npy file."""
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    with opened(path) as file:
        try:
            version = np.lib.format.read_magic(file)
            shape, _, dtype = readers[version](file)
            needed = int(np.prod(shape, dtype=object)) * dtype.itemsize
            left = os.fstat(file.fileno()).st_size - file.tell()
            if dtype.kind not in "biuf":
                raise ValueError(f"it holds {dtype}, no numbers")
            if needed > left or min(shape, default=0) < 0:
                raise ValueError(f"its head says {needed} bytes, {left} follow")
            file.seek(0)
            return np.lib.format.read_array(file, allow_pickle=False)
        except (OSError, UserError):
            raise
        except Exception as error:  # numpy evaluates the head as Python, which fails in many ways
            raise UserError(f"{path} cannot be read as a .npy file ({why(error)}): restore it") from error


def read_tensors(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The tensors and metadata of a safetensors file."""
    from safetensors import safe_open

    check_regular(path)
    try:
        with safe_open(path, "numpy") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or why(error)}): check the path") from error
    except Exception as error:  # a dtype that numpy lacks raises TypeError, AttributeError or KeyError, by version
        if is_pickle(path):
            raise UserError(
                f"{path} is a pickle, which runs code as it is loaded: pass the .safetensors file of the same model"
            ) from error
        advice = "pass the file of float16 or bfloat16" if "float8" in str(error).lower() else "restore it"
        raise UserError(f"{path} cannot be read as safetensors ({why(error)}): {advice}") from error


def is_pickle(path: Path) -> bool:
    """Whether a file begins as PyTorch's do, of either layout."""
    with opened(path) as file:
        return file.read(4).startswith(PICKLES)


def check_pickles(folder: Path, name: str) -> None:
    """Raises UserError where a folder has pickles in place of the file `name`."""
    if os.path.lexists(folder / name) or not folder.is_dir():
        return
    if others := sorted(f.name for f in folder.iterdir() if f.suffix in ARE_PICKLES):
        raise UserError(f"{folder} has {others[0]}, a pickle, which runs code as it is loaded: download {name}")


def read_weights(folder: Path, name: str) -> tuple[dict[str, np.ndarray], Path]:
    """The tensors of folder/name, a safetensors file, and that file; of all files that its index names where it is cut
    into several. Raises UserError where there is neither, or a part is missing."""
    whole, index = folder / name, folder / f"{name}.index.json"
    if os.path.lexists(whole) or not os.path.lexists(index):
        check_pickles(folder, name)
        return read_tensors(whole)[0], whole
    settings = read_json(index)
    parts = settings.get("weight_map") if isinstance(settings, dict) else None
    if not isinstance(parts, dict) or not all(isinstance(p, str) and p == os.path.basename(p) for p in parts.values()):
        raise UserError(f"{index} names no files of this folder by tensor: restore it")
    found: dict[str, np.ndarray] = {}
    for part in sorted(set(parts.values())):
        found |= read_tensors(folder / part)[0]
    if missing := sorted(parts.keys() - found.keys()):
        raise UserError(f"{folder} lacks {missing[0]}, of {parts[missing[0]]}: download that file again")
    return found, index
