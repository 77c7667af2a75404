"""Pages of run folders whose files hold anything: written whole, or one UserError."""

import json
import random
from collections.abc import Iterator
from typing import Any

import pytest

from jaxgen.errors import UserError
from jaxgen.report import write_report
from jaxgen.report.seeds import write_seeds_report

VALUES = (
    None, True, "x", -1, 0, 1, float("inf"), float("nan"), 10**18, 10**30, -1.5, [], {}, [1, "a"], {"a": {}}, "\ud800",
    "<script>alert(1)</script>",
)  # fmt: skip
FILES: dict[str, Any] = {
    "experiment.json": {
        "model": {"type": "jaxgen.models.gan:GAN", "accumulate": 2, "n_critic": 5}, "batch_size": 64, "steps": 20,
        "seed": 0,
    },
    "environment.json": {
        "params": {"gen": 10, "critic": 20}, "devices": ["cpu 0"], "command": "python x", "experiment": "gan",
        "preset": "smoke", "git": {"commit": "abc", "dirty": True}, "seed": 0,
    },
    "evaluation.json": {"split": "test", "num": 5, "step": 20, "metrics": {"kl": {"mean": 1.0, "stderr": 0.1}}},
}  # fmt: skip
LINES: dict[str, Any] = {
    "metrics.jsonl": {"loss": 1.0, "skipped": 0.0},
    "timing.jsonl": {"steps_per_s": 3.0, "time": 4.0},
    "held_out.jsonl": {"test/nelbo": 2.0},
    "events.jsonl": {"event": "resumed", "detail": "x"},
}


def changed(value: Any, draw: random.Random) -> Any:
    """The value with one of its parts, however deep, in place of another."""
    if isinstance(value, dict) and value and draw.random() < 0.85:
        name = draw.choice(list(value))
        return {**value, name: changed(value[name], draw)}
    return draw.choice(VALUES)


def folders(folder, count: int) -> Iterator[Any]:
    """Run folders, each with one or more values of the wrong kind."""
    for i in range(count):
        draw = random.Random(i)
        run = folder / f"seed{i}"
        run.mkdir()
        for name, value in FILES.items():
            (run / name).write_text(json.dumps(changed(value, draw) if draw.random() < 0.6 else value))
        for name, value in LINES.items():
            lines = [{"step": step, **value} for step in range(1, 4)]
            if draw.random() < 0.6:
                lines[draw.randrange(3)] = changed(lines[0], draw)
            (run / name).write_text("\n".join(map(json.dumps, lines)))
        yield run


def test_a_page_is_written_of_any_values(tmp_path):
    written = 0
    for run in folders(tmp_path, 100):
        try:
            page = write_report(run).read_text()
        except UserError as error:
            assert "\n" not in str(error) and "experiment.json" in str(error)
            continue
        assert "<script>alert" not in page
        written += 1
    assert written > 80


@pytest.mark.parametrize("count", [2, 5, 20])
def test_a_page_of_seeds_is_written_of_any_values(count, tmp_path):
    list(folders(tmp_path, count))
    assert "<script>alert" not in write_seeds_report(tmp_path).read_text()
