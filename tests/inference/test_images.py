"""Pictures that a model starts from, and pictures that are written."""

import os
from pathlib import Path

import numpy as np
import pytest
from hostile import png
from PIL import Image
from safetensors.numpy import load_file
from small_runs import smoke_run

from jaxgen import __main__ as commands
from jaxgen.errors import UserError
from jaxgen.inference import images

SHAPE = (8, 8, 1)


def save(pixels, file: Path, **options) -> Path:
    Image.fromarray(pixels).save(file, **options)
    return file


def with_alpha(grey: int, opaque: np.ndarray) -> np.ndarray:
    """uint8[H, W, 4] of one grey, opaque where `opaque`, bool[H, W], is true."""
    pixels = np.full((*opaque.shape, 4), grey, np.uint8)
    pixels[..., 3] = 255 * opaque
    return pixels


@pytest.fixture
def left():
    """bool[8, 8], true in the left half."""
    return np.broadcast_to(np.arange(8) < 4, (8, 8))


# --- reading ---


def test_pictures_lie_over_white_and_stand_upright(tmp_path, left):
    clear = save(with_alpha(40, left), tmp_path / "clear.png")
    np.testing.assert_array_equal(images.read_image(clear, SHAPE)[..., 0], np.where(left, 40, 255))
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees: the first column was the last row
    pixels = np.arange(12, dtype=np.uint8).reshape(4, 3)
    turned = save(pixels, tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(images.read_image(turned, (3, 4, 1))[..., 0], np.rot90(pixels, -1))
    with pytest.raises(UserError, match=r"turned\.png is 4 x 3, the model draws 3 x 4"):
        images.read_image(turned, (4, 3, 1))


def test_sixteen_bits_and_floats_are_scaled(tmp_path):
    deep = save(np.full((8, 8), 32_896, np.uint16), tmp_path / "deep.png")
    assert np.all(images.read_image(deep, SHAPE) == 128)
    assert np.all(images.sources(deep, 3, 2) == np.full((2, 8, 8, 3), 128))
    unit = save(np.full((8, 8), 0.2, np.float32), tmp_path / "unit.tif")
    assert np.all(images.read_image(unit, (8, 8, 3)) == 51)


def test_transparent_parts_of_a_mask_are_black(tmp_path, left):
    for mode in ("RGBA", "LA"):
        file = tmp_path / f"{mode}.png"
        Image.fromarray(with_alpha(255, ~left)).convert(mode).save(file)
        np.testing.assert_array_equal(images.read_mask(file, SHAPE)[..., 0], left)
    plain = save(np.where(left, 0, 65_535).astype(np.uint16), tmp_path / "deep.png")
    np.testing.assert_array_equal(images.read_mask(plain, (8, 8, 3))[..., 0], left)


def test_the_transparency_of_a_picture_is_a_mask(tmp_path, left):
    """Colours stay those of the file where alpha is at least 128."""
    pixels = with_alpha(40, left)
    pixels[0, :, 3] = [127, 128, 254, 255, 1, 0, 129, 200]
    image, stays = images.read_with_alpha(save(pixels, tmp_path / "a.png"), SHAPE)
    assert image.shape == SHAPE and np.all(image == 40)
    np.testing.assert_array_equal(stays[0, :, 0], [False, True, True, True, False, False, True, True])
    np.testing.assert_array_equal(stays[1:, :, 0], left[1:])
    for opaque in (with_alpha(40, np.ones((8, 8), bool)), pixels[..., :3]):
        with pytest.raises(UserError, match=r"b\.png has no transparent parts"):
            images.read_with_alpha(save(np.ascontiguousarray(opaque), tmp_path / "b.png"), SHAPE)


def test_a_model_of_other_data_takes_no_picture(tmp_path):
    file = save(np.zeros((8, 8), np.uint8), tmp_path / "a.png")
    for shape in ((8, 8), (8, 8, 2)):
        with pytest.raises(UserError, match="no picture in a file"):
            images.read_image(file, shape)


def test_pixels_are_read_without_loss(tmp_path, monkeypatch):
    """In one opening: a file that changes between two of them would pass the check with other pixels."""
    rgb = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    grey = np.repeat(rgb[..., :1], 3, axis=-1)
    opened = []
    real = os.open
    monkeypatch.setattr(os, "open", lambda path, *rest, **more: (opened.append(path), real(path, *rest, **more))[1])
    for name in ("a.png", "a.bmp", "a.ppm", "a.tif", "a.gif"):
        file = save(grey if name == "a.gif" else rgb, tmp_path / name)
        opened.clear()
        expected = grey if name == "a.gif" else rgb
        np.testing.assert_array_equal(images.read_pixels(file, (8, 8, 3)), expected)
        assert opened == [file]
    np.testing.assert_array_equal(images.read_pixels(save(grey, tmp_path / "grey.png"), SHAPE), grey[..., :1])


def test_a_picture_that_would_lose_something_is_refused(tmp_path, left):
    def file(name: str) -> Path:
        return tmp_path / name

    save(np.full((8, 8, 3), (255, 0, 0), np.uint8), file("red.png"))
    save(np.full((8, 8), 7000, np.uint16), file("deep.png"))
    save(np.full((8, 8), 0.5, np.float32), file("float.tif"))
    save(with_alpha(40, left), file("clear.png"))
    file("deep.ppm").write_bytes(b"P6 8 8 65535\n" + bytes([1, 2]) * (3 * 64))
    file("deep-rgb.png").write_bytes(png(8, 8, bits=16, kind=2, rows=(b"\0" + bytes([1, 2]) * 24) * 8))
    frames = [Image.fromarray(np.full((8, 8), value, np.uint8)) for value in (0, 100)]
    for name in ("two.gif", "two.png", "two.tif"):
        frames[0].save(file(name), save_all=True, append_images=frames[1:])
    for path in sorted(tmp_path.iterdir()):
        shape = SHAPE if path.name in ("red.png", "two.gif", "two.png", "two.tif") else (8, 8, 3)
        with pytest.raises(UserError, match=rf"{path.name} does not fit into . channels of 8 bits: convert it first"):
            images.read_pixels(path, shape)
    save(np.full((8, 8), True), file("white.png"))
    assert np.all(images.read_pixels(file("white.png"), SHAPE) == 255)


# --- writing ---


def test_a_picture_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    grey = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 1), dtype=np.uint8)
    images.save_each(tmp_path / "new" / "folder", grey)
    for i in range(2):
        np.testing.assert_array_equal(images.read_pixels(tmp_path / "new" / "folder" / f"{i}.png", SHAPE), grey[i])

    def full(self, data):
        self.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    before = (tmp_path / "new" / "folder" / "0.png").read_bytes()
    for name in ("0.png", "2.png"):
        with pytest.raises(UserError, match=rf"{name} cannot be written \(No space left on device\)"):
            images.save_image(grey[1], tmp_path / "new" / "folder" / name)
    assert sorted(p.name for p in (tmp_path / "new" / "folder").iterdir()) == ["0.png", "1.png"]
    assert (tmp_path / "new" / "folder" / "0.png").read_bytes() == before


def test_places_that_hold_no_picture(tmp_path):
    grey = np.zeros(SHAPE, np.uint8)
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "file").touch()
    (loop := tmp_path / "loop").symlink_to(loop)
    for place in ("folder.png", "file/a.png", f"{'x' * 252}.png", "loop/a.png"):
        with pytest.raises(UserError, match="cannot be written") as error:
            images.save_image(grey, tmp_path / place)
        assert str(error.value).startswith(str(tmp_path / place)) and "\n" not in str(error.value)
    with pytest.raises(UserError, match=r"ends in \.png"):
        images.save_image(grey, tmp_path / "a.jpg")
    assert not list(tmp_path.glob(".*"))


# --- the command ---


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return smoke_run("ddpm", tmp_path_factory.mktemp("images") / "run")


def sample(run: Path, *flags) -> np.ndarray:
    commands.call(["sample", str(run), "--out", str(run / "out"), "--num", "2", *map(str, flags)])
    return load_file(run / "out" / "samples.safetensors")["x"][..., 0]


def test_filling_in_keeps_what_stays(run, tmp_path, left, monkeypatch):
    """Of a 16-bit picture under a mask that is white over transparency, and of a picture's own transparent parts."""
    monkeypatch.setenv("HOME", str(tmp_path))
    values = np.random.default_rng(0).integers(0, 65_536, (8, 8), dtype=np.uint16)
    values[:, 0] = 32_896
    save(values, tmp_path / "deep.png")
    save(with_alpha(255, ~left), tmp_path / "mask.png")
    x = sample(run, "--image", "~/deep.png", "--mask", "~/mask.png")
    assert np.all(x[:, :, 0] == 128)
    np.testing.assert_array_equal(x[:, :, :4], np.broadcast_to(np.rint(values / 257)[:, :4], (2, 8, 4)))
    assert len(np.unique(x[:, :, 4:], axis=0)) == 2
    save(with_alpha(77, left), tmp_path / "clear.png")
    x = sample(run, "--image", "~/clear.png", "--alpha")
    assert np.all(x[:, :, :4] == 77) and len(np.unique(x[:, :, 4:], axis=0)) == 2


def test_alpha_needs_a_transparent_picture_and_no_mask(run, tmp_path):
    opaque = save(np.zeros((8, 8), np.uint8), tmp_path / "opaque.png")
    for flags, words in (
        (("--alpha",), "give --image, and no --mask"),
        (("--alpha", "--image", opaque, "--mask", opaque), "give --image, and no --mask"),
        (("--alpha", "--image", opaque), "no transparent parts"),
        (("--image", opaque, "--between", 2), "leave one out"),
    ):
        with pytest.raises(UserError, match=words):
            sample(run, *flags)
