"""Texts spoken by a trained model: waveforms by the Griffin-Lim algorithm, and pictures of what was looked at."""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.core.capabilities import Speaks
from jaxgen.core.keys import fold_each, sample_keys
from jaxgen.data.speech import Speech
from jaxgen.data.speech_text import decoded
from jaxgen.errors import UserError
from jaxgen.ops.audio import Mel
from jaxgen.ops.griffin_lim import mel_to_wave
from jaxgen.report import save_picture
from jaxgen.report.heat import heat
from jaxgen.runs.restore import Trained
from jaxgen.runtime.processes import is_main, whole
from jaxgen.runtime.sound import write_sound

SHOWN = 4
"""Held-out texts that are spoken while a run trains."""
TALL, WIDE = 160, 320
"""Pixels of a picture of a mel or an alignment."""
FRAMES = 128
"""Frames of a waveform are padded to a multiple of this, so that few shapes are compiled."""


@dataclass(frozen=True)
class Utterance:
    """A text that was spoken."""

    text: str
    mel: np.ndarray  # f32[F, bands]
    alignment: np.ndarray  # f32[S, T]: the weights of each symbol at each step
    stopped: bool
    """Whether it came to an end by itself."""


def data_of(trained: Trained) -> Speech:
    """The run's data. Raises UserError where the model does not speak, or is of no speech."""
    data = trained.experiment.data
    if not isinstance(trained.model, Speaks) or not isinstance(data, Speech):
        raise UserError(f"{trained.name} is of {type(trained.model).__name__}, which does not speak: Tacotron2 does")
    return data


def utterances(trained: Trained, cond: dict[str, np.ndarray], seed: int, batch: int = 8) -> list[Utterance]:
    """The texts of `cond`, symbols `text` and their numbers `length`, spoken: text i by key i of the seed alone."""
    data_of(trained)
    model, num = trained.model, len(cond["text"])
    model.check_cond(cond)
    found: list[Utterance] = []
    for first in range(0, num, batch):
        rows = np.arange(first, first + min(batch, num)) % num
        some = {name: np.asarray(values)[rows] for name, values in cond.items()}
        mel, length, alignment, stopped = whole(
            speak_program(model, trained.state, sample_keys(seed, len(rows), first), some)
        )
        for i in range(min(batch, num - first)):
            symbols = some["text"][i, : some["length"][i]]
            steps = -(-int(length[i]) * alignment.shape[1] // mel.shape[1])
            looked = alignment[i, :steps, : len(symbols)]
            found.append(Utterance(decoded(symbols), mel[i, : length[i]], looked, bool(stopped[i])))
    return found


@functools.partial(jax.jit, static_argnums=0)
def speak_program(model: Any, state: Any, keys: jax.Array, cond: Any) -> Any:
    """`Speaks.speak`, compiled."""
    return model.speak(state, keys, cond)


def waveform(log_mel: np.ndarray, mel: Mel, seed: int = 0, index: int = 0) -> np.ndarray:
    """f32[(F - 1) hop] of a log mel f32[F, bands], phases by key `index` of the seed."""
    frames = math.ceil(len(log_mel) / FRAMES) * FRAMES
    padded = np.full((1, frames, mel.bands), mel.silence, np.float32)
    padded[0, : len(log_mel)] = log_mel
    keys = fold_each(sample_keys(seed, 1, index), 1)
    return np.asarray(_wave(jnp.asarray(padded), keys, mel))[0, : max(1, len(log_mel) - 1) * mel.hop]


@functools.partial(jax.jit, static_argnums=2)
def _wave(log_mel: jax.Array, keys: jax.Array, mel: Mel) -> jax.Array:
    return mel_to_wave(log_mel, keys, mel)


def conditions(tokens: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The condition of a model from `text` and `text_length`, as data give them."""
    return {"text": np.asarray(tokens["text"], np.int32), "length": np.asarray(tokens["text_length"], np.int32)}


# --- pictures -------------------------------------------------------------------------------------------------


def tiles(utterance: Utterance, mel: Mel, true: np.ndarray | None = None) -> list[np.ndarray]:
    """Pictures uint8[TALL, WIDE, 3] of the true mel, where it is given, the one spoken, and the alignment, steps from
    left to right and symbols upwards."""
    limits = (mel.silence, 1.0)
    shown = [heat(part, TALL, WIDE, limits) for part in (true, utterance.mel) if part is not None]
    return [*shown, heat(utterance.alignment, TALL, WIDE, (0.0, 1.0))]


def save_speech(trained: Trained, folder: Path) -> None:
    """Held-out texts spoken: samples.png, a row for each with the true mel, the one spoken and the alignment, and their
    sound as WAV."""
    data, batch, seed = data_of(trained), trained.examples, trained.experiment.seed
    some = {name: batch[name][:SHOWN] for name in batch}
    spoken = utterances(trained, conditions(some), seed, SHOWN)
    if not is_main():
        return
    rows = [tiles(u, data.mel, some["x"][i, : some["length"][i]]) for i, u in enumerate(spoken)]
    texts = [
        name for u in spoken for name in (u.text, "spoken" if u.stopped else "spoken, without an end", "alignment")
    ]
    save_picture(folder / "samples.png", np.array(rows), texts=texts)
    for i, utterance in enumerate(spoken):
        write_sound(folder / f"spoken_{i}.wav", waveform(utterance.mel, data.mel, seed, i), data.mel.rate)


def speak(trained: Trained, texts: Sequence[str], seed: int = 0) -> list[Utterance]:
    """Texts spoken, text i by key i of the seed. Raises UserError for a text that cannot be."""
    return utterances(trained, conditions(data_of(trained).tokens(texts)), seed)
