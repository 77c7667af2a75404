"""Single notes of an instrument that is made up, labelled with their pitch: sound with classes, without any file."""

import dataclasses
import functools
from typing import Annotated

import numpy as np
from annotated_types import Ge, Le

from jaxgen.core.ranges import Samples
from jaxgen.core.types import RawBatch
from jaxgen.data.dataset import Dataset, check_split
from jaxgen.ops.audio import Rate

SCALE = (("C4", 261.63), ("D4", 293.66), ("E4", 329.63), ("F4", 349.23), ("G4", 392.00), ("A4", 440.00),
         ("B4", 493.88), ("C5", 523.25))  # fmt: skip
"""Names and Hz of the classes."""
CENTS = 10.0
"""Hundredths of a semitone by which a note is out of tune at most."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Notes(Dataset):
    """x: f32[B, samples] in [-1, 1]; cond: i32[B], the note, of the scale of C major.

    A note begins at once, softly or sharply, and dies away slowly or quickly; its three partials have phases and
    strengths of its own. Every tenth note is held out.
    """

    num: Samples = 2_000
    """Of all splits."""
    samples: Annotated[int, Ge(64), Le(1 << 20)] = 4_096
    rate: Rate = 8_000
    """Samples a second."""

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(name for name, _ in SCALE)

    def load(self, split: str) -> RawBatch:
        check_split(split)
        held_out = np.arange(self.num) % 10 == 9
        kept = np.flatnonzero(held_out == (split == "test")) if split != "all" else np.arange(self.num)
        x, cond = _notes(self)
        return {"x": x[kept], "cond": cond[kept]}


@functools.lru_cache(maxsize=2)
def _notes(data: Notes) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.Generator(np.random.Philox(np.random.SeedSequence([data.num, data.samples, data.rate])))
    label = rng.integers(0, len(SCALE), data.num).astype(np.int32)
    off = rng.uniform(-CENTS, CENTS, data.num)
    pitch = np.array([hz for _, hz in SCALE])[label] * 2 ** (off / 1200)
    loud, phases = rng.uniform(0.3, 0.6, data.num), rng.uniform(0, 2 * np.pi, (data.num, 3))
    attack, decay = rng.uniform(0.002, 0.03, data.num), rng.uniform(0.1, 0.5, data.num)
    strengths = np.stack([np.ones(data.num), *rng.uniform(0.1, 0.5, (2, data.num))], axis=1)
    time = np.arange(data.samples) / data.rate
    x = np.empty((data.num, data.samples), np.float32)
    for i in range(data.num):
        partials = np.sin(2 * np.pi * np.arange(1, 4)[:, None] * pitch[i] * time + phases[i][:, None])
        wave = strengths[i] @ partials / strengths[i].sum()
        x[i] = loud[i] * wave * np.minimum(1, time / attack[i]) * np.exp(-time / decay[i])
    return x, label
