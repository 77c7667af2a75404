"""Reads the tensors of a PyTorch state dict without PyTorch and without executing code from the file.

Both layouts are read: the zip archive of PyTorch 1.6 and later, and the older sequence of pickles and raw storages.
What the pickles say is worked out by `torch_program`. Memory is bounded by the size of the file: compressed members,
members that share bytes, and storages that many tensors repeat are refused before anything is read.
"""

import io
import os
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from jaxgen.errors import UserError
from jaxgen.runtime.reading import PICKLES, is_pickle, opened, read_tensors, why
from jaxgen.weights.torch_program import ForbiddenCall, Storage, Tensor, run

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
MOST_PROGRAM = 1 << 22
"""Bytes of pickles in a file: those of a network of 10,000 tensors take a third of this, and memory 100 times it."""
MOST_SHARING = 4
"""Bytes of all tensors over those of the file. Tied weights share a storage, at most a few times."""

PARTS = ("state_dict", "generator", "model", "model_state_dict")
"""Where checkpoints of Lightning and NVIDIA, HiFi-GAN, nanoGPT and PyTorch's own tutorials have the network."""

ARGS = "model_args"
"""Where nanoGPT has the arguments of its model, beside the state dict."""

ZIP, LEGACY = PICKLES


def read_any(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a PyTorch or safetensors file by name: which it is, its first bytes say, not its name. Raises
    UserError as `read`."""
    return read_any_with_args(path)[0]


def read_any_with_args(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """`read_any`, and the arguments as `read_with_args` has them: none of a safetensors file."""
    return read_with_args(path) if is_pickle(path) else (read_tensors(path)[0], {})


def read(path: Path) -> dict[str, np.ndarray]:
    """The state dict in a PyTorch file: read-only arrays by name. Raises UserError as `read_with_args`."""
    return read_with_args(path)[0]


def read_with_args(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The state dict in a PyTorch file, read-only arrays by name, and the arguments of the model that nanoGPT writes
    beside it.

    Raises UserError if the file is missing, damaged or of another format, holds anything but tensors by name, or would
    call a function that does not describe a tensor.
    """
    with opened(path) as file:
        try:
            start = file.read(4)
            file.seek(0)
            if start == ZIP:
                return _read_zip(file)
            if start.startswith(LEGACY):
                return _read_legacy(file)
        except ForbiddenCall as error:
            raise UserError(
                f"{path} would call {error}, so it is not a plain state dict: save torch.load(...).state_dict() again"
            ) from error
        except OSError:
            raise  # of the disk, for `opened`
        # A damaged file can raise almost any exception.
        except Exception as error:
            reason = f"{type(error).__name__}: {why(error)}"
            raise UserError(f"{path} is damaged or not a state dict ({reason}): download it again") from error
    raise UserError(f"{path} is not a PyTorch file of a known layout: save it again with torch.save(state_dict, path)")


def _read_zip(file: BinaryIO) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    size = _size(file)
    with zipfile.ZipFile(file) as archive:
        infos = archive.infolist()
        members = {info.filename: info for info in infos}
        if len(members) < len(infos):
            raise ValueError("two members of one name")
        if any(info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size for info in infos):
            raise ValueError("compressed members")
        if sum(info.file_size for info in infos) > size:
            raise ValueError("members that are larger than the file")
        (name,) = (name for name in members if name.endswith("data.pkl"))
        folder = name.removesuffix("data.pkl")
        order = f"{folder}byteorder"
        if order in members and archive.read(order) != b"little":
            raise ValueError("big-endian numbers")
        if members[name].file_size > MOST_PROGRAM:
            raise ValueError(f"a pickle of more than {MOST_PROGRAM} bytes")
        value = run(io.BytesIO(archive.read(name)))
        tensors, storages = _described(value, size)
        raw = {key: archive.read(members[f"{folder}data/{key}"]) for key in storages}  # checks the CRC
    return {name: tensor.array(raw[tensor.storage.key]) for name, tensor in tensors.items()}, _args(value)


def _read_legacy(file: BinaryIO) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    programs = io.BytesIO(file.read(MOST_PROGRAM))
    if (run(programs), run(programs)) != (MAGIC, PROTOCOL):
        raise ValueError("not written by torch.save")
    if run(programs).get("little_endian") is not True:
        raise ValueError("big-endian numbers")
    value = run(programs)
    tensors, storages = _described(value, _size(file))
    others = _storages(value)  # an optimizer's lie among those of the network
    keys = run(programs)
    file.seek(programs.tell())
    raw = {}
    if not all(isinstance(key, str) for key in keys):
        raise ValueError("storages without names")
    for key in keys:
        (count,) = struct.unpack("<q", file.read(8))
        if others[key].size != count or key in raw:
            raise ValueError("a storage whose size differs from that of its tensors")
        if key in storages:
            raw[key] = file.read(storages[key].nbytes)
        else:
            file.seek(others[key].nbytes, os.SEEK_CUR)
    return {name: tensor.array(raw[tensor.storage.key]) for name, tensor in tensors.items()}, _args(value)


def _described(value: Any, size: int) -> tuple[Mapping[str, Tensor], dict[str, Storage]]:
    """The tensors by name and their storages by key, which a file of `size` bytes can hold. Training programs write
    them under one of PARTS, beside an optimizer's."""
    for part in PARTS:
        if isinstance(value, dict) and isinstance(value.get(part), dict):
            value = value[part]
    named = isinstance(value, dict) and all(isinstance(name, str) for name in value)
    if not named or not value or not all(isinstance(tensor, Tensor) for tensor in value.values()):
        raise ValueError("not a mapping from names to tensors")
    storages = {tensor.storage.key: tensor.storage for tensor in value.values()}
    if sum(storage.nbytes for storage in storages.values()) > size:
        raise ValueError("storages that are larger than the file")
    if sum(tensor.nbytes for tensor in value.values()) > MOST_SHARING * size:
        raise ValueError("tensors that repeat their storages")
    return value, storages


def _storages(value: Any) -> dict[str, Storage]:
    """All storages of tensors in a value, by key. Each part is looked at once, however often the value repeats it."""
    found: dict[str, Storage] = {}
    seen, left = set[int](), [value]
    while left:
        part = left.pop()
        if isinstance(part, Tensor):
            found[part.storage.key] = part.storage
        elif isinstance(part, dict | list | tuple) and id(part) not in seen:
            seen.add(id(part))
            left.extend(part.values() if isinstance(part, dict) else part)
    return found


def _args(value: Any) -> dict[str, Any]:
    args = value.get(ARGS) if isinstance(value, dict) else None
    return dict(args) if isinstance(args, dict) else {}


def _size(file: BinaryIO) -> int:
    return os.fstat(file.fileno()).st_size
