"""What tests do with the folders of small runs."""

from pathlib import Path

import jax
import numpy as np
from conftest import EXPERIMENTS

from jaxgen.experiment import presets
from jaxgen.runs.checkpoint import Checkpoints
from jaxgen.runs.folder import RunFolder
from jaxgen.runs.restore import saved_state
from jaxgen.train.loop import train


def smoke_run(script: str, folder: Path) -> Path:
    """Trains the smoke preset of a script in `folder`."""
    train(presets(EXPERIMENTS[script])["smoke"], folder)
    return folder


def final_state(experiment, folder):
    """The newest state of a run, with its optimizer's."""
    run = RunFolder(folder)
    with Checkpoints(run.checkpoints) as checkpoints:
        return saved_state(experiment, run.examples(), experiment.codec, checkpoints)


def same(a, b) -> bool:
    """Whether two trees are bitwise the same."""
    return all(np.array_equal(x, y, equal_nan=True) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b)))


def damage(folder, how):
    """Truncates, or flips a bit of, the largest file of a checkpoint."""
    file = max((f for f in folder.rglob("*") if f.is_file()), key=lambda f: f.stat().st_size)
    content = bytearray(file.read_bytes())
    if how == "truncated":
        content = content[: len(content) // 2]
    else:
        content[len(content) // 2] ^= 1
    file.write_bytes(content)
