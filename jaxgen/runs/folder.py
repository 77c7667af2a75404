"""The folder of a run: its experiment, environment, metrics, pictures and checkpoints, all plain files."""

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxgen.core.configuration import differences, found_within, from_json, modernised, paths, to_json
from jaxgen.errors import UserError
from jaxgen.experiment import EXTENDABLE, Experiment
from jaxgen.runs.environment import environment
from jaxgen.runs.lock import LOCK
from jaxgen.runtime import processes
from jaxgen.runtime.files import PARTIAL, check_output, sync, write_bytes, write_tensors, write_text
from jaxgen.runtime.progress import say
from jaxgen.runtime.reading import read_bytes, read_json, read_records, read_tensors, record_of

FIRST_STAGE, TOKENIZER = HELD = ("first_stage_run", "tokenizer")
"""Folders that a run of published weights may hold itself: a run, and a vocabulary. They move with it."""


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

    def check(self, experiment: Experiment) -> None:
        """Raises UserError when the folder cannot be written, or holds something else than a run of this experiment.
        Writes nothing."""
        check_output(self.path, folder=True)
        if (self.path / "experiment.json").exists():
            there, new = to_json(self.experiment()), to_json(experiment)
            # Paths may change: what they lead to is known by its contents.
            free = {*EXTENDABLE, *paths(experiment)}
            other = [d for d in differences(there, new) if d.split(":")[0] not in free]
            if other:
                shown = "; ".join(other[:3]) + (f"; and {len(other) - 3} more" if len(other) > 3 else "")
                raise UserError(f"{self.path} holds another experiment ({shown}): choose another folder with --out")
        # A kill can leave a lock and unfinished files.
        elif self.path.exists() and any(p.name != LOCK and p.suffix != PARTIAL for p in self.path.iterdir()):
            raise UserError(f"{self.path} is not empty and holds no run: choose another folder with --out")

    def create(self, experiment: Experiment) -> None:
        """Makes the folder with its experiment.json, unless it is there. Raises UserError as `check`."""
        self.check(experiment)
        if not (self.path / "experiment.json").exists():
            self.write_json("experiment.json", to_json(experiment))

    def written(self, step: int) -> int:
        """When the checkpoint of a step was written, in nanoseconds: what was read of it is kept by that, too. 0 where
        there is none."""
        folder = self.checkpoints / str(step)
        return folder.stat().st_mtime_ns if folder.is_dir() else 0

    def experiment(self) -> Experiment:
        """The experiment of an existing run. Raises UserError if there is none, or if it cannot be read."""
        if not (self.path / "experiment.json").exists():
            raise UserError(f"{self.path} is no run folder: it has no experiment.json; name one that training made")
        experiment = from_json(modernised(read_json(self.path / "experiment.json")), str(self.path / "experiment.json"))
        if not isinstance(experiment, Experiment):
            raise UserError(f"{self.path / 'experiment.json'} holds a {type(experiment).__name__}, no Experiment")
        return found_within(experiment, self.path, HELD)

    def examples(self) -> dict[str, np.ndarray]:
        """The first held-out examples, raw. Pictures are made of them, so that sampling needs no data set."""
        file = self.path / "examples.safetensors"
        try:
            arrays = read_tensors(file)[0]
            if "x" not in arrays:
                raise UserError(f"{file} holds no x")
            return arrays
        except UserError as error:
            raise UserError(f"{error}; training the run again writes it anew") from error

    def codec_record(self) -> dict[str, Any] | None:
        """The codec's `provenance` when the run began; None if it read no files, or if there is no run yet."""
        file = self.path / "first_stage.json"
        return read_json(file) if file.exists() else None

    # --- writing ---

    def keep_codec(self, provenance: Mapping[str, Any]) -> None:
        """Writes what `codec_record` reads, unless it is there, or empty."""
        if provenance and not (self.path / "first_stage.json").exists():
            self.write_json("first_stage.json", provenance)

    def keep_examples(self, batch: Mapping[str, np.ndarray]) -> None:
        """Writes what `examples` reads, unless it is there."""
        file = self.path / "examples.safetensors"
        if not processes.is_main():
            return
        if file.exists():
            try:
                there = read_tensors(file)[0]
                if there.keys() == batch.keys() and all(np.array_equal(there[name], batch[name]) for name in batch):
                    return
            except UserError as error:
                say(f"{error}: written anew")
        write_tensors(file, batch)

    def keep_files(self, files: Mapping[str, str]) -> None:
        """Writes the JSON files, such as a tokenizer, that decode samples of this data, unless they are there. Raises
        UserError if the run began with other contents."""
        for name, text in files.items():
            file = self.path / name
            if file.exists():
                if read_bytes(file) == text.encode():
                    continue
                try:
                    read_json(file)
                except UserError as error:
                    say(f"{error}: written anew")
                else:
                    raise UserError(f"{file} is not what the data gives: the corpus has changed; choose another --out")
            if processes.is_main():
                write_text(file, text)

    def write_json(self, name: str, value: Any) -> None:
        if processes.is_main():
            write_text(self.path / name, json.dumps(value, indent=2) + "\n")

    def record(self, experiment: Experiment, facts: Mapping[str, Any]) -> None:
        """Writes that this process trains `experiment`: experiment.json as it is now, and environment.json with
        versions, devices, commit and command, and `facts`; in `earlier`, those of sessions before it that were not by
        the same versions, devices and commit."""
        self.write_json("experiment.json", to_json(experiment))
        file, now = self.path / "environment.json", environment()
        last = (record_of(file.read_bytes()) if file.is_file() else None) or {}  # a damaged one stops no training
        earlier = last["earlier"] if isinstance(last.get("earlier"), list) else []
        if last and any(last.get(name) != now[name] for name in ("versions", "devices", "git")):
            earlier = [*earlier, {name: last.get(name) for name in now}]
        self.write_json("environment.json", {**now, **facts, **({"earlier": earlier} if earlier else {})})

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

    def sync(self) -> None:
        """Waits until the lines that were added are on the disk."""
        if processes.is_main():
            for path in (self.metrics, self.held_out, self.timing, self.events, self.path):
                if path.exists():
                    sync(path)

    def rollbacks(self, step: int) -> int:
        """The number of rollbacks to `step` or before, which tells the order of the data."""
        if not self.events.exists():
            return 0
        return sum(e.get("event") == "rollback" and e.get("step", 0) <= step for e in read_records(self.events)[0])

    def forget_after(self, step: int) -> None:
        """Removes the lines of steps after `step`, which a resumed run writes again, and what is no line. Says what of
        the steps before is missing."""
        for file in (self.metrics, self.held_out, self.timing, self.events):
            lines = read_bytes(file).splitlines(keepends=True) if file.exists() else []
            records = [record_of(line) if line.endswith(b"\n") else None for line in lines]
            steps = [r["step"] if r and isinstance(r.get("step"), int) else None for r in records]
            last = math.inf if file == self.events else step
            kept = [i for i, s in enumerate(steps) if s is not None and s <= last]
            wrong = []
            # A last line that a crash cut is one of those that are written again.
            if broken := steps[: kept[-1] if kept else 0].count(None):
                wrong.append(f"{broken} of its lines cannot be read and are left out")
            if file == self.metrics and (lost := step - len({steps[i] for i in kept})) > 0:
                wrong.append(f"{lost} of the {step} steps before the checkpoint are missing")
            if wrong:
                say(f"{file}: {'; '.join(wrong)}")
            if len(kept) < len(lines):
                write_bytes(file, b"".join(lines[i] for i in kept))

    def mean(self, name: str, after: int) -> float:
        """Mean of a metric over the logged steps after `after` that were not skipped; NaN if there is none. Read from
        the end of the file."""
        values: list[float] = []
        for line in _backwards(self.metrics):
            record = record_of(line) or {}
            if record.get("step", math.inf) <= after:
                break
            if name in record and not record.get("skipped"):
                values.append(record[name])
        return float(np.mean(values[::-1])) if values else math.nan

    def pictures(self, step: int) -> Path:
        """The folder of the pictures of one step."""
        return self.path / "pictures" / f"{step:09d}"


def _backwards(file: Path, block: int = 1 << 16) -> Iterator[bytes]:
    """The lines of a file, the last one first. Only as much is read as is consumed."""
    with file.open("rb") as stream:
        place, rest = stream.seek(0, os.SEEK_END), b""
        while place:
            start = max(0, place - block)
            stream.seek(start)
            first, *lines = (stream.read(place - start) + rest).split(b"\n")
            yield from (line for line in reversed(lines) if line)
            place, rest = start, first
        if rest:
            yield rest
