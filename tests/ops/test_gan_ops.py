"""Adversarial objectives against the identities of their papers, penalties against closed forms."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.core import sample_keys
from jaxgen.nets.conv import Conv
from jaxgen.ops.gan import (
    Hinge,
    LeastSquares,
    Minimax,
    NonSaturating,
    Wasserstein,
    between,
    clip_weights,
    fading,
    gradient_penalty,
    lazy,
    squared_gradient,
    zero_centred,
)
from jaxgen.ops.spectral import iterate, spectral_norm

# Counts out of 12 of five values under the data and under the generator, so that means are expectations.
REAL, FAKE = np.array([1, 4, 3, 2, 2]), np.array([3, 1, 4, 1, 3])
P, Q = REAL / 12, FAKE / 12


def drawn(values) -> tuple[jax.Array, jax.Array]:
    """Logits of the five values as a batch of 12 real and of 12 fake examples."""
    values = jnp.asarray(values, jnp.float32)
    return jnp.repeat(values, REAL, total_repeat_length=12), jnp.repeat(values, FAKE, total_repeat_length=12)


def best(objective) -> np.ndarray:
    """The logits that minimise the critic's loss, by gradient descent from zero."""
    grad = jax.grad(lambda values: objective.critic(*drawn(values)))
    return np.asarray(jax.lax.fori_loop(0, 4000, lambda _, v: v - 0.5 * grad(v), jnp.zeros(5)))


def test_minimax_is_the_jensen_shannon_divergence():
    """Theorem 1 of arXiv:1406.2661: the value is -log 4 + 2 JSD(p, q) at D* = p / (p + q), -log 4 where p = q."""
    found = best(Minimax())
    np.testing.assert_allclose(found, np.log(P / Q), atol=1e-3)
    middle = (P + Q) / 2
    jsd = (np.sum(P * np.log(P / middle)) + np.sum(Q * np.log(Q / middle))) / 2
    assert -Minimax().critic(*drawn(found)) == pytest.approx(2 * jsd - math.log(4), abs=1e-5)
    assert -Minimax().critic(jnp.zeros(4), jnp.zeros(4)) == pytest.approx(-math.log(4))
    # Both players share one value: the generator minimises its fake half.
    real, fake = drawn(found)
    assert Minimax().generator(fake) == pytest.approx(float(np.sum(Q * np.log(Q / (P + Q)))), abs=1e-5)
    assert Minimax().critic(real, fake) + Minimax().generator(fake) == pytest.approx(
        float(-np.sum(P * np.log(P / (P + Q)))), abs=1e-5
    )


def test_smoothing_shrinks_the_real_side_of_the_best_critic():
    """D* = (1 - s) p / (p + q), section 3.4 of arXiv:1606.03498 with beta = 0."""
    found = best(NonSaturating(smoothing=0.1))
    np.testing.assert_allclose(1 / (1 + np.exp(-found)), 0.9 * P / (P + Q), atol=1e-4)


def test_non_saturating_gradient_does_not_vanish_where_the_critic_is_confident():
    sure = jnp.array([-30.0, -100.0])
    assert np.max(np.abs(jax.grad(Minimax().generator)(sure))) < 1e-12
    np.testing.assert_allclose(jax.grad(NonSaturating().generator)(sure), [-0.5, -0.5])
    assert np.isfinite(Minimax().critic(-sure, sure)) and np.isfinite(NonSaturating().generator(sure))


def test_least_squares_is_a_pearson_divergence():
    """Section 3.2 of arXiv:1611.04076: D* = (b p + a q) / (p + q)."""
    found = best(LeastSquares(real=0.9))
    np.testing.assert_allclose(found, 0.9 * P / (P + Q), atol=1e-4)
    assert LeastSquares().generator(jnp.array([0.0, 3.0])) == pytest.approx((0.5 + 2) / 2)


def test_hinge_is_total_variation():
    """Its best critic is the sign of p - q, whose loss is 2 - sum |p - q|."""
    found = best(Hinge())
    np.testing.assert_allclose(found, np.sign(P - Q), atol=0.1)
    assert Hinge().critic(*drawn(np.sign(P - Q))) == pytest.approx(2 - np.sum(np.abs(P - Q)), abs=1e-6)
    assert Hinge().generator(jnp.array([1.0, 4.0])) == -2.5


def test_wasserstein_critic_gives_the_distance():
    """In one dimension the distance is the area between distribution functions, and a best critic has slope -+1 as
    their difference has."""
    difference = np.cumsum(P - Q)
    potential = np.concatenate([[0.0], np.cumsum(np.sign(-difference[:-1]))])
    distance = np.sum(np.abs(difference))
    assert -Wasserstein().critic(*drawn(potential)) == pytest.approx(distance, abs=1e-6)
    assert Wasserstein().generator(jnp.array([1.0, 3.0])) == -2


# --- penalties ---


def test_penalties_of_a_linear_critic():
    """The gradient is the weight everywhere: no penalty at norm one, else (|w| - 1)^2 and |w|^2 / 2."""
    x = jax.random.normal(jax.random.key(0), (6, 3, 2))
    w = jnp.arange(1.0, 7.0).reshape(3, 2)
    w = w / jnp.sqrt(jnp.sum(w**2))
    for scale in (1.0, 0.25, 3.0):
        critic = lambda x, scale=scale: scale * jnp.sum(x * w[None], axis=(1, 2)) + 7  # noqa: E731
        assert gradient_penalty(critic, x) == pytest.approx((scale - 1) ** 2, abs=1e-6)
        assert zero_centred(critic, x) == pytest.approx(scale**2 / 2, rel=1e-5)


def test_penalty_is_finite_where_the_gradient_is_zero():
    """And so is its gradient: a dead critic, as at the first step of a zero-initialised one."""
    x = jax.random.normal(jax.random.key(0), (4, 3))
    value, grad = jax.value_and_grad(lambda w: gradient_penalty(lambda x: x @ w, x))(jnp.zeros(3))
    assert value == pytest.approx(1, abs=1e-5)
    assert np.all(np.isfinite(grad))


def test_penalty_through_our_convolutions_is_that_through_xlas():
    """Reverse over reverse, in a scan, with stride and padding: `ops.conv.conv` has its own gradient rules."""
    x = jax.random.normal(jax.random.key(0), (3, 7, 6, 2))
    ours = [Conv(4, 4, 2), Conv(5, 3)]
    theirs = [layer.clone(conv_general_dilated=jax.lax.conv_general_dilated) for layer in ours]
    first = ours[0].init(jax.random.key(1), x)
    second = ours[1].init(jax.random.key(2), ours[0].apply(first, x))

    def gradient(layers):
        def critic(params, x):
            h = jnp.tanh(layers[0].apply(params[0], x))
            return jnp.sum(jnp.tanh(layers[1].apply(params[1], h)), axis=(1, 2, 3))

        def body(params, _):
            grads = jax.grad(lambda p: gradient_penalty(lambda x: critic(p, x), x))(params)
            return jax.tree.map(lambda p, g: p - 0.1 * g, params, grads), grads

        return jax.jit(lambda p: jax.lax.scan(body, p, None, length=2))((first, second))[1]

    for a, b in zip(jax.tree.leaves(gradient(ours)), jax.tree.leaves(gradient(theirs))):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_gradient_is_of_each_example_alone():
    x = jnp.arange(1.0, 4.0)[:, None]
    np.testing.assert_allclose(squared_gradient(lambda x: jnp.sum(x**3, axis=1), x), (3 * np.array([1, 4, 9.0])) ** 2)


def test_points_between_lie_on_the_line():
    """One fraction for each image, not for each pixel."""
    real, fake = jnp.ones((64, 2, 2, 1)), jnp.zeros((64, 2, 2, 1))
    x = np.asarray(between(sample_keys(0, len(real)), real, fake)).reshape(64, 4)
    np.testing.assert_array_equal(x, x[:, :1] * np.ones((1, 4)))
    assert 0 <= x.min() < 0.1 and 0.9 < x.max() <= 1 and abs(x.mean() - 0.5) < 0.15


def test_lazy_penalty_keeps_its_mean():
    steps = jnp.arange(12)
    values = jax.vmap(lambda step: lazy(lambda: jnp.float32(0.7), step, 4))(steps)
    np.testing.assert_allclose(values, 4 * 0.7 * (np.arange(12) % 4 == 0), rtol=1e-6)
    assert lazy(lambda: 0.7, steps[0], 1) == 0.7


def test_noise_fades_and_weights_are_clipped():
    np.testing.assert_allclose(fading(0.5, 10, jnp.arange(0, 21, 5)), [0.5, 0.25, 0, 0, 0])
    clipped = clip_weights({"a": jnp.array([-3.0, 0.005]), "b": jnp.ones((2, 2))}, 0.01)
    np.testing.assert_allclose(clipped["a"], [-0.01, 0.005])
    np.testing.assert_allclose(clipped["b"], np.full((2, 2), 0.01))


# --- spectral norm ---


@pytest.mark.parametrize("shape", [(5, 8), (9, 4), (3, 3, 4, 6)])
def test_power_iteration_finds_the_largest_singular_value(shape):
    kernel = jax.random.normal(jax.random.key(1), shape)
    u = jax.random.normal(sample_keys(0, 1)[0], shape[-1:])
    values = np.linalg.svd(np.asarray(kernel).reshape(-1, shape[-1]))
    u = iterate(kernel, u, 200)
    sigma, grad = jax.value_and_grad(spectral_norm)(kernel, u)
    assert sigma == pytest.approx(float(values[1][0]), rel=1e-5)
    outer = np.outer(values[0][:, 0], values[2][0])
    np.testing.assert_allclose(np.asarray(grad).reshape(outer.shape), outer, atol=1e-3)


def test_spectral_norm_of_zero_is_finite():
    assert spectral_norm(jnp.zeros((3, 2)), iterate(jnp.zeros((3, 2)), jnp.ones(2))) == 0
