"""How a run shows its progress: a live bar in a terminal, one plain line each log step elsewhere."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


def say(line: str) -> None:
    """Tells the user of something beside the results, such as what was mended or passed over."""
    print(line, file=sys.stderr, flush=True)


class Progress(Protocol):
    def __enter__(self) -> "Progress": ...
    def __exit__(self, *error: Any) -> None: ...
    def update(self, step: int, means: dict[str, float], steps_per_s: float, samples_per_s: float) -> None: ...


def progress(steps: int, start: int) -> Progress:
    """A bar when stdout is a terminal, else lines."""
    return Bar(steps, start) if sys.stdout.isatty() else Lines(steps, start)


def _numbers(means: dict[str, float]) -> str:
    """The loss first, then by name."""
    return " ".join(f"{name} {means[name]:.4g}" for name in sorted(means, key=lambda n: (n != "loss", n)))


class Silent:
    """Nothing: what every process but the main one shows, and each of many seeds."""

    def __enter__(self) -> "Silent":
        return self

    def __exit__(self, *error: Any) -> None:
        pass

    def update(self, step: int, means: dict[str, float], steps_per_s: float, samples_per_s: float) -> None:
        pass


class Lines:
    """`step 100/1000 loss 0.51 ... | 12.0 steps/s, 1536 samples/s, 75 s left`."""

    def __init__(self, steps: int, start: int):
        self.steps, self.began = steps, time.monotonic()

    def __enter__(self) -> "Lines":
        return self

    def __exit__(self, *error: Any) -> None:
        pass

    def update(self, step: int, means: dict[str, float], steps_per_s: float, samples_per_s: float) -> None:
        left = (self.steps - step) / steps_per_s
        speed = f"{steps_per_s:.3g} steps/s, {samples_per_s:.4g} samples/s, {left:.0f} s left"
        print(f"step {step}/{self.steps} {_numbers(means)} | {speed}", flush=True)


class Bar:
    """rich's progress bar with loss, steps/s, samples/s and time left."""

    def __init__(self, steps: int, start: int):
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self.bar = Progress(
            TextColumn("{task.description}"), BarColumn(bar_width=None), MofNCompleteColumn(),
            TextColumn("{task.fields[speed]}"), TimeRemainingColumn(),
        )  # fmt: skip
        self.task = self.bar.add_task("compiling", total=steps, completed=start, speed="")

    def __enter__(self) -> "Bar":
        self.bar.start()
        return self

    def __exit__(self, *error: Any) -> None:
        self.bar.stop()

    def update(self, step: int, means: dict[str, float], steps_per_s: float, samples_per_s: float) -> None:
        speed = f"{steps_per_s:.3g} steps/s {samples_per_s:.4g} samples/s"
        loss = {"loss": means["loss"]} if "loss" in means else means
        self.bar.update(self.task, completed=step, description=_numbers(loss), speed=speed)


def track(items: Iterable[T], total: int, what: str) -> Iterator[T]:
    """The same items, with a bar in a terminal and a line at the end elsewhere."""
    if sys.stdout.isatty():
        from rich.progress import track as bar

        yield from bar(items, what, total)
        return
    began = time.monotonic()
    yield from items
    print(f"{what}: {total} batches in {time.monotonic() - began:.1f} s", flush=True)
