"""PyTorch files made to harm: each is one line that names it, calls nothing, and takes little memory."""

import io
import json
import os
import pickle
import struct
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from hostile import PEAK

from jaxgen.errors import UserError
from jaxgen.weights import torch_file, torch_program

MOST_MEMORY = 1 << 30

STORAGE = b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpu%st"
REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n"
ORDERED_DICT = b"ccollections\nOrderedDict\n"
EMPTY = ORDERED_DICT + b")R"


def tensor(count: int = 4, shape: bytes = b"K\x04\x85", strides: bytes = b"K\x01\x85") -> bytes:
    """The program of a tensor of a storage of `count` numbers."""
    number = b"\x8a\x08" + struct.pack("<q", count)
    return REBUILD + b"(" + STORAGE % number + b"QK\0" + shape + strides + b"\x89" + EMPTY + b"tR"


def program(tensors: bytes) -> bytes:
    """The pickle of a dict of these keys and values."""
    return b"\x80\x02}(" + tensors + b"u."


def key(name: str) -> bytes:
    return b"X" + struct.pack("<I", len(name)) + name.encode()


WHOLE = program(key("x") + tensor())
NUMBERS = np.arange(4, dtype="<f4").tobytes()


def archive(pickled: bytes = WHOLE, data: bytes = NUMBERS, **extra: bytes) -> bytes:
    """A file of torch.save's layout. extra: further members of the archive."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        for name, part in {"data.pkl": pickled, "data/0": data, **extra}.items():
            file.writestr(f"archive/{name}", part)
    return out.getvalue()


def deflated() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data.pkl", WHOLE)
        file.writestr("archive/data/0", bytes(1 << 28))
    return out.getvalue()


def repeated_name() -> bytes:
    data = archive(a=b"1", b=b"2")
    return data.replace(b"archive/b", b"archive/a")


def with_size(size: int) -> bytes:
    """An archive whose directory says that the numbers have so many bytes."""
    data = bytearray(archive())
    entry = data.rindex(b"archive/data/0") - 46
    struct.pack_into("<LL", data, entry + 20, size, size)
    return bytes(data)


def legacy(count: int, stored: int) -> bytes:
    """The layout before the archive, of a storage of `count` numbers with another count in front of them."""
    head = pickle.dumps(torch_file.MAGIC, 2) + pickle.dumps(torch_file.PROTOCOL, 2)
    head += pickle.dumps({"little_endian": True}, 2) + program(key("x") + tensor(count)) + pickle.dumps(["0"], 2)
    return head + struct.pack("<q", stored) + NUMBERS


def call(module: str, name: str) -> bytes:
    return program(key("x") + f"c{module}\n{name}\n".encode() + key("touch victim") + b"\x85R")


MANY = 10_000
PAIRS = b"".join(key(f"{i:05}") + b"N\x86" for i in range(50_000))
CALLS = b"h\1h\0\x85R" * 100_000  # a dict of the pairs each
PYTORCH = {
    "deflated": (deflated(), "compressed"),
    "memo": (archive(b"\x80\x02}r\0\0\0\x30."), "mapping"),
    "long text": (archive(b"\x80\x02\x8d" + struct.pack("<Q", 1 << 62) + b"x."), "ValueError"),
    "long bytes": (archive(b"\x80\x02B\xff\xff\xff\x7fx."), "ValueError"),
    "long integer": (archive(b"\x80\x02\x8b\xff\xff\xff\x7f."), "ValueError"),
    "storage": (archive(program(key("x") + tensor(1 << 40))), "larger than the file"),
    "negative storage": (archive(program(key("x") + tensor(-1))), "invalid size"),
    "repeated storage": (
        archive(program(b"".join(key(f"{i:05}") + tensor(MANY, b"M\x10'\x85") for i in range(100))), bytes(4 * MANY)),
        "repeat their storages",
    ),
    "axes": (archive(program(key("x") + tensor(4, b"(" + b"K\x01" * 40 + b"t", b"(" + b"K\0" * 40 + b"t"))), "shape"),
    "huge axis": (archive(program(key("x") + tensor(4, b"\x8a\x09" + b"\xff" * 8 + b"\0\x85"))), "shape"),
    "two of a name": (repeated_name(), "one name"),
    "directory": (with_size(1 << 30), "larger than the file"),
    "call": (archive(call("posix", "system")), "would call posix.system"),
    "eval": (archive(call("builtins", "eval")), "would call builtins.eval"),
    "by stack": (archive(program(key("x") + key("os") + key("system") + b"\x93)R")), "would call os.system"),
    "instance": (archive(b"\x80\x02(cposix\nsystem\no."), "would call"),
    "attributes": (archive(program(key("x") + REBUILD + b"}" + key("__defaults__") + b"Nsb")), "mapping"),
    "deep key": (archive(b"\x80\x02}" + b")" + b"\x85" * 1_000_000 + b"Ns."), "dict of names"),
    "deep list": (archive(b"\x80\x02" + b"(" * 1_000_000 + b"l" + b"."), "opcode LIST"),
    "many lists": (archive(b"\x80\x02" + b"]" * (torch_file.MOST_PROGRAM - 4) + b"."), "unpack"),
    "long program": (archive(WHOLE + bytes(torch_file.MOST_PROGRAM)), "a pickle of more"),
    "one list often": (archive(b"\x80\x02(]q\0(" + PAIRS + b"e" + ORDERED_DICT + b"q\1" + CALLS + b"t."), "mapping"),
    "no numbers": (archive(WHOLE, b""), "another size"),
    "odd bytes": (archive(WHOLE, bytes(15)), "ValueError"),
    "no tensors": (archive(b"\x80\x02}."), "mapping"),
    "two programs": (archive(WHOLE, NUMBERS, **{"more/data.pkl": WHOLE}), "ValueError"),
    "no stop": (archive(b"\x80\x02}"), "ValueError"),
    "no values": (archive(b"\x80\x02R."), "values"),
    "cut archive": (archive()[:-30], "damaged"),
    "legacy size": (legacy(4, 5), "size differs"),
    "legacy storage": (legacy(1 << 40, 1 << 40), "larger than the file"),
    "legacy end": (legacy(4, 4)[:-8], "another size|buffer"),
    "start of a zip": (b"PK\x03\x04", "damaged"),
    "start of a pickle": (b"\x80\x02", "damaged"),
    "empty": (b"", "known layout"),
    "page": (b"<html>404</html>", "known layout"),
}


def test_the_programs_of_these_files_are_right_where_nothing_is_changed(tmp_path):
    (tmp_path / "zip").write_bytes(archive())
    (tmp_path / "run").write_bytes(legacy(4, 4))
    for name in ("zip", "run"):
        np.testing.assert_array_equal(torch_file.read(tmp_path / name)["x"], np.arange(4, dtype=np.float32))


CHILD = """
import json, sys
from pathlib import Path
from jaxgen.errors import UserError
from jaxgen.weights import torch_file
said = {}
for path in sorted(Path(sys.argv[1]).iterdir()):
    try:
        torch_file.read(path)
    except UserError as error:
        said[path.name] = str(error)
print(json.dumps({"said": said, "kilobytes": peak()}))
"""


def test_pytorch_files_made_to_harm(tmp_path):
    """In a process of their own, whose memory is measured, and which a crash would end."""
    folder = tmp_path / "files"
    folder.mkdir()
    for name, (data, _) in PYTORCH.items():
        (folder / name).write_bytes(data)
    ran = subprocess.run(
        [sys.executable, "-c", PEAK + CHILD, str(folder)], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert ran.returncode == 0 and not ran.stderr, (ran.returncode, ran.stderr)
    result = json.loads(ran.stdout)
    assert result["said"].keys() == PYTORCH.keys()
    for name, (_, words) in PYTORCH.items():
        said = result["said"][name]
        assert said.startswith(str(folder / name)) and "\n" not in said and len(said) < 600
        with pytest.raises(UserError, match=words):
            raise UserError(said)
    assert result["kilobytes"] << 10 < MOST_MEMORY
    assert os.listdir(tmp_path) == ["files"]  # no command made a victim


def test_the_state_of_a_module_is_not_kept():
    """BUILD could otherwise give one large dict to many small ones, or change our own functions."""
    pickled = b"\x80\x02" + EMPTY + b"}" + key("_metadata") + b"Nsb."
    assert torch_program.run(io.BytesIO(pickled)) == {}
