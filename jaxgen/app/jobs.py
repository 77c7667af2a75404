"""What was asked, done one after another by one thread, and what is known of it meanwhile."""

import contextlib
import io
import itertools
import queue
import sys
import threading
import time
import traceback
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TextIO

from jaxgen.errors import UserError
from jaxgen.runtime.files import disk_errors

WAITING = 16
"""Jobs that may wait; more are refused."""
KEPT = 32
"""Finished jobs whose results are kept."""
COMPILES, COMPILED = "/jax/core/compile/jaxpr_to_mlir_module_duration", "/jax/core/compile/backend_compile_duration"
"""Events of jax: a program is about to be compiled, and was."""
SHORT = 0.3
"""Seconds; programs that compile faster are not spoken of."""


class Said(io.TextIOBase):
    """A stream whose text can be read while it is written."""

    def __init__(self):
        self.parts: list[str] = []

    def writable(self) -> bool:
        return True

    def write(self, text: str, /) -> int:
        self.parts.append(text)
        return len(text)

    @property
    def text(self) -> str:
        return "".join(list(self.parts))


@dataclass(eq=False)
class Job:
    """One thing that was asked. state: waiting, working, done or failed."""

    number: int
    work: Callable[[], Any]
    state: str = "waiting"
    result: Any = None
    error: str = ""
    began: float = 0.0
    seconds: float = 0.0
    out: Said = field(default_factory=Said)
    """What it has printed."""


class Phase:
    """What jax is at, by the events that it reports of the thread that works."""

    def __init__(self):
        self.since = 0.0  # when compiling began; 0 while nothing compiles

    def heard(self, event: str, duration_secs: float, **_: Any) -> None:
        if event == COMPILES:
            self.since = time.monotonic()
        elif event == COMPILED:
            self.since = 0.0

    @property
    def compiling(self) -> bool:
        return bool(self.since) and time.monotonic() - self.since > SHORT


@dataclass(eq=False)
class _Listener:
    """One listener of jax's for all queues of a process, as jax forgets none."""

    phase: Phase = field(default_factory=Phase)
    there: bool = False

    def begin(self) -> Phase:
        import jax

        if not self.there:
            jax.monitoring.register_event_duration_secs_listener(self.phase.heard)
            self.there = True
        return self.phase


_LISTENER = _Listener()


class Jobs:
    """A queue and the thread that works it off."""

    def __init__(self, terminal: TextIO | None = None):
        """terminal: where faults of the program are shown in full, stderr when None."""
        self._terminal = terminal or sys.stderr
        self._numbers, self._lock = itertools.count(1), threading.Lock()
        self._queue: queue.Queue[Job | None] = queue.Queue()
        self._jobs: OrderedDict[int, Job] = OrderedDict()
        self._phase = _LISTENER.begin()
        self._thread = threading.Thread(target=self._work, name="jobs", daemon=True)
        self._thread.start()

    def add(self, work: Callable[[], Any]) -> Job:
        """Puts work at the end of the queue. Raises UserError where too much waits."""
        with self._lock:
            if sum(job.state == "waiting" for job in self._jobs.values()) >= WAITING:
                raise UserError(f"{WAITING} requests wait already: wait until some are done")
            job = Job(next(self._numbers), work)
            self._jobs[job.number] = job
            finished = [n for n, old in self._jobs.items() if old.state in ("done", "failed")]
            for number in finished[:-KEPT]:
                del self._jobs[number]
        self._queue.put(job)
        return job

    def get(self, number: int) -> Job:
        """Raises UserError for a job that is not kept."""
        with self._lock:
            if number not in self._jobs:
                raise UserError(f"result {number} is not kept any more: ask for it again")
            return self._jobs[number]

    def ahead(self, job: Job) -> int:
        """How many jobs come before one that waits."""
        with self._lock:
            return sum(old.number < job.number and old.state in ("waiting", "working") for old in self._jobs.values())

    def status(self, job: Job) -> dict[str, Any]:
        """A job as JSON; its result where it is done."""
        phase = ""
        if job.state == "waiting":
            ahead = self.ahead(job)
            phase = f"waiting, {ahead} before it" if ahead else "waiting"
        elif job.state == "working":
            phase = "compiling …" if self._phase.compiling else "working …"
        seconds = time.monotonic() - job.began if job.state == "working" else job.seconds
        return {
            "job": job.number, "state": job.state, "phase": phase, "seconds": round(seconds, 2), "text": job.out.text,
            "error": job.error, "result": job.result if job.state == "done" else None,
        }  # fmt: skip

    def close(self) -> None:
        """Ends the thread after the job that it is at; what waits is left."""
        with self._lock:
            for job in self._jobs.values():
                if job.state == "waiting":
                    job.state, job.error = "failed", "the page was closed"
        self._queue.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (job := self._queue.get()) is not None:
            if job.state != "waiting":
                continue
            job.state, job.began, self._phase.since = "working", time.monotonic(), 0.0
            try:
                with contextlib.redirect_stdout(job.out), disk_errors():
                    job.result = job.work()
                state = "done"
            except UserError as error:
                job.error, state = " ".join(str(error).split()), "failed"
            except BaseException as error:  # whatever it is, the next job is worked on
                traceback.print_exc(file=self._terminal)
                words = f"{type(error).__name__}: {error}".split()
                job.error, state = f"a fault of jaxgen, which its terminal shows: {' '.join(words):.300}", "failed"
            job.seconds, job.state = time.monotonic() - job.began, state
