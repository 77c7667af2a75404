"""Texts spoken by a trained model: waveforms by the Griffin-Lim algorithm or a vocoder, and pictures of what was
looked at."""

import functools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxgen.core.capabilities import Speaks
from jaxgen.core.keys import fold_each, sample_keys
from jaxgen.data.embedded_texts import SHORTEST
from jaxgen.data.speech import Speech
from jaxgen.data.speech_text import ABBREVIATIONS, cleaned, decoded
from jaxgen.errors import UserError
from jaxgen.experiment import Experiment
from jaxgen.inference.sounds import TALL, WIDE, in_frames_of, mel_picture, samples_of, save_played
from jaxgen.inference.vocoding import vocoded
from jaxgen.ops.audio import Mel
from jaxgen.ops.griffin_lim import mel_to_wave
from jaxgen.report import save_picture
from jaxgen.report.heat import heat
from jaxgen.runs.origin import origin_of
from jaxgen.runs.restore import Trained
from jaxgen.runtime.png import Origin
from jaxgen.runtime.processes import is_main, whole

SHOWN = 4
"""Held-out texts that are spoken while a run trains."""
BATCH = 8
"""Texts that are spoken at once."""
PAUSE = 0.2
"""Seconds of silence between the pieces of a long text."""
_PHONEMES = re.compile(r"\{([^{}]*)\}")
_WORDS = re.compile(r"(?:\{[^{}]*\}|\S)+")


@dataclass(frozen=True)
class Utterance:
    """A text that was spoken."""

    text: str
    mel: np.ndarray  # f32[F, bands]
    alignment: np.ndarray  # f32[S, T]: the weights of each symbol at each step
    stopped: bool
    """Whether it came to an end by itself."""


def speech_of(experiment: Experiment) -> Speech:
    """The data of an experiment. Raises UserError where its model does not speak, or its data are no speech."""
    if not isinstance(experiment.model, Speaks) or not isinstance(experiment.data, Speech):
        raise UserError(f"{type(experiment.model).__name__} does not speak: name a run of Tacotron2")
    return experiment.data


def utterances(trained: Trained, cond: dict[str, np.ndarray], seed: int, batch: int = BATCH) -> list[Utterance]:
    """The texts of `cond`, symbols `text` and their numbers `length`, spoken: text i by key i of the seed alone."""
    speech_of(trained.experiment)
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
    keys = fold_each(sample_keys(seed, 1, index), 1)
    return np.asarray(_wave(in_frames_of(log_mel, mel), keys, mel))[0, : samples_of(len(log_mel), mel)]


@functools.partial(jax.jit, static_argnums=2)
def _wave(log_mel: jax.Array, keys: jax.Array, mel: Mel) -> jax.Array:
    return mel_to_wave(log_mel, keys, mel)


def conditions(tokens: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The condition of a model from `text` and `text_length`, as data give them."""
    return {"text": np.asarray(tokens["text"], np.int32), "length": np.asarray(tokens["text_length"], np.int32)}


# --- long texts ---------------------------------------------------------------------------------------------------


def pieces(text: str, longest: int) -> list[str]:
    """A text in pieces of at most `longest` symbols, as far as its words are no longer: cut after sentences, and within
    long ones after punctuation, or else between words."""
    found: list[str] = []
    sentence: list[str] = []
    for word in [*_WORDS.findall(text), ""]:
        sentence += [word] if word else []
        if sentence and (not word or (word[-1] in ".!?" and word.lower() not in ABBREVIATIONS)):
            found += _cut(sentence, longest)
            sentence = []
    # What is short, or cannot be spoken by itself, such as a dash, goes with what is beside it.
    kept: list[str] = []
    for piece in found:
        joined = f"{kept[-1]} {piece}" if kept else ""
        short = kept and min(_symbols(kept[-1]), _symbols(piece)) < SHORTEST and _symbols(joined) <= longest
        if kept and (short or not any(c.isalnum() for c in piece)):
            kept[-1] = joined
        else:
            kept.append(piece)
    return kept


def _cut(words: list[str], longest: int) -> Iterator[str]:
    """A sentence in runs of at most `longest` symbols, which end after punctuation where there is some in the second
    half of one."""
    while words:
        count = 1
        while count < len(words) and _symbols(" ".join(words[: count + 1])) <= longest:
            count += 1
        marks = [i + 1 for i in range(count // 2, count) if words[i][-1] in ",;:"]
        count = marks[-1] if marks and count < len(words) else count
        yield " ".join(words[:count])
        words = words[count:]


def _symbols(text: str) -> int:
    """About how many symbols a text is read by; phonemes in braces count one each."""
    phonemes = _PHONEMES.findall(text)
    return len(cleaned(_PHONEMES.sub("", text))) + sum(len(group.split()) for group in phonemes)


def speak(
    trained: Trained, texts: Sequence[str], seed: int = 0, vocoder: Trained | None = None
) -> list[tuple[np.ndarray, list[Utterance]]]:
    """Waveforms in [-1, 1] at `data.mel.rate`, and what was spoken in each. Texts longer than held-out ones of the run
    are spoken in pieces; piece i of all has key i of the seed.

    vocoder: a run that makes sound of mels; the Griffin-Lim algorithm does where there is none. Raises UserError for a
    text that cannot be spoken, and where the model does not speak.
    """
    data = speech_of(trained.experiment)
    longest = int(np.max(trained.examples["text_length"]))
    data.tokens(texts)  # which raises the errors, of whole texts
    each = [pieces(text, longest) for text in texts]
    spoken = utterances(trained, conditions(data.tokens([piece for some in each for piece in some])), seed)
    pause = np.zeros(round(PAUSE * data.mel.rate), np.float32)
    out: list[tuple[np.ndarray, list[Utterance]]] = []
    first = 0
    for some in each:
        parts = spoken[first : first + len(some)]
        waves = [_sound(part.mel, data.mel, seed, first + i, vocoder) for i, part in enumerate(parts)]
        joined = [part for wave in waves for part in (pause, wave)][1:]
        out.append((np.concatenate(joined), parts))
        first += len(some)
    return out


def _sound(log_mel: np.ndarray, mel: Mel, seed: int, index: int, vocoder: Trained | None) -> np.ndarray:
    if vocoder is None:
        return waveform(log_mel, mel, seed, index)
    return vocoded(vocoder, log_mel, mel, seed, index)


# --- pictures -------------------------------------------------------------------------------------------------


def tiles(utterance: Utterance, mel: Mel, true: np.ndarray | None = None) -> list[np.ndarray]:
    """Pictures uint8[TALL, WIDE, 3] of the true mel, where it is given, the one spoken, and the alignment, steps from
    left to right and symbols upwards."""
    shown = [mel_picture(part, mel) for part in (true, utterance.mel) if part is not None]
    return [*shown, heat(utterance.alignment, TALL, WIDE, (0.0, 1.0))]


def save_spoken(file: Path, spoken: Sequence[Utterance], mel: Mel, origin: Origin | None = None) -> None:
    """A picture with a row for each of what was spoken: its mel and its alignment."""
    texts = [name for u in spoken for name in (u.text, "alignment")]
    save_picture(file, np.array([tiles(u, mel) for u in spoken]), texts=texts, origin=origin)


def save_speech(trained: Trained, folder: Path) -> None:
    """Held-out texts spoken: samples.png, a row for each with the true mel, the one spoken and the alignment; the sound
    of both mels by the Griffin-Lim algorithm as WAV; and what each of these is, sounds.json."""
    data, batch, seed = speech_of(trained.experiment), trained.examples, trained.experiment.seed
    some = {name: np.asarray(batch[name])[:SHOWN] for name in batch}
    spoken = utterances(trained, conditions(some), seed, SHOWN)
    origin = origin_of(trained, {"seed": seed})
    if not is_main():
        return
    true = [x[:length] for x, length in zip(some["x"], some["length"])]
    rows = [tiles(u, data.mel, x) for u, x in zip(spoken, true)]
    texts = [
        name for u in spoken for name in (u.text, "spoken" if u.stopped else "spoken, without an end", "alignment")
    ]
    save_picture(folder / "samples.png", np.array(rows), texts=texts, origin=origin)
    sounds = (
        (f"{name}_{i}", f"{utterance.text} ({name})", waveform(mel, data.mel, seed, i))
        for i, (utterance, x) in enumerate(zip(spoken, true))
        for name, mel in (("spoken", utterance.mel), ("true", x))
    )
    save_played(folder, sounds, data.mel.rate)
