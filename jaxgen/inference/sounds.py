"""What is done alike with sound that a run makes: mels of few shapes, their pictures, and files that a report plays."""

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from jaxgen.ops.audio import Mel
from jaxgen.report.heat import heat
from jaxgen.runtime.files import write_text
from jaxgen.runtime.sound import write_sound

FRAMES = 128
"""Mels are padded to a multiple of this, so that few shapes are compiled."""
TALL, WIDE = 160, 320
"""Pixels of a picture of a mel or an alignment."""
LOUD = 1.0
"""The log mel of the brightest colour."""


def in_frames_of(log_mel: np.ndarray, mel: Mel) -> np.ndarray:
    """f32[1, F', bands]: a log mel f32[F, bands] with silence after it, F' a multiple of `FRAMES`."""
    out = np.full((1, max(1, -(-len(log_mel) // FRAMES)) * FRAMES, mel.bands), mel.silence, np.float32)
    out[0, : len(log_mel)] = log_mel
    return out


def samples_of(frames: int, mel: Mel) -> int:
    """Samples of a waveform of so many frames, the first around its beginning and the last around its end."""
    return max(1, frames - 1) * mel.hop


def mel_picture(log_mel: np.ndarray, mel: Mel) -> np.ndarray:
    """uint8[TALL, WIDE, 3] of a log mel f32[F, bands]."""
    return heat(log_mel, TALL, WIDE, (mel.silence, LOUD))


def save_played(folder: Path, sounds: Iterable[tuple[str, str, np.ndarray]], rate: int) -> None:
    """Writes NAME.wav of (name, what it is, waveform f32[N]), and what each of them is, sounds.json."""
    said = {}
    for name, what, x in sounds:
        write_sound(folder / f"{name}.wav", x, rate)
        said[f"{name}.wav"] = what
    write_text(folder / "sounds.json", json.dumps(said, indent=2) + "\n")
