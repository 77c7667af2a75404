"""Odd files in a folder of pictures: pixels of a slow reference, from bytes written by hand where Pillow cannot, or one
line that names file and cause. With those of test_image_folder.py they are more than a hundred."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image
from test_image_folder import SIZE, noise, resized, save

from jaxgen.data import ImageFolder
from jaxgen.errors import UserError

N = 16
RNG = np.random.default_rng(0)
RGB = noise(N, N)
DEEP = RNG.integers(0, 65536, (N, N, 3)).astype(np.uint16)
GREY = DEEP[..., 0]
TILES = np.indices((N, N)).sum(axis=0) % 2 > 0
ALPHA = RNG.integers(0, 256, (N, N, 1), dtype=np.uint8)
OVER = np.rint(RGB * (ALPHA / 255) + 255 - ALPHA)
BITS = RNG.integers(0, 2, (N, N), dtype=np.uint8)
PAIRS = RNG.integers(0, 4, (N, N), dtype=np.uint8)
PALETTE = RNG.integers(0, 256, (4, 3), dtype=np.uint8)
SMOOTH = np.stack(np.broadcast_arrays(np.arange(N)[:, None] * 12, np.arange(N) * 12, 100), axis=-1).astype(np.uint8)
INK = np.concatenate([(255 - SMOOTH) // 2, np.full((N, N, 1), 60, np.uint8)], axis=-1)
INKED = np.rint((255 - INK[..., :3].astype(float)) * (195 / 255))


def three(grey: np.ndarray) -> np.ndarray:
    return np.repeat(grey[..., None], 3, axis=-1)


def bytes_of(values: np.ndarray) -> np.ndarray:
    """16 bits to 8."""
    return np.rint(values / 257)


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(kind: int, depth: int, values: np.ndarray, clear: tuple[int, ...] | bytes = (), palette: bytes = b"") -> bytes:
    """A PNG of rows of N pixels. clear: the colour that is transparent, or the alpha of each of a palette's colours."""
    data = zlib.compress(b"".join(b"\0" + row.tobytes() for row in values))
    key = clear if isinstance(clear, bytes) else struct.pack(f">{len(clear)}H", *clear)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", N, len(values), depth, kind, 0, 0, 0))
        + (chunk(b"PLTE", palette) if palette else b"") + (chunk(b"tRNS", key) if key else b"")
        + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )  # fmt: skip


def big_endian(*channels: np.ndarray) -> np.ndarray:
    return np.concatenate([c.reshape(N, N, -1) for c in channels], axis=-1).astype(">u2")


def written(pixels: np.ndarray, kind: str, mode: str | None = None, **settings) -> bytes:
    """By Pillow."""
    image = Image.fromarray(np.ascontiguousarray(pixels))
    if mode:
        image = Image.frombytes(mode, image.size, pixels.tobytes())
    image.save(buffer := io.BytesIO(), kind, **settings)
    return buffer.getvalue()


def frames(kind: str, **settings) -> bytes:
    return written(RGB, kind, save_all=True, append_images=[Image.fromarray(255 - RGB)], **settings)


DEEP_ALPHA = np.where(TILES, 65535, 0)
PACKED = (PAIRS.reshape(N, N // 4, 4) @ np.array([64, 16, 4, 1])).astype(np.uint8)
FOUR = bytes([0, 85, 170, 255])
CLEARED = np.rint(PALETTE * (np.array([*FOUR]) / 255)[:, None] + 255 - np.array([*FOUR])[:, None])
LEVELS = PAIRS * 80
COARSE = np.stack([LEVELS, LEVELS[::-1], LEVELS.T], axis=-1)
BEST = {"quality": 100, "subsampling": 0}
WIDE = noise(3, 5000) // 2 + 64
READ: dict[str, tuple[bytes, np.ndarray]] = {
    "rgb16.png": (png(2, 16, big_endian(DEEP)), bytes_of(DEEP)),
    "rgba16.png": (png(6, 16, big_endian(DEEP, DEEP_ALPHA)), np.where(TILES[..., None], bytes_of(DEEP), 255)),
    "la16.png": (png(4, 16, big_endian(GREY, DEEP_ALPHA)), three(np.where(TILES, bytes_of(GREY), 255))),
    "l16_clear.png": (
        png(0, 16, big_endian(GREY), (int(GREY[8, 8]),)), three(np.where(GREY[8, 8] == GREY, 255, bytes_of(GREY))),
    ),
    "rgb16_clear.png": (
        png(2, 16, big_endian(DEEP), tuple(map(int, DEEP[8, 8]))),
        np.where((DEEP[8, 8] == DEEP).all(axis=-1, keepdims=True), 255, bytes_of(DEEP)),
    ),
    "rgb_clear.png": (
        png(2, 8, COARSE, tuple(map(int, COARSE[8, 8]))),
        np.where((COARSE[8, 8] == COARSE).all(axis=-1, keepdims=True), 255, COARSE),
    ),
    "l_clear.png": (png(0, 8, LEVELS, (80,)), three(np.where(LEVELS == 80, 255, LEVELS))),
    "one_bit.png": (png(0, 1, np.packbits(BITS, axis=1)), three(BITS * 255)),
    "one_bit_clear.png": (png(0, 1, np.packbits(BITS, axis=1), (0,)), np.full((N, N, 3), 255)),
    "two_bits.png": (png(0, 2, PACKED), three(PAIRS * 85)),
    "palette_two_bits.png": (png(3, 2, PACKED, palette=PALETTE.tobytes()), PALETTE[PAIRS]),
    "palette_half_clear.png": (png(3, 2, PACKED, FOUR, PALETTE.tobytes()), CLEARED[PAIRS]),
    "half_clear.png": (written(np.concatenate([RGB, ALPHA], axis=-1), "PNG"), OVER),
    "half_clear.webp": (written(np.concatenate([RGB, ALPHA], axis=-1), "WEBP", lossless=True, exact=True), OVER),
    "la.tif": (
        written(np.stack([RGB[..., 0], TILES * np.uint8(255)], axis=-1), "TIFF"),
        three(np.where(TILES, RGB[..., 0], 255)),
    ),
    "cmyk.jpg": (written(INK, "JPEG", "CMYK", **BEST), INKED),
    "cmyk.tif": (written(INK, "TIFF", "CMYK"), INKED),
    "grey.jpg": (written(SMOOTH[..., 0], "JPEG", quality=100), three(SMOOTH[..., 0])),
    "progressive.jpg": (written(SMOOTH, "JPEG", progressive=True, **BEST), SMOOTH),
    "a JPEG called.png": (written(SMOOTH, "JPEG", **BEST), SMOOTH),
    "frames.webp": (frames("WEBP", lossless=True), RGB),
    "frames.png": (frames("PNG"), RGB),
    "pages.tif": (frames("TIFF"), RGB),
    "lzw.tif": (written(RGB, "TIFF", compression="tiff_lzw"), RGB),
    "fax.tif": (written(BITS > 0, "TIFF", compression="group4"), three(BITS * 255)),
    "16.tif": (written(GREY, "TIFF"), three(bytes_of(GREY))),
    "32.tif": (written(GREY.astype(np.int32), "TIFF"), three(bytes_of(GREY))),
    "float.tif": (written(GREY.astype(np.float32) / 65535, "TIFF"), three(bytes_of(GREY))),
    "16.pgm": (b"P5 16 16 65535\n" + GREY.astype(">u2").tobytes(), three(bytes_of(GREY))),
    "10.pgm": (b"P5 16 16 1023\n" + (GREY // 64).astype(">u2").tobytes(), three(GREY // 64 * (255 / 1023))),
    "16.ppm": (b"P6 16 16 65535\n" + DEEP.astype(">u2").tobytes(), bytes_of(DEEP)),
    "words.pgm": (b"P2\n16 16\n255\n" + " ".join(map(str, RGB[..., 0].flat)).encode(), three(RGB[..., 0])),
    "bits.pbm": (b"P4 16 16\n" + np.packbits(BITS, axis=1).tobytes(), three(255 * (1 - BITS))),
    "wide.png": (written(WIDE, "PNG"), WIDE),
    "high.png": (written(WIDE.swapaxes(0, 1), "PNG"), WIDE.swapaxes(0, 1)),
    "half a pixel.png": (written(WIDE[:, :4], "PNG"), WIDE[:, :4]),
    "1 x 1.png": (written(RGB[:1, :1], "PNG"), RGB[:1, :1]),
}  # fmt: skip
UPRIGHT = noise(12, 20) // 2 + 64
TURNED = [
    UPRIGHT, UPRIGHT[:, ::-1], UPRIGHT[::-1, ::-1], UPRIGHT[::-1], UPRIGHT.swapaxes(0, 1),
    UPRIGHT[:, ::-1].swapaxes(0, 1), UPRIGHT[::-1, ::-1].swapaxes(0, 1), UPRIGHT[::-1].swapaxes(0, 1),
]  # fmt: skip
for ending, kind, how in (("jpg", "JPEG", BEST), ("webp", "WEBP", {"lossless": True}), ("tif", "TIFF", {})):
    for turn, stored in enumerate(TURNED, start=1):
        exif = Image.Exif()
        exif[0x0112] = turn
        READ[f"turned {turn}.{ending}"] = (written(stored, kind, exif=exif, **how), UPRIGHT)

NAN = RGB[..., 0].astype(np.float32) / 255
NAN[3, 3] = np.nan
REFUSED = {
    "beyond 16 bits.tif": (written(GREY.astype(np.int32) * 9, "TIFF"), "values from"),
    "negative.tif": (written(-GREY.astype(np.int32), "TIFF"), "values from"),
    "beyond one.tif": (written(GREY.astype(np.float32), "TIFF"), "values from"),
    "nan.tif": (written(NAN, "TIFF"), "values from nan"),
    "cut.jpg": (written(noise(64, 64), "JPEG")[:2000], "truncated"),
    "cut.webp": (written(RGB, "WEBP", lossless=True)[:200], "cannot be read"),
    "cut.tif": (written(RGB, "TIFF")[:500], "cannot be read"),
    "cut.ppm": (b"P6 16 16 255\n" + bytes(100), "cannot be read"),
    "no pixels.pgm": (b"P5 0 16 255\n", "cannot be read"),
    "head.jpg": (b"\xff\xd8\xff\xe0", "cannot be read"),
    "page.webp": (b"<!DOCTYPE html><title>404</title>", "its kind is unknown"),
    "vectors.png": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "its kind is unknown"),
    "icon.bmp": (written(RGB, "ICO"), "its kind is unknown"),
}  # fmt: skip


def read(folder, name: str, data: bytes) -> np.ndarray:
    """uint8[SIZE, SIZE, 3] of the only training picture of a folder."""
    save(folder, "test/plain.png", noise(SIZE, SIZE))
    (folder / "train").mkdir()
    (folder / "train" / name).write_bytes(data)
    return ImageFolder(folder=str(folder), size=SIZE, label="none").arrays("train")["x"][0]


@pytest.mark.parametrize("name", READ)
def test_odd_pictures_have_the_pixels_of_the_reference(name, tmp_path):
    data, shown = READ[name]
    # 100 % quality still rounds in JPEG's own colours.
    by = 3 if data[:2] == b"\xff\xd8" else 1
    assert np.abs(read(tmp_path, name, data).astype(int) - resized(shown)).max() <= by


@pytest.mark.parametrize("name", REFUSED)
def test_pictures_that_cannot_be_read_are_one_line(name, tmp_path):
    data, words = REFUSED[name]
    with pytest.raises(UserError, match=words) as error:
        read(tmp_path, name, data)
    assert str(tmp_path / "train" / name) in str(error.value) and "\n" not in str(error.value)
