"""Sound against sums written out: each number by its definition, in f64, one frame and one sample at a time."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.core.configuration import check_fields
from jaxgen.core.keys import sample_keys
from jaxgen.errors import UserError
from jaxgen.ops import audio, griffin_lim
from jaxgen.ops.audio import Mel

SMALL = Mel(rate=8_000, n_fft=64, hop=16, window=48, bands=10, high=4_000.0)


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-0.9, 0.9, shape).astype(np.float32)


def slow_stft(x: np.ndarray, n_fft: int, hop: int, window: int) -> np.ndarray:
    """c128[F, K] of x, f64[N]: every frame, frequency and sample by itself."""
    half, left = n_fft // 2, (n_fft - window) // 2
    count = 1 + len(x) // hop
    found = np.zeros((count, half + 1), np.complex128)
    for f in range(count):
        for i in range(window):
            n = f * hop - half + left + i
            n = -n if n < 0 else n
            n = 2 * (len(x) - 1) - n if n >= len(x) else n
            w = 0.5 - 0.5 * math.cos(2 * math.pi * i / window)
            found[f] += w * x[n] * np.exp(-2j * np.pi * np.arange(half + 1) * (left + i) / n_fft)
    return found


@pytest.mark.parametrize(("n_fft", "hop", "window"), [(32, 8, 32), (32, 7, 24), (64, 16, 48), (16, 5, 16)])
def test_stft_is_its_definition_and_comes_back(n_fft: int, hop: int, window: int):
    x = noise(2, 203)
    found = np.asarray(audio.stft(x, n_fft, hop, window))
    for row, spectrum in zip(x, found):
        np.testing.assert_allclose(spectrum, slow_stft(row.astype(np.float64), n_fft, hop, window), atol=1e-5)
    back = audio.istft(found, n_fft, hop, window, 203)
    # Samples after the last whole hop lie in one frame alone, where the window is small.
    np.testing.assert_allclose(back[:, :196], x[:, :196], atol=1e-5)


def test_the_inverse_is_the_nearest_waveform():
    """The normal equations: what is left of a spectrum that no waveform has is orthogonal to all transforms."""
    rng = np.random.default_rng(1)
    spectrum = (rng.normal(size=(9, 17)) + 1j * rng.normal(size=(9, 17))).astype(np.complex64)
    spectrum.imag[:, [0, -1]] = 0

    def distance(x: jax.Array) -> jax.Array:
        apart = jnp.abs(audio.stft(x, 32, 8, 32, centred=False) - spectrum) ** 2
        return jnp.sum(apart * jnp.array([1.0, *[2.0] * 15, 1.0])[None])  # a real signal's other half

    # Uncentred and whole: from the first sample of the first frame to the last of the last.
    frames = jnp.fft.irfft(spectrum, 32) * audio.hann(32, 32)[None]
    x = audio.overlap_added(frames, 8) / audio._window_sums(32, 8, 32, 9)
    gradient = jax.grad(distance)(x)
    np.testing.assert_allclose(gradient[1:], 0, atol=2e-3)  # of values of up to 100; the first sample has window 0
    assert distance(x) < distance(x + 0.01 * noise(len(x)))


def test_framing_and_adding_are_transposes():
    x, y = noise(2, 50), noise(2, 6, 12, seed=1)
    frames = audio.framed(jnp.asarray(x), 12, 7)
    np.testing.assert_array_equal(frames, np.stack([x[:, 7 * f : 7 * f + 12] for f in range(6)], axis=1))
    added = audio.overlap_added(jnp.asarray(y), 7)
    np.testing.assert_allclose(np.sum(frames * y), np.sum(x[:, :47] * added), rtol=1e-5)


@pytest.mark.parametrize("scale", ["slaney", "htk"])
def test_mel_bands_are_triangles_of_area_one(scale: str):
    mel = Mel(scale=scale, n_fft=16_384, bands=20, low=50.0)
    bank = audio.mel_bank(mel)
    np.testing.assert_allclose(bank.sum(axis=0) * mel.rate / mel.n_fft, 1, rtol=2e-3)
    edges = audio.mel_to_hz(np.linspace(*audio.hz_to_mel(np.array([50.0, 8000.0]), scale), 22), scale)
    hz = np.arange(len(bank)) * mel.rate / mel.n_fft
    for band in range(20):
        inside = (hz > edges[band]) & (hz < edges[band + 2])
        np.testing.assert_array_equal(bank[:, band] > 0, inside)
        np.testing.assert_allclose(hz[bank[:, band].argmax()], edges[band + 1], atol=mel.rate / mel.n_fft)
    np.testing.assert_allclose(audio.mel_to_hz(audio.hz_to_mel(hz, scale), scale), hz, atol=1e-9)
    assert audio.hz_to_mel(np.array(1000.0), "slaney") == 15
    np.testing.assert_allclose(audio.hz_to_mel(np.array(1000.0), "htk"), 999.99, atol=0.01)


def test_log_mel_is_its_definition():
    x = noise(300)
    slow = np.log(np.maximum(np.abs(slow_stft(x.astype(np.float64), 64, 16, 48)) @ audio.mel_bank(SMALL), 1e-5))
    np.testing.assert_allclose(audio.log_mel(x, SMALL), slow, atol=1e-5)
    outside = np.pad(x, 32, mode="reflect")
    np.testing.assert_allclose(audio.log_mel(outside, SMALL, centred=False), slow, atol=1e-5)
    assert slow.shape == (SMALL.frames(300), 10)
    silent = audio.log_mel(np.zeros(300, np.float32), SMALL)
    np.testing.assert_allclose(silent, SMALL.silence, rtol=1e-6)


def test_a_batch_is_its_examples_under_jit():
    x = noise(3, 400)
    together = jax.jit(lambda x: audio.log_mel(x, SMALL))(x)
    for row, found in zip(x, together):
        np.testing.assert_allclose(audio.log_mel(row, SMALL), found, atol=1e-6)


@pytest.mark.parametrize("mu", [255, 15])
def test_mu_law_is_its_definition_and_comes_back(mu: int):
    x = noise(1000)
    slow = np.array([math.copysign(math.log(1 + mu * abs(v)) / math.log(1 + mu), v) for v in x.astype(np.float64)])
    np.testing.assert_allclose(audio.mu_law(x, mu), slow, atol=1e-6)
    np.testing.assert_allclose(audio.mu_law_inverse(audio.mu_law(x, mu), mu), x, atol=1e-6)
    levels = np.asarray(audio.mu_law_encode(x, mu))
    np.testing.assert_array_equal(levels, np.floor((slow + 1) / 2 * mu + 0.5))
    np.testing.assert_array_equal(
        audio.mu_law_encode(audio.mu_law_decode(jnp.arange(mu + 1), mu), mu), np.arange(mu + 1)
    )
    np.testing.assert_array_equal(audio.mu_law_encode(np.array([-7.0, -1.0, 1.0, 7.0]), mu), [0, 0, mu, mu])


def test_pre_emphasis_and_its_inverse():
    x = noise(2, 500)
    y = audio.pre_emphasis(x, 0.9)
    np.testing.assert_allclose(y[:, 0], x[:, 0])
    np.testing.assert_allclose(y[:, 1:], x[:, 1:] - np.float32(0.9) * x[:, :-1], atol=1e-6)
    slow, before = np.zeros((2, 500)), np.zeros(2)
    for n in range(500):
        slow[:, n] = before = np.asarray(y, np.float64)[:, n] + 0.9 * before
    np.testing.assert_allclose(audio.de_emphasis(y, 0.9), slow, atol=1e-5)
    np.testing.assert_allclose(slow, x, atol=1e-5)


@pytest.mark.parametrize(("rate", "to"), [(8_000, 22_050), (22_050, 16_000), (44_100, 22_050), (16_000, 24_000)])
def test_resampling_keeps_tones_and_drops_what_is_too_high(rate: int, to: int):
    seconds = 0.15
    low = 0.3 * min(rate, to)
    tone = np.sin(2 * np.pi * low * np.arange(int(rate * seconds)) / rate + 0.3).astype(np.float32)
    found = np.asarray(audio.resampled(np.stack([tone, tone / 2]), rate, to))
    assert found.shape == (2, -(-len(tone) * to // rate))
    true = np.sin(2 * np.pi * low * np.arange(found.shape[1]) / to + 0.3)
    inner = slice(found.shape[1] // 4, -found.shape[1] // 4)
    np.testing.assert_allclose(found[0, inner], true[inner], atol=2e-3)
    np.testing.assert_allclose(found[1], found[0] / 2, atol=1e-6)
    if to < rate:
        high = np.sin(2 * np.pi * 0.55 * to * np.arange(4 * len(tone)) / rate).astype(np.float32)
        found = np.asarray(audio.resampled(high, rate, to))
        assert np.abs(found[len(found) // 4 : -len(found) // 4]).max() < 1e-3


def test_resampling_is_its_sum():
    x = noise(70)
    found = audio.resampled(x, 6, 4, zeros=5)
    c = 0.95 * 4 / 6
    for m, value in enumerate(found):
        t = m * 6 / 4 - np.arange(70)
        inside = np.abs(t) * c <= 5
        w = np.i0(audio.KAISER * np.sqrt(np.maximum(0, 1 - (t * c / 5) ** 2))) / np.i0(audio.KAISER)
        np.testing.assert_allclose(value, np.sum(x * c * np.sinc(c * t) * w * inside), atol=1e-5)
    assert audio.resampled(x, 5, 5) is x


# --- Griffin-Lim ----------------------------------------------------------------------------------------------


def test_griffin_lim_follows_its_recurrence():
    """Against a loop in f64, from the phases that it began with."""
    x = noise(1, 161)
    magnitude = np.abs(np.asarray(audio.stft(x, 64, 16, 48)))
    found = griffin_lim.griffin_lim(magnitude, sample_keys(0, 1), SMALL, iterations=4, momentum=0.5)
    start = griffin_lim.griffin_lim(magnitude, sample_keys(0, 1), SMALL, iterations=0)
    angle = np.asarray(
        jax.random.uniform(sample_keys(0, 1)[0], magnitude.shape[1:], minval=0.0, maxval=2 * np.pi), np.float64
    )
    phases, before = np.exp(1j * angle), 0
    for i in range(5):
        w, total, added = audio.hann(48, 64).astype(np.float64), np.zeros(64 + 160), np.zeros(64 + 160)
        for f, frame in enumerate(np.fft.irfft(magnitude[0] * phases)):
            added[16 * f : 16 * f + 64] += frame * w
            total[16 * f : 16 * f + 64] += w**2
        wave = (added / np.where(total > 1e-8, total, 1))[32:192]
        if i == 0:
            np.testing.assert_allclose(start[0], wave, atol=1e-5)
        built = slow_stft(wave, 64, 16, 48)
        c = built - (0.5 / 1.5) * before
        phases, before = c / np.abs(c), built
    np.testing.assert_allclose(found[0], wave, atol=1e-4)


def test_griffin_lim_of_a_shorter_waveform_is_loud_to_its_end():
    """Frames past the end keep their phases. Regression: they fell silent, and the last samples with them: 0.72."""
    x = 0.5 * np.sin(2 * np.pi * 0.05 * np.arange(1024))[None]
    magnitude = jnp.abs(audio.stft(x, 64, 16, 48))
    found = griffin_lim.griffin_lim(magnitude, sample_keys(0, 1), SMALL, length=990)[0]
    assert jnp.std(found[970:]) > 0.87 * jnp.std(found[300:700])


def test_griffin_lim_of_an_example_depends_on_its_key_alone():
    magnitude = np.abs(np.asarray(audio.stft(noise(3, 161), 64, 16, 48)))
    together = griffin_lim.griffin_lim(magnitude, sample_keys(3, 3), SMALL, iterations=3)
    alone = griffin_lim.griffin_lim(magnitude[1:2], sample_keys(3, 1, start=1), SMALL, iterations=3)
    np.testing.assert_allclose(together[1], alone[0], atol=1e-5)
    other = griffin_lim.griffin_lim(magnitude[1:2], sample_keys(3, 1), SMALL, iterations=3)
    assert np.abs(other - alone).max() > 1e-2


def chirp(seconds: float, mel: Mel) -> np.ndarray:
    t = np.arange(int(seconds * mel.rate)) / mel.rate
    return (0.4 * np.sin(2 * np.pi * (200 * t + 400 * t**2)) + 0.2 * np.sin(2 * np.pi * 900 * t)).astype(np.float32)


def test_momentum_converges_faster_and_silence_stays_silent():
    x = chirp(0.5, SMALL)[None]
    magnitude = jnp.abs(audio.stft(x, 64, 16, 48))

    def convergence(momentum: float) -> float:
        found = griffin_lim.griffin_lim(magnitude, sample_keys(0, 1), SMALL, 60, momentum, x.shape[1])
        return float(griffin_lim.convergence(found, magnitude, SMALL)[0])

    assert convergence(0.99) < convergence(0.0) < 0.2
    np.testing.assert_array_equal(griffin_lim.convergence(x, magnitude, SMALL), 0)
    silent = griffin_lim.mel_to_wave(jnp.full((1, 8, 10), SMALL.silence), sample_keys(0, 1), SMALL, iterations=5)
    assert silent.shape == (1, 7 * 16) and np.abs(silent).max() < 2e-3


def test_magnitudes_have_the_mel_they_come_from():
    mel = dataclasses.replace(SMALL, bands=20, n_fft=256, window=256, hop=64)
    log_mel = audio.log_mel(chirp(0.4, mel), mel)
    found = griffin_lim.magnitudes(log_mel, mel, iterations=200)
    assert np.asarray(found).min() >= 0
    again, truth = audio.mel_spectrum(found, mel), np.exp(log_mel)
    assert np.linalg.norm(again - truth) < 0.01 * np.linalg.norm(truth)


# --- what is refused ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"high": 5_000.0}, "low is 0 and high is 5000"),
        ({"low": 4_000.0}, "low below high"),
        ({"hop": 40}, "a hop of 1/16 to 1/2 of the window"),
        ({"hop": 2}, "a hop of 1/16 to 1/2 of the window"),
        ({"bands": 40}, "bands is 40, of which 2 lie between two frequencies of n_fft = 64"),
        ({"bands": 65_536}, "bands is 65536"),
        ({"window": 65}, "a window of at most that"),
        ({"n_fft": 65}, "an even n_fft"),
    ],
)
def test_settings_that_do_not_go_together_are_one_line(wrong: dict, said: str):
    check_fields(SMALL)
    with pytest.raises(UserError, match=said):
        check_fields(dataclasses.replace(SMALL, **wrong))


def test_sound_shorter_than_half_a_frame_is_one_line():
    with pytest.raises(UserError, match="sound of 32 samples is too short for frames of 64: 33 are expected"):
        audio.log_mel(noise(32), SMALL)
    assert audio.log_mel(noise(33), SMALL).shape == (3, 10)
    with pytest.raises(UserError, match="sound of 63 samples is too short for frames of 64: 64"):
        audio.log_mel(noise(63), SMALL, centred=False)
