"""What is in a folder of speech: clips, texts and splits, before any sound is read.

The layout is LJSpeech's: `metadata.csv` has a line `name|text` or `name|text|text with numbers as words` for each clip,
whose sound is `wavs/NAME.wav` or `.flac`, or lies in the folder itself; a name may have a path and an ending, and a
line the number of its speaker as its last column, as in NVIDIA's lists. Lines of `test.csv`, or `val.csv`, are held
out; else a tenth of the clips, chosen by a hash of their names.
"""

import functools
import itertools
import os
import stat
import unicodedata
from dataclasses import dataclass
from pathlib import Path

from jaxgen.data.dataset import held_out_tenth
from jaxgen.errors import UserError
from jaxgen.runtime.reading import read_text
from jaxgen.runtime.sound import ENDINGS

METADATA = ("metadata.csv", "train.csv")
HELD_OUT = ("test.csv", "val.csv")


@dataclass(frozen=True)
class Clip:
    """One clip."""

    name: str
    text: str
    file: Path
    held_out: bool
    stamp: tuple[int, int]
    """Size and modification time in nanoseconds, which stand for its contents."""


@functools.lru_cache(maxsize=4)
def clips(root: Path) -> tuple[Clip, ...]:
    """The clips of a folder in the order of its metadata.

    Raises UserError for a folder without metadata, a line without a name or a text, a clip that is named twice or has
    no sound, and where none is held out or none is left to train on.
    """
    if not os.path.isdir(root):
        raise UserError(f"{root} is no folder: pass one in LJSpeech's layout, of metadata.csv and wavs")
    metadata = next((root / name for name in METADATA if os.path.exists(root / name)), None)
    if metadata is None:
        raise UserError(f"{root} has no metadata.csv: write a line name|text for each clip in wavs")
    rows = _rows(metadata)
    apart = next((root / name for name in HELD_OUT if os.path.exists(root / name)), None)
    held_out = _rows(apart) if apart else {name: rows[name] for name in held_out_tenth(rows)}
    every = {**rows, **held_out}
    if len(held_out) in (0, len(every)):
        raise UserError(
            f"{root} has {len(every) - len(held_out)} clips to train on and {len(held_out)} held out, one each at "
            "least is expected: add some"
        )
    return tuple(_clip(root, name, text, name in held_out) for name, text in every.items())


def _rows(file: Path) -> dict[str, str]:
    """Texts by name of clip: the last column of each line, or the one before it where the last is always a number."""
    rows: dict[str, str] = {}
    numbered = True
    spoken: dict[str, str] = {}
    for i, line in enumerate(read_text(file).split("\n"), 1):
        if not line.strip():
            continue
        name, *columns = (column.strip() for column in line.split("|"))
        text = next((column for column in reversed(columns) if column), "")
        numbered &= len(columns) > 1 and columns[-1].isdecimal() and bool(columns[-2])
        if not name or not text:
            what = "text" if name else "name"
            raise UserError(f"{file} has a clip without a {what} in line {i}: write name|text, or remove the line")
        # One clip has one name, as whichever file of it a list says.
        name = name.removeprefix("wavs/")
        name = name[: -len(Path(name).suffix)] if name.lower().endswith(ENDINGS) else name
        if name in rows:
            raise UserError(f"{file} names {name} again in line {i}: names must be unique, remove one")
        rows[name], spoken[name] = text, columns[-2] if len(columns) > 1 else ""
    if not rows:
        raise UserError(f"{file} has no clips: write a line name|text for each")
    return spoken if numbered else rows


def _clip(root: Path, name: str, text: str, held_out: bool) -> Clip:
    # macOS writes "é" as two characters, editors as one.
    spellings = dict.fromkeys((name, *(unicodedata.normalize(form, name) for form in ("NFC", "NFD"))))
    for place, spelled in itertools.product((root / "wavs", root), spellings):
        for ending in (*ENDINGS, *map(str.upper, ENDINGS)):
            file = place / f"{spelled}{ending}"
            try:
                found = os.stat(file)
            except (OSError, ValueError):
                continue
            if stat.S_ISREG(found.st_mode):
                return Clip(name, text, file, held_out, (found.st_size, found.st_mtime_ns))
    raise UserError(f"{root} has no sound of {name}: add wavs/{name}.wav or .flac, or remove its line of metadata")
