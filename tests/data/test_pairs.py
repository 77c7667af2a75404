"""Pairs of pictures: matching, splits, and how a wrong folder is refused."""

import re
import threading
import time

import numpy as np
import pytest
from hostile import chunk, png
from PIL import Image

from jaxgen.data import Digits, Emoji, EmojiEdges, PairFolder, RandomAccess, ShrunkPairs, area_resize, pairs
from jaxgen.data.edges import canny
from jaxgen.errors import UserError
from jaxgen.runtime import picture

RED, BLUE = (255, 0, 0), (0, 0, 255)


def write(file, colour, size=(6, 4), mode="RGB"):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(file)


def two_folders(folder, names, **fields):
    """Sources of grey level i and targets of level 100 + i."""
    for i, name in enumerate(names):
        write(folder / "sources" / f"{name}.png", (i, i, i))
        write(folder / "targets" / f"{name}.bmp", (100 + i, 100 + i, 100 + i))
    return PairFolder(folder=str(folder / "sources"), targets=str(folder / "targets"), size=(4, 6), **fields)


def refused(data, words):
    with pytest.raises(UserError, match=words) as error:
        data.arrays("all")
    assert "\n" not in str(error.value)


# --- edges ---


def test_canny_is_the_usual_one():
    """scikit-image's, on grey emoji without the border, where the two differ by design."""
    feature = pytest.importorskip("skimage.feature")
    grey = np.rint(Emoji(size=64, label="none").arrays("test")["x"][:40].mean(-1)).astype(np.uint8)
    ours = canny(grey[..., None], sigma=1.5)
    # Its gradients are four times ours.
    theirs = [
        feature.canny(g.astype(np.float32) / 255, 1.5, low_threshold=0.2, high_threshold=0.4, mode="nearest")
        for g in grey
    ]
    assert 0.03 < ours.mean() < 0.3
    differing = ours[:, 2:-2, 2:-2] != np.stack(theirs)[:, 2:-2, 2:-2]
    assert differing.mean() < 1e-3


def test_canny_sees_a_step_between_colours_of_one_brightness_and_nothing_else():
    x = np.zeros((2, 9, 12, 3), np.uint8)
    x[0, :, :6], x[0, :, 6:] = RED, (0, 255, 0)
    edges = canny(x)
    assert not edges[1].any()
    assert edges[0, :, 5:7].any(axis=1).all() and not edges[0, :, :5].any() and not edges[0, :, 7:].any()


def test_weak_edges_stay_where_a_strong_one_continues_them():
    """A fading line is kept as far as it exceeds `low`, but its weak part alone is not."""
    x = np.zeros((1, 9, 40, 1), np.uint8)
    x[0, 4:, :, 0] = np.linspace(200, 20, 40)
    whole, weak = canny(x, low=0.1, high=0.3)[0], canny(x[:, :, 28:], low=0.1, high=0.3)[0]
    assert whole[:, :30].any(axis=0).all() and not weak.any()


# --- emoji ---


def test_emoji_from_their_edges():
    data, large = EmojiEdges(size=32), Emoji(size=64, label="none").arrays("train")["x"]
    train, test = data.arrays("train"), data.arrays("test")
    np.testing.assert_array_equal(train["x"], Emoji(size=32, label="none").arrays("train")["x"])
    assert train["cond"].shape == (*train["x"].shape[:3], 1) and train["cond"].dtype == np.uint8
    drawn = 255.0 - 255.0 * canny(large[5:6])[..., None]
    np.testing.assert_array_equal(train["cond"][5:6], np.rint(area_resize(drawn, 32)))
    # No held-out picture equals a training picture, although some emoji occur twice.
    seen = {x.tobytes() for x in train["x"]}
    assert not any(x.tobytes() in seen for x in test["x"])
    assert len(test["x"]) == len(test["cond"]) == Emoji(size=32).count("test") - 4
    assert data.class_names == ()


# --- small pictures ---


def test_pictures_from_themselves_made_small():
    pair, whole = ShrunkPairs(factor=4).arrays("test"), Digits().arrays("test")["x"]
    np.testing.assert_array_equal(pair["x"], whole)
    for i, row, column in ((0, 0, 0), (5, 4, 0), (9, 3, 7)):
        square = whole[i, row // 4 * 4 :, column // 4 * 4 :][:4, :4, 0]
        assert pair["cond"][i, row, column, 0] == np.rint(square.mean())
    with pytest.raises(UserError, match="do not shrink by 3"):
        ShrunkPairs(factor=3).arrays("test")


# --- folders ---


def test_pairs_side_by_side(tmp_path):
    both = Image.new("RGB", (12, 4), RED)
    both.paste(BLUE, (6, 0, 12, 4))
    both.save(tmp_path / "a.png")
    for side, source, target in (("left", RED, BLUE), ("right", BLUE, RED)):
        pair = PairFolder(folder=str(tmp_path), size=(4, 6), source=side).arrays("all")
        np.testing.assert_array_equal(pair["cond"][0], np.broadcast_to(np.uint8(source), (4, 6, 3)))
        np.testing.assert_array_equal(pair["x"][0], np.broadcast_to(np.uint8(target), (4, 6, 3)))


def test_two_folders_are_matched_by_name(tmp_path):
    """In any order and with any suffix; other files are ignored."""
    data = two_folders(tmp_path, ["c", "a", "b"], source_channels=1)
    (tmp_path / "sources" / "notes.txt").write_text("")
    pair = data.arrays("all")
    assert pair["cond"].shape == (3, 4, 6, 1) and pair["x"].shape == (3, 4, 6, 3)
    np.testing.assert_array_equal(pair["cond"][:, 0, 0, 0], [1, 2, 0])
    np.testing.assert_array_equal(pair["x"][:, 0, 0, 0], [101, 102, 100])


def test_held_out_pairs_stay_held_out_as_the_folder_grows(tmp_path):
    names = [f"p{i:02d}" for i in range(60)]
    few = two_folders(tmp_path / "few", names[:30])
    many = two_folders(tmp_path / "many", names)

    def of(data, split):
        return {source.stem for source, _ in data._split(split)}

    for data, count in ((few, 30), (many, 60)):
        assert not of(data, "train") & of(data, "test")
        assert len(of(data, "train")) + len(of(data, "test")) == count == data.count("all")
    assert 1 <= len(of(many, "test")) <= 15
    assert of(few, "test") == of(many, "test") & set(names[:30])
    # Two pairs give one to each split.
    two = two_folders(tmp_path / "two", ["a", "b"])
    assert (two.count("train"), two.count("test")) == (1, 1)


@pytest.mark.parametrize("held_out", ["test", "val"])
def test_subfolders_are_the_splits(tmp_path, held_out):
    for part, names in (("train", ["a", "b"]), (held_out, ["c"])):
        for i, name in enumerate(names):
            write(tmp_path / part / f"{name}.png", (i, 0, 0), (12, 4))
    data = PairFolder(folder=str(tmp_path), size=(4, 6))
    assert [data.count(split) for split in ("train", "test", "all")] == [2, 1, 3]


def test_other_sizes_are_cropped_or_stretched(tmp_path):
    """Wide and high black pictures with a white square in the middle: the crop is that square."""
    for name, size, box in (("wide", (24, 8), (8, 0, 16, 8)), ("high", (8, 24), (0, 8, 8, 16))):
        image = Image.new("L", size, 0)
        image.paste(255, box)
        for folder in ("s", "t"):
            (tmp_path / folder).mkdir(exist_ok=True)
            image.save(tmp_path / folder / f"{name}.png")
    data = PairFolder(folder=str(tmp_path / "s"), targets=str(tmp_path / "t"), size=(4, 4))
    # Bicubic filters reach slightly beyond the crop.
    assert (data.arrays("all")["x"] > 230).all()
    stretched = PairFolder(folder=data.folder, targets=data.targets, size=(4, 4), fit="stretch").arrays("all")["x"]
    assert 0.2 < (stretched / 255).mean() < 0.5


def test_transparency_is_white_and_rotated_pictures_are_upright(tmp_path):
    turned = Image.Exif()
    turned[0x0112] = 6  # by 90 degrees
    for folder in ("s", "t"):
        write(tmp_path / folder / "clear.png", (0, 0, 0, 0), mode="RGBA")
        write(tmp_path / folder / "deep.png", 32_896, mode="I;16")
    Image.new("RGB", (6, 4), RED).save(tmp_path / "s" / "turned.jpg", exif=turned)
    write(tmp_path / "t" / "turned.png", RED, (4, 6))
    pair = PairFolder(folder=str(tmp_path / "s"), targets=str(tmp_path / "t"), size=(4, 6), fit="stretch").arrays("all")
    for pixels in pair.values():
        np.testing.assert_array_equal(pixels[0], 255)
        np.testing.assert_array_equal(pixels[1], 128)
        assert (pixels[2, ..., 0] > 250).all() and (pixels[2, ..., 1:] < 5).all()


def test_orientation_at_the_end_of_a_file_counts(tmp_path):
    """EXIF behind the pixels of a PNG is found when it is decoded."""
    turned = chunk(b"eXIf", b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0")
    for folder, size in (("s", (6, 4)), ("t", (4, 6))):
        write(tmp_path / folder / "a.png", RED, size)
    data = (tmp_path / "s" / "a.png").read_bytes()
    (tmp_path / "s" / "a.png").write_bytes(data[:-12] + turned + data[-12:])
    PairFolder(folder=str(tmp_path / "s"), targets=str(tmp_path / "t"), size=(4, 6)).arrays("all")


def test_hidden_files_and_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path / "pairs" / "a.png", RED, (12, 4))
    (tmp_path / "pairs" / "._a.png").write_bytes(b"not a picture")
    (tmp_path / "pairs" / ".b.png").mkdir()
    assert PairFolder(folder="~/pairs", size=(4, 6)).count("all") == 1


@pytest.mark.parametrize("part", ["train", "test"])
def test_all_pictures_are_checked_before_training(tmp_path, monkeypatch, part):
    """Held-out ones too, by their heads alone where they are streamed."""
    monkeypatch.setattr(pairs, "IN_MEMORY", 100)
    for folder in ("train", "test"):
        for name in "abcde":
            write(tmp_path / folder / f"{name}.png", RED, (12, 4))
    data = PairFolder(folder=str(tmp_path), size=(4, 6))
    decoded = []
    monkeypatch.setattr(picture, "upright", decoded.append)
    data.load("train")
    assert not decoded
    monkeypatch.undo()
    monkeypatch.setattr(pairs, "IN_MEMORY", 100)
    for bad in (b"", b"%!PS-Adobe-3.0 EPSF-3.0\n", png(13, 4), png(10**5, 10**5), png(12, 0)):
        (tmp_path / part / "e.png").write_bytes(bad)
        with pytest.raises(UserError, match=r"e\.png ") as error:
            data.load("train")
        assert "\n" not in str(error.value)
    # What a head does not show ends in one line too.
    (tmp_path / part / "e.png").write_bytes(png(12, 4))
    data.load("train")
    with pytest.raises(UserError, match=r"e\.png cannot be read as a picture"):
        data.load(part).take(np.arange(5))


def test_many_pairs_are_read_on_demand(tmp_path, monkeypatch):
    resident = two_folders(tmp_path, "abcde")
    monkeypatch.setattr(pairs, "IN_MEMORY", 100)
    streamed = two_folders(tmp_path, "abcde", fit="stretch")
    assert isinstance(streamed.arrays("all"), RandomAccess) and streamed.arrays("all").nbytes == 5 * 4 * 6 * 6
    for step in range(3):
        ours, theirs = (data.batch_at(1, step, 2, "all") for data in (streamed, resident))
        for name in ("x", "cond"):
            np.testing.assert_array_equal(ours[name], theirs[name])


def test_large_pictures_are_decoded_one_at_a_time(tmp_path, monkeypatch):
    data = two_folders(tmp_path, "abcdefgh")
    expected = data.load("all")
    decoding, most, flat = [], [], picture.flat

    def slow(image, *rest, **more):
        decoding.append(threading.get_ident())
        most.append(len(set(decoding)))
        time.sleep(0.01)
        return flat(image, *rest, **more)

    resized = pairs._Pairs._resized
    monkeypatch.setattr(picture, "flat", slow)
    monkeypatch.setattr(pairs._Pairs, "_resized", lambda *args: (decoding.pop(), resized(*args))[1])
    for limit, together in ((10, False), (24, True)):
        monkeypatch.setattr(picture, "LARGE", limit)
        most.clear()
        np.testing.assert_array_equal(data.load("all")["x"], expected["x"])
        assert (max(most) > 1) == (together and pairs.THREADS > 1)


def test_errors_name_what_is_wrong_with_a_folder(tmp_path):
    refused(PairFolder(), "pass --data.folder")
    for name in ("none", "x" * 300):
        refused(PairFolder(folder=str(tmp_path / name)), "is not a folder")
    refused(PairFolder(folder=str(tmp_path)), "has no pictures")

    data = two_folders(tmp_path / "lonely", "abc")
    for name in "ab":
        (tmp_path / "lonely" / "targets" / f"{name}.bmp").unlink()
    refused(data, r"a\.png has no partner named a in .*targets, and neither have 1 more")
    data = two_folders(tmp_path / "extra", "abc")
    (tmp_path / "extra" / "sources" / "c.png").unlink()
    refused(data, r"c\.bmp has no partner named c in .*sources")

    data = two_folders(tmp_path / "double", "abc")
    write(tmp_path / "double" / "targets" / "b.png", RED)
    refused(data, r"b\.bmp and b\.png: names must be unique")

    data = two_folders(tmp_path / "sizes", "abc")
    write(tmp_path / "sizes" / "targets" / "b.bmp", RED, (7, 4))
    refused(data, re.escape("b.png is 6 x 4 and ") + r".*b\.bmp is 7 x 4")

    data = two_folders(tmp_path / "broken", "abc")
    whole = (tmp_path / "broken" / "sources" / "b.png").read_bytes()
    (tmp_path / "broken" / "sources" / "b.png").write_bytes(whole[: len(whole) // 2])
    refused(data, r"b\.png cannot be read as a picture")
    write(tmp_path / "odd" / "a.png", RED, (7, 4))
    refused(PairFolder(folder=str(tmp_path / "odd")), "7 x 4, but side-by-side pairs have an even width")
