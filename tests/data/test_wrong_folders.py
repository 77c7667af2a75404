"""Wrong folders of pictures at the command line: one line naming file and cause, exit code 2, before any compute."""

import json
import os
import tempfile
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxgen import __main__ as commands
from jaxgen.cli import parse
from jaxgen.data import ImageFolder, picture_index

Make = Callable[[Path], object]


def pictures(folder: Path, *names: str) -> None:
    for i, name in enumerate(names):
        (file := folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (8, 8, 3), np.uint8)).save(file)


def some(folder: Path, *classes: str) -> None:
    pictures(folder, *(os.path.join(name, f"{i}.png") for name in classes or ("",) for i in range(20)))


def with_file(name: str, text: str | bytes, *classes: str) -> Make:
    """Twenty pictures, or so many of each class, and a file."""

    def make(folder: Path) -> None:
        some(folder, *classes)
        (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())

    return make


def rows(*values: dict) -> Make:
    return with_file("metadata.jsonl", "\n".join(map(json.dumps, values)))


def both(*makes: Make) -> Make:
    return lambda folder: [make(folder) for make in makes]


ZERO = "0.png"
WRONG: dict[str, tuple[Make, list[str], str]] = {
    "empty": (lambda f: None, [], "has no pictures"),
    "no images": (lambda f: (f / "notes.txt").write_text("a"), [], "has no pictures"),
    "no train": (lambda f: (some(f, "test"), (f / "train").mkdir()), [], "0 pictures to train on and 20 held out"),
    "no test": (lambda f: (some(f, "train"), (f / "test").mkdir()), [], "20 pictures to train on and 0 held out"),
    "one class": (lambda f: some(f, "a"), ["--classes"], "has no classes"),
    "one class of the label": (lambda f: some(f, "a"), ["--data.label", "folder"], "are of one class, 'a'"),
    "no classes": (lambda f: some(f), ["--classes"], "has no classes"),
    "a picture in no class": (lambda f: some(f, "a", "b", ""), ["--data.label", "folder"], "lies in no folder"),
    "missing file": (rows({"file_name": "z.png", "text": "a"}), [], "row 1: file_name is 'z.png', which is no picture"),
    "no file_name": (rows({"text": "a"}), [], "row 1: file_name is None, the path of a picture in this folder"),
    "another separator": (with_file("metadata.csv", "file_name;text\n0.png;a\n"), [], "row 1: file_name is None"),
    "outside": (rows({"file_name": "../0.png"}), [], "row 1: file_name is '../0.png', the path of a picture in this"),
    "absolute": (rows({"file_name": "/etc/passwd"}), [], "row 1: file_name is '/etc/passwd', the path of a picture"),
    "surrogate": (rows({"file_name": "\ud800.png"}), [], "no picture there"),
    "two rows": (rows({"file_name": ZERO}, {"file_name": f"./{ZERO}"}), [], "row 2: file_name is './0.png', which ano"),
    "two rows of csv": (with_file("metadata.csv", "file_name,text\n0.png,a\n0.png,b\n"), [], "row 2: file_name is"),
    "two tables": (
        both(rows({"file_name": ZERO}), with_file("metadata.csv", "file_name\n0.png")), [],
        "has metadata.jsonl and metadata.csv",
    ),
    "two columns": (with_file("metadata.csv", "file_name,text,text\n0.png,a,b\n"), [], "two columns of one name"),
    "a comma": (with_file("metadata.csv", "file_name,text\n0.png,a, b\n"), [], "more values than columns"),
    "several captions": (rows({"file_name": ZERO, "text": ["a", "b"]}), [], "one caption is expected"),
    "no such column": (
        rows({"file_name": ZERO, "kind": "a"}), ["--data.label", "kinds"], "label is 'kinds' (did you mean kind?)",
    ),
    "a row without the column": (
        rows({"file_name": ZERO, "kind": "a"}, {"file_name": "1.png"}), ["--data.label", "kind"], "has no kind",
    ),
    "not UTF-8": (with_file("metadata.csv", b"file_name,text\n0.png,\xe4\n"), [], "metadata.csv is not UTF-8 text"),
    "a folder of metadata": (lambda f: (some(f), (f / "metadata.csv").mkdir()), [], "metadata.csv is a folder"),
    "a link to itself": (lambda f: (some(f), (f / "l.png").symlink_to("l.png")), [], "l.png cannot be read (Too many"),
    "a link to nothing": (lambda f: (some(f), (f / "l.png").symlink_to("no")), [], "l.png cannot be read (No such"),
    "a corrupt picture": (with_file("a\nb.png", b"no"), [], "cannot be read as a picture"),
    "size below the model's": (lambda f: some(f), ["--size", "1"], "images of shape (1, 1, 3) cannot be halved"),
    "size above all": (lambda f: some(f), ["--size", "5000"], "data.size is 5000: an integer from 1 to 4,096"),
    "fewer than a batch": (lambda f: pictures(f, *(f"{i}.png" for i in range(9))), [], "choose a batch_size from 1"),
}  # fmt: skip


def refused(folder: Path, flags: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The only line that the command line answers."""
    command = ["train", "ddpm", "smoke", "--no-compilation-cache", "--out", f"{folder}-run", "--images", str(folder)]
    with pytest.raises(SystemExit) as stop:
        parse.run(lambda: commands.call([*command, *flags]))
    (line,) = capsys.readouterr().err.splitlines()
    assert stop.value.code == 2 and line.startswith("error: ") and not os.path.exists(f"{folder}-run")
    return line


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_folder_is_one_line(name, tmp_path, capsys):
    make, flags, words = WRONG[name]
    (folder := tmp_path / "pictures").mkdir()
    make(folder)
    line = refused(folder, flags, capsys)
    assert words in line and ("--size" in flags or "batch_size" in words or str(folder) in line)


def test_what_is_no_folder(tmp_path, capsys):
    pictures(tmp_path, "a.png")
    assert "a.png is no folder" in refused(tmp_path / "a.png", [], capsys)
    assert "cannot be read (No such file" in refused(tmp_path / "none", [], capsys)
    assert "cannot be read (Not a directory" in refused(tmp_path / "a.png" / "b", [], capsys)


@pytest.mark.parametrize(
    "closed, mode, words",
    [
        ("..", 0, "pictures cannot be read (Permission"), (".", 0, "pictures cannot be listed (Permission"),
        ("a", 0, "a cannot be listed (Permission"), ("a", 0o444, "0.png cannot be read (Permission"),
        ("a/0.png", 0, "0.png cannot be read (Permission"), ("metadata.csv", 0, "metadata.csv cannot be read (Perm"),
        ("a/0.txt", 0, "0.txt cannot be read (Permission"),
    ],
)  # fmt: skip
@pytest.mark.skipif(os.geteuid() != 0, reason="another user's rights are taken on")
def test_what_may_not_be_read(closed, mode, words, tmp_path, request, capsys):
    # pytest's own folders let no other user through.
    top = tempfile.TemporaryDirectory()
    request.addfinalizer(top.cleanup)
    Path(top.name).chmod(0o755)
    (folder := Path(top.name) / "in" / "pictures").mkdir(parents=True)
    some(folder, "a", "b")
    (folder / "metadata.csv").write_text("file_name\na/0.png\n")
    (folder / "a" / "0.txt").write_text("a caption")
    # Imports everything while that may be read.
    ImageFolder(folder=str(folder), size=9).arrays("all")
    refused(tmp_path / "none", [], capsys)
    picture_index.index.cache_clear()
    (folder / closed).resolve().chmod(mode)
    os.seteuid(65534)
    try:
        assert words in refused(folder, [], capsys)
    finally:
        os.seteuid(0)


# --- folders that look wrong and are not --------------------------------------------------------------------------


def columns(folder: Path) -> dict[str, dict[str, str]]:
    return {e.name: dict(e.columns) for e in ImageFolder(folder=str(folder))._index}


def test_metadata_lie_in_any_folder_with_pictures(tmp_path):
    """In that of a class, of a split, or above the splits; a row of a split that is not read does not count."""
    some(tmp_path, "train/a", "train/b", "test/a", "val/a")
    lines = [{"file_name": name, "text": name} for name in ("train/a/0.png", "test/a/1.png", "val/a/2.png")]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (tmp_path / "train" / "metadata.csv").write_text("file_name,text\nb/3.png,three\n")
    (tmp_path / "train" / "a" / "metadata.csv").write_text("file_name,text\n./4.png,four\n")
    found = {name: facts["text"] for name, facts in columns(tmp_path).items() if facts}
    expected = {name: name for name in ("train/a/0.png", "test/a/1.png")}
    assert found == {**expected, "train/b/3.png": "three", "train/a/4.png": "four"}


def test_columns_that_are_no_classes_are_left_out(tmp_path):
    rows({"file_name": ZERO, "text": None, "objects": {"bbox": [[1, 2, 3, 4]]}, "kind": 3, "good": True})(tmp_path)
    assert columns(tmp_path)[ZERO] == {"kind": "3", "good": "True"}


def test_a_class_may_be_called_train(tmp_path):
    some(tmp_path / "vehicles", "train", "car", "plane")
    data = ImageFolder(folder=str(tmp_path / "vehicles"))
    assert data.class_names == ("car", "plane", "train") and data.count("all") == 60
    # Alone, or beside held-out pictures, it is the split.
    some(tmp_path / "split", "train/a", "train/b")
    assert ImageFolder(folder=str(tmp_path / "split")).class_names == ("a", "b")
    some(tmp_path / "both", "train/a", "train/b", "val/b", "other")
    data = ImageFolder(folder=str(tmp_path / "both"))
    assert (data.count("train"), data.count("test"), data.class_names) == (40, 20, ("a", "b"))


@pytest.mark.parametrize(("train", "held_out"), [("train", "valid"), ("Train", "Test"), ("training", "testing"),
                                                 ("TRAIN", "dev"), ("train", "eval")])  # fmt: skip
def test_splits_by_their_usual_names_are_no_classes(train, held_out, tmp_path):
    some(tmp_path, f"{train}/a", f"{train}/b", f"{held_out}/a")
    data = ImageFolder(folder=str(tmp_path))
    assert (data.count("train"), data.count("test"), data.class_names) == (40, 20, ("a", "b"))


@pytest.mark.parametrize(("there", "said"), [("NFD", "NFC"), ("NFC", "NFD"), ("NFC", "NFC")])
def test_names_with_accents_are_found_however_they_are_written(there, said, tmp_path):
    some(tmp_path, "")
    name = unicodedata.normalize(there, "caf\u00e9.png")
    (tmp_path / "0.png").rename(tmp_path / name)
    row = {"file_name": unicodedata.normalize(said, "caf\u00e9.png"), "text": "a cup"}
    (tmp_path / "metadata.jsonl").write_text(json.dumps(row))
    assert columns(tmp_path)[name] == {"text": "a cup"}


def test_two_files_that_differ_in_spelling_alone_are_two(tmp_path):
    some(tmp_path, "")
    names = [unicodedata.normalize(form, "caf\u00e9.png") for form in ("NFC", "NFD")]
    for i, name in enumerate(names):
        (tmp_path / f"{i}.png").rename(tmp_path / name)
    rows = [{"file_name": name, "text": str(i)} for i, name in enumerate(names)]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert [columns(tmp_path)[name]["text"] for name in names] == ["0", "1"]


def test_few_held_out_pictures_are_told_when_they_are_read(tmp_path, capsys):
    pictures(tmp_path, *(f"test/{i}.png" for i in range(3)), *(f"train/{i}.png" for i in range(9)))
    data = ImageFolder(folder=str(tmp_path), size=8)
    data.load("train")
    assert capsys.readouterr().err == ""
    data.load("test")
    assert capsys.readouterr().err == f"{tmp_path}: 3 of 12 are held out; a folder test chooses them\n"
