"""What is in a folder of pictures: files, split, class and caption of each, before any of them is decoded.

The convention is that of Hugging Face's ImageFolder: subfolders `train` and `test` (or `val`, `validation`), in these a
folder for each class, and `metadata.jsonl` or `metadata.csv` with `file_name`, `text` and any further columns. A
caption may also lie in a text file beside its picture.
"""

import csv
import functools
import io
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jaxgen.data.dataset import held_out_tenth
from jaxgen.errors import UserError, nearest
from jaxgen.runtime.picture import ENDINGS
from jaxgen.runtime.reading import read_records, read_text

HELD_OUT = ("test", "val", "validation")
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

    Raises UserError for a folder without pictures, and for metadata that cannot be read or name files that are missing.
    """
    if not root.is_dir():
        raise UserError(f"{root} is no folder: pass one that holds pictures")
    parts = {"": root}
    if (root / "train").is_dir():
        held_out = next((name for name in HELD_OUT if (root / name).is_dir()), None)
        parts = {name: root / name for name in ("train", held_out) if name}
    found = [entry for part, folder in parts.items() for entry in _entries(root, part, folder)]
    if not found:
        raise UserError(f"{root} has no pictures ({', '.join(e[1:] for e in ENDINGS)}): pass another folder")
    if len(parts) == 1:
        tenth = held_out_tenth(entry.name for entry in found)
        found = [replace(entry, held_out=entry.name in tenth) for entry in found]
    if len(found) < 2 or len({entry.held_out for entry in found}) < 2:
        raise UserError(f"{root} has {len(found)} pictures, one each at least to train on and to hold out is expected")
    return tuple(sorted(found, key=lambda entry: entry.name))


def _entries(root: Path, part: str, folder: Path) -> Iterator[Entry]:
    columns = _metadata(folder)
    for file in _files(folder):
        inside = file.relative_to(folder)
        facts = columns.pop(inside.as_posix(), {})
        beside = file.with_suffix(".txt")
        if "text" not in facts and beside.is_file():
            facts = {**facts, "text": " ".join(read_text(beside).split())}
        stat = file.stat()
        yield Entry(
            file, file.relative_to(root).as_posix(), part not in ("", "train"),
            inside.parts[0] if len(inside.parts) > 1 else "", tuple(sorted(facts.items())),
            (stat.st_size, stat.st_mtime_ns),
        )  # fmt: skip
    if columns:
        first = next(iter(columns))
        raise UserError(f"the metadata of {folder} name {first!r}, which is no picture there, of {len(columns)} such")


def _files(folder: Path) -> Iterator[Path]:
    """The pictures below a folder, by name. Links are followed, but never back to a folder above."""

    def walk(folder: Path, above: frozenset[str]) -> Iterator[Path]:
        try:
            real, names = os.path.realpath(folder), sorted(os.listdir(folder))
        except OSError as error:
            raise UserError(f"{folder} cannot be read ({error.strerror}): check it") from error
        if real in above:
            return
        for name in names:
            path = folder / name
            if name.startswith("."):
                continue
            if path.is_dir():
                yield from walk(path, above | {real})
            elif path.suffix.lower() in ENDINGS:
                if not path.exists():
                    raise UserError(f"{path} is a link to nothing: remove it, or restore what it names")
                yield path

    yield from walk(folder, frozenset())


def _metadata(folder: Path) -> dict[str, dict[str, str]]:
    """Columns by file name. Raises UserError for a file without them."""
    file = next((folder / name for name in METADATA if (folder / name).exists()), None)
    if file is None:
        return {}
    if file.suffix == ".jsonl":
        rows, broken = read_records(file)
        if broken:
            raise UserError(f"{file} has {broken} lines that are no JSON objects: mend them")
    else:
        try:
            rows = list(csv.DictReader(io.StringIO(read_text(file)), strict=True))
        except csv.Error as error:
            raise UserError(f"{file} cannot be read as a table ({error}): mend it") from error
    return dict(_row(file, i, row) for i, row in enumerate(rows, start=1))


def _row(file: Path, number: int, row: dict[Any, Any]) -> tuple[str, dict[str, str]]:
    name = row.get("file_name")
    if not isinstance(name, str) or not name:
        raise UserError(f"{file}, row {number}, has no file_name: the path of a picture in this folder is expected")
    facts = {}
    for column, value in row.items():
        if column == "file_name":
            continue
        if not isinstance(column, str) or not isinstance(value, str | int | float | bool):
            raise UserError(f"{file}, row {number}: {column or 'a column without a name'} is no text or number")
        facts[column] = " ".join(str(value).split())
    return name, facts


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
