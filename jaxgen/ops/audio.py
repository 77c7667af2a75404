"""Sound as arrays: short-time Fourier transforms, mel spectrograms, companding, pre-emphasis and resampling.

x: f32[..., N], a waveform in [-1, 1]. S: c64[..., F, K], its short-time Fourier transform: F frames, one every `hop`
samples, of K = n_fft / 2 + 1 frequencies from 0 to rate / 2. If frames are `centred`, frame f is around sample f hop, x
is continued at both ends by its reflection or by zeros, and F = 1 + floor(N / hop).
"""

import functools
import math
from dataclasses import dataclass
from typing import Annotated, Literal

import jax
import jax.numpy as jnp
import numpy as np
from annotated_types import Ge, Le

from jaxgen.core.ranges import NonNegative, Positive, Size
from jaxgen.errors import UserError

Rate = Annotated[int, Ge(1_000), Le(384_000)]
"""Samples a second."""
KAISER = 9.0
"""The shape of the window of a resampling filter: its stop band lies 90 dB below."""


@dataclass(frozen=True, kw_only=True)
class Mel:
    """Which spectrogram of sound; as it stands, that of NVIDIA's Tacotron 2."""

    rate: Rate = 22_050
    """Samples a second of the sound; sound of another rate is resampled."""
    n_fft: Annotated[int, Ge(16), Le(16_384)] = 1024
    """Samples of a frame."""
    hop: Size = 256
    """Samples from one frame to the next."""
    window: Annotated[int, Ge(16), Le(16_384)] = 1024
    """Samples of the Hann window, in the middle of a frame."""
    bands: Annotated[int, Ge(1), Le(1_024)] = 80
    low: NonNegative = 0.0
    """Lowest frequency in Hz."""
    high: Positive = 8_000.0
    """Highest frequency in Hz."""
    scale: Literal["slaney", "htk"] = "slaney"
    """The mel scale: linear up to 1 kHz and logarithmic above, or 2595 log10(1 + f / 700)."""
    floor: Positive = 1e-5
    """Smaller magnitudes count as this, before the logarithm."""

    def problem(self) -> str | None:
        if self.high > self.rate / 2 or self.low >= self.high:
            return (
                f"low is {self.low:g} and high is {self.high:g}: low below high, and high of at most half the rate, "
                f"{self.rate / 2:g}, are expected"
            )
        if self.n_fft % 2 or not 16 * self.hop >= self.window >= 2 * self.hop or self.window > self.n_fft:
            return (
                f"n_fft is {self.n_fft}, window {self.window}, hop {self.hop}: an even n_fft, a window of at most that "
                "and a hop of 1/16 to 1/2 of the window are expected"
            )
        if empty := int(np.sum(~mel_bank(self).any(axis=0))):
            return (
                f"bands is {self.bands}, of which {empty} lie between two frequencies of n_fft = {self.n_fft}: choose "
                "fewer, or a larger n_fft"
            )
        return None

    @property
    def silence(self) -> float:
        """The log mel of nothing."""
        return math.log(self.floor)

    def frames(self, samples: int) -> int:
        """Frames of so many samples."""
        return 1 + samples // self.hop


# --- short-time Fourier transform -----------------------------------------------------------------------------


def hann(window: int, n_fft: int) -> np.ndarray:
    """f32[n_fft]: a periodic Hann window, zeros on both sides: w_i = (1 - cos(2 pi i / window)) / 2."""
    values = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)
    left = (n_fft - window) // 2
    return np.pad(values, (left, n_fft - window - left)).astype(np.float32)


def framed(x: jax.Array, size: int, hop: int) -> jax.Array:
    """[..., F, size]: the frames x[f hop : f hop + size] that lie in x, [..., N]. F = 1 + floor((N - size) / hop)."""
    count, parts = 1 + (x.shape[-1] - size) // hop, -(-size // hop)
    # Concatenated slices: XLA gathers single samples one after another.
    x = _to_length(x, (count + parts - 1) * hop)
    blocks = x.reshape(*x.shape[:-1], count + parts - 1, hop)
    return jnp.concatenate([blocks[..., r : r + count, :] for r in range(parts)], axis=-1)[..., :size]


def overlap_added(frames: jax.Array, hop: int) -> jax.Array:
    """[..., (F - 1) hop + size] of frames [..., F, size]: the sum of all at their places, the transpose of `framed`."""
    count, size = frames.shape[-2:]
    parts = -(-size // hop)
    frames = _to_length(frames, parts * hop).reshape(*frames.shape[:-1], parts, hop)
    none = [(0, 0)] * (frames.ndim - 3)
    shifted = [jnp.pad(frames[..., r, :], (*none, (r, parts - 1 - r), (0, 0))) for r in range(parts)]
    total = functools.reduce(jnp.add, shifted)
    return total.reshape(*total.shape[:-2], -1)[..., : (count - 1) * hop + size]


def stft(
    x: jax.Array,
    n_fft: int,
    hop: int,
    window: int,
    centred: bool = True,
    mode: Literal["reflect", "constant"] = "reflect",
) -> jax.Array:
    """S_fk = sum_n w_n x_{f hop + n} exp(-2 pi i k n / n_fft), c64[..., F, K].

    mode: how centred frames continue x, by its reflection or by zeros. Raises UserError where x is too short.
    """
    least = n_fft // 2 + 1 if centred and mode == "reflect" else 1 if centred else n_fft
    if x.shape[-1] < least:
        raise UserError(f"sound of {x.shape[-1]} samples is too short for frames of {n_fft}: {least} are expected")
    if centred:
        x = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(n_fft // 2, n_fft // 2)], mode=mode)
    frames = framed(x, n_fft, hop)
    return jnp.fft.rfft(frames * _along_last(hann(window, n_fft), frames.ndim))


def istft(spectrum: jax.Array, n_fft: int, hop: int, window: int, length: int) -> jax.Array:
    """f32[..., length] of a centred S: the waveform whose transform is nearest to S in the least-squares sense.

    Windowed frames are overlap-added and divided by the sum of squared windows, eq. 6 of Griffin and Lim (1984).
    """
    w = hann(window, n_fft)
    frames = jnp.fft.irfft(spectrum, n_fft) * _along_last(w, spectrum.ndim)
    weight = _window_sums(n_fft, hop, window, spectrum.shape[-2])
    x = overlap_added(frames, hop) / _along_last(weight, spectrum.ndim - 1)
    return _to_length(x[..., n_fft // 2 :], length)


@functools.lru_cache(maxsize=64)
def _window_sums(n_fft: int, hop: int, window: int, count: int) -> np.ndarray:
    """f32[(count - 1) hop + n_fft]: the sum of the squared windows of all frames, 1 where there is none."""
    square, total = hann(window, n_fft).astype(np.float64) ** 2, np.zeros((count - 1) * hop + n_fft)
    for f in range(count):
        total[f * hop : f * hop + n_fft] += square
    return np.where(total > 1e-8, total, 1.0).astype(np.float32)


def _along_last(values: np.ndarray, ndim: int) -> np.ndarray:
    return values.reshape((1,) * (ndim - 1) + values.shape)


def _to_length(x: jax.Array, length: int) -> jax.Array:
    """x[..., :length], with zeros after its end."""
    missing = max(0, length - x.shape[-1])
    return jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, missing)])[..., :length]


# --- mel ------------------------------------------------------------------------------------------------------


def hz_to_mel(hz: np.ndarray, scale: str) -> np.ndarray:
    """Mel of frequencies in Hz, f64."""
    hz = np.asarray(hz, np.float64)
    if scale == "htk":
        return 2595 * np.log10(1 + hz / 700)
    # Slaney's Auditory Toolbox: 15 mel of 200 / 3 Hz each up to 1 kHz, 27 mel for each factor of 6.4 above.
    return np.where(hz < 1000, hz * 3 / 200, 15 + 27 * np.log(np.maximum(hz, 1000) / 1000) / math.log(6.4))


def mel_to_hz(mel: np.ndarray, scale: str) -> np.ndarray:
    """Frequencies in Hz of mel, f64."""
    mel = np.asarray(mel, np.float64)
    if scale == "htk":
        return 700 * (10 ** (mel / 2595) - 1)
    return np.where(mel < 15, mel * 200 / 3, 1000 * np.exp((mel - 15) * math.log(6.4) / 27))


@functools.lru_cache(maxsize=16)
def mel_bank(mel: Mel) -> np.ndarray:
    """f32[K, bands]: triangles between neighbouring centres, evenly spaced in mel, each of area 1 in Hz (Slaney's
    normalization)."""
    low, high = hz_to_mel(np.array([mel.low, mel.high]), mel.scale)
    edges = mel_to_hz(np.linspace(low, high, mel.bands + 2), mel.scale)
    hz = np.arange(mel.n_fft // 2 + 1)[:, None] * (mel.rate / mel.n_fft)
    below, centre, above = edges[:-2], edges[1:-1], edges[2:]
    triangles = np.maximum(0, np.minimum((hz - below) / (centre - below), (above - hz) / (above - centre)))
    bank = (triangles * (2 / (above - below))).astype(np.float32)
    bank.flags.writeable = False
    return bank


def mel_spectrum(magnitude: jax.Array, mel: Mel) -> jax.Array:
    """f32[..., F, bands] of magnitudes or powers f32[..., F, K]."""
    # In bf16, which some devices multiply in by default, bands would be off by a percent.
    return jnp.matmul(magnitude, mel_bank(mel), precision=jax.lax.Precision.HIGHEST)


def log_mel(x: jax.Array, mel: Mel, centred: bool = True) -> jax.Array:
    """ln(max(floor, |S| bank)), f32[..., F, bands], as NVIDIA's Tacotron 2 has it.

    centred=False: x is continued by n_fft / 2 samples at both ends already.
    """
    magnitude = jnp.abs(stft(x, mel.n_fft, mel.hop, mel.window, centred))
    return jnp.log(jnp.maximum(mel_spectrum(magnitude, mel), mel.floor))


def decibel_mel(x: jax.Array, mel: Mel, top_db: float = 80.0) -> jax.Array:
    """10 log10 of mel powers over the greatest of each example, no less than -top_db, f32[..., F, bands], as librosa
    has it by default: frames continued by zeros, powers of at least 1e-10."""
    power = mel_spectrum(jnp.abs(stft(x, mel.n_fft, mel.hop, mel.window, mode="constant")) ** 2, mel)
    db = 10 * jnp.log10(jnp.maximum(power, 1e-10))
    db = db - jnp.max(db, axis=(-2, -1), keepdims=True)
    return jnp.maximum(db, -top_db)


# --- waveforms ------------------------------------------------------------------------------------------------


def mu_law(x: jax.Array, mu: int = 255) -> jax.Array:
    """sign(x) ln(1 + mu |x|) / ln(1 + mu), f32 in [-1, 1]. ITU-T G.711."""
    return jnp.sign(x) * jnp.log1p(mu * jnp.abs(x)) / math.log1p(mu)


def mu_law_inverse(y: jax.Array, mu: int = 255) -> jax.Array:
    """sign(y) ((1 + mu)^|y| - 1) / mu."""
    return jnp.sign(y) * jnp.expm1(jnp.abs(y) * math.log1p(mu)) / mu


def mu_law_encode(x: jax.Array, mu: int = 255) -> jax.Array:
    """Levels i32 in [0, mu] of x, clipped to [-1, 1]: `mu_law` rounded to mu + 1 even steps."""
    return jnp.floor((mu_law(jnp.clip(x, -1, 1), mu) + 1) / 2 * mu + 0.5).astype(jnp.int32)


def mu_law_decode(levels: jax.Array, mu: int = 255) -> jax.Array:
    """f32 in [-1, 1] of levels i32 in [0, mu]."""
    return mu_law_inverse(2 * levels.astype(jnp.float32) / mu - 1, mu)


def pre_emphasis(x: jax.Array, a: float = 0.97) -> jax.Array:
    """y_n = x_n - a x_{n-1}, where x_{-1} = 0."""
    return x - a * jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(1, 0)])[..., :-1]


def de_emphasis(y: jax.Array, a: float = 0.97) -> jax.Array:
    """The x of which y is the `pre_emphasis`: x_n = y_n + a x_{n-1}."""

    def joined(left: tuple[jax.Array, jax.Array], right: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        return left[0] * right[0], left[1] * right[0] + right[1]

    return jax.lax.associative_scan(joined, (jnp.full_like(y, a), y), axis=-1)[1]


def resampled(x: jax.Array, rate: int, to: int, zeros: int = 32) -> jax.Array:
    """The waveform at `to` samples a second, f32[..., ceil(N to / rate)]: y_m = sum_n x_n h(m rate / to - n).

    h(t) = c sinc(c t) w(t): a low-pass of `zeros` zeros on each side under a Kaiser window, which cuts off just below
    half the lower rate, c = 0.95 min(1, to / rate).
    """
    if rate == to:
        return x
    factor = math.gcd(rate, to)
    old, new = rate // factor, to // factor
    bank, width = _resampling(old, new, zeros)
    length = -(-x.shape[-1] * new // old)
    blocks = -(-length // new)
    # Block q holds the outputs q new ... q new + new - 1, which see the inputs from q old - width on.
    x = _to_length(jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(width, 0)]), (blocks - 1) * old + len(bank))
    y = jnp.matmul(framed(x, len(bank), old), bank, precision=jax.lax.Precision.HIGHEST)
    return y.reshape(*y.shape[:-2], -1)[..., :length]


@functools.lru_cache(maxsize=16)
def _resampling(old: int, new: int, zeros: int) -> tuple[np.ndarray, int]:
    """f32[old + 2 width, new], the weight of each input in each output of a block, and width."""
    cutoff = 0.95 * min(1.0, new / old)
    width = math.ceil(zeros / cutoff)
    t = np.arange(-width, old + width)[:, None] - np.arange(new) * (old / new)
    u = np.clip(t * cutoff / zeros, -1, 1)
    kaiser = np.i0(KAISER * np.sqrt(1 - u**2)) / np.i0(KAISER) * (np.abs(u) < 1)
    return (cutoff * np.sinc(cutoff * t) * kaiser).astype(np.float32), width
