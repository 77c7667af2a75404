"""Adaptive augmentation: nothing at probability 0, what each part keeps at 1, and how the probability moves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.core import sample_keys
from jaxgen.ops.augment import MARGIN, SYM6, Augment, _down, _up, adjusted, blitted, recoloured, resampled


def images(num=6, height=12, width=12, channels=3, seed=0):
    return jnp.asarray(np.random.default_rng(seed).uniform(-1, 1, (num, height, width, channels)).astype(np.float32))


def keys(num, seed=0):
    return sample_keys(seed, num)


@pytest.mark.parametrize("shape", [(6, 12, 12, 3), (3, 8, 12, 1)])
def test_probability_zero_is_the_identity_to_the_bit(shape):
    """Also for a traced p, and for the derivative."""
    x = images(*shape)
    run = jax.jit(lambda x, p: Augment()(keys(len(x)), x, p))
    np.testing.assert_array_equal(run(x, jnp.float32(0)), x)
    assert not np.array_equal(run(x, jnp.float32(1)), x)
    _, back = jax.vjp(lambda x: run(x, jnp.float32(0)), x)
    np.testing.assert_array_equal(back(x)[0], x)


def test_examples_without_a_drawn_transformation_stay_unchanged():
    """With 3, 5 and 5 transformations in three stages, about half of the examples stay unchanged at p = 0.05."""
    x = images(400, 4, 4)
    y = Augment()(keys(len(x), 1), x, jnp.float32(0.05))
    untouched = np.mean(np.all(np.asarray(x == y), axis=(1, 2, 3)))
    # Both rotations together count as one, and some blits draw the identity: a little more than (1 - p)^12.
    assert 0.95**12 - 0.07 < untouched < 0.95**10 + 0.07


def test_each_part_can_be_switched_off():
    x = images()
    assert np.array_equal(Augment(blit=False, geometry=False, colour=False)(keys(len(x)), x, jnp.float32(1)), x)
    # Shifts aside, a blit keeps the pixels; colour keeps each pixel's neighbours.
    grey = jnp.full((4, 8, 8, 3), 0.25)
    np.testing.assert_array_equal(Augment(colour=False, geometry=False)(keys(len(grey)), grey, jnp.float32(1)), grey)


def test_blits_are_turns_flips_and_shifts():
    """Each result is one of the 8 symmetries of the square under a mirrored shift by at most an eighth."""
    x = np.asarray(images(40, 8, 8, 1))
    y = np.asarray(blitted(keys(len(x), 2), jnp.asarray(x), jnp.float32(1)))
    seen = set()
    for before, after in zip(x, y):
        padded = {
            (k, flip): np.pad(
                np.rot90(before[:, ::-1] if flip else before, k), ((1, 1), (1, 1), (0, 0)), mode="reflect"
            )
            for k in range(4)
            for flip in (False, True)
        }
        found = [
            (k, flip, i, j)
            for (k, flip), image in padded.items()
            for i in range(3)
            for j in range(3)
            if np.array_equal(image[i : i + 8, j : j + 8], after)
        ]
        assert len(found) == 1
        seen.add(found[0])
    assert {k for k, *_ in seen} == {0, 1, 2, 3} and {flip for _, flip, *_ in seen} == {False, True}
    assert len({(i, j) for *_, i, j in seen}) >= 6


def test_an_oblong_image_is_rotated_by_half_turns_only():
    x = images(30, 4, 6, 1)  # too small to be shifted downwards; sideways by one at most
    y = np.asarray(blitted(keys(len(x), 3), x, jnp.float32(1)))
    assert y.shape == x.shape
    turned = [np.array_equal(np.sort(a[:, 2:4].ravel()), np.sort(b[:, 2:4].ravel())) for a, b in zip(np.asarray(x), y)]
    assert 0.2 < np.mean(turned) < 1.0


def test_the_wavelet_is_a_symlet():
    """Orthonormal to its even shifts, with six vanishing moments of the high-pass filter: Daubechies' conditions."""
    for shift in range(0, len(SYM6), 2):
        assert np.dot(SYM6[shift:], SYM6[: len(SYM6) - shift]) == pytest.approx(float(shift == 0), abs=1e-10)
    assert SYM6.sum() == pytest.approx(2**0.5)
    n = np.arange(len(SYM6))
    for moment in range(6):
        assert np.sum((-1.0) ** n * SYM6 * (n / 11.0) ** moment) == pytest.approx(0, abs=1e-8)


def test_the_two_filters_undo_each_other():
    """Upsampling an image with margins and downsampling it again gives it back, borders included."""
    x = np.random.default_rng(0).normal(size=10)
    wide = np.pad(x, 2 * MARGIN, mode="reflect")
    fine = (_up(len(wide)) @ wide)[2 * MARGIN : -2 * MARGIN]
    np.testing.assert_allclose(_down(10) @ fine, x, atol=1e-6)


def test_geometry_moves_a_smooth_image_as_the_map_says(monkeypatch):
    """A known rotation and shift of a wide Gaussian bump, against its formula at the turned coordinates."""
    from jaxgen.ops import augment

    size, angle, shift = 24, 0.5, (0.05, -0.1)
    i, j = np.meshgrid(np.arange(size) - 11.5, np.arange(size) - 11.5, indexing="ij")

    def bump(i, j):
        return np.exp(-((i - 2) ** 2 / 60 + (j + 1) ** 2 / 15))

    matrix = 1.1 * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]], np.float32)
    given = (jnp.asarray(matrix)[None], jnp.asarray(shift, jnp.float32)[None], jnp.array([True]))
    monkeypatch.setattr(augment, "_inverse", lambda *_: given)
    y = resampled(keys(1), jnp.asarray(bump(i, j), jnp.float32)[None, ..., None], jnp.float32(1))[0, ..., 0]
    di, dj = i - size * shift[0], j - size * shift[1]
    expected = bump(matrix[0, 0] * di + matrix[0, 1] * dj, matrix[1, 0] * di + matrix[1, 1] * dj)
    np.testing.assert_allclose(y[5:-5, 5:-5], expected[5:-5, 5:-5], atol=0.01)


def test_geometry_draws_the_papers_maps():
    """Over many draws: areas change by 2^(0.4 n), directions turn all around, shifts have an eighth's deviation."""
    from jaxgen.ops.augment import _inverse

    matrix, shift, chosen = _inverse(keys(4000, 4), jnp.float32(1))
    logs = np.log2(np.abs(np.linalg.det(np.asarray(matrix))))
    assert bool(chosen.all())
    assert abs(np.mean(logs)) < 0.03 and np.std(logs) == pytest.approx(0.4, rel=0.06)
    assert np.std(shift) == pytest.approx(0.125, rel=0.06)
    ratio = np.linalg.svd(np.asarray(matrix), compute_uv=False)
    assert np.mean(np.log2(ratio[:, 0] / ratio[:, 1])) == pytest.approx(0.4 * (2 / np.pi) ** 0.5, rel=0.06)
    turn = np.asarray(matrix)[:, :, 0] / np.linalg.norm(np.asarray(matrix)[:, :, 0], axis=1, keepdims=True)
    assert np.all(np.abs(turn.mean(axis=0)) < 0.05)
    # Scaled, turned by either rotation, stretched, shifted: each with probability p.
    _, _, few = _inverse(keys(4000, 5), jnp.float32(0.3))
    assert np.mean(few) == pytest.approx(1 - 0.7**4, abs=0.03)


def test_a_constant_image_stays_under_geometry():
    for size in ((8, 12), (1, 1), (1, 3)):
        y = resampled(keys(5, 6), jnp.full((5, *size, 2), 0.3), jnp.float32(1))
        np.testing.assert_allclose(y, 0.3, atol=1e-5)


@pytest.mark.parametrize("channels", [1, 3])
def test_colours_change_alike_over_an_image(channels):
    """An affine map of colours: the mean colour goes where the map takes it, and grey goes to grey."""
    x = images(20, 6, 6, channels)
    y = recoloured(keys(len(x), 7), x, jnp.float32(1))
    for before, after in zip(np.asarray(x), np.asarray(y)):
        flat = np.column_stack([before.reshape(-1, channels), np.ones(36)])
        _, rest, *_ = np.linalg.lstsq(flat, after.reshape(-1, channels), rcond=None)
        assert np.all(rest < 1e-8)
    grey = jnp.broadcast_to(images(20, 6, 6, 1, seed=1), (20, 6, 6, channels))
    z = np.asarray(recoloured(keys(len(grey), 7), grey, jnp.float32(1)))
    np.testing.assert_allclose(z, np.broadcast_to(z[..., :1], z.shape), atol=1e-5)


def test_hue_and_lightness_are_the_papers():
    """Without contrast and saturation, colours keep their distance from grey; half of the images are inverted."""
    x = jnp.zeros((2000, 1, 2, 3)).at[:, :, 0].set(jnp.array([0.5, -0.2, 0.1])).at[:, :, 1].set(0.4)
    y = np.asarray(recoloured(keys(len(x), 8), x, jnp.float32(1)), np.float64)
    mean = y.mean(axis=-1)
    step = (mean[:, 0, 1] - mean[:, 0, 0]) / (0.4 - 0.4 / 3)  # contrast, signed by inversion
    assert np.mean(step < 0) == pytest.approx(0.5, abs=0.04)
    assert np.std(np.log2(np.abs(step))) == pytest.approx(0.5, rel=0.06)
    offset = (mean[:, 0, 1] - 0.4 * step) / step
    assert np.std(offset) == pytest.approx(0.2, rel=0.06)
    chroma = y[:, 0, 0] - mean[:, 0, :1]
    angle = np.arctan2(chroma[:, 0] - chroma[:, 1], 3**0.5 * chroma[:, 2])
    assert abs(np.mean(np.exp(1j * angle))) < 0.06
    saturation = np.linalg.norm(chroma, axis=1) / np.abs(step) / np.linalg.norm(np.array([0.5, -0.2, 0.1]) - 0.4 / 3)
    assert np.std(np.log2(saturation)) == pytest.approx(1.0, rel=0.06)


def test_everything_is_twice_differentiable():
    """The gradient of a gradient's length, as R1 takes it through the augmentation, against finite differences."""
    x = images(2, 6, 6)
    direction = images(2, 6, 6, seed=3)

    def penalty(x):
        def critic(x):
            return jnp.sum(jnp.tanh(Augment()(keys(len(x), 9), x, jnp.float32(0.8))) ** 2)

        return jnp.sum(jax.grad(critic)(x) ** 2)

    grad = jax.jit(jax.grad(penalty))(x)
    value = jax.jit(penalty)
    numeric = (value(x + 1e-2 * direction) - value(x - 1e-2 * direction)) / 2e-2
    assert float(jnp.sum(grad * direction)) == pytest.approx(float(numeric), rel=0.02)


def test_the_probability_follows_the_sign_and_stays_one():
    p = jnp.float32(0.5)
    assert adjusted(p, jnp.float32(0.9), 0.6, 0.01) == pytest.approx(0.51)
    assert adjusted(p, jnp.float32(0.1), 0.6, 0.01) == pytest.approx(0.49)
    assert adjusted(jnp.float32(0.003), jnp.float32(0.1), 0.6, 0.01) == 0
    assert adjusted(jnp.float32(0.997), jnp.float32(0.9), 0.6, 0.01) == 1
