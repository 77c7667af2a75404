"""Training on a folder beyond the budget: read ahead while the device computes, and resumed to the bit."""

import dataclasses
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from conftest import EXPERIMENTS
from picture_folders import forget, write_noise

from jaxgen import data
from jaxgen.core.types import RawBatch
from jaxgen.data import dataset, image_folder
from jaxgen.experiment import Experiment, on_images, presets
from jaxgen.runs import restore
from jaxgen.runs.checkpoint import Checkpoints
from jaxgen.runs.folder import RunFolder
from jaxgen.train import loop


@pytest.fixture
def experiment(tmp_path, monkeypatch):
    """Of a folder with 50 pictures to train on, flipped and shifted by the step's key, in four calls of 5 steps."""
    monkeypatch.setenv("JAXGEN_CACHE", str(tmp_path / "cache"))
    write_noise(tmp_path / "pictures", 50, 4)
    forget()
    own = on_images(presets(EXPERIMENTS["vae"])["smoke"], str(tmp_path / "pictures"))
    yield dataclasses.replace(own, data=dataclasses.replace(own.data, flip=True, shift=2))
    forget()


def streamed(experiment: Experiment, monkeypatch: pytest.MonkeyPatch) -> Experiment:
    """Within a tenth of the memory that the folder takes, on the host and on the device."""
    budget = 50 * 8 * 8 * 3 // 10
    monkeypatch.setattr(image_folder, "IN_MEMORY", budget)
    forget()
    read = experiment.data.arrays("train")
    assert isinstance(read, image_folder.Streamed) and read.nbytes == 10 * budget
    return dataclasses.replace(experiment, preload=budget)


def state(experiment: Experiment, path: Path):
    run = RunFolder(path)
    with Checkpoints(run.checkpoints) as checkpoints:
        return restore.saved_state(experiment, run.examples(), experiment.codec.load(), checkpoints)


def same(a, b) -> None:
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_streamed_stopped_and_resumed_is_straight_and_resident(experiment, tmp_path, monkeypatch):
    loop.train(experiment, tmp_path / "resident")
    experiment = streamed(experiment, monkeypatch)
    loop.train(experiment, tmp_path / "straight")
    real, calls = loop.feed, []

    def read(batches: Iterator[Any]) -> Iterator[Any]:
        """A signal comes with the second call."""
        for batch in batches:
            calls.append(batch)
            if len(calls) == 2:
                os.kill(os.getpid(), signal.SIGTERM)
            yield batch

    def struck(*args):
        resident, batches = real(*args)
        assert resident is None
        return None, read(batches)

    monkeypatch.setattr(loop, "feed", struck)
    assert loop.train(experiment, tmp_path / "run") == "SIGTERM"
    assert 0 < int(state(experiment, tmp_path / "run").step) < experiment.steps
    assert loop.train(experiment, tmp_path / "run") is None
    assert calls[0]["x"].shape == (5, 32, 8, 8, 3)
    resident, straight, run = (state(experiment, tmp_path / name) for name in ("resident", "straight", "run"))
    assert int(run.step) == experiment.steps
    same(straight, run)
    texts = [RunFolder(tmp_path / name).metrics.read_text() for name in ("straight", "run")]
    assert texts[0] == texts[1]
    pictures = RunFolder(tmp_path / "run").pictures(experiment.steps)
    assert (pictures / "held_out_images.png").exists()
    assert not (pictures / "nearest_training_images.png").exists()  # for which the set would have to be in memory
    # Another program, that gathers within the scan: the compiler may round sums otherwise.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), resident, run)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Watched(data.Dataset):
    """Examples on a disk, that says how many calls were read."""

    def load(self, split: str) -> dataset.RandomAccess:
        return Reads()


class Reads:
    nbytes = 1 << 50

    def __init__(self):
        self.lock, self.indices = threading.Lock(), []

    def __len__(self) -> int:
        return 100

    def take(self, indices: np.ndarray) -> RawBatch:
        with self.lock:
            self.indices.append(indices)
        return {"x": np.stack([indices, -indices], axis=-1)}


def settled(reads: Reads, least: int) -> int:
    """The number of calls read when no more are; fails unless they become `least`."""
    deadline = time.monotonic() + 20
    while len(reads.indices) < least:
        assert time.monotonic() < deadline, "nothing is read ahead"
        time.sleep(0.01)
    time.sleep(0.3)
    return len(reads.indices)


def test_calls_are_read_ahead_and_not_too_far():
    """While the consumer does not ask, as a step that computes."""
    dataset._load.cache_clear()
    none, calls = data.feed(Watched(), data.BatchPlan(seed=0, batch_size=4, steps_per_call=2, stop=200))
    reads = Watched().arrays("train")
    assert none is None and isinstance(reads, Reads)
    first = next(calls)
    expected = np.stack([Watched().indices_at(0, step, 4) for step in range(2)])
    np.testing.assert_array_equal(first["x"], np.stack([expected, -expected], axis=-1))
    ahead = settled(reads, 3)
    assert ahead <= 10, "whole calls take memory: few are read ahead"
    next(calls), next(calls)
    assert ahead < settled(reads, ahead + 2) <= 12


def test_a_process_reads_its_rows_alone():
    dataset._load.cache_clear()
    plan = data.BatchPlan(seed=0, batch_size=6, steps_per_call=5, stop=30)
    halves = [list(data.feed(Watched(), plan, rows=rows)[1]) for rows in (np.arange(3), np.arange(3, 6))]
    for call, (a, b) in enumerate(zip(*halves, strict=True)):
        whole = np.stack([Watched().batch_at(0, 5 * call + step, 6)["x"] for step in range(5)])
        np.testing.assert_array_equal(np.concatenate([a["x"], b["x"]], axis=1), whole)
    read = Watched().arrays("train")
    assert isinstance(read, Reads) and sum(map(len, read.indices)) == 2 * 6 * 5 * 3 + 6 * 30
