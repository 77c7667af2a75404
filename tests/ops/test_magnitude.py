"""Operations that keep magnitudes: against float64, and on independent normal inputs."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.ops.magnitude import mp_concat, mp_fourier, mp_silu, mp_sum, pixel_norm, unit, unit_kernel

RNG = np.random.default_rng(0)


def rms(x, axis=None):
    return np.sqrt(np.mean(np.asarray(x, np.float64) ** 2, axis=axis))


def test_unit_has_magnitude_one_over_its_axes():
    x = RNG.normal(size=(3, 4, 5)).astype(np.float32) * 7
    np.testing.assert_allclose(unit(x, (0, 2)), x / rms(x, (0, 2))[None, :, None], rtol=1e-5)
    np.testing.assert_allclose(rms(pixel_norm(x), -1), 1, rtol=1e-5)
    np.testing.assert_allclose(rms(unit_kernel(jnp.asarray(x)), (0, 1)), 1, rtol=1e-5)
    np.testing.assert_array_equal(unit(jnp.zeros((2, 3)), (1,)), 0)
    assert np.isfinite(jax.grad(lambda x: unit(x, (1,)).sum())(jnp.zeros((2, 3)))).all()


def test_sums_and_concatenations_are_the_papers():
    """Eq. 88 and 103. Of the concatenation, each part contributes to magnitude in the given ratio."""
    a, b = RNG.normal(size=(2, 500, 30))
    for t in (0.0, 0.3, 0.5, 1.0):
        np.testing.assert_allclose(mp_sum(a, b, t), ((1 - t) * a + t * b) / np.sqrt((1 - t) ** 2 + t**2), rtol=1e-5)
        both = np.asarray(mp_concat(a, b[:, :10], t))
        np.testing.assert_allclose(rms(both), 1, atol=0.03)
        share = np.sum(both[:, 30:] ** 2) / np.sum(both**2)
        np.testing.assert_allclose(share, t**2 / ((1 - t) ** 2 + t**2), atol=0.02)


def test_silu_and_fourier_features_have_magnitude_one():
    x = np.linspace(-8, 8, 200_001)
    silu = x / (1 + np.exp(-x))
    np.testing.assert_allclose(mp_silu(x), silu / 0.596, atol=1e-5)
    density = np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi)
    np.testing.assert_allclose(np.sqrt(np.sum((silu / 0.596) ** 2 * density) * (x[1] - x[0])), 1, atol=2e-3)
    c, f, phi = RNG.normal(size=4), RNG.normal(size=2000), RNG.uniform(size=2000)
    expected = np.sqrt(2) * np.cos(2 * np.pi * (f[None] * c[:, None] + phi[None]))
    found = mp_fourier(*(jnp.asarray(a, jnp.float32) for a in (c, f, phi)))
    np.testing.assert_allclose(found, expected, atol=1e-4)
    np.testing.assert_allclose(rms(found, 1), 1, atol=0.05)
