"""A folder of pictures: files of every kind against a slow reference, splits, classes, captions, and wrong folders."""

import dataclasses
import json
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hostile import png
from PIL import Image, ImageOps

from jaxgen.codecs import Augmented, Pixels
from jaxgen.data import Captioned, ImageFolder, image_folder
from jaxgen.errors import UserError

SIZE = 8


def noise(height: int, width: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def save(folder: Path, name: str, pixels: np.ndarray | Image.Image, **settings) -> Path:
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    image = (
        pixels
        if isinstance(pixels, Image.Image)
        else Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    )
    image.save(file, **settings)
    return file


def one(folder: Path, **settings) -> np.ndarray:
    """The only picture of a folder but for the plain one that is held out beside it, uint8[size, size, C]."""
    data = ImageFolder(folder=str(folder), size=SIZE, label="none", **settings)
    return data.arrays("train")["x"][0]


@pytest.fixture
def folder(tmp_path):
    """Held-out pictures, so that `train` has what a test puts there alone."""
    save(tmp_path, "test/plain.png", noise(SIZE, SIZE))
    (tmp_path / "train").mkdir()
    return tmp_path


def lanczos(values: np.ndarray, size: int, low: float = 0, high: float = 0) -> np.ndarray:
    """The rows of f64[N, ...] from low to high resampled to `size` by Lanczos' kernel of 3 lobes, as wide as a new
    pixel is, sum by sum. Rows beyond the ends count where the kernel reaches them."""
    length, high = len(values), high or len(values)
    scale = (high - low) / size
    wide = max(1.0, scale)
    out = []
    for i in range(size):
        centre = low + (i + 0.5) * scale
        places = np.arange(max(0, int(centre - 3 * wide + 0.5)), min(length, int(centre + 3 * wide + 0.5)))
        x = (places + 0.5 - centre) / wide
        weights = np.where(np.abs(x) < 3, np.sinc(x) * np.sinc(x / 3), 0)
        out.append(np.tensordot(weights / weights.sum(), values[places], 1))
    return np.clip(np.rint(np.stack(out)), 0, 255)


def resized(pixels: np.ndarray, size: int = SIZE) -> np.ndarray:
    """By the short side, of which the middle is kept."""
    height, width = pixels.shape[:2]
    side = min(height, width)
    (top, bottom), (left, right) = (((n - side) / 2, (n + side) / 2) for n in (height, width))
    columns = lanczos(np.swapaxes(pixels.astype(np.float64), 0, 1), size, left, right)
    return lanczos(np.swapaxes(columns, 0, 1), size, top, bottom)


def close(a: np.ndarray, b: np.ndarray, by: int = 1) -> None:
    assert np.abs(a.astype(int) - b.astype(int)).max() <= by


@pytest.mark.parametrize("shape", [(8, 8), (32, 32), (20, 12), (12, 40), (1, 1), (3, 5), (2, 600)])
def test_pictures_are_cropped_and_resampled_as_the_slow_reference_does(shape, folder):
    pixels = noise(*shape) // 2 + 64  # so that the order of the axes does not matter, as no overshoot is clipped
    save(folder, "train/a.png", pixels)
    close(one(folder), resized(pixels))


@pytest.mark.parametrize("turn", range(1, 9))
def test_exif_turns_pictures_upright(turn, folder):
    upright = noise(12, 20)
    stored = [
        upright, upright[:, ::-1], upright[::-1, ::-1], upright[::-1], upright.swapaxes(0, 1),
        upright[:, ::-1].swapaxes(0, 1), upright[::-1, ::-1].swapaxes(0, 1), upright[::-1].swapaxes(0, 1),
    ][turn - 1]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = turn
    assert np.array_equal(ImageOps.exif_transpose(Image.open(save(folder, "train/a.png", stored, exif=exif))), upright)
    close(one(folder), resized(upright))


def kinds() -> dict[str, tuple[str, Image.Image, np.ndarray, dict]]:
    """By name: file, picture, and what it shows over white."""
    rgb, grey = noise(16, 16), noise(16, 16, 1)
    alpha = np.where(np.indices((16, 16)).sum(axis=0)[..., None] % 2, 255, 0).astype(np.uint8)
    over = np.where(alpha > 0, rgb, 255)
    deep = grey[..., 0].astype(np.uint16) * 257
    palette = Image.fromarray(rgb // 64 * 64).quantize(64)
    clear = palette.copy()
    clear.info["transparency"] = 0
    index = np.asarray(palette)[..., None]
    shown = np.asarray(palette.convert("RGB"))
    three = np.repeat(grey, 3, axis=-1)
    frames = [Image.fromarray(np.full((16, 16, 3), level, np.uint8)) for level in (10, 200)]
    return {
        "RGB": ("a.png", Image.fromarray(rgb), rgb, {}),
        "RGBA": ("a.png", Image.fromarray(np.concatenate([rgb, alpha], axis=-1)), over, {}),
        "grey": ("a.png", Image.fromarray(grey[..., 0]), three, {}),
        "grey and alpha": ("a.png", Image.fromarray(np.concatenate([grey, alpha], axis=-1)),
                           np.where(alpha > 0, three, 255), {}),
        "16 bits": ("a.png", Image.fromarray(deep), three, {}),
        "16 bits TIFF": ("a.tif", Image.fromarray(deep), three, {}),
        "float TIFF": ("a.tiff", Image.fromarray(grey[..., 0].astype(np.float32) / 255), three, {}),
        "one bit": ("a.png", Image.fromarray(grey[..., 0] > 127), np.where(three > 127, 255, 0), {}),
        "palette": ("a.png", palette, shown, {}),
        "palette with transparency": ("a.png", clear, np.where(index == 0, 255, shown), {"transparency": 0}),
        "CMYK": ("a.tif", Image.fromarray(rgb).convert("CMYK"), rgb, {}),
        "WebP": ("a.webp", Image.fromarray(rgb), rgb, {"lossless": True}),
        "BMP": ("a.bmp", Image.fromarray(rgb), rgb, {}),
        "PPM": ("a.ppm", Image.fromarray(rgb), rgb, {}),
        "GIF of two frames": ("a.gif", frames[0], np.full((16, 16, 3), 10),
                              {"save_all": True, "append_images": frames[1:]}),
        "upper case": ("A.PNG", Image.fromarray(rgb), rgb, {}),
        "spaces and unicode": ("a b/ä 猫.png", Image.fromarray(rgb), rgb, {}),
    }  # fmt: skip


@pytest.mark.parametrize("name", kinds())
def test_kinds_of_pictures_are_read_as_a_viewer_shows_them(name, folder):
    file, image, shown, settings = kinds()[name]
    save(folder, f"train/{file}", image, **settings)
    close(one(folder), resized(shown))


def test_jpegs_are_read(folder):
    smooth = np.broadcast_to(np.arange(16, dtype=np.uint8)[:, None, None] * 12, (16, 16, 3))
    save(folder, "train/a.jpg", np.array(smooth), quality=95)
    close(one(folder), resized(smooth), by=6)


def test_what_is_no_picture_is_passed_over(folder):
    save(folder, "train/a.png", noise(8, 8))
    save(folder, "train/.hidden.png", noise(8, 8))
    save(folder, "train/.cache/b.png", noise(8, 8))
    (folder / "train" / "notes.txt").write_text("not a caption of any picture")
    (folder / "train" / "Thumbs.db").write_bytes(b"\0")
    (folder / "train" / "again").symlink_to(folder / "train")
    assert ImageFolder(folder=str(folder), size=SIZE, label="none").count("train") == 1


HEAD = 33
"""Bytes of a PNG up to its pixels."""
WHOLE = (lambda b: (Image.fromarray(noise(64, 64)).save(b, "PNG"), b.getvalue())[1])(__import__("io").BytesIO())
CORRUPT = {
    "empty": b"", "text": b"this is no picture", "cut": WHOLE[: len(WHOLE) // 2], "head": png(8, 8, kind=2)[:HEAD],
    "bomb": png(50_000, 50_000, kind=2)[:HEAD], "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n",
    "changed": WHOLE[:60] + bytes(40) + WHOLE[100:], "BMP": b"BM" + bytes(60), "TIFF": b"II*\0\x08\0\0\0\xff\xff",
    "GIF": b"GIF89a" + bytes(8), "zip": b"PK\x03\x04" + bytes(40),
}  # fmt: skip


@pytest.mark.parametrize("name", CORRUPT)
def test_a_corrupt_picture_is_named_or_left_out(name, folder, capsys):
    save(folder, "train/a.png", noise(8, 8))
    (bad := folder / "train" / "bad.png").write_bytes(CORRUPT[name])
    data = ImageFolder(folder=str(folder), size=SIZE, label="none")
    with pytest.raises(UserError) as error:
        data.arrays("train")
    assert str(bad) in str(error.value) and "\n" not in str(error.value)
    skipping = dataclasses.replace(data, skip_corrupt=True)
    assert skipping.count("train") == 1
    said = capsys.readouterr().err
    assert said.startswith("1 of 2 pictures are left out") and str(bad) in said and said.count("\n") == 1


def test_ways_to_make_a_square(folder):
    wide = noise(8, 16)
    save(folder, "train/a.png", wide)
    padded = one(folder, fit="pad", background="black")
    assert not padded[:2].any() and not padded[6:].any() and padded[2:6].any()
    stretched = np.swapaxes(lanczos(np.swapaxes(wide.astype(np.float64), 0, 1), 8), 0, 1)
    close(one(folder, fit="stretch"), stretched)
    assert one(folder, channels=1).shape == (SIZE, SIZE, 1)


# --- splits, classes, captions ---


def plain(folder: Path, names: list[str]) -> ImageFolder:
    for i, name in enumerate(names):
        save(folder, name, noise(8, 8, seed=i))
    return ImageFolder(folder=str(folder), size=SIZE)


def test_a_tenth_is_held_out_whatever_else_is_there(tmp_path):
    data = plain(tmp_path, [f"{i}.png" for i in range(100)])
    assert 3 <= data.count("test") <= 25 and data.count("train") + data.count("test") == 100 == data.count("all")
    held = {e.name for e in data._entries("test")}
    image_folder.index.cache_clear()
    more = plain(tmp_path, [f"more{i}.png" for i in range(30)])
    assert held == {e.name for e in more._entries("test")} & {f"{i}.png" for i in range(100)}
    assert data.class_names == ()


def test_classes_are_folders_or_a_column(tmp_path):
    names = [f"{kind}/{i}.png" for kind in ("dog", "cat") for i in range(20)]
    data = plain(tmp_path, names)
    assert data.class_names == ("cat", "dog")
    expected = [("cat", "dog").index(e.folder) for e in data._entries("train")]
    np.testing.assert_array_equal(data.arrays("train")["cond"], expected)
    rows = [{"file_name": n, "text": f"a {n[:3]}", "size": "large" if i % 3 else "small"} for i, n in enumerate(names)]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    image_folder.index.cache_clear()
    by_size = dataclasses.replace(data, label="size")
    assert by_size.class_names == ("large", "small") and by_size.captions("train")[0] in ("a cat", "a dog")
    (tmp_path / "metadata.jsonl").unlink()
    lines = ["file_name,text,size", *(f'{r["file_name"]},"{r["text"]}, so",{r["size"]}' for r in rows)]
    (tmp_path / "metadata.csv").write_text("\ufeff" + "\r\n".join(lines))
    image_folder.index.cache_clear()
    assert by_size.class_names == ("large", "small") and by_size.captions("train")[0] in ("a cat, so", "a dog, so")


def test_captions_beside_pictures(tmp_path):
    data = plain(tmp_path, [f"{i}.png" for i in range(12)])
    for i in range(12):
        (tmp_path / f"{i}.txt").write_text(f"number\n {i} \n")
    image_folder.index.cache_clear()
    names = [e.name for e in data._entries("train")]
    assert data.captions("train") == tuple(f"number {n.removesuffix('.png')}" for n in names)


def test_a_missing_caption_is_told_before_a_picture_is_decoded(tmp_path, monkeypatch):
    data = plain(tmp_path, [f"{i}.png" for i in range(12)])
    for i in range(10):
        (tmp_path / f"{i}.txt").write_text(f"number {i}")
    image_folder.index.cache_clear()
    monkeypatch.setattr(image_folder, "_read", lambda *_: pytest.fail("decoded"))
    with pytest.raises(UserError, match=r"10\.png has no caption \(2 pictures have none\): add it to metadata\.jsonl"):
        Captioned(data=data).load("train")


def test_corrupt_pictures_are_all_named(folder):
    for i in range(4):
        save(folder, f"train/{i}.png", noise(8, 8))
    for i in range(3):
        (folder / f"train/bad{i}.png").write_bytes(b"no")
    with pytest.raises(UserError, match=r"^3 of 7 pictures cannot be decoded: .*bad0.*bad1.*bad2"):
        ImageFolder(folder=str(folder), size=SIZE, label="none").arrays("train")


WRONG = {
    "nothing": (lambda f: None, {}, "no pictures"),
    "one picture": (lambda f: plain(f, ["a.png"]), {}, "1 pictures|1 held out"),
    "no such column": (lambda f: plain(f, ["a/1.png", "b/2.png"]), {"label": "size"}, "there is none"),
    "one class": (lambda f: plain(f, ["a/1.png", "a/2.png"]), {"label": "folder"}, "of one class"),
    "a picture alone": (lambda f: plain(f, ["a/1.png", "b/1.png", "c.png"]), {"label": "folder"}, "no folder of"),
    "a link to nothing": (lambda f: (plain(f, ["a.png", "b.png"]), (f / "c.png").symlink_to("d.png")), {}, "No such"),
    "missing file": (
        lambda f: (plain(f, ["a.png", "b.png"]), (f / "metadata.jsonl").write_text('{"file_name": "c.png"}')), {},
        "'c.png'",
    ),
    "broken line": (
        lambda f: (plain(f, ["a.png", "b.png"]), (f / "metadata.jsonl").write_text('{"file_name": ')), {}, "1 lines",
    ),
    "no file_name": (
        lambda f: (plain(f, ["a.png", "b.png"]), (f / "metadata.csv").write_text("text\nx")), {}, "file_name is None",
    ),
    "a pipe": (lambda f: (plain(f, ["a.png", "b.png"]), os.mkfifo(f / "c.png")), {}, "a pipe"),
    "metadata that are a pipe": (lambda f: (plain(f, ["a.png", "b.png"]), os.mkfifo(f / "metadata.csv")), {}, "a pipe"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_folder_is_one_line(name, tmp_path):
    make, settings, words = WRONG[name]
    make(tmp_path)
    image_folder.index.cache_clear()
    with pytest.raises(UserError, match=words) as error:
        ImageFolder(folder=str(tmp_path), size=SIZE, **settings).arrays("all")
    assert "\n" not in str(error.value)


# --- augmentation ---


def test_flips_and_shifts_are_of_training_alone_and_by_the_key():
    x = jnp.asarray(np.stack([noise(6, 6, seed=i) for i in range(64)]))
    codec = Augmented(Pixels(), flip=True, shift=1)
    moved, again = (np.asarray(jax.jit(codec.encode)({"x": x}, jax.random.key(0))["x"]) for _ in range(2))
    plain = np.asarray(Pixels().encode({"x": x}, jax.random.key(0))["x"])
    np.testing.assert_array_equal(moved, again)
    padded = np.pad(plain, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="symmetric")
    found = set()
    for i in range(len(x)):
        ways = {
            (top, left, flip): padded[i, top : top + 6, left : left + 6][:, :: -1 if flip else 1]
            for top in range(3) for left in range(3) for flip in (0, 1)
        }  # fmt: skip
        (way,) = [way for way, image in ways.items() if np.array_equal(image, moved[i])]
        found.add(way)
    assert len(found) > 12, "ways are drawn for each picture"
    assert ImageFolder(folder="x").augmented(Pixels()) == Pixels()
    assert ImageFolder(folder="x", flip=True).augmented(Pixels()) == Augmented(Pixels(), True, 0)
