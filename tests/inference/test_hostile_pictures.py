"""Picture files that are damaged, odd or made to do harm: the right pixels, or one line that names the file."""

import io
import os
import struct
import subprocess
import sys
import zlib
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from hostile import PEAK, chunk, png
from PIL import Image

from jaxgen.data import PairFolder
from jaxgen.errors import UserError
from jaxgen.inference import images
from jaxgen.runtime.picture import MOST_BYTES

SHAPE = (8, 8, 3)
RGB = np.random.default_rng(0).integers(0, 256, SHAPE, dtype=np.uint8)
GREY = RGB[..., 0]
ROWS = (b"\0" + bytes(8)) * 8


def encoded(pixels: np.ndarray, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def text(data: bytes, name: bytes = b"a") -> bytes:
    return chunk(b"zTXt", name + b"\0\0" + zlib.compress(data))


def gif_with_screen(side: int) -> bytes:
    data = encoded(GREY, "GIF")
    return data[:6] + struct.pack("<HH", side, side) + data[10:]


def damaged() -> dict[str, bytes]:
    found = {
        "empty.png": b"",
        "text.png": b"this is a text\n" * 9,
        "zeros.jpg": bytes(4096),
        "postscript.png": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n",
        "postscript.eps": b"\xc5\xd0\xd3\xc6" + bytes(60) + b"%!PS-Adobe-3.0 EPSF-3.0\n",
        "silicon.png": b"\x01\xda\x01\x01\x00\x03\x00\x08\x00\x08\x00\x03" + bytes(600),
        "page.png": b"%PDF-1.4\n1 0 obj\n",
        "vector.svg": b'<svg xmlns="http://www.w3.org/2000/svg" width="8" height="8"/>',
        "archive.png": b"PK\x03\x04" + bytes(60),
        # heads that promise what does not follow, or nothing that can be
        "cut.ppm": b"P6\n8 8\n255\n" + bytes(7),
        "letters.ppm": b"P6 x",
        "zero.ppm": b"P6 0 8 255\n",
        "negative.ppm": b"P6 -8 8 255\n" + bytes(192),
        "white.ppm": b"P5 8 8 99999\n" + bytes(128),
        "nan.ppm": b"Pf 8 8 nan\n" + bytes(256),
        "plain.ppm": b"P3 2 1 255 1 2 3 4 5 999",
        "comment.ppm": b"P6 #" + b"x" * 10**5,
        "zero.png": png(0, 8),
        "large.png": png(2**31 - 1, 2**31 - 1),
        "ninety.png": png(9500, 9500),
        "hollow.png": png(8, 8),
        "short.png": png(8, 8, rows=ROWS[:30]),
        "filter.png": png(8, 8, rows=(b"\x09" + bytes(8)) * 8),
        "depth.png": png(8, 8, bits=3, rows=ROWS),
        "crc.png": png(8, 8, rows=ROWS)[:30] + b"!" + png(8, 8, rows=ROWS)[31:],
        "text bomb.png": png(8, 8, rows=ROWS, more=text(bytes(10**7))),
        "text bombs.png": png(8, 8, rows=ROWS, more=b"".join(text(bytes(10**6), b"%d" % i) for i in range(80))),
        "screen.gif": gif_with_screen(65_535),
        "tags.tif": b"II*\0\x08\0\0\0\x01\0" + struct.pack("<HHII", 256, 3, 0xFFFFFFFF, 8) + bytes(4),
        "circle.tif": b"II*\0\x08\0\0\0\0\0\x08\0\0\0",
        "nowhere.tif": b"II*\0\xff\xff\xff\xff",
        "signed.tif": encoded(np.full((8, 8), -5, np.int32), "TIFF"),
        "wide.tif": encoded(np.full((8, 8), 70_000, np.int32), "TIFF"),
        "nan.tif": encoded(np.full((8, 8), np.nan, np.float32), "TIFF"),
        "high.tif": encoded(np.full((8, 8), 255, np.float32), "TIFF"),
    }
    for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM"):
        data = encoded(RGB, kind)
        # After their last pixel PNG, GIF and JPEG have an end mark only, without which they are whole.
        for part in (3, 11, len(data) // 2, len(data) - 26):
            found[f"cut at {part}.{kind.lower()}"] = data[:part]
    return found


DAMAGED = damaged()
READERS = {
    "image": partial(images.read_image, shape=SHAPE),
    "mask": partial(images.read_mask, shape=SHAPE),
    "alpha": partial(images.read_with_alpha, shape=SHAPE),
    "pixels": partial(images.read_pixels, shape=SHAPE),
    "source": partial(images.sources, channels=3, num=1),
    "pair": lambda file: PairFolder(folder=str(file.parent), size=(8, 8)).load("all"),
}


def one_line(read, file: Path) -> str:
    with pytest.raises(UserError) as error:
        read(file)
    assert str(file) in str(error.value) and "\n" not in str(error.value)
    return str(error.value)


def test_enough_is_tried():
    assert len(DAMAGED) >= 60


@pytest.mark.parametrize("reader", READERS)
def test_damaged_pictures_end_in_one_line(reader, tmp_path, capfd):
    for i, (name, data) in enumerate(DAMAGED.items()):
        if reader == "pair":
            name = Path(name).stem + ".png"  # other files are no pictures of the folder
        (folder := tmp_path / str(i)).mkdir()
        (file := folder / name).write_bytes(data)
        one_line(READERS[reader], file)
    assert capfd.readouterr() == ("", "")  # libtiff writes to the terminal by itself


@pytest.mark.parametrize("reader", [r for r in READERS if r != "pair"])
def test_only_regular_files_are_opened(reader, tmp_path):
    read = READERS[reader]
    os.mkfifo(pipe := tmp_path / "pipe.png")
    (loop := tmp_path / "loop.png").symlink_to(loop)
    (folder := tmp_path / "folder.png").mkdir()
    (through := tmp_path / "through.png").symlink_to("/dev/zero")
    for file in (pipe, loop, folder, through, Path("/dev/zero"), tmp_path / "no.png", tmp_path / ("x" * 300 + ".png")):
        one_line(read, file)
    with (large := tmp_path / "large.png").open("wb") as file:
        file.write(png(8, 8, rows=ROWS))
        file.truncate(MOST_BYTES + 1)
    assert "pictures have at most" in one_line(read, large)


def test_a_folder_of_pairs_holds_regular_files(tmp_path):
    makers = (os.mkfifo, os.mkdir, lambda file: os.symlink("/dev/zero", file), lambda file: os.symlink(file, file))
    for i, make in enumerate(makers):
        (tmp_path / str(i)).mkdir()
        make(file := tmp_path / str(i) / "a.png")
        one_line(READERS["pair"], file)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM"])
def test_changed_bytes(kind, tmp_path, capfd):
    """Bytes changed at random give a picture or one line."""
    rng, whole = np.random.default_rng(0), np.frombuffer(encoded(RGB, kind), np.uint8)
    file = tmp_path / f"a.{kind.lower()}"
    for i in range(100):
        data = whole.copy()
        data[rng.integers(min(len(data), 80 if i % 2 else len(data)), size=1 + i % 3)] = rng.integers(256)
        file.write_bytes(data.tobytes())
        try:
            assert images.sources(file, 3, 1).dtype == np.uint8
        except UserError as error:
            assert str(error).startswith(str(file)) and "\n" not in str(error)
    assert capfd.readouterr() == ("", "")


def test_odd_pictures_are_read_as_viewers_show_them(tmp_path):
    """Of each: the file, and the pixels that are to come out."""
    palette = chunk(b"PLTE", bytes([10, 20, 30, 40, 50, 60])) + chunk(b"tRNS", b"\0")
    two = png(2, 1, kind=3, rows=b"\0\0\1", more=palette)
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x02\xff\xff\xff\xff\0\x06"
    cmyk = np.zeros((8, 8, 4), np.uint8)
    cmyk[..., 1] = 255
    clear = np.dstack([RGB, np.zeros((8, 8), np.uint8)])
    cases = {
        "palette.png": (two, [[[255] * 3, [40, 50, 60]]]),
        "key.png": (
            png(2, 1, kind=2, rows=b"\0\1\2\3\4\5\6", more=chunk(b"tRNS", b"\0\1\0\2\0\3")),
            [[[255] * 3, [4, 5, 6]]],
        ),
        "bits.png": (png(9, 1, bits=1, rows=b"\0\xa5\x80"), [[[255 * b] * 3 for b in (1, 0, 1, 0, 0, 1, 0, 1, 1)]]),
        "clear.png": (encoded(clear, "PNG"), np.full(SHAPE, 255)),
        "grey alpha.png": (png(2, 1, kind=4, rows=b"\0\x40\xff\x40\0"), [[[64] * 3, [255] * 3]]),
        "deep.png": (encoded(np.full((8, 8), 32_896, np.uint16), "PNG"), np.full(SHAPE, 128)),
        "deep.tif": (encoded(np.full((8, 8), 32_896, ">u2"), "TIFF"), np.full(SHAPE, 128)),
        "deep key.png": (
            png(2, 1, bits=16, rows=b"\0\x80\x80\x01\x01", more=chunk(b"tRNS", b"\x80\x80")), [[[255] * 3, [1] * 3]]
        ),
        "deep.ppm": (b"P5 1 1 65535\n\x80\x80", [[[128] * 3]]),
        "unit.tif": (encoded(np.full((8, 8), 0.2, np.float32), "TIFF"), np.full(SHAPE, 51)),
        "ink.tif": (ink(cmyk), np.broadcast_to([255, 0, 255], SHAPE)),
        "first.gif": (
            encoded(GREY, "GIF", save_all=True, append_images=[Image.new("L", (8, 8))]), np.dstack([GREY] * 3)
        ),
        "first.png": (encoded(RGB, "PNG", save_all=True, append_images=[Image.new("RGB", (8, 8))]), RGB),
        "first.tif": (encoded(RGB, "TIFF", save_all=True, append_images=[Image.new("RGB", (5, 5))]), RGB),
        "exif.png": (encoded(RGB, "PNG", exif=exif), RGB),
        "noise.png": (encoded(RGB, "PNG", exif=b"Exif\0\0" + RGB.tobytes()), RGB),
        "no end.png": (encoded(RGB, "PNG")[:-12], RGB),
        "more.png": (encoded(RGB, "PNG") + bytes(1000), RGB),
        "other name.jpg": (encoded(RGB, "BMP"), RGB),
        "profile.png": (encoded(RGB, "PNG", icc_profile=b"no profile"), RGB),
    }  # fmt: skip
    for name, (data, pixels) in cases.items():
        (file := tmp_path / name).write_bytes(data)
        np.testing.assert_array_equal(images.sources(file, 3, 1)[0], pixels, err_msg=name)


def ink(cmyk: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.frombytes("CMYK", cmyk.shape[1::-1], cmyk.tobytes()).save(buffer, "TIFF")
    return buffer.getvalue()


MEASURE = f"""{PEAK}
import sys, warnings
from pathlib import Path
import numpy, PIL.Image
from jaxgen.errors import UserError
from jaxgen.runtime.picture import read_picture
PIL.Image.init()
before = peak()
for file in sys.argv[1:]:
    try:
        read_picture(Path(file), 3, "black")
    except UserError as error:
        assert str(error).startswith(file), error
print((peak() - before) // 1024)
"""


@pytest.mark.slow
def test_bombs_take_less_than_a_gibibyte(tmp_path):
    """The largest pictures that are read, of all kinds of pixels, each of few bytes; nothing but the result is said."""
    side = 8900
    (tmp_path / "deep.png").write_bytes(png(side, side, bits=16, rows=bytes((1 + 2 * side) * side)))
    exif = Image.Exif()
    exif[0x0112] = 6
    for mode in ("RGBA", "F", "CMYK"):
        Image.new(mode, (side, side)).save(tmp_path / f"{mode}.tif", compression="tiff_adobe_deflate", exif=exif)
    Image.new("RGB", (side, side)).save(tmp_path / "turned.jpg", exif=exif)
    for name in ("text bomb.png", "text bombs.png", "screen.gif", "large.png", "tags.tif"):
        (tmp_path / name).write_bytes(DAMAGED[name])
    files = sorted(str(file) for file in tmp_path.iterdir())
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, *files], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert int(done.stdout) < 1024
