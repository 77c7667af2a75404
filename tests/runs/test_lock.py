"""One process trains a run at a time; who has it is said, and what a killed one left is taken over."""

import dataclasses
import errno
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys

import pytest
from conftest import EXPERIMENTS, ROOT

from jaxgen.errors import UserError
from jaxgen.experiment import presets
from jaxgen.runs.lock import LOCK, locked
from jaxgen.train.loop import train
from jaxgen.train.seeds import train_seeds

SMOKE = presets(EXPERIMENTS["vae"])["smoke"]


def test_the_second_process_says_who_has_it_and_a_killed_owner_is_replaced(tmp_path, capfd):
    run = tmp_path / "run"
    flags = ("--steps", "100000", "--save-every", "50", "--sample-every", "100000", "--steps-per-call", "50")
    command = [
        sys.executable,
        "experiments/vae.py",
        "smoke",
        "--out",
        run,
        "--device",
        "cpu",
        "--log-every",
        "50",
        *flags,
    ]
    first = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert first.stdout
    assert any("step 100/" in line for line in first.stdout)
    second = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    (line,) = second.stderr.splitlines()
    assert second.returncode == 2
    assert f"process {first.pid} of {socket.gethostname()} trains there" in line
    first.send_signal(signal.SIGKILL)
    first.wait()
    first.stdout.close()
    done = max(int(p.name) for p in (run / "checkpoints").iterdir() if p.name.isdigit())
    goal = dataclasses.replace(
        SMOKE, steps=done + 100, steps_per_call=50, save_every=50, sample_every=100_000, log_every=50
    )
    capfd.readouterr()
    train(goal, run)
    assert f"process {first.pid} of {socket.gethostname()}, which is gone: taken over" in capfd.readouterr().err
    steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(1, done + 101))
    assert (run / LOCK).read_bytes() == b""


def test_a_lock_is_free_again_after_an_error(tmp_path, capfd):
    with pytest.raises(RuntimeError), locked(tmp_path):
        raise RuntimeError
    with locked(tmp_path), pytest.raises(UserError, match=f"in use: process {os.getpid()} of"), locked(tmp_path):
        pytest.fail("two have one lock")
    with locked(tmp_path):
        pass
    assert not capfd.readouterr().err


def test_seeds_lock_each_of_their_folders(tmp_path):
    with locked(tmp_path / "seed1"), pytest.raises(UserError, match=r"seed1 is in use"):
        train_seeds(SMOKE, 2, tmp_path)
    assert not (tmp_path / "seed0" / "metrics.jsonl").exists()
    with locked(tmp_path / "seed0"):  # that of seed 0 was given back
        pass


def test_another_host_is_not_asked(tmp_path):
    (tmp_path / LOCK).write_text(json.dumps({"host": "elsewhere", "process": 1, "since": "2020-01-01"}))
    with pytest.raises(UserError, match=rf"process 1 of elsewhere has it; if it is gone, rm {tmp_path / LOCK}"):
        train(SMOKE, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == [LOCK]


def test_where_files_have_no_locks_a_running_owner_is_not_taken_over(tmp_path, monkeypatch):
    """Regression: it was said to be gone, and two processes wrote one run."""

    def no_locks(*_):
        raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    (tmp_path / LOCK).write_text(json.dumps({"host": socket.gethostname(), "process": os.getppid(), "since": "now"}))
    with pytest.raises(UserError, match="is in use"), locked(tmp_path):
        pass


def test_a_finished_run_is_left_as_it_is(tmp_path, capfd):
    """Asked for fewer steps, or for as many."""
    train(SMOKE, tmp_path / "run")
    names = ("experiment.json", "environment.json", "metrics.jsonl", "timing.jsonl", "checkpoints.json")
    kept = {file: (file.read_bytes(), file.stat().st_mtime_ns) for file in ((tmp_path / "run" / n) for n in names)}
    for steps in (10, 20):
        capfd.readouterr()
        assert train(dataclasses.replace(SMOKE, steps=steps), tmp_path / "run") is None
        out, err = capfd.readouterr()
        assert f"nothing is to be done: {tmp_path / 'run'} has 20 steps, {steps} are asked for" in out
        assert not err
        assert kept == {file: (file.read_bytes(), file.stat().st_mtime_ns) for file in kept}
        assert not (tmp_path / "run" / "events.jsonl").exists()
