"""The log of a run: metrics.jsonl with every step, timing.jsonl, TensorBoard and the progress line."""

import time
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from typing import Any, Self

import jax
import numpy as np

from jaxgen.errors import UserError
from jaxgen.experiment import Experiment
from jaxgen.report.curves import read_metrics, trained_seconds
from jaxgen.runs.folder import RunFolder
from jaxgen.runs.tensorboard import Board
from jaxgen.runtime import processes
from jaxgen.runtime.progress import Progress, Silent, progress


class NonFinite(Exception):
    """A metric or parameter is NaN or infinite: `name` at `step`."""

    def __init__(self, name: str, step: int):
        super().__init__(f"{name} is not finite at step {step}")
        self.name, self.step = name, step


def means(columns: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Mean of each metric over the steps that were not skipped, NaN if all were; of `skipped` over all steps."""
    counted = np.asarray(columns.get("skipped", 0)) == 0
    result = {name: np.mean(column, where=counted) if counted.any() else np.nan for name, column in columns.items()}
    if "skipped" in columns:
        result["skipped"] = np.mean(columns["skipped"])
    return {name: float(value) for name, value in result.items()}


class Clock:
    """Seconds and rates since it was made, for the timing log, after those `before`, of earlier sessions."""

    def __init__(self):
        self.before = 0.0
        self.start = self.last = self.last_asked = time.monotonic()

    def lap(self, asked: float) -> float:
        """Seconds since the last lap of a work that was asked for at `asked`. What is done by then, as the programs are
        that a CPU runs while they are queued, took as long as the asking."""
        now = time.monotonic()
        lap = max(now - self.last, asked - self.last_asked, 1e-9)
        self.last, self.last_asked = now, asked
        return lap

    @property
    def elapsed(self) -> float:
        return self.before + time.monotonic() - self.start


class Delayed:
    """Writes the metrics of a call once the next call is queued, so that the device never waits for a file."""

    def __init__(self):
        self._pending: list[tuple[dict[str, jax.Array], float]] = []
        self.asked = 0.0
        """When the call was queued whose metrics are written, by `time.monotonic`."""

    def add(self, metrics: dict[str, jax.Array], asked: float | None = None) -> None:
        """Takes the metrics of the call just queued, or queued at `asked`, and writes those of earlier calls."""
        self._pending.append((metrics, time.monotonic() if asked is None else asked))
        self._write_but(1)

    def flush(self) -> None:
        """Waits for what is queued and writes it."""
        self._write_but(0)

    def _write_but(self, last: int) -> None:
        while len(self._pending) > last:
            metrics, self.asked = self._pending.pop(0)
            self._write(metrics)

    def _write(self, metrics: dict[str, jax.Array]) -> None:
        raise NotImplementedError


class Watch(Delayed):
    """Checks every number of training, and shows a progress line every `log_every` steps.

    Raises NonFinite for a number that is not finite, and UserError where the model says that training has diverged.
    """

    def __init__(self, experiment: Experiment, start: int, shown: Progress | None = None, clock: Clock | None = None):
        super().__init__()
        self.experiment = experiment
        self.queued = self.written = self.logged = start
        self.window: list[dict[str, np.ndarray]] = []
        self.progress = shown or (progress(experiment.steps, start) if processes.is_main() else Silent())
        self.clock = clock or Clock()
        self.clock.lap(time.monotonic())

    def __enter__(self) -> Self:
        self.progress.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        if error[0] is None:
            self.flush()
        self.progress.__exit__(*error)

    def add(self, metrics: dict[str, jax.Array], asked: float | None = None) -> None:
        self.queued += self.experiment.steps_per_call
        super().add(metrics, asked)

    def _write(self, metrics: dict[str, jax.Array]) -> None:
        values = jax.device_get(metrics)
        self._keep(values)
        self._check_finite(values)
        if advice := self.experiment.model.diverged(values):
            self._give_up(self.written + self.experiment.steps_per_call, advice)
        self.window.append(values)
        self.written += self.experiment.steps_per_call
        if self.written % self.experiment.log_every and self.written != self.experiment.steps:
            return
        shown = means({name: np.concatenate([w[name] for w in self.window]) for name in values})
        rate = (self.written - self.logged) / self.clock.lap(self.asked)
        self.window, self.logged = [], self.written
        self._point(shown, rate)
        self.progress.update(self.written, shown, rate, rate * self.experiment.batch_size)

    def _check_finite(self, values: dict[str, np.ndarray]) -> None:
        """Raises NonFinite at the first NaN or infinity; `train.loop.roll_back` then decides what follows."""
        for name, column in values.items():
            bad = ~np.isfinite(column)
            if bad.any():
                raise NonFinite(name, self.written + 1 + int(np.argmax(bad)))

    def _keep(self, values: dict[str, np.ndarray]) -> None:
        """Called with the metrics of a call, f32[K] by name, before they are checked."""

    def _give_up(self, step: int, advice: str) -> None:
        """Ends training that diverged. Raises UserError, unless a subclass lets it go on."""
        raise UserError(f"training diverged by step {step}: {advice}")

    def _point(self, shown: dict[str, float], rate: float) -> None:
        """Called with the means since the last progress line and the steps per second."""


class Log(Watch):
    """A watch that writes: metrics.jsonl with every step, timing.jsonl and TensorBoard every `log_every`."""

    def __init__(self, run: RunFolder, experiment: Experiment, start: int, clock: Clock, shown: Progress | None = None):
        super().__init__(experiment, start, shown, clock)
        self.run = run
        told = read_metrics(run.timing).get("time")  # of earlier sessions
        self.clock.before = trained_seconds(told[1].tolist()) if told else 0.0
        self.board = Board(run.path / "tensorboard", start) if processes.is_main() else None

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        if error[0] is None and self.written > self.logged:  # interrupted between two progress lines
            self._time((self.written - self.logged) / self.clock.lap(self.asked))
        if self.board:
            with nullcontext() if error[0] is None else suppress(OSError):  # the first error is the one to tell
                self.board.close()

    def _keep(self, values: dict[str, np.ndarray]) -> None:
        self.run.append_metrics(self.written + 1, values)

    def _give_up(self, step: int, advice: str) -> None:
        self.run.note(step, "diverged", advice)
        raise UserError(f"{self.run.path} diverged by step {step}: {advice}")

    def _time(self, rate: float) -> None:
        timing = {"step": self.written, "steps_per_s": rate, "samples_per_s": rate * self.experiment.batch_size}
        self.run.append(self.run.timing, [{**timing, "time": self.clock.elapsed}])

    def _point(self, shown: dict[str, float], rate: float) -> None:
        self._time(rate)
        if self.board:
            self.board.add(self.written, {**shown, "steps_per_s": rate})
