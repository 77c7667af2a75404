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
from jaxgen.inference.sounds import in_frames_of, mel_picture, samples_of, save_played
from jaxgen.ops.audio import Mel, log_mel
from jaxgen.report import save_picture
from jaxgen.runs.origin import origin_of
from jaxgen.runs.restore import Trained
from jaxgen.runtime.png import Origin
from jaxgen.runtime.processes import is_main, whole
from jaxgen.runtime.sound import write_sound


def check_vocoder(vocoder: Trained, mel: Mel) -> None:
    """Raises UserError for a run that makes no sound of mels, or of others than `mel`."""
    model = vocoder.model
    if not isinstance(model, Vocodes):
        name = type(model).__name__
        raise UserError(f"{vocoder.name} is of {name}, which makes no sound of mels: a vocoder, as HiFiGAN, does")
    if different := [name for name, value in vars(mel).items() if getattr(model.mel, name) != value]:
        name = different[0]
        raise UserError(
            f"{vocoder.name} reads mels of {name} {getattr(model.mel, name)}, these have "
            f"{getattr(mel, name)}: choose a vocoder trained on the same mels"
        )


def vocoded(vocoder: Trained, frames: np.ndarray, mel: Mel, seed: int = 0, index: int = 0) -> np.ndarray:
    """f32[(F - 1) hop] in [-1, 1] of the frames f32[F, bands] of a log mel, frame f around sample f hop, as those of
    data are; by key `index` of the seed. Raises UserError as `check_vocoder` does."""
    check_vocoder(vocoder, mel)
    count = len(frames)
    length, padded = np.array([count], np.int32), in_frames_of(frames, mel)
    x = vocode_program(vocoder.model, vocoder.state, sample_keys(seed, 1, index), padded, length)
    # A vocoder's frames are half a hop later.
    return np.asarray(whole(x))[0, mel.hop // 2 :][: samples_of(count, mel)]


@functools.partial(jax.jit, static_argnums=0)
def vocode_program(model: Any, state: Any, keys: jax.Array, mel: jax.Array, length: jax.Array) -> jax.Array:
    """`Vocodes.vocode`, compiled."""
    return model.vocode(state, keys, mel, length)


def save_vocoded(trained: Trained, folder: Path) -> None:
    """Sound made of the mels of held-out sound: samples.png, true mels beside those of what was made; both as WAV; and
    what each of these is, sounds.json."""
    model: Any = trained.model
    num = trained.experiment.num_samples
    x = np.asarray(trained.examples["x"])[:num]
    made = draw(trained, trained.experiment.seed, len(x), model.sample_cond(len(x), {"x": x}), len(x))
    origin = origin_of(trained, {"seed": trained.experiment.seed})
    if not is_main():
        return
    rows = [list(pair) for pair in zip(_pictures(x, model.mel), _pictures(made, model.mel))]
    texts = ["true", "made of its mel"] * len(rows)
    save_picture(folder / "samples.png", np.array(rows), texts=texts, origin=origin)
    sounds = (
        (f"{name}_{i}", f"Held-out sound {i}, {what}", sound)
        for i, pair in enumerate(zip(x, made))
        for name, what, sound in zip(("true", "made"), ("true", "made of its mel"), pair)
    )
    save_played(folder, sounds, model.mel.rate)


def save_drawn(trained: Trained, folder: Path) -> None:
    """Sound that is drawn of nothing, or of its class: samples.png, a mel of each; WAV; and their classes,
    sounds.json."""
    model: Any = trained.model
    num, names = trained.experiment.num_samples, trained.experiment.data.class_names
    cond = model.sample_cond(num, trained.examples)
    made = draw(trained, trained.experiment.seed, num, cond, num)
    origin = origin_of(trained, {"seed": trained.experiment.seed})
    if not is_main():
        return
    told = [f"{i}" if cond is None else names[int(cond[i])] for i in range(num)]
    save_picture(folder / "samples.png", np.array(_pictures(made, model.mel)), texts=told, origin=origin)
    sounds = ((f"made_{i}", f"Drawn {i}, {name}", sound) for i, (name, sound) in enumerate(zip(told, made)))
    save_played(folder, sounds, model.mel.rate)


def save_sounds(folder: Path, x: np.ndarray, mel: Mel, origin: Origin | None = None) -> None:
    """Waveforms f32[N, samples] as 0.wav, 1.wav, ..., and their mels as samples.png."""
    for i, sound in enumerate(x):
        write_sound(folder / f"{i}.wav", sound, mel.rate)
    save_picture(folder / "samples.png", np.array(_pictures(x, mel)), origin=origin)


def _pictures(x: np.ndarray, mel: Mel) -> list[np.ndarray]:
    """uint8[TALL, WIDE, 3] of the log mel of each waveform."""
    return [mel_picture(np.asarray(log_mel(sound, mel)), mel) for sound in x]
