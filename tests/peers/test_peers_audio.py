"""Sound against librosa's functions."""

import warnings

import jax
import numpy as np
import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    librosa = pytest.importorskip("librosa")

from jaxgen.core.keys import sample_keys
from jaxgen.ops import audio, griffin_lim
from jaxgen.ops.audio import Mel

NVIDIA = Mel()


def voice(seconds: float = 0.8, seed: int = 0) -> np.ndarray:
    """A gliding tone with overtones whose loudness changes, over noise: f32[N] at 22,050 Hz."""
    rng = np.random.default_rng(seed)
    t = np.arange(int(seconds * 22_050)) / 22_050
    pitch = 2 * np.pi * np.cumsum(120 + 30 * np.sin(2 * np.pi * 2 * t)) / 22_050
    x = sum(np.sin(k * pitch) / k for k in range(1, 25)) * (0.2 + 0.1 * np.sin(2 * np.pi * 3 * t))
    return (x + 0.01 * rng.standard_normal(len(t))).astype(np.float32)


def settings(mel: Mel) -> dict:
    return {"n_fft": mel.n_fft, "hop_length": mel.hop, "win_length": mel.window}


@pytest.mark.parametrize("window", [1024, 800])
def test_stft_and_inverse(window: int):
    x = voice()
    mode = {"n_fft": 1024, "hop_length": 256, "win_length": window}
    theirs = librosa.stft(x, pad_mode="reflect", **mode)
    found = audio.stft(x, 1024, 256, window)
    np.testing.assert_allclose(found.T, theirs, atol=1e-5 * np.abs(theirs).max())
    back = audio.istft(found, 1024, 256, window, len(x))
    np.testing.assert_allclose(back, librosa.istft(theirs, length=len(x), **mode), atol=1e-5)
    np.testing.assert_allclose(back, x, atol=1e-5)


@pytest.mark.parametrize("scale", ["slaney", "htk"])
def test_mel_banks(scale: str):
    mel = Mel(scale=scale, bands=64, low=40.0)
    theirs = librosa.filters.mel(
        sr=22_050, n_fft=1024, n_mels=64, fmin=40.0, fmax=8000.0, htk=scale == "htk", dtype=np.float64
    )
    np.testing.assert_allclose(audio.mel_bank(mel).T, theirs, atol=1e-8)


def test_log_mels():
    x = voice()
    theirs = librosa.feature.melspectrogram(
        y=x, sr=22_050, n_mels=80, fmax=8000.0, power=1.0, pad_mode="reflect", **settings(NVIDIA)
    )
    magnitude = audio.mel_spectrum(np.abs(audio.stft(x, 1024, 256, 1024)), NVIDIA)
    np.testing.assert_allclose(magnitude.T, theirs, atol=1e-5)
    np.testing.assert_allclose(audio.log_mel(x, NVIDIA).T, np.log(np.maximum(theirs, 1e-5)), atol=1e-5)
    power = librosa.feature.melspectrogram(y=x, sr=22_050, n_mels=80, fmax=8000.0, **settings(NVIDIA))
    np.testing.assert_allclose(audio.decibel_mel(x, NVIDIA).T, librosa.power_to_db(power, ref=np.max), atol=1e-4)


def test_mu_law_and_pre_emphasis():
    x = np.clip(voice(0.1), -1, 1)
    np.testing.assert_allclose(audio.mu_law(x), librosa.mu_compress(x, quantize=False), atol=1e-6)
    np.testing.assert_allclose(audio.mu_law_inverse(x), librosa.mu_expand(x, quantize=False), atol=1e-6)
    theirs = librosa.effects.preemphasis(x, coef=0.97, zi=[0.0])
    np.testing.assert_allclose(audio.pre_emphasis(x), theirs, atol=1e-6)
    np.testing.assert_allclose(audio.de_emphasis(theirs), librosa.effects.deemphasis(theirs, zi=[0.0]), atol=1e-4)


@pytest.mark.parametrize("momentum", [0.99, 0.0])
def test_griffin_lim_converges_as_far(momentum: float):
    """Equal magnitudes, iterations and momentum, the mean over random phases of 4 seeds each."""
    x = voice()
    magnitude = np.abs(np.asarray(audio.stft(x, 1024, 256, 1024)))
    four = np.repeat(magnitude[None], 4, axis=0)
    found = jax.jit(griffin_lim.griffin_lim, static_argnums=(2, 3, 4, 5))(
        four, sample_keys(0, 4), NVIDIA, 32, momentum, len(x)
    )
    ours = griffin_lim.convergence(found, four, NVIDIA)
    theirs = [
        librosa.griffinlim(
            magnitude.T, n_iter=32, momentum=momentum, random_state=seed, length=len(x), pad_mode="reflect",
            **settings(NVIDIA),
        )
        for seed in range(4)
    ]  # fmt: skip
    theirs = griffin_lim.convergence(np.stack(theirs), four, NVIDIA)
    assert np.mean(ours) < np.mean(theirs) * 1.03, (ours, theirs)


def test_magnitudes_of_a_mel_are_as_near():
    """The distance to the mel: of librosa's non-negative least squares, and of multiplicative steps."""
    log_mel = np.asarray(audio.log_mel(voice(0.3), NVIDIA))
    theirs = librosa.feature.inverse.mel_to_stft(np.exp(log_mel).T, sr=22_050, n_fft=1024, power=1.0, fmax=8000.0).T

    def distance(magnitude: np.ndarray) -> float:
        return float(np.linalg.norm(magnitude @ audio.mel_bank(NVIDIA) - np.exp(log_mel)))

    ours = distance(np.asarray(griffin_lim.magnitudes(log_mel, NVIDIA, iterations=100)))
    assert ours < max(1.05 * distance(theirs), 0.01 * np.linalg.norm(np.exp(log_mel)))
