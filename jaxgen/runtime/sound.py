"""Sound files: WAV and FLAC in and out, as waveforms f32[N] in [-1, 1] of one channel. All but writing WAV needs the
extra `speech`."""

import math
import wave
from pathlib import Path
from typing import Any

import numpy as np

from jaxgen.errors import UserError
from jaxgen.runtime.files import disk_errors, replacing
from jaxgen.runtime.reading import opened, why

ENDINGS = (".wav", ".flac")
LONGEST = 3600
"""Seconds of a file that are read at once."""
TRIM_FRAME, TRIM_HOP = 2048, 512


def speech_extra(name: str, use: str) -> Any:
    """A module of the extra `speech`. Raises UserError where it is missing: `use` is what needs it."""
    import importlib

    try:
        return importlib.import_module(name)
    except (ImportError, OSError) as error:  # OSError: of a library of C that it loads
        raise UserError(f"{use} needs the package {name}: pip install 'jaxgen[speech]'") from error


def cmu_dictionary() -> Path:
    """CMU's pronouncing dictionary, which comes with pocketsphinx. Raises UserError where that is missing."""
    sphinx = speech_extra("pocketsphinx", "the pronouncing dictionary cmu")
    return Path(sphinx.get_model_path()) / "en-us" / "cmudict-en-us.dict"


def read_sound(path: Path, rate: int) -> np.ndarray:
    """The waveform of a file at `rate` samples a second, f32[N]: the mean of its channels, resampled.

    Raises UserError for a file that is none of sound, holds none or more than an hour, or numbers that are not finite.
    """
    soundfile = speech_extra("soundfile", "a sound file")
    with opened(path) as file:
        try:
            with soundfile.SoundFile(file) as sound:
                own, samples = int(sound.samplerate), int(sound.frames)
                if not 0 < samples <= LONGEST * own:
                    raise UserError(
                        f"{path} has {samples} samples at {own} Hz, from 1 sample to an hour are expected: remove it, "
                        "or cut it into clips"
                    )
                channels = sound.read(dtype="float32", always_2d=True)
        except soundfile.SoundFileError as error:
            raise UserError(f"{path} cannot be read as sound ({why(error)}): save it as WAV or FLAC") from error
    if not np.isfinite(channels).all():
        raise UserError(f"{path} holds samples that are not finite: save it again")
    return resampled(channels.mean(axis=1, dtype=np.float32), own, rate)


def resampled(x: np.ndarray, rate: int, to: int) -> np.ndarray:
    """f32[ceil(N to / rate)] of a waveform f32[N]: on the host, where clips of all lengths would compile anew."""
    if rate == to:
        return x
    from scipy.signal import resample_poly

    factor = math.gcd(rate, to)
    return resample_poly(x, to // factor, rate // factor).astype(np.float32)


def write_sound(path: Path, x: np.ndarray, rate: int) -> None:
    """Writes a waveform, clipped to [-1, 1], with 16 bits a sample, as WAV or FLAC by the name of the file.

    Raises UserError for another ending, and where the file cannot be written.
    """
    check_sound_name(path)
    x = np.clip(np.nan_to_num(x), -1, 1)
    if path.suffix.lower() == ".wav":  # without the extra: runs leave sound as WAV
        levels = np.minimum(np.rint(x * 32_768), 32_767).astype("<i2")
        with disk_errors(), replacing(path) as partial, wave.open(str(partial), "wb") as file:
            file.setparams((1, 2, rate, len(levels), "NONE", ""))
            file.writeframes(levels.tobytes())
        return
    soundfile = speech_extra("soundfile", "a FLAC file")
    with disk_errors(), replacing(path) as partial:
        soundfile.write(str(partial), x, rate, "PCM_16", format="FLAC")


def check_sound_name(path: Path) -> None:
    """Raises UserError for a name that is none of a WAV or FLAC file."""
    if path.suffix.lower() not in ENDINGS:
        raise UserError(f"{path} is to be a sound file: give it a name that ends in {' or '.join(ENDINGS)}")


def voiced(x: np.ndarray, decibels: float) -> slice:
    """The part of x, f32[N], from its first to its last frame whose power is at most so many decibels below that of its
    loudest frame; empty for silence. Frames of 2048 samples, one every 512, centred."""
    padded = np.pad(x.astype(np.float64), TRIM_FRAME // 2) ** 2
    total = np.concatenate([[0.0], np.cumsum(padded)])
    starts = np.arange(0, len(padded) - TRIM_FRAME + 1, TRIM_HOP)
    power = total[starts + TRIM_FRAME] - total[starts]
    loudest = power.max()
    if loudest <= 0:
        return slice(0, 0)
    loud = np.flatnonzero(power > loudest * 10 ** (-decibels / 10))
    return slice(int(loud[0]) * TRIM_HOP, min(len(x), (int(loud[-1]) + 1) * TRIM_HOP))
