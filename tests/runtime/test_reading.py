"""The readers of files: what they read, and one line for whatever is wrong."""

import json
import os
import struct
from pathlib import Path

import numpy as np
import pytest
from hostile import png
from PIL import Image

from jaxgen.errors import UserError
from jaxgen.runtime import picture, reading


def one_line(path: Path, call) -> str:
    """The error of a call, known to be one line that begins with the file's name."""
    with pytest.raises(UserError) as error:
        call(path)
    assert str(error.value).startswith(str(path)) and "\n" not in str(error.value)
    return str(error.value)


READERS = (
    reading.read_bytes, reading.read_text, reading.read_json, reading.read_records, reading.read_array,
    reading.read_tensors, picture.read_picture,
)  # fmt: skip


@pytest.mark.parametrize("read", READERS, ids=lambda f: f.__name__)
def test_only_regular_files_are_opened(read, tmp_path):
    pipe, loop = tmp_path / "pipe", tmp_path / "loop"
    os.mkfifo(pipe)
    loop.symlink_to(loop)
    assert "a pipe" in one_line(pipe, read)
    assert "a folder" in one_line(tmp_path, read)
    assert "a device" in one_line(Path("/dev/zero"), read)
    for bad in (loop, tmp_path / "absent", tmp_path / ("x" * 300)):
        assert "cannot be read" in one_line(bad, read)


@pytest.mark.parametrize(
    "data", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b'{"a": ' * 200 + b"1" + b"}" * 200, b"1" * 400, b"-" + b"9" * 25]
)
def test_json_that_is_none(data, tmp_path):
    (file := tmp_path / "a.json").write_bytes(data)
    one_line(file, reading.read_json)


def test_text(tmp_path):
    (file := tmp_path / "a.txt").write_bytes("\ufeffgrün\r\nrot\r\0".encode())
    assert reading.read_text(file) == "grün\nrot\n\0"
    file.write_bytes("grün".encode("cp1252"))
    assert "not UTF-8" in one_line(file, reading.read_text)


def test_records_pass_over_broken_lines(tmp_path):
    (file := tmp_path / "a.jsonl").write_bytes(b'{"step": 1}\n{"step": \n[3]\n\n{"step": 2}\n{"st')
    assert reading.read_records(file) == ([{"step": 1}, {"step": 2}], 3)


def npy(shape: str, descr: str = "'<f4'", data: bytes = b"") -> bytes:
    head = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head + data


def test_arrays_are_as_large_as_their_files(tmp_path):
    (file := tmp_path / "a.npy").write_bytes(npy("(2,)", data=struct.pack("<2f", 1, 2)))
    np.testing.assert_array_equal(reading.read_array(file), np.array([1, 2], np.float32))
    for bad in (
        npy(f"({10**11},)"), npy("(-2,)"), npy("(3,)", data=bytes(8)), npy("(2,)", "'|O'", bytes(16)), npy("2+"), b"",
        b"\x93NUMPY\x09\x00", b"PK\x03\x04" + bytes(40),
    ):  # fmt: skip
        file.write_bytes(bad)
        one_line(file, reading.read_array)


def test_tensors(tmp_path):
    file = tmp_path / "a.safetensors"
    head = json.dumps({"x": {"dtype": "F8_E4M3", "shape": [2], "data_offsets": [0, 2]}}).encode()
    for bad in (b"", b"\xff" * 16, struct.pack("<Q", len(head)) + head + bytes(1), struct.pack("<Q", 1 << 62)):
        file.write_bytes(bad)
        one_line(file, reading.read_tensors)


def test_pictures_that_are_none(tmp_path):
    (whole := tmp_path / "whole.png").parent.mkdir(exist_ok=True)
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(whole)
    for bad in (
        b"", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n", whole.read_bytes()[:40], b"P6\n8 8\n255\n", b"P6 x",
        b"\x01\xda\x00\x01\x00\x03" + bytes(30), b"II*\x00\x08\x00\x00\x00\xff\xff",
        png(60_000, 60_000, kind=2, rows=bytes(1000)),
        png(9_000, 9_000, kind=2, rows=bytes(1000)),
    ):  # fmt: skip
        (file := tmp_path / "bad.png").write_bytes(bad)
        one_line(file, picture.read_picture)


def test_sixteen_bits_are_scaled_not_clipped(tmp_path):
    values = np.array([[0, 257, 32_896, 65_535]], np.uint16)
    for ending in ("png", "tif"):
        Image.fromarray(values).save(file := tmp_path / f"deep.{ending}")
        np.testing.assert_array_equal(picture.read_picture(file, 1)[0, :, 0], [0, 1, 128, 255])
    Image.fromarray(np.array([[0.0, 0.5, 1.0]], np.float32)).save(file := tmp_path / "unit.tif")
    np.testing.assert_array_equal(picture.read_picture(file, 1)[0, :, 0], [0, 128, 255])
    Image.fromarray(np.array([[0.0, 300.0]], np.float32)).save(file)
    assert "0 to 1 are expected" in one_line(file, picture.read_picture)


def test_alpha_lies_over_a_colour_and_pictures_stand_upright(tmp_path):
    pixels = np.zeros((1, 2, 4), np.uint8)
    pixels[0, 1] = [255, 0, 0, 255]
    Image.fromarray(pixels).save(file := tmp_path / "a.png")
    np.testing.assert_array_equal(picture.read_picture(file)[0], [[255, 255, 255], [255, 0, 0]])
    np.testing.assert_array_equal(picture.read_picture(file, over="black")[0], [[0, 0, 0], [255, 0, 0]])
    assert picture.has_alpha(picture.open_picture(file))
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    Image.fromarray(np.zeros((4, 2, 3), np.uint8)).save(file, exif=exif)
    assert picture.read_picture(file).shape == (2, 4, 3)
    assert not picture.has_alpha(picture.open_picture(file))


def test_user_paths(monkeypatch):
    monkeypatch.setenv("HOME", "/somewhere")
    assert reading.user_path("~/r") == Path("/somewhere/r")
    with pytest.raises(UserError, match="no-such-user"):
        reading.user_path("~no-such-user/r")
    with pytest.raises(UserError, match="NUL"):
        reading.user_path("a\0b")
