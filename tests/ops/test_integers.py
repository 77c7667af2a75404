"""Integers modulo K against float64 sums over a turn: sums that permute, masses that add up to one, draws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.ops.integers import (
    draw_mixture,
    features,
    log_mixture,
    outputs,
    shifted,
    stretched,
)


def params_of(components: int, rows: int, scale: float = 1.0) -> np.ndarray:
    return scale * np.random.default_rng(0).normal(size=(rows, outputs(components))).astype(np.float32)


def frequencies_of(levels: int) -> jnp.ndarray:
    return jnp.asarray(np.random.default_rng(1).normal(size=levels), jnp.float32)


def masses(params: np.ndarray, levels: int) -> np.ndarray:
    """P of every level, f64[K], component by component from the logistic distribution function."""
    number = len(params) // 3
    weight, mean, raw = np.split(params.astype(np.float64), [number + 1, 2 * number + 1])
    weight = np.exp(weight) * [number, *[1] * number]
    weight /= weight.sum()
    common = np.exp(np.asarray(frequencies_of(levels), np.float64))
    total = weight[0] * common / common.sum()
    for i in range(number):
        mu = levels / 2 * mean[i] + (i + 0.5) * levels / number
        s = np.exp(7 * np.tanh(raw[i] / 7)) * levels / 16
        centre = int(np.round(mu))
        each = np.zeros(levels)
        for step in range(-(levels // 2), levels - levels // 2):
            high, low = ((centre + step + side - mu) / s for side in (0.5, -0.5))
            each[(centre + step) % levels] = 0.5 * (np.tanh(high / 2) - np.tanh(low / 2))
        total += weight[i + 1] * each / each.sum()
    return total


@pytest.mark.parametrize("levels", [2, 17, 256])
def test_masses_are_those_of_logistics_cut_off_half_a_turn_away(levels):
    params = params_of(3, 6)
    x = jnp.arange(levels, dtype=jnp.float32)[None]
    found = np.exp(jax.jit(log_mixture)(jnp.asarray(params)[:, None], x, frequencies_of(levels)))
    np.testing.assert_allclose(found, [masses(row, levels) for row in params], atol=2e-6, rtol=2e-3)


@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_masses_add_up_to_one_and_have_gradients(scale):
    """Also where logistics are narrower than a hundredth of a level, or wider than a thousand turns."""
    for levels in (2, 17, 256):
        params, x = jnp.asarray(params_of(2, 8, scale))[:, None], jnp.arange(levels, dtype=jnp.float32)[None]
        common = frequencies_of(levels)
        slope = jax.jit(jax.grad(lambda params, x=x, common=common: jnp.sum(log_mixture(params, x, common))))
        log_p = jax.jit(log_mixture)(params, x, common)
        np.testing.assert_allclose(np.exp(np.asarray(log_p, np.float64)).sum(-1), 1, atol=1e-4)
        assert np.all(np.isfinite(slope(params))) and np.all(np.isfinite(log_p))


def test_draws_are_as_frequent_as_their_masses():
    """On a grid of both uniform numbers, each level is drawn as often as it is likely, but for the grid's edges."""
    levels, side = 17, 256
    u = (np.arange(side, dtype=np.float32) + 0.5) / side
    first, second = (jnp.asarray(a.ravel()) for a in np.meshgrid(u, u, indexing="ij"))
    for row in params_of(3, 4):
        params = jnp.broadcast_to(jnp.asarray(row), (side * side, len(row)))
        drawn = np.asarray(jax.jit(draw_mixture)(params, first, second, frequencies_of(levels)))
        assert set(drawn) <= set(range(levels))
        share = np.bincount(drawn.astype(int), minlength=levels) / side**2
        np.testing.assert_allclose(share, masses(row, levels), atol=3 / side)


def test_shifts_permute_and_are_undone_for_any_shift():
    for levels in (2, 17, 256):
        x = jnp.arange(levels, dtype=jnp.float32)[None]
        shift = jnp.asarray([[0.0], [1.0], [-1.0], [levels], [-levels], [12_345.0], [-16_777_215.0], [1e9]])
        y = shifted(x, shift, levels)
        np.testing.assert_array_equal(np.sort(y, axis=1), np.broadcast_to(x, y.shape))
        np.testing.assert_array_equal(shifted(y, -shift, levels), np.broadcast_to(x, y.shape))
        exact = (np.arange(levels) + np.asarray(shift).astype(np.int64)) % levels
        np.testing.assert_array_equal(y, exact)


def test_neighbours_on_the_circle_are_near_and_black_and_white_far():
    """Regression: networks saw the circle alone, where 0 and 255 are neighbours: ink as ground."""
    points = np.asarray(features(jnp.arange(256.0)[:, None], 256))
    gaps = np.linalg.norm(points[:, :2] - np.roll(points[:, :2], 1, axis=0), axis=1)
    np.testing.assert_allclose(gaps, 2 * np.sin(np.pi / 256), rtol=1e-4)
    assert len(np.unique(points.round(4), axis=0)) == 256
    assert points[255, 2] - points[0, 2] > 1.9


def test_small_outputs_shift_by_nothing_and_large_ones_by_half_a_turn():
    np.testing.assert_array_equal(jnp.round(stretched(jnp.asarray([0.45, -0.45]))), 0)
    assert 128 < stretched(jnp.asarray(6.9)) < 140 and np.isfinite(stretched(jnp.asarray(1e6)))
