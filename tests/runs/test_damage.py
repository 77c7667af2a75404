"""Damaged run folders: resumed to the same arrays where a checkpoint is intact, with one line of what was lost."""

import dataclasses
import json
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import EXPERIMENTS
from small_runs import damage, final_state, same

from jaxgen.errors import UserError
from jaxgen.experiment import presets
from jaxgen.train.loop import train

SMOKE = presets(EXPERIMENTS["vae"])["smoke"]
GOAL = dataclasses.replace(SMOKE, steps=30, sample_every=30)

Damage = Callable[[Path], object]


def cut(name: str) -> Damage:
    """The first half of a file."""
    return lambda run: (run / name).write_bytes((run / name).read_bytes()[: (run / name).stat().st_size // 2])


def emptied(name: str) -> Damage:
    return lambda run: (run / name).write_bytes(b"")


def garbled(name: str) -> Damage:
    """Random bytes of the same number."""
    return lambda run: (run / name).write_bytes(np.random.default_rng(0).bytes((run / name).stat().st_size))


def removed(name: str) -> Damage:
    return lambda run: shutil.rmtree(run / name) if (run / name).is_dir() else (run / name).unlink()


def renamed(name: str, new: str) -> Damage:
    return lambda run: (run / name).rename(run / new)


def wrong_line(name: str, line: bytes) -> Damage:
    """A line of a file of lines is another one."""

    def write(run: Path) -> None:
        lines = (run / name).read_bytes().splitlines(keepends=True) if (run / name).exists() else [b"", b""]
        lines[len(lines) // 2] = line
        (run / name).write_bytes(b"".join(lines))

    return write


def added(name: str, data: bytes) -> Damage:
    return lambda run: (run / name).write_bytes(((run / name).read_bytes() if (run / name).exists() else b"") + data)


def emptied_folder(name: str) -> Damage:
    def empty(run: Path) -> None:
        shutil.rmtree(run / name)
        (run / name).mkdir()

    return empty


def became_file(name: str) -> Damage:
    def write(run: Path) -> None:
        shutil.rmtree(run / name)
        (run / name).write_bytes(b"a file")

    return write


def became_copy(name: str, of: str) -> Damage:
    def copy(run: Path) -> None:
        shutil.rmtree(run / name)
        shutil.copytree(run / of, run / name)

    return copy


def largest(how: str) -> Damage:
    return lambda run: damage(run / "checkpoints" / "20", how)


def largest_removed(run: Path) -> None:
    max((run / "checkpoints" / "20").rglob("d/*"), key=lambda f: f.stat().st_size).unlink()


def of_another_run(run: Path) -> None:
    """The same step of another seed."""
    other = run.parent / "other"
    train(dataclasses.replace(SMOKE, seed=1), other)
    shutil.rmtree(run / "checkpoints" / "20")
    shutil.copytree(other / "checkpoints" / "20", run / "checkpoints" / "20")


def both(one: Damage, two: Damage) -> Damage:
    return lambda run: (one(run), two(run))


def owner(host: str) -> Damage:
    """The lock that a killed process leaves."""
    return lambda run: (run / ".lock").write_text(json.dumps({"host": host, "process": 1 << 22}))


NOTED = b'{"step":\n{"step": 0, "event": "noted", "detail": ""}\n'
NEW = "checkpoints/20"
OLDER = "20 is damaged"
LOST = "[20] are no longer"
SHORT = "steps before the checkpoint are missing"

# What is damaged, and what stderr says in one line; "" for what is written anew as it was.
RESUMED: dict[str, tuple[Damage, str]] = {
    "arrays cut": (largest("truncated"), OLDER),
    "arrays flipped": (largest("flipped"), "does not match its checksum"),
    "arrays removed": (largest_removed, OLDER),
    "renamed to a later step": (renamed(NEW, "checkpoints/25"), "was renamed: its step is 20"),
    "a copy of an older one": (became_copy(NEW, "checkpoints/10"), "was renamed: its step is 10"),
    "of another run": (of_another_run, "was replaced"),
    "newest removed": (removed(NEW), LOST),
    "newest emptied": (emptied_folder(NEW), OLDER),
    "newest a file": (became_file(NEW), LOST),
    "all removed": (removed("checkpoints"), "[10, 20] are no longer"),
    "manifest emptied": (emptied(f"{NEW}/state/manifest.ocdbt"), OLDER),
    "checksums cut": (cut(f"{NEW}/integrity/metadata"), OLDER),
    "metrics: a line garbled": (wrong_line("metrics.jsonl", b"\xff\xfe{\n"), "1 of its lines cannot be read"),
    "metrics: a line without a step": (wrong_line("metrics.jsonl", b'{"loss": 1}\n'), "1 of its lines cannot be read"),
    "metrics: last line cut": (added("metrics.jsonl", b'{"step": 21, "lo'), ""),
    "metrics cut": (cut("metrics.jsonl"), SHORT),
    "metrics removed": (removed("metrics.jsonl"), "20 of the 20 " + SHORT),
    "timing: a line garbled": (wrong_line("timing.jsonl", b"[\n"), ""),
    "events: a line garbled": (added("events.jsonl", NOTED), "1 of its lines"),
    "examples cut": (cut("examples.safetensors"), "written anew"),
    "examples removed": (removed("examples.safetensors"), ""),
    "environment garbled": (garbled("environment.json"), ""),
    "marks of data garbled": (garbled("data.json"), "data.json is not UTF-8"),
    "list of checkpoints garbled": (garbled("checkpoints.json"), ""),
    "lock of a killed process": (owner(socket.gethostname()), "taken over"),
    "lock garbled": (added(".lock", b"\xff{"), ""),
    "unfinished file": (added(".metrics.jsonl.1.partial", b"x"), ""),
}
SLOW: dict[str, tuple[Damage, str]] = {
    "renamed to no step": (renamed(NEW, "checkpoints/old"), LOST),
    "older removed": (removed("checkpoints/10"), ""),
    "older garbled": (garbled("checkpoints/10/state/manifest.ocdbt"), ""),
    "a link to itself": (both(removed(NEW), lambda run: os.symlink("20", run / NEW)), LOST),
    "state removed": (removed(f"{NEW}/state"), OLDER),
    "process folder removed": (removed(f"{NEW}/state/ocdbt.process_0"), OLDER),
    "manifest garbled": (garbled(f"{NEW}/state/manifest.ocdbt"), OLDER),
    "manifest removed": (removed(f"{NEW}/state/manifest.ocdbt"), OLDER),
    "metadata of arrays cut": (cut(f"{NEW}/state/_METADATA"), OLDER),
    "metadata of arrays garbled": (garbled(f"{NEW}/state/_METADATA"), OLDER),
    "metadata of arrays removed": (removed(f"{NEW}/state/_METADATA"), ""),
    "sharding garbled": (garbled(f"{NEW}/state/_sharding"), ""),
    "checksums removed": (removed(f"{NEW}/integrity/metadata"), OLDER),
    "checksums garbled": (garbled(f"{NEW}/integrity/metadata"), OLDER),
    "metadata garbled": (garbled(f"{NEW}/_CHECKPOINT_METADATA"), ""),
    "metrics emptied": (emptied("metrics.jsonl"), "20 of the 20 " + SHORT),
    "metrics garbled": (garbled("metrics.jsonl"), SHORT),
    "metrics renamed": (renamed("metrics.jsonl", "metrics.old"), SHORT),
    "timing removed": (removed("timing.jsonl"), ""),
    "held-out numbers garbled": (added("held_out.jsonl", b"\x00\n"), ""),
    "examples garbled": (garbled("examples.safetensors"), "written anew"),
    "environment removed": (removed("environment.json"), ""),
    "marks of data removed": (removed("data.json"), ""),
    "marks of data emptied": (emptied("data.json"), "data.json cannot be read"),
    "list of checkpoints removed": (removed("checkpoints.json"), ""),
    "pictures garbled": (garbled("pictures/000000020/samples.png"), ""),
    "pictures removed": (removed("pictures"), ""),
    "report removed": (removed("report.html"), ""),
    "tensorboard removed": (removed("tensorboard"), ""),
}
REFUSED: dict[str, tuple[Damage, str]] = {
    "both checkpoints": (both(largest("flipped"), garbled("checkpoints/10/state/manifest.ocdbt")), "no older one is"),
    "experiment cut": (cut("experiment.json"), "experiment.json cannot be read"),
    "experiment garbled": (garbled("experiment.json"), "experiment.json is not UTF-8"),
    "experiment removed": (removed("experiment.json"), "holds no run"),
    "experiment a folder": (
        both(removed("experiment.json"), lambda run: (run / "experiment.json").mkdir()),
        "a folder",
    ),
    "metrics a folder": (both(removed("metrics.jsonl"), lambda run: (run / "metrics.jsonl").mkdir()), "metrics.jsonl"),
    "lock of another host": (owner("elsewhere"), "rm "),
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[Path, object]:
    """A run of 20 steps, and the state that it reaches in 30."""
    folder = tmp_path_factory.mktemp("damage")
    train(SMOKE, folder / "run")
    shutil.copytree(folder / "run", folder / "straight")
    train(GOAL, folder / "straight")
    return folder / "run", final_state(GOAL, folder / "straight")


def resume(trained, harm: Damage, folder: Path, capfd) -> list[str]:
    """Damages a copy of the run, goes on to 30 steps, and returns what stderr says."""
    run = folder / "run"
    shutil.copytree(trained[0], run, symlinks=True)
    harm(run)
    capfd.readouterr()
    train(GOAL, run)
    said = capfd.readouterr().err.splitlines()
    assert same(final_state(GOAL, run), trained[1])
    return said


@pytest.mark.parametrize(
    "name",
    [*RESUMED, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)],
    ids=lambda n: n.replace(" ", "-"),
)
def test_a_damaged_run_goes_on_to_the_same_arrays(name, trained, tmp_path, capfd):
    harm, words = (RESUMED | SLOW)[name]
    said = resume(trained, harm, tmp_path, capfd)
    assert len(said) == bool(words), said
    assert not words or words in said[0]


@pytest.mark.parametrize("name", REFUSED, ids=lambda n: n.replace(" ", "-"))
def test_a_run_that_cannot_go_on_is_left_as_it_is(name, trained, tmp_path, capfd):
    harm, words = REFUSED[name]
    run = tmp_path / "run"
    shutil.copytree(trained[0], run)
    harm(run)
    before = {file: file.read_bytes() for file in run.rglob("*") if file.is_file() and file.name != ".lock"}
    capfd.readouterr()
    with pytest.raises(UserError) as error:
        train(GOAL, run)
    assert words in str(error.value) and "\n" not in str(error.value)
    assert "Traceback" not in capfd.readouterr().err
    assert before == {file: file.read_bytes() for file in before}
