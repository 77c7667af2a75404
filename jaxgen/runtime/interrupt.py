"""Stopping a run from outside: signals and a time limit, both answered at the end of the current call."""

import os
import signal
import threading
import time
from types import FrameType
from typing import Any


class Interrupt:
    """While entered, SIGINT and SIGTERM set `reason` instead of ending the process; so does `max_hours` passing.

    A second SIGINT leaves at once. In a thread other than the main one only the time limit works, as Python delivers
    signals to the main thread.
    """

    def __init__(self, max_hours: float = 0.0):
        """max_hours: wall-clock limit from now; 0 for none."""
        self.deadline = time.monotonic() + 3600 * max_hours if max_hours else None
        self.max_hours = max_hours
        self.signal: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "Interrupt":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._take)
        return self

    def __exit__(self, *_: Any) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _take(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None and number == signal.SIGINT:
            os._exit(128 + number)
        self.signal = signal.Signals(number)
        # From a handler, print could meet itself half-way through a line.
        os.write(2, f"\n{self.signal.name}: saving at the end of this call; Ctrl-C again leaves at once\n".encode())

    @property
    def reason(self) -> str | None:
        """Why to stop now, or None."""
        if self.signal is not None:
            return self.signal.name
        if self.deadline is not None and time.monotonic() > self.deadline:
            return f"--max-hours {self.max_hours:g}"
        return None
