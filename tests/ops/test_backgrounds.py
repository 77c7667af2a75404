"""Random backgrounds: what each kind is, how they are blurred and mixed."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen import core
from jaxgen.ops.backgrounds import Backgrounds, blurred, board, noise, waves

PLAIN = jnp.array([1.0, 0.5, 0.0])


@pytest.fixture(scope="module")
def many():
    drawn = jax.jit(partial(Backgrounds(plain=0.4, blur=0.0), size=(12, 12), plain=PLAIN))
    return np.asarray(drawn(core.sample_keys(0, 600)))


def test_shares_of_kinds(many):
    """Plain ones as often as asked; the others are three kinds equally often."""
    assert many.shape == (600, 12, 12, 3) and many.min() >= 0 and many.max() <= 1
    plain = np.all(many == np.asarray(PLAIN), axis=(1, 2, 3))
    assert abs(plain.mean() - 0.4) < 0.06
    others = many[~plain]
    boards = np.array([len(np.unique(one.reshape(-1, 3), axis=0)) == 2 for one in others])
    # Neighbours of noise do not go together, those of waves do.
    smooth = np.array([np.corrcoef(one[:, 1:].ravel(), one[:, :-1].ravel())[0, 1] > 0.3 for one in others]) & ~boards
    for kind in (boards, smooth, ~boards & ~smooth):
        assert abs(kind.mean() - 1 / 3) < 0.08


def test_a_background_depends_on_its_key_alone(many):
    drawn = jax.jit(partial(Backgrounds(plain=0.4, blur=0.0), size=(12, 12), plain=PLAIN))
    np.testing.assert_allclose(drawn(core.sample_keys(0, 600)[5:9]), many[5:9], atol=1e-6)


def test_a_chequerboard_alternates():
    (one,) = np.asarray(board(core.sample_keys(0, 1), (6, 9), 3))
    for y in range(6):
        for x in range(9):
            same = (y // 2 + x // 3) % 2 == 0
            np.testing.assert_array_equal(one[y, x], one[0, 0] if same else one[0, 3])


def test_noise_is_uniform():
    values = np.sort(np.asarray(noise(core.sample_keys(1, 40), (16, 16))).ravel())
    assert np.abs(values - np.linspace(0, 1, len(values))).max() < 0.01


def test_waves_are_stronger_where_they_are_longer():
    """The power of the field behind them falls as frequency^-3."""
    x = np.asarray(jax.jit(waves, static_argnums=1)(core.sample_keys(2, 200), (32, 32)), np.float64)
    power = np.mean(np.abs(np.fft.fft2(np.log(x / (1 - x)), axes=(1, 2))) ** 2, axis=(0, 3))
    ratio = power[0, 2] / power[0, 8]
    assert ratio == pytest.approx(4.0**3, rel=0.2)


def test_blur_is_a_renormalized_gaussian():
    rng = np.random.default_rng(0)
    x, widths = rng.uniform(size=(3, 5, 7, 2)), [0.0, 0.8, 3.0]
    got = np.asarray(blurred(jnp.asarray(x, jnp.float32), jnp.array(widths)))
    np.testing.assert_allclose(got[0], x[0], atol=1e-6)
    for b in (1, 2):
        for y in range(5):
            for i in range(7):
                weight = np.exp(
                    -((np.arange(5)[:, None] - y) ** 2 + (np.arange(7)[None] - i) ** 2) / (2 * widths[b] ** 2)
                )
                wanted = np.einsum("yx,yxc->c", weight, x[b]) / weight.sum()
                np.testing.assert_allclose(got[b, y, i], wanted, rtol=1e-5)
