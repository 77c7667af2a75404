"""Whether a run's data is still what it began with: a short hash of each split, kept in RUN/data.json."""

import hashlib
from typing import Any

import numpy as np

from jaxgen.core.types import RawBatch
from jaxgen.data import Dataset
from jaxgen.data.dataset import take
from jaxgen.errors import UserError
from jaxgen.experiment import Experiment
from jaxgen.runs.folder import RunFolder
from jaxgen.runtime.progress import say
from jaxgen.runtime.reading import read_json

FILE = "data.json"
SPLITS = ("train", "test")
MOST_BYTES = 1 << 26
"""Of a larger split some examples stand for all."""
SOME = 256


def mark(data: Dataset, split: str) -> dict[str, Any]:
    """Number of examples of a split, and a hash of them: of all, or of 256 from the first to the last where they take
    more than 64 MiB or are read by index."""
    data = data.hashed
    loaded, count = data.arrays(split), data.count(split)
    if not isinstance(loaded, dict) or sum(array.nbytes for array in loaded.values()) > MOST_BYTES:
        loaded = take(loaded, np.unique(np.linspace(0, count - 1, SOME).astype(np.int64)))
    return {"num": count, "hash": _hash(loaded)}


def _hash(batch: RawBatch) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for name in sorted(batch):
        array = np.ascontiguousarray(batch[name])
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(array.data)
    return digest.hexdigest()


def keep_marks(run: RunFolder, data: Dataset) -> None:
    """Writes the marks of both splits, or raises UserError where those of the run's beginning differ."""
    marks = {split: mark(data, split) for split in SPLITS}
    if (kept := _kept(run)) is None:
        run.write_json(FILE, marks)
    else:
        for split in SPLITS:
            _compare(run, split, kept, marks[split])


def check_mark(run: RunFolder | None, experiment: Experiment, split: str) -> None:
    """Raises UserError if a split is not what the run began with. Other data than the run's own may be anything."""
    if run is None or (kept := _kept(run)) is None or run.experiment().data != experiment.data:
        return
    for name in SPLITS if split == "all" else (split,):
        _compare(run, name, kept, mark(experiment.data, name))


def _kept(run: RunFolder) -> dict[str, Any] | None:
    """None for runs of before there were marks, and where these cannot be read, which is said."""
    file, kept = run.path / FILE, None
    try:
        kept = read_json(file) if file.exists() else None
    except UserError as error:
        say(f"{error}; the data is taken to be what it was")
    return kept if isinstance(kept, dict) else None


def _compare(run: RunFolder, split: str, kept: dict[str, Any], now: dict[str, Any]) -> None:
    if (then := kept.get(split)) not in (None, now):
        num = then.get("num") if isinstance(then, dict) else None
        change = f"{now['num']} examples, {num} then" if num != now["num"] else f"other contents in {num} examples"
        raise UserError(
            f"{run.path / FILE}: the {split} data is not what this run began with ({change}): bring that back, train "
            "in another folder, or name other data by its flags"
        )
