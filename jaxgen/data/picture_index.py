"""What is in a folder of pictures: files, split, class and caption of each, before any of them is decoded.

The convention is that of Hugging Face's ImageFolder: subfolders `train` and `test` (or another of `HELD_OUT`), in any
case, in these a folder for each class, and `metadata.jsonl` or `metadata.csv` with `file_name`, `text` and any further
columns. A caption may also lie in a text file beside its picture. Metadata may lie in the folder itself or in any below
it that has pictures; `file_name` is the path from there.
"""

import csv
import functools
import io
import os
import stat
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jaxgen.data.dataset import held_out_tenth
from jaxgen.errors import UserError, nearest
from jaxgen.runtime.picture import ENDINGS
from jaxgen.runtime.reading import read_records, read_text

TRAIN = ("train", "training")
HELD_OUT = ("test", "testing", "val", "valid", "validation", "dev", "eval")
"""Names of the folder of held-out pictures, the first that there is."""
METADATA = ("metadata.jsonl", "metadata.csv")
NO_CLASS = ("file_name", "text")


@dataclass(frozen=True)
class Entry:
    """One picture."""

    file: Path
    name: str
    """Its path within the folder."""
    held_out: bool
    folder: str
    """The first folder of its path within its split, the class; "" for none."""
    columns: tuple[tuple[str, str], ...]
    """What the metadata say of it."""
    stamp: tuple[int, int]
    """Size and modification time in nanoseconds, which stand for its contents."""

    def column(self, name: str) -> str | None:
        return dict(self.columns).get(name)


@functools.lru_cache(maxsize=4)
def index(root: Path) -> tuple[Entry, ...]:
    """The pictures of a folder in the order of their names. Hidden files and those of other kinds are passed over.

    Raises UserError for a folder without pictures, and for metadata that cannot be read, name a picture twice or one
    that is missing.
    """
    if not stat.S_ISDIR(_stat(root, "pass a folder of pictures").st_mode):
        raise UserError(f"{root} is no folder: pass one that holds pictures")
    parts = _parts(root)
    files = {part: list(_files(folder)) for part, folder in parts.items()}
    rows = _rows(root, parts, {file for some in files.values() for file in some})
    found = [_entry(root, part, parts[part], file, rows) for part, some in files.items() for file in some]
    if not found:
        raise UserError(f"{root} has no pictures ({', '.join(e[1:] for e in ENDINGS)}): pass another folder")
    if len(parts) == 1:
        tenth = held_out_tenth(entry.name for entry in found)
        found = [replace(entry, held_out=entry.name in tenth) for entry in found]
    held_out = sum(entry.held_out for entry in found)
    if not 0 < held_out < len(found):
        raise UserError(
            f"{root} has {len(found) - held_out} pictures to train on and {held_out} held out, one each at least is "
            "expected: add some"
        )
    return tuple(sorted(found, key=lambda entry: entry.name))


def _parts(root: Path) -> dict[str, Path]:
    """The folders of the splits by name, or `root` alone as "". A folder `train` among others, none of them held out,
    is a class of that name."""
    # Of two that differ in case alone, the last by name is the one of small letters.
    names = (name for name in _listed(root) if not name.startswith(".") and os.path.isdir(root / name))
    folders = {name.casefold(): root / name for name in names}
    train, held_out = (next((name for name in some if name in folders), None) for some in (TRAIN, HELD_OUT))
    if train and (held_out or len(folders) == 1):
        return {"train": folders[train]} | ({held_out: folders[held_out]} if held_out else {})
    return {"": root}


def _entry(root: Path, part: str, folder: Path, file: Path, rows: dict[Path, dict[str, str]]) -> Entry:
    inside, facts, beside = file.relative_to(folder), rows.get(file, {}), file.with_suffix(".txt")
    if "text" not in facts and os.path.isfile(beside):
        facts = {**facts, "text": " ".join(read_text(beside).split())}
    kept = _stat(file, "restore it, or remove it")
    return Entry(
        file, file.relative_to(root).as_posix(), part not in ("", "train"),
        inside.parts[0] if len(inside.parts) > 1 else "", tuple(sorted(facts.items())),
        (kept.st_size, kept.st_mtime_ns),
    )  # fmt: skip


def _stat(path: Path, advice: str) -> os.stat_result:
    try:
        return os.stat(path)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): {advice}") from error


def _listed(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError as error:
        raise UserError(f"{folder} cannot be listed ({error.strerror}): check its permissions") from error


def _files(folder: Path, above: frozenset[str] = frozenset()) -> Iterator[Path]:
    """The pictures below a folder, by name. Links are followed, but never back to a folder above."""
    real = os.path.realpath(folder)
    if real in above:
        return
    for name in _listed(folder):
        path = folder / name
        if name.startswith("."):
            continue
        if os.path.isdir(path):
            yield from _files(path, above | {real})
        elif path.suffix.lower() in ENDINGS:
            yield path


# --- metadata -------------------------------------------------------------------------------------------------


def _rows(root: Path, parts: dict[str, Path], pictures: set[Path]) -> dict[Path, dict[str, str]]:
    """What the metadata of `root` and of the folders with pictures say, by picture.

    Raises UserError for a picture that is named twice, or is none of `pictures` though its split is read.
    """
    folders = {root, *parts.values()}
    for folder in {picture.parent for picture in pictures}:
        folders.update(above for above in (folder, *folder.parents) if root in above.parents)
    found = {}
    spelled = _by_spelling(pictures)
    for folder in sorted(folders):
        for where, named, facts in _metadata(folder):
            picture = named if named in pictures else spelled.get(_composed(named), named)
            if picture in found:
                raise UserError(f"{where}, which another row names too: remove one")
            if picture not in pictures and any(part in picture.parents for part in parts.values()):
                raise UserError(f"{where}, which is no picture there: correct it, or remove the row")
            found[picture] = facts
    return found


def _composed(path: Path) -> str:
    return unicodedata.normalize("NFC", str(path))


def _by_spelling(pictures: set[Path]) -> dict[str, Path]:
    """Pictures by their paths with composed letters: macOS writes "é" as two characters, editors as one."""
    found = sorted(pictures)
    names = [_composed(picture) for picture in found]
    several = {name for name, count in Counter(names).items() if count > 1}
    return {name: picture for name, picture in zip(names, found) if name not in several}


def _metadata(folder: Path) -> Iterator[tuple[str, Path, dict[str, str]]]:
    """Of each row of a folder's metadata where it is and what it names, for errors; its picture; its other columns.

    Raises UserError for a file that cannot be read, has no such rows, or lies beside another one.
    """
    files = [file for name in METADATA if os.path.lexists(file := folder / name)]
    if len(files) > 1:
        raise UserError(f"{folder} has {files[0].name} and {files[1].name}: remove one of them")
    for file in files:
        if file.suffix == ".jsonl":
            rows, broken = read_records(file)
            if broken:
                raise UserError(f"{file} has {broken} lines that are no JSON objects: mend them")
        else:
            rows = _table(file)
        for number, row in enumerate(rows, start=1):
            name = row.get("file_name")
            where = f"{file}, row {number}: file_name is {name!r:.200}"
            if not isinstance(name, str) or not name or name.startswith("/") or ".." in name.split("/"):
                raise UserError(f"{where}, the path of a picture in this folder is expected: correct it")
            yield where, folder / name, _facts(where, row)


def _table(file: Path) -> list[dict[Any, Any]]:
    try:
        table = csv.DictReader(io.StringIO(read_text(file)), strict=True)
        columns = table.fieldnames or []
        if len(set(columns)) < len(columns):
            raise UserError(f"{file} has two columns of one name ({', '.join(columns)}): rename one")
        return list(table)
    except csv.Error as error:
        raise UserError(f"{file} cannot be read as a table ({error}): mend it") from error


def _facts(where: str, row: dict[Any, Any]) -> dict[str, str]:
    """The columns of a row but file_name. Those that are no text or number, such as boxes, are no classes and left out;
    so is null. Raises UserError for other captions, and for a value without a column."""
    if None in row:
        raise UserError(f"{where}, and there are more values than columns: put quotes around values with commas")
    text = row.get("text")
    if not isinstance(text, str | None):
        raise UserError(f"{where} and text {text!r:.60}, one caption is expected: correct it")
    some = {column: value for column, value in row.items() if isinstance(value, str | int | float)}
    return {column: " ".join(str(value).split()) for column, value in some.items() if column != "file_name"}


# --- classes --------------------------------------------------------------------------------------------------


def classes(entries: tuple[Entry, ...], label: str, root: Path) -> tuple[str, ...]:
    """The class of each picture: its folder (label "folder"), or a column of the metadata.

    Raises UserError where a picture has none, or all have the same.
    """
    if label == "folder":
        found = [entry.folder for entry in entries]
    else:
        columns = sorted({name for entry in entries for name, _ in entry.columns} - set(NO_CLASS))
        if label not in columns:
            raise UserError(
                f"label is {label!r}{nearest(label, columns)}: choose folder, none or a column of the metadata of "
                f"{root} ({', '.join(columns) or 'there is none'})"
            )
        found = [entry.column(label) or "" for entry in entries]
    for entry, name in zip(entries, found):
        if not name:
            kind = "lies in no folder of a class" if label == "folder" else f"has no {label}"
            raise UserError(f"{entry.file} {kind}: give it one, or pass --data.label none")
    if len(set(found)) < 2:
        raise UserError(f"all pictures of {root} are of one class, {found[0]!r}: pass --data.label none")
    return tuple(found)


def has_classes(entries: tuple[Entry, ...]) -> bool:
    """Whether every picture lies in a folder of one of several classes."""
    folders = {entry.folder for entry in entries}
    return "" not in folders and len(folders) > 1


def in_order(names: Collection[str]) -> tuple[str, ...]:
    """Names of classes in the order of their indices: by value if all are numbers, so that 10 comes after 9."""
    numbers = all(name.isdecimal() and len(name) < 20 for name in names)
    return tuple(sorted(names, key=(lambda name: (int(name), name)) if numbers else None))
