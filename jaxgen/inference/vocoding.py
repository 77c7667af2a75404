"""Sound of log mels by a trained vocoder."""

import functools
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxgen.core.capabilities import Vocodes
from jaxgen.core.keys import sample_keys
from jaxgen.errors import UserError
from jaxgen.inference.sampling import draw
from jaxgen.ops.audio import Mel
from jaxgen.report import save_picture
from jaxgen.report.heat import heat
from jaxgen.runs.restore import Trained
from jaxgen.runtime.processes import is_main, whole
from jaxgen.runtime.sound import write_sound

FRAMES = 128
"""Mels are padded to a multiple of this, so that few shapes are compiled."""
TALL, WIDE = 160, 320
"""Pixels of a picture of a mel."""
LOUD = 1.0
"""The log mel of the brightest colour."""


def check_vocoder(vocoder: Trained, mel: Mel) -> None:
    """Raises UserError for a run that makes no sound of mels, or of others than `mel`."""
    model = vocoder.model
    if not isinstance(model, Vocodes):
        raise UserError(f"{vocoder.name} is of {type(model).__name__}, which makes no sound of mels: HiFiGAN does")
    if different := [name for name, value in vars(mel).items() if getattr(model.mel, name) != value]:
        name = different[0]
        raise UserError(
            f"{vocoder.name} reads mels of {name} {getattr(model.mel, name)}, these have "
            f"{getattr(mel, name)}: choose a vocoder trained on the same mels"
        )


def vocoded(vocoder: Trained, log_mel: np.ndarray, mel: Mel, seed: int = 0, index: int = 0) -> np.ndarray:
    """f32[(F - 1) hop] in [-1, 1] of a log mel f32[F, bands], whose frame f is around sample f hop, as the mels of
    speech are; by key `index` of the seed. Raises UserError as `check_vocoder` does."""
    check_vocoder(vocoder, mel)
    frames = len(log_mel)
    padded = np.full((1, max(1, -(-frames // FRAMES)) * FRAMES, mel.bands), mel.silence, np.float32)
    padded[0, :frames] = log_mel
    length = np.array([frames], np.int32)
    x = vocode_program(vocoder.model, vocoder.state, sample_keys(seed, 1, index), padded, length)
    # A vocoder's frames are half a hop later.
    return np.asarray(whole(x))[0, mel.hop // 2 :][: max(1, frames - 1) * mel.hop]


@functools.partial(jax.jit, static_argnums=0)
def vocode_program(model: Any, state: Any, keys: jax.Array, mel: jax.Array, length: jax.Array) -> jax.Array:
    """`Vocodes.vocode`, compiled."""
    return model.vocode(state, keys, mel, length)


def save_vocoded(trained: Trained, folder: Path) -> None:
    """Sound made of the mels of held-out sound: samples.png, true mels beside those of what was made, and both as
    WAV."""
    model, num = trained.model, trained.experiment.num_samples
    x = np.asarray(trained.examples["x"])[:num]
    made = draw(trained, trained.experiment.seed, len(x), model.sample_cond(len(x), {"x": x}), len(x))
    if not is_main():
        return
    limits = (model.mel.silence, LOUD)
    mels = (np.asarray(model.sample_cond(len(some), {"x": some})["mel"]) for some in (x, made))
    rows = [[heat(mel, TALL, WIDE, limits) for mel in pair] for pair in zip(*mels)]
    save_picture(folder / "samples.png", np.array(rows), texts=["true", "made of its mel"] * len(rows))
    for i, pair in enumerate(zip(x, made)):
        for name, sound in zip(("true", "made"), pair):
            write_sound(folder / f"{name}_{i}.wav", sound, model.mel.rate)
