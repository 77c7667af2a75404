"""A waveform of magnitudes alone: magnitudes of a mel spectrogram, and phases by the Griffin-Lim algorithm.

M: f32[B, F, K], magnitudes of a centred short-time Fourier transform as in `ops.audio`. C = M exp(i phi), with phases
phi to be found such that C is the transform of some waveform.
"""

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.core.keys import uniform_each
from jaxgen.ops.audio import Mel, istft, mel_bank, stft


def griffin_lim(
    magnitude: jax.Array, keys: jax.Array, mel: Mel, iterations: int = 60, momentum: float = 0.99, length: int = 0
) -> jax.Array:
    """f32[B, length] of M, example i from random phases by keys[i]. length: (F - 1) hop if 0.

    The fast variant, algorithm 2 of Perraudin, Balazs and Sondergaard, "A fast Griffin-Lim algorithm" (2013). With P(C)
    the transform of the waveform nearest to C, and a the momentum:

      t_n = P(M exp(i arg c_n)),  c_{n+1} = t_n + a (t_n - t_{n-1}) = (1 + a) (t_n - a / (1 + a) t_{n-1}).

    Phases do not see the factor 1 + a. a = 0 is the algorithm of 1984.
    """
    n_fft, hop, window = mel.n_fft, mel.hop, mel.window
    length = length or (magnitude.shape[-2] - 1) * hop
    weight = momentum / (1 + momentum)

    def wave(phases: jax.Array) -> jax.Array:
        return istft(magnitude * phases, n_fft, hop, window, length)

    def step(carry: tuple[jax.Array, jax.Array], _: None) -> tuple[tuple[jax.Array, jax.Array], None]:
        phases, before = carry
        # Frames past the end of `length` are none of the waveform's: they keep what they had.
        spectrum = stft(wave(phases), n_fft, hop, window)
        known = (jnp.arange(magnitude.shape[-2]) < spectrum.shape[-2])[None, :, None]
        built = _with_frames(spectrum, magnitude.shape[-2])
        return (jnp.where(known, _unit(built - weight * before), phases), built), None

    angle = uniform_each(keys, magnitude.shape[1:], 0.0, 2 * np.pi)
    start = (jax.lax.complex(jnp.cos(angle), jnp.sin(angle)), jnp.zeros(magnitude.shape, jnp.complex64))
    (phases, _), _ = jax.lax.scan(step, start, length=iterations)
    return wave(phases)


def _unit(z: jax.Array) -> jax.Array:
    """z / |z|, and 0 at 0."""
    return z / (jnp.abs(z) + 1e-16)


def _with_frames(spectrum: jax.Array, count: int) -> jax.Array:
    missing = max(0, count - spectrum.shape[-2])
    return jnp.pad(spectrum, ((0, 0), (0, missing), (0, 0)))[:, :count]


def magnitudes(log_mel: jax.Array, mel: Mel, iterations: int = 32) -> jax.Array:
    """M >= 0, f32[..., F, K], whose mel is near exp(log_mel), f32[..., F, bands].

    Begins at the clipped least-squares solution, then takes multiplicative steps (Lee and Seung, 2001), which keep
    M >= 0 and never move the mel away: M <- M (m B^T) / (M B B^T), with m the mel and B its bank.
    """
    bank = mel_bank(mel)
    target, high = jnp.exp(log_mel), jax.lax.Precision.HIGHEST
    inverse = np.linalg.pinv(bank.astype(np.float64)).astype(np.float32)
    numerator = jnp.matmul(target, bank.T, precision=high)

    def step(m: jax.Array, _: None) -> tuple[jax.Array, None]:
        again = jnp.matmul(jnp.matmul(m, bank, precision=high), bank.T, precision=high)
        return m * numerator / jnp.maximum(again, 1e-20), None

    # A factor would never move a zero.
    start = jnp.maximum(jnp.matmul(target, inverse, precision=high), 1e-6)
    return jax.lax.scan(step, start, length=iterations)[0]


def mel_to_wave(
    log_mel: jax.Array, keys: jax.Array, mel: Mel, iterations: int = 60, momentum: float = 0.99
) -> jax.Array:
    """f32[B, (F - 1) hop] of a log mel f32[B, F, bands], as `ops.audio.log_mel` gives it; example i by keys[i]."""
    return griffin_lim(magnitudes(log_mel, mel), keys, mel, iterations, momentum)


def convergence(x: jax.Array, magnitude: jax.Array, mel: Mel) -> jax.Array:
    """Spectral convergence f32[B] of waveforms x: || |S(x)| - M || / ||M||, 0 for those that have these magnitudes."""
    found = _with_frames(jnp.abs(stft(x, mel.n_fft, mel.hop, mel.window)), magnitude.shape[-2])
    return jnp.linalg.norm(found - magnitude, axis=(-2, -1)) / jnp.linalg.norm(magnitude, axis=(-2, -1))
