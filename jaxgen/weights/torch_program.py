"""What the pickles of a PyTorch file describe: dicts of tensors and of plain values, and nothing else.

A pickle is a program for a stack machine, which may call any function and ask for any amount of memory. Here a machine
of our own runs it, which knows the opcodes that torch.save writes and calls three functions of this module. Each opcode
takes memory in proportion to its bytes in the file; nothing is copied, so that no few bytes can multiply what came
before them.
"""

import pickletools
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

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
MOST_AXES = 32
"""Axes that a NumPy array can have."""
MOST_ARGUMENTS = 8
LARGEST = 1 << 62
"""No storage, offset or axis is this large: products and sums of them stay small integers."""


@dataclass(frozen=True)
class Storage:
    """`size` elements of `dtype`, stored under `key`."""

    dtype: np.dtype
    key: str
    size: int

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize


@dataclass(frozen=True)
class Tensor:
    """A view of a storage whose bytes are not read yet. It lies within the storage, and is no larger."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.shape, dtype=object)) * self.storage.dtype.itemsize

    def array(self, raw: bytes) -> np.ndarray:
        """The tensor as a read-only view of the bytes of its storage."""
        flat = np.frombuffer(raw, self.storage.dtype)
        if len(flat) != self.storage.size:
            raise ValueError("a storage of another size than its tensors say")
        strides = [stride * flat.itemsize for stride in self.strides]
        return np.lib.stride_tricks.as_strided(flat[self.offset :], self.shape, strides, writeable=False)


class ForbiddenCall(Exception):
    """The name of a function that the file would call."""


# --- the functions that a program may call ---


def _rebuild_tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> Tensor:
    if not isinstance(storage, Storage):
        raise ValueError("a tensor without a storage")
    if not (isinstance(shape, tuple) and isinstance(strides, tuple) and len(shape) == len(strides) <= MOST_AXES):
        raise ValueError("a tensor with an invalid shape")
    if not all(_is_size(n) for n in (offset, *shape, *strides)):
        raise ValueError("a tensor with an invalid shape")
    tensor = Tensor(storage, offset, shape, strides)
    # Without these checks, strides could read beyond the storage, or repeat it to exhaust memory.
    last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides))
    if tensor.nbytes > storage.nbytes or (tensor.nbytes and last >= storage.size):
        raise ValueError("a tensor that exceeds its storage")
    return tensor


def _rebuild_parameter(data: Any, *_: Any) -> Any:
    return data


def _ordered_dict(pairs: Any = None) -> dict[str, Any]:
    """Python 2 passes the pairs, Python 3 adds them afterwards."""
    out: dict[str, Any] = {}
    if pairs is not None:
        _fill(out, [part for key, value in pairs for part in (key, value)])
        pairs.clear()  # moved rather than copied, or a program could multiply one list
    return out


def _storage(pid: Any) -> Storage:
    tag, dtype, key, _, size, *view = pid
    if tag != "storage" or not isinstance(dtype, np.dtype) or any(v is not None for v in view):
        raise ValueError("an object that is not a storage")
    if not isinstance(key, str) or not _is_size(size):
        raise ValueError("a storage with an invalid size")
    return Storage(dtype, key, size)


ALLOWED: dict[str, np.dtype | Callable[..., Any]] = {
    "collections OrderedDict": _ordered_dict,
    "torch._utils _rebuild_tensor": _rebuild_tensor,
    "torch._utils _rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils _rebuild_parameter": _rebuild_parameter,
    **{f"torch {name}": dtype for name, dtype in DTYPES.items()},
}


def _allowed(name: str) -> Any:
    """The stand-in for the function or class `module name`."""
    if name not in ALLOWED:
        raise ForbiddenCall("".join(c if c.isprintable() else "?" for c in name[:80]).replace(" ", "."))
    return ALLOWED[name]


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value < LARGEST


# --- the machine ---

CONSTANTS = {
    "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "BINSTRING",
    "SHORT_BINSTRING",
}  # fmt: skip
VALUES: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None, "NEWTRUE": lambda: True, "NEWFALSE": lambda: False, "EMPTY_TUPLE": tuple, "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
}  # fmt: skip
TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def run(file: BinaryIO) -> Any:
    """The value of the pickle at the file's position, which is just after it afterwards.

    The file must be in memory: a length in the program is passed to its `read`. Raises ForbiddenCall for a function
    that describes no tensor, and any other exception for a damaged program.
    """
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}

    def popped(start: int) -> list[Any]:
        """The values of the stack from `start`, which leave it."""
        if not 0 <= start <= len(stack):
            raise ValueError("a pickle without the values that it uses")
        values = stack[start:]
        del stack[start:]
        return values

    arg: Any
    for opcode, arg, _ in pickletools.genops(file):
        match opcode.name:
            case name if name in CONSTANTS:
                stack.append(arg)
            case name if name in VALUES:
                stack.append(VALUES[name]())
            case "BINPUT" | "LONG_BINPUT":
                memo[arg] = stack[-1]
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[arg])
            case "MARK":
                marks.append(len(stack))
            case "TUPLE":
                stack.append(tuple(popped(marks.pop())))
            case name if name in TUPLES:
                stack.append(tuple(popped(len(stack) - TUPLES[name])))
            case "APPEND":
                _extend(stack[-2], popped(len(stack) - 1))
            case "APPENDS":
                values = popped(marks.pop())
                _extend(stack[-1], values)
            case "SETITEM":
                values = popped(len(stack) - 2)
                _fill(stack[-1], values)
            case "SETITEMS":
                values = popped(marks.pop())
                _fill(stack[-1], values)
            case "GLOBAL":
                stack.append(_allowed(arg))
            case "STACK_GLOBAL":
                module, name = popped(len(stack) - 2)
                stack.append(_allowed(f"{module} {name}" if isinstance(module, str) and isinstance(name, str) else ""))
            case "BINPERSID":
                stack.append(_storage(stack.pop()))
            case "REDUCE":
                function, args = popped(len(stack) - 2)
                if not (callable(function) and isinstance(args, tuple) and len(args) <= MOST_ARGUMENTS):
                    raise ValueError("a call of what is no function")
                stack.append(function(*args))
            case "BUILD":
                stack.pop()  # the attributes of a dict, such as a module's versions
            case "PROTO" | "FRAME" | "STOP":
                pass
            case name:
                raise ValueError(f"the opcode {name}, which torch.save does not write")
    (value,) = stack
    return value


def _extend(target: Any, values: list[Any]) -> None:
    if type(target) is not list:
        raise ValueError("a pickle that appends to what is no list")
    target.extend(values)


def _fill(target: Any, values: list[Any]) -> None:
    """Sets keys, of the values at 0, 2, ..., to those at 1, 3, ..."""
    keys = values[::2]
    # The hash of a key that nests deeply would overflow C's stack.
    # Optimizers number parameters.
    if type(target) is not dict or len(values) % 2 or not all(isinstance(key, (str, int)) for key in keys):
        raise ValueError("a pickle that fills what is no dict of names or numbers")
    target.update(zip(keys, values[1::2]))


if sys.byteorder != "little":
    raise ImportError("weights are read on little-endian machines only")
