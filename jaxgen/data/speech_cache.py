"""Log mel spectrograms and waveforms of clips, made once and kept in the user's cache."""

import functools
import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxgen.data.tfds import THREADS
from jaxgen.errors import UserError
from jaxgen.ops.audio import Mel, log_mel
from jaxgen.runtime.cache import private_folder
from jaxgen.runtime.files import disk_errors, replacing, write_tensors
from jaxgen.runtime.reading import read_tensors

FORMAT = 1
"""To be raised when spectrograms change."""
SHAPE = 128
"""Frames: spectrograms are computed in multiples of these, each compiled once."""


LOUDEST = 32_767
"""The integer of a sample of 1."""


def mel_of(x: np.ndarray, mel: Mel) -> np.ndarray:
    """The log mel f32[F, bands] of a waveform f32[N]."""
    half, frames = mel.n_fft // 2, mel.frames(len(x))
    length = -(-frames // SHAPE) * SHAPE * mel.hop + mel.n_fft
    # Reflected here, at the clip's own end; the frames of the zeros after it are cut off.
    padded = np.pad(np.pad(x, half, mode="reflect"), (0, length - len(x) - 2 * half))
    return np.asarray(_log_mel(padded, mel))[:frames]


@functools.partial(jax.jit, static_argnums=1)
def _log_mel(x: jax.Array, mel: Mel) -> jax.Array:
    return log_mel(x, mel, centred=False)


def mels_of(sounds: Callable[[int], np.ndarray], num: int, mel: Mel, known: list[Any]) -> tuple[np.ndarray, np.ndarray]:
    """Log mels of the waveforms sounds(0), ..., sounds(num - 1), one after another, f32[frames of all, bands], and the
    frames of each, i64[num]. They are computed if the cache has none that were made of the same settings.

    known: all that they depend on beside `mel`, as JSON.
    """
    return _kept("mels", lambda: _computed(sounds, num, mel), [{**vars(mel)}, *known], np.float32, (mel.bands,))


def waves_of(sounds: Callable[[int], np.ndarray], num: int, known: list[Any]) -> tuple[np.ndarray, np.ndarray]:
    """The waveforms sounds(0), ..., sounds(num - 1) in [-1, 1], one after another, as i16[samples of all] of 32,767 at
    most, and the samples of each, i64[num]. They are kept as `mels_of` keeps mels."""

    def rounded() -> Iterator[np.ndarray]:
        with ThreadPoolExecutor(THREADS) as pool:
            for x in _ahead(pool, sounds, num):
                yield np.round(np.clip(x, -1, 1) * LOUDEST).astype(np.int16)

    return _kept("waves", rounded, known, np.int16, ())


def _kept(
    kind: str, parts: Callable[[], Iterator[np.ndarray]], known: list[Any], dtype: type, row: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Arrays [n, *row] one after another, and the n of each, from the cache, or else computed by `parts`."""
    folder = private_folder("speech")
    if folder is None:
        every = list(parts())
        return np.concatenate(every), np.array([len(part) for part in every])
    key = json.dumps([FORMAT, *known], default=str)
    file = folder / f"{hashlib.sha256(key.encode('utf-8', 'surrogateescape')).hexdigest()[:20]}.{kind}"
    heads = file.with_suffix(".frames" if kind == "mels" else ".samples")
    size = np.dtype(dtype).itemsize * math.prod(row)
    if (lengths := _lengths(heads, file, size)) is None:
        lengths = []
        with disk_errors(), replacing(file) as partial, partial.open("wb") as out:
            for part in parts():
                out.write(part.tobytes())
                lengths.append(len(part))
        lengths = np.array(lengths)
        # Written last: where they are, the rest was once whole.
        with disk_errors():
            write_tensors(heads, {"frames": lengths})
    return np.memmap(file, dtype, "r", shape=(int(lengths.sum()), *row)), lengths


def _lengths(heads: Path, file: Path, size: int) -> np.ndarray | None:
    """Of the arrays in `file`, rows of so many bytes, as `heads` has them; None where either is missing or cut off."""
    try:
        lengths = read_tensors(heads)[0]["frames"]
        return lengths if file.stat().st_size == int(lengths.sum()) * size else None
    except (UserError, OSError):
        return None


def _computed(sounds: Callable[[int], np.ndarray], num: int, mel: Mel) -> Iterator[np.ndarray]:
    with ThreadPoolExecutor(THREADS) as pool:
        for x in _ahead(pool, sounds, num):
            yield mel_of(x, mel)


def _ahead(pool: ThreadPoolExecutor, sounds: Callable[[int], np.ndarray], num: int) -> Iterable[np.ndarray]:
    """Waveforms in order, read ahead, a few at a time: all of a set do not fit in memory."""
    for start in range(0, num, 64):
        yield from pool.map(sounds, range(start, min(start + 64, num)))
