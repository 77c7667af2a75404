"""The folder of a run: its experiment, environment, metrics, pictures and checkpoints, all plain files."""

import errno
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from jaxgen.errors import UserError
from jaxgen.experiment import EXTENDABLE, Experiment, differences, from_json, modernised, to_json
from jaxgen.runs.environment import environment
from jaxgen.runtime import processes
from jaxgen.runtime.files import PARTIAL, replacing, write_text


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turns the errors of a full or failing disk under `path` into a UserError."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO):
            raise
        raise UserError(
            f"cannot write to {path}: {error.strerror}; what was saved is whole. Free space; the same command goes on"
        ) from error


class RunFolder:
    """The files of one run under `path`. If there are several processes, the main one writes them and all can read."""

    def __init__(self, path: Path):
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.metrics = path / "metrics.jsonl"
        self.held_out = path / "held_out.jsonl"
        self.timing = path / "timing.jsonl"
        self.events = path / "events.jsonl"

    # --- opening ---

    def create(self, experiment: Experiment) -> None:
        """Makes the folder, or checks that it holds this experiment.

        Raises UserError when it cannot be written, or holds another experiment.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            (self.path / ".writable").touch()
            (self.path / ".writable").unlink()
        except OSError as error:
            raise UserError(f"cannot write to {self.path}: {error.strerror}; choose another with --out") from error
        new = to_json(experiment)
        file = self.path / "experiment.json"
        if file.exists():
            old = to_json(self.experiment())
            other = [d for d in differences(old, new) if d.split(":")[0] not in EXTENDABLE]
            if other:
                shown = "; ".join(other[:3]) + (f"; and {len(other) - 3} more" if len(other) > 3 else "")
                raise UserError(f"{self.path} holds another experiment ({shown}): choose another folder with --out")
        elif any(not p.name.endswith(PARTIAL) for p in self.path.iterdir()):  # which a kill can leave
            raise UserError(f"{self.path} is not empty and holds no run: choose another folder with --out")
        self.write_json("experiment.json", new)

    def experiment(self) -> Experiment:
        """The experiment of an existing run. Raises UserError if there is none, or if it cannot be read."""
        if not (self.path / "experiment.json").exists():
            raise UserError(f"{self.path} is no run folder: it has no experiment.json; name one that training made")
        experiment = from_json(modernised(self._json("experiment.json")), str(self.path / "experiment.json"))
        if not isinstance(experiment, Experiment):
            raise UserError(f"{self.path / 'experiment.json'} holds a {type(experiment).__name__}, no Experiment")
        return experiment

    def _json(self, name: str) -> Any:
        try:
            return json.loads((self.path / name).read_text())
        except (OSError, ValueError) as error:
            raise UserError(f"{self.path / name} cannot be read ({error}): restore it, or train anew") from error

    def examples(self) -> dict[str, np.ndarray]:
        """The first held-out examples, raw. Pictures are made of them, so that sampling needs no data set."""
        file = self.path / "examples.safetensors"
        try:
            return load_file(file)
        except (OSError, SafetensorError) as error:
            raise UserError(f"{file} cannot be read ({error}): training the run again writes it anew") from error

    def codec_record(self) -> dict[str, Any] | None:
        """The codec's `provenance` when the run began; None if it read no files, or if there is no run yet."""
        return self._json("first_stage.json") if (self.path / "first_stage.json").exists() else None

    # --- writing ---

    def keep_codec(self, provenance: Mapping[str, Any]) -> None:
        """Writes what `codec_record` reads, unless it is empty."""
        if provenance:
            self.write_json("first_stage.json", provenance)

    def keep_examples(self, batch: Mapping[str, np.ndarray]) -> None:
        """Writes what `examples` reads."""
        arrays = {name: np.ascontiguousarray(array) for name, array in batch.items()}
        if processes.is_main():
            with replacing(self.path / "examples.safetensors") as partial:
                save_file(arrays, partial)

    def keep_files(self, files: Mapping[str, str]) -> None:
        """Writes the files, such as a tokenizer, that decode samples of this data. Raises UserError if the run began
        with other contents."""
        for name, text in files.items():
            file = self.path / name
            if file.exists() and file.read_text(encoding="utf-8") != text:
                raise UserError(f"{file} is not what the data now gives: the corpus has changed; choose another --out")
            if processes.is_main():
                write_text(file, text)

    def write_json(self, name: str, value: Any) -> None:
        if processes.is_main():
            write_text(self.path / name, json.dumps(value, indent=2) + "\n")

    def write_environment(self, facts: Mapping[str, Any]) -> None:
        """environment.json: versions, devices, commit and command of the process that trains."""
        self.write_json("environment.json", {**environment(), **facts})

    def append(self, file: Path, records: Iterable[Mapping[str, Any]]) -> None:
        """Adds lines to one of the .jsonl files."""
        if processes.is_main():
            with file.open("a") as stream:
                stream.writelines(json.dumps(record) + "\n" for record in records)

    def append_metrics(self, first_step: int, metrics: Mapping[str, np.ndarray]) -> None:
        """One line for each step; metrics: f32[K] per name, the first of them that of `first_step`."""
        # Seven digits tell any two f32 apart that a curve could show; a repr would write seventeen.
        columns = {name: [float(f"{v:.7g}") for v in values] for name, values in metrics.items()}
        count = len(next(iter(columns.values())))
        self.append(
            self.metrics,
            ({"step": first_step + i, **{name: column[i] for name, column in columns.items()}} for i in range(count)),
        )

    def note(self, step: int, event: str, detail: str) -> None:
        """Adds a line to events.jsonl, which the report shows."""
        self.append(self.events, [{"step": step, "event": event, "detail": detail}])

    def rollbacks(self, step: int) -> int:
        """The number of rollbacks to `step` or before, which tells the order of the data."""
        if not self.events.exists():
            return 0
        events = [json.loads(line) for line in self.events.read_text().splitlines() if line.endswith("}")]
        return sum(e["event"] == "rollback" and e["step"] <= step for e in events)

    def forget_after(self, step: int) -> None:
        """Removes the lines of steps after `step`, which a resumed run writes again."""
        for file in (self.metrics, self.held_out, self.timing):
            if not file.exists():
                continue
            lines = file.read_text().splitlines(keepends=True)
            kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
            if len(kept) < len(lines):
                write_text(file, "".join(kept))

    def mean(self, name: str, after: int) -> float:
        """Mean of a metric over the logged steps after `after` that were not skipped; NaN if there is none. Read from
        the end of the file."""
        values: list[float] = []
        for line in _backwards(self.metrics):
            record = json.loads(line)
            if record["step"] <= after:
                break
            if not record.get("skipped"):
                values.append(record[name])
        return float(np.mean(values[::-1])) if values else math.nan

    def pictures(self, step: int) -> Path:
        """The folder of the pictures of one step."""
        return self.path / "pictures" / f"{step:09d}"


def _backwards(file: Path, block: int = 1 << 16) -> Iterator[str]:
    """The lines of a file, the last one first. Only as much is read as is consumed."""
    with file.open("rb") as stream:
        place, rest = stream.seek(0, os.SEEK_END), b""
        while place:
            start = max(0, place - block)
            stream.seek(start)
            first, *lines = (stream.read(place - start) + rest).split(b"\n")
            yield from (line.decode() for line in reversed(lines) if line)
            place, rest = start, first
        if rest:
            yield rest.decode()
