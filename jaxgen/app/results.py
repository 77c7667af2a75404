"""What a command wrote into a folder, for a page: pictures, films and sounds, with the command that makes them."""

import mimetypes
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxgen.runtime.picture import undecoded
from jaxgen.runtime.png import read_origin
from jaxgen.runtime.reading import read_bytes, read_records

SHOWN = (".png", ".gif", ".wav")
GRID = "samples.png"
"""A picture of all samples: shown where there is none of each."""


@dataclass(frozen=True)
class Result:
    """A finished command. files: what a browser may ask for, by name."""

    files: dict[str, bytes]
    shown: dict[str, Any]
    """As JSON: `command`; `pictures`, `films` and `sounds`, each a `file` with its size and what is `said` of it;
    `columns` of pictures, 0 for any; `grid`, a file of all pictures or ""; `notes`."""


def media_type(name: str) -> str:
    """Of a file that a result has."""
    return mimetypes.guess_type(name)[0] or "application/octet-stream"


def collected(folder: Path, words: Sequence[str], columns: int, names: Sequence[str], notes: Sequence[str]) -> Result:
    """The result in a folder.

    words: the command, where no picture says it. columns: of pictures in rows that belong together, or 0. names: of
    classes. notes: what the command said beside its results.
    """
    found = sorted(
        (file for file in folder.rglob("*") if file.is_file() and file.suffix in SHOWN and file.name[0] != "."),
        key=lambda file: (len(file.stem), file.name),
    )
    files = {file.relative_to(folder).as_posix(): file for file in found}
    said = _said(folder, names)
    each = {name: file for name, file in files.items() if file.suffix == ".png" and file.stem.isdecimal()}
    others = {name: file for name, file in files.items() if file.suffix == ".png" and name not in each}
    grid = GRID if each and GRID in others else ""
    pictures = each or others
    sounds = {name: file for name, file in files.items() if file.suffix == ".wav"}
    for name in pictures:
        command = read_origin(pictures[name]).get("command")
        words = command or words
        break
    shown = {
        "command": shlex.join(["jaxgen", *words]),
        "pictures": [
            {"file": n, "said": said.get(file.name, "" if each or len(others) == 1 else file.stem), **_size(file)}
            for n, file in pictures.items()
        ],
        "films": [{"file": n, "said": file.stem, **_size(file)} for n, file in files.items() if file.suffix == ".gif"],
        "sounds": [{"file": n, "said": said.get(file.name, file.stem)} for n, file in sounds.items()],
        "columns": columns, "grid": grid, "notes": list(notes),
    }  # fmt: skip
    wanted = {*pictures, *([grid] if grid else []), *(f["file"] for kind in ("films", "sounds") for f in shown[kind])}
    return Result({name: read_bytes(files[name]) for name in wanted}, shown)


def _said(folder: Path, names: Sequence[str]) -> dict[str, str]:
    """What each file of samples was asked to show, by its name."""
    file = folder / "files" / "metadata.jsonl"
    said: dict[str, str] = {}
    for row in read_records(file)[0] if file.exists() else ():
        label = row.get("label", -1)
        said[row["file_name"]] = row.get("text") or (str(names[label]) if 0 <= label < len(names) else "")
    return said


def _size(file: Path) -> dict[str, int]:
    with undecoded(file) as image:
        return {"width": image.width, "height": image.height}
