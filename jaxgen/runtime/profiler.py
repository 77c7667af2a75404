"""A trace of a few calls of a run, by jax.profiler."""

from pathlib import Path
from typing import Any

import jax


class Trace:
    """While entered, `call` before each call of a loop traces `calls` of them, from the second on: the first compiles.

    A run that ends sooner ends its trace too.
    """

    def __init__(self, folder: Path, calls: int):
        self.folder, self.calls = folder / "profile", calls
        self.seen, self.open = 0, False

    def __enter__(self) -> "Trace":
        return self

    def __exit__(self, *_: Any) -> None:
        if self.open:
            self._stop()
        elif self.calls and self.seen < 2:
            print("profile: nothing was traced, as the run made fewer than two calls")

    def call(self, state: Any) -> None:
        """state: what the call before gave; waited for where a trace starts or stops."""
        self.seen += 1
        if self.calls and self.seen == 2:
            jax.block_until_ready(state)
            jax.profiler.start_trace(str(self.folder))
            self.open = True
        elif self.open and self.seen == 2 + self.calls:
            jax.block_until_ready(state)
            self._stop()

    def _stop(self) -> None:
        self.open = False
        jax.profiler.stop_trace()
        print(f"profile: {self.folder}; open it with `xprof {self.folder}` or in ui.perfetto.dev")
