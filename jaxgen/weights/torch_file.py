"""Reads the tensors of a PyTorch state dict without PyTorch and without executing code from the file.

A `.pth` file is a pickle, a program that may call any function. Here only the few functions that describe a tensor are
called; any other name is refused before it is looked up. Both layouts are read: the zip archive of PyTorch 1.6 and
later, and the older sequence of pickles and raw storages.
"""

import pickle
import struct
import sys
import zipfile
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

from jaxgen.errors import UserError

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
DTYPES = {
    "FloatStorage": np.dtype("<f4"),
    "DoubleStorage": np.dtype("<f8"),
    "HalfStorage": np.dtype("<f2"),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ShortStorage": np.dtype("<i2"),
    "CharStorage": np.dtype("<i1"),
    "ByteStorage": np.dtype("<u1"),
    "BoolStorage": np.dtype("?"),
}


@dataclass(frozen=True)
class _Storage:
    """`size` elements of `dtype`, stored under `key`."""

    dtype: np.dtype
    key: str
    size: int


@dataclass(frozen=True)
class _Tensor:
    """A view of a storage whose bytes are not read yet."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def array(self, raw: bytes) -> np.ndarray:
        """The tensor as a new array, from the bytes of its storage."""
        flat = np.frombuffer(raw, self.storage.dtype)
        numbers = (self.offset, *self.shape, *self.strides)
        if not all(isinstance(n, int) and n >= 0 for n in numbers) or len(self.shape) != len(self.strides):
            raise ValueError("a tensor with an invalid shape")
        # Without these checks, strides could read beyond the storage, or repeat it to exhaust memory.
        last = self.offset + sum((n - 1) * stride for n, stride in zip(self.shape, self.strides))
        count = int(np.prod(self.shape, dtype=object))
        if len(flat) != self.storage.size or (count and last >= len(flat)) or count > len(flat):
            raise ValueError("a tensor that exceeds its storage")
        strides = [stride * flat.itemsize for stride in self.strides]
        return np.lib.stride_tricks.as_strided(flat[self.offset :], self.shape, strides).copy()


def _rebuild_tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> _Tensor:
    if not isinstance(storage, _Storage):
        raise pickle.UnpicklingError("a tensor without a storage")
    return _Tensor(storage, offset, tuple(shape), tuple(strides))


def _rebuild_parameter(data: Any, *_: Any) -> Any:
    return data


ALLOWED = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor"): _rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    **{("torch", name): dtype for name, dtype in DTYPES.items()},
}


class _ForbiddenCall(Exception):
    """The name of a function that the file would call."""


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise _ForbiddenCall(f"{module}.{name}")
        return ALLOWED[module, name]

    def persistent_load(self, pid: Any) -> _Storage:
        tag, dtype, key, _, size, *view = pid
        if tag != "storage" or not isinstance(dtype, np.dtype) or any(v is not None for v in view):
            raise pickle.UnpicklingError("an object that is not a storage")
        return _Storage(dtype, str(key), size)


def read(path: Path | str) -> dict[str, np.ndarray]:
    """The state dict in a PyTorch file: arrays by name.

    Raises UserError if the file is missing, damaged or of another format, holds anything but tensors by name, or would
    call a function that does not describe a tensor.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            start = file.read(4)
            file.seek(0)
            if start == b"PK\x03\x04":
                return _read_zip(file)
            if start[:2] == b"\x80\x02":
                return _read_legacy(file)
    except _ForbiddenCall as error:
        raise UserError(
            f"{path} would call {error}, so it is not a plain state dict: save torch.load(...).state_dict() again"
        ) from error
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error}): check the path") from error
    # A damaged pickle can raise almost any exception.
    except Exception as error:
        raise UserError(f"{path} is damaged or not a state dict ({_summary(error)}): download it again") from error
    raise UserError(f"{path} is not a PyTorch file of a known layout: save it again with torch.save(state_dict, path)")


def _read_zip(file: BinaryIO) -> dict[str, np.ndarray]:
    with zipfile.ZipFile(file) as archive:
        names = [info.filename for info in archive.infolist() if info.filename.endswith("data.pkl")]
        (name,) = names
        folder = name.removesuffix("data.pkl")
        members = {info.filename: info for info in archive.infolist()}
        order = f"{folder}byteorder"
        if order in members and archive.read(order) != b"little":
            raise ValueError("big-endian numbers")
        with archive.open(name) as program:
            tensors = _tensors(_Reader(program).load())
        arrays = {}
        for tensor_name, tensor in tensors.items():
            info = members[f"{folder}data/{tensor.storage.key}"]
            if info.compress_type != zipfile.ZIP_STORED:
                raise ValueError("compressed storages")
            arrays[tensor_name] = tensor.array(archive.read(info))  # checks the CRC
        return arrays


def _read_legacy(file: BinaryIO) -> dict[str, np.ndarray]:
    if (_Reader(file).load(), _Reader(file).load()) != (MAGIC, PROTOCOL):
        raise ValueError("not written by torch.save")
    if _Reader(file).load().get("little_endian") is not True:
        raise ValueError("big-endian numbers")
    tensors = _tensors(_Reader(file).load())
    sizes = {tensor.storage.key: tensor.storage for tensor in tensors.values()}
    raw = {}
    for key in _Reader(file).load():
        (size,) = struct.unpack("<q", file.read(8))
        if sizes[key].size != size:
            raise ValueError("a storage whose size differs from that of its tensors")
        raw[key] = file.read(size * sizes[key].dtype.itemsize)
    return {name: tensor.array(raw[tensor.storage.key]) for name, tensor in tensors.items()}


def _tensors(loaded: Any) -> dict[str, _Tensor]:
    valid = isinstance(loaded, dict) and all(
        isinstance(name, str) and isinstance(tensor, _Tensor) for name, tensor in loaded.items()
    )
    if not valid or not loaded:
        raise ValueError("not a mapping from names to tensors")
    return loaded


def _summary(error: BaseException) -> str:
    """The type and first line of an error."""
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0][:120]}" if str(error) else type(error).__name__


if sys.byteorder != "little":
    raise ImportError("weights are read on little-endian machines only")
