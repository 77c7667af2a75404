"""Signals and a time limit: commands end at once, training at the end of the current call.

Python's handlers wait for the main thread, which XLA keeps for as long as it compiles, and an exception that they raise
is lost within a callback. Signals are therefore answered in a thread of their own. No import here is slow: a command
answers Ctrl-C before it has imported jax.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

from jaxgen.runtime.files import remove_partials

SIGNALS = (signal.SIGINT, signal.SIGTERM)
TIME_IS_UP = 1
"""Less than the number of any of SIGNALS."""


class Answered:
    """While entered, `answer` is called with the number of each SIGINT and SIGTERM, in another thread.

    In a thread other than the main one it does nothing, as Python lets the main thread alone handle signals.
    """

    def __init__(self, answer: Callable[[int], None]):
        self.answer = answer
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is not threading.main_thread():
            return self
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        self._wakeup = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        for number in SIGNALS:
            self._before[number] = signal.signal(number, self._heard)
        self._thread = threading.Thread(target=self._listen, name="signals", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        if not self._before:
            return
        for number, handler in self._before.items():
            signal.signal(number, handler or signal.SIG_DFL)
        self._before.clear()
        signal.set_wakeup_fd(self._wakeup)
        os.close(self._write)  # which ends the thread
        self._thread.join()
        os.close(self._read)

    def _heard(self, number: int, frame: Any) -> None:
        """A handler of Python's, called in the main thread, without which the other one would not be told."""

    def _listen(self) -> None:
        while number := os.read(self._read, 1):
            if number[0] in SIGNALS:
                self.answer(number[0])


def leave(number: int) -> None:
    """Ends the process with one line and exit code 128 + number."""
    remove_partials()
    if os.isatty(1):
        os.write(1, b"\x1b[?25h")  # a progress bar hides the cursor
    start = "\n" if os.isatty(2) else ""
    os.write(2, f"{start}stopped by {signal.Signals(number).name}\n".encode())
    os._exit(128 + number)


def leave_after(stopped: str | None, where: object) -> None:
    """Ends a command by the signal that stopped one of its trainings, which is saved in `where`; nothing for None.
    stopped: as `train` returns it."""
    if stopped is None:
        return
    print(f"stopped by {stopped}, saved in {where}: the same command goes on from there", flush=True)
    if stopped in (number.name for number in SIGNALS):
        sys.exit(128 + signal.Signals[stopped])


def leaving_at_once() -> Answered:
    """While entered, SIGINT and SIGTERM end the process as `leave` does."""
    return Answered(leave)


def is_command() -> bool:
    """Whether this process was started as a command or a script of the library's."""
    given = sys.orig_argv
    of_module = any(flag == "-m" and name.split(".")[0] == "jaxgen" for flag, name in pairwise(given))
    script = Path(sys.argv[0] if sys.argv else "").absolute()
    package = Path(__file__).parents[1]
    of_ours = script.parent in (package / "scripts", package.parent / "experiments")
    return of_module or of_ours or script.name == "jaxgen"


class Interrupt(Answered):
    """While entered, SIGINT and SIGTERM set `reason` instead of ending the process; so does `max_hours` passing.

    A second SIGINT leaves at once. In a thread other than the main one only the time limit works.
    """

    def __init__(self, max_hours: float = 0.0):
        """max_hours: wall-clock limit from now; 0 for none."""
        super().__init__(self._take)
        self.deadline = time.monotonic() + 3600 * max_hours if max_hours else None
        self.max_hours = max_hours
        self.signal: signal.Signals | None = None
        self._taken = False

    def _heard(self, number: int, frame: Any) -> None:
        # A signal that arrived before a call ended stops the run at its end, however late the other thread runs.
        self.signal = signal.Signals(number)

    def _take(self, number: int) -> None:
        if self._taken and number == signal.SIGINT:
            leave(number)
        self._taken, self.signal = True, signal.Signals(number)
        # From another thread, print could meet itself half-way through a line.
        os.write(2, f"\n{self.signal.name}: saving at the end of this call; Ctrl-C again leaves at once\n".encode())

    @property
    def code(self) -> int:
        """The number of the signal, TIME_IS_UP, or 0 to go on."""
        if self.signal is not None:
            return self.signal
        return TIME_IS_UP if self.deadline is not None and time.monotonic() > self.deadline else 0

    @property
    def reason(self) -> str | None:
        """Why to stop now, or None."""
        return self.named(self.code)

    def named(self, code: int) -> str | None:
        """What such a code of this or another process says, None for 0."""
        if code > TIME_IS_UP:
            return signal.Signals(code).name
        return f"--max-hours {self.max_hours:g}" if code else None
