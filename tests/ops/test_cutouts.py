"""Cutouts: where they lie, what each key decides, and the angle between embeddings."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen import core
from jaxgen.core.keys import split_each, uniform_each
from jaxgen.ops.cutouts import Cutouts, spherical

PLAIN = Cutouts(num=6, flip=False, colour=0.0, noise=0.0)


def keys(num):
    return core.sample_keys(3, num)


def test_the_first_is_the_middle_square_as_it_is():
    x = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (2, 8, 12, 3)), jnp.float32)
    cut = Cutouts(num=3)(keys(2), x, 8)
    assert cut.shape == (2, 3, 8, 8, 3)
    np.testing.assert_allclose(cut[:, 0], x[:, :, 2:10], atol=1e-6)


def test_cutouts_of_a_ramp_are_ramps_of_their_place():
    """Where pixels are not averaged, a linear picture gives each pixel of a square its own coordinate."""
    height, width, side = 16, 24, 16
    ramp = np.stack(np.meshgrid(np.arange(height), np.arange(width), indexing="ij"), axis=-1)
    cut = np.asarray(PLAIN(keys(2), jnp.broadcast_to(jnp.asarray(ramp, jnp.float32), (2, height, width, 2)), side))
    keys_side, keys_place = split_each(keys(2), 5)[:2]
    sides = 16 * np.asarray(uniform_each(keys_side, (6,), PLAIN.smallest, 1.0))
    places = np.asarray(uniform_each(keys_place, (6, 2)))
    for i in range(2):
        for k in range(1, 6):
            corner = places[i, k] * (np.array([height, width]) - sides[i, k])
            at = corner[:, None] + (np.arange(side) + 0.5) * sides[i, k] / side - 0.5
            rows, columns = (np.clip(line, 0, size - 1) for line, size in zip(at, (height, width)))
            np.testing.assert_allclose(cut[i, k, :, 0, 0], rows, atol=1e-3)
            np.testing.assert_allclose(cut[i, k, 0, :, 1], columns, atol=1e-3)


def test_a_flat_picture_stays_flat_when_it_shrinks():
    x = jnp.full((1, 40, 40, 1), 0.25)
    np.testing.assert_allclose(PLAIN(keys(1), x, 8), 0.25, atol=1e-5)


def test_each_key_decides_its_own_row():
    x = jnp.asarray(np.random.default_rng(1).uniform(-1, 1, (3, 8, 8, 3)), jnp.float32)
    both, alone = Cutouts()(keys(3), x, 8), Cutouts()(keys(3)[1:2], x[1:2], 8)
    np.testing.assert_array_equal(both[1], alone[0])
    assert len({np.asarray(cut).tobytes() for cut in both[0]}) == 8


def test_colour_and_noise_have_their_size():
    x = jnp.zeros((1, 8, 8, 3))
    noisy = np.asarray(Cutouts(num=32, colour=0.0, noise=0.1)(keys(1), x, 8))[0, 1:]
    assert noisy.std() == pytest.approx(0.1, rel=0.05)
    bright = np.asarray(Cutouts(num=32, colour=0.1, noise=0.0)(keys(1), x, 8))[0, 1:]
    assert np.ptp(bright, axis=(1, 2, 3)).max() < 1e-6 and 0.06 < bright.std() < 0.14


def test_the_angle_and_its_slope():
    """theta^2 / 2, with finite slopes where vectors are equal or opposite."""
    rng = np.random.default_rng(0)
    u, v = (w / np.linalg.norm(w, axis=1, keepdims=True) for w in rng.normal(size=(2, 50, 5)))
    expected = np.arccos(np.sum(u * v, axis=1)) ** 2 / 2
    np.testing.assert_allclose(spherical(jnp.asarray(u), jnp.asarray(v)), expected, rtol=1e-4)
    for v in (u, -u):
        slope = jax.grad(lambda u, v=v: jnp.sum(spherical(u, jnp.asarray(v))))(jnp.asarray(u))
        assert np.isfinite(slope).all()
