"""Maths of the flows: inverses, log-derivatives and closed forms, on shapes found by hypothesis."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxgen.core.configuration import check_fields
from jaxgen.errors import UserError
from jaxgen.ops import bijectors as ops
from jaxgen.ops.bijectors import Affine, Spline
from jaxgen.ops.patches import depth_to_space, space_to_depth

TRANSFORMS = [Affine(), Affine(bound=1.0), Spline(), Spline(bins=3, reach=1.5)]


@given(
    transform=st.sampled_from(TRANSFORMS), size=st.integers(1, 5), seed=st.integers(0, 10**6), wild=st.floats(0.1, 2)
)
@settings(max_examples=8, deadline=None)
def test_elementwise_maps_invert_and_return_their_log_slope(transform, size, seed, wild):
    """Slopes by forward differentiation; some x lie beyond a spline's reach.

    Going back loses of x what rounding loses of y, over the slope, and of the slope what it then changes by."""
    rng = np.random.default_rng(seed)
    x = jnp.float32(2.5 * rng.normal(size=(4, size)))
    params = jnp.float32(wild * rng.normal(size=(4, size * transform.num_params)))
    (y, log_slope), (slope, bend) = jax.jvp(lambda x: transform(x, params), (x,), (jnp.ones_like(x),))
    back, log_back = transform(y, params, inverse=True)
    lost = 1e-5 * (1 + np.exp(-log_slope))
    allowed = 1e-4 + lost * np.abs(bend)
    np.testing.assert_array_less(np.abs(back - x), lost)
    np.testing.assert_array_less(np.abs(log_back + log_slope), allowed)
    np.testing.assert_array_less(np.abs(np.log(slope) - log_slope), np.minimum(allowed, 1e-3))


@pytest.mark.parametrize("deviation", [1.0, 3.0, 6.0])
@pytest.mark.parametrize("spline", [Spline(), Spline(bins=3, reach=1.5), Spline(bins=16, least=0.03)], ids=str)
def test_splines_invert_in_f32_whatever_the_network_says(spline, deviation):
    """Round trips in both orders are within 1e-4; with the paper's bounds of 1e-3, single elements are wrong by 0.1."""
    rng, num = np.random.default_rng(1), 200_000
    x = jnp.asarray(rng.uniform(-spline.reach, spline.reach, (num, 1)), jnp.float32)
    params = jnp.asarray(deviation * rng.normal(size=(num, spline.num_params)), jnp.float32)

    @jax.jit
    def errors(x, params):
        forth, back = (spline(spline(x, params, first)[0], params, not first)[0] for first in (False, True))
        return jnp.max(jnp.abs(forth - x)), jnp.max(jnp.abs(back - x))

    assert max(map(float, errors(x, params))) < 1e-4


def test_a_spline_without_room_for_its_bins_is_refused():
    with pytest.raises(UserError, match=r"40 bins cannot each have at least 0\.03 of the height"):
        check_fields(Spline(bins=40))


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_parameters_of_zero_are_the_identity(transform):
    x = jnp.linspace(-3, 3, 13)[:, None]
    y, log_slope = transform(x, jnp.zeros((13, transform.num_params)))
    np.testing.assert_allclose(y, x, atol=1e-6)
    np.testing.assert_allclose(log_slope, 0, atol=1e-6)


def test_spline_is_eq_4_bin_by_bin():
    """Against the paper's formula in float64 with a search for the bin, and at the knots with their slopes."""
    spline, rng = Spline(bins=5, reach=2.0), np.random.default_rng(0)
    raw = rng.normal(size=spline.num_params)
    xs, ys, ds = (np.asarray(a, np.float64) for a in spline.knots(jnp.float32(raw)))
    assert xs[0] == ys[0] == -2 and xs[-1] == ys[-1] == 2 and ds[0] == ds[-1] == 1
    assert np.all(np.diff(xs) > 0) and np.all(np.diff(ys) > 0) and np.all(ds > 0)
    x = rng.uniform(-2, 2, 200)
    k = np.searchsorted(xs, x, "right") - 1
    s, xi = np.diff(ys)[k] / np.diff(xs)[k], (x - xs[k]) / np.diff(xs)[k]
    top = np.diff(ys)[k] * (s * xi**2 + ds[k] * xi * (1 - xi))
    expected = ys[k] + top / (s + (ds[k + 1] + ds[k] - 2 * s) * xi * (1 - xi))
    y, _ = spline(jnp.float32(x)[:, None], jnp.broadcast_to(jnp.float32(raw), (200, len(raw))))
    np.testing.assert_allclose(y[:, 0], expected, atol=1e-5)


def test_spline_gradients_are_finite_beyond_its_reach():
    def total(x, params, inverse):
        y, log_slope = Spline()(x, params, inverse)
        return jnp.sum(y + log_slope)

    x = jnp.array([[-40.0], [-4.0], [0.0], [4.0], [1e6]])
    for inverse in (False, True):
        for grad in jax.grad(total, (0, 1))(x, jnp.full((5, 23), 3.0), inverse):
            assert np.all(np.isfinite(grad))


@pytest.mark.parametrize("alpha", [1e-6, 0.05])
def test_logit_is_scipys(alpha):
    x = np.linspace(0.001, 0.999, 99)
    y, log_slope = ops.logit(jnp.float32(x), alpha)
    s = alpha + (1 - 2 * alpha) * x
    np.testing.assert_allclose(y, scipy.special.logit(s), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(log_slope, np.log((1 - 2 * alpha) / s / (1 - s)), rtol=1e-4)
    back, log_back = ops.logit(y, alpha, inverse=True)
    np.testing.assert_allclose(back, x, atol=1e-6)
    np.testing.assert_allclose(log_back, -log_slope, atol=1e-3)
    assert np.all(np.isfinite(ops.logit(jnp.array([0.0, 1 - 2**-24]), alpha)[0]))


def test_squeeze_takes_squares_of_pixels():
    x = np.arange(2 * 4 * 6 * 3).reshape(2, 4, 6, 3)
    y = np.asarray(space_to_depth(jnp.asarray(x), 2))
    for row in range(2):
        for column in range(3):
            square = x[:, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
            np.testing.assert_array_equal(y[:, row, column], square.reshape(2, 12))
    np.testing.assert_array_equal(depth_to_space(jnp.asarray(y), 2), x)


def test_checkerboards_share_the_squares():
    even, odd = ops.checkerboard(3, 4), ops.checkerboard(3, 4, odd=True)
    assert even.shape == (1, 3, 4, 1) and even[0, 0, 0, 0] and not even[0, 0, 1, 0] and even[0, 1, 1, 0]
    np.testing.assert_array_equal(even, ~odd)


@pytest.mark.parametrize("size", [1, 2, 12])
def test_lu_starts_orthogonal_and_knows_its_determinant(size):
    parts, log_s = jax.jit(ops.lu_rotation, static_argnums=1)(jax.random.key(size), size)
    lower, upper = ops.lu_matrix(parts, log_s)
    w = np.asarray(lower @ upper, np.float64)
    np.testing.assert_allclose(w @ w.T, np.eye(size), atol=1e-5)
    assert size == 1 or not np.allclose(np.abs(w), np.eye(size), atol=0.1)
    moved = ops.lu_matrix(parts + 0.3, log_s + 0.1)
    w = np.asarray(moved[0], np.float64) @ np.asarray(moved[1], np.float64)
    np.testing.assert_allclose(np.linalg.slogdet(w)[1], np.sum(log_s + 0.1), atol=1e-4)
    np.testing.assert_allclose(ops.lu_inverse(*moved) @ w, np.eye(size), atol=1e-4)


def test_fixed_point_is_exact_after_as_many_passes_as_elements():
    """A triangular map with slopes far above one is no contraction, so every pass but the last is wrong somewhere."""
    size = 6
    weight = jnp.tril(jnp.full((size, size), 3.0), -1)

    def update(x):
        return 1 - x @ weight.T

    exact = np.linalg.solve(np.eye(size) + np.asarray(weight, np.float64), np.ones(size))
    x, passes = ops.fixed_point(update, jnp.zeros((2, size)), 1e-6, size)
    np.testing.assert_allclose(x, np.stack([exact, exact]), rtol=1e-6)
    np.testing.assert_allclose(ops.one_by_one(update, jnp.zeros((2, size))), x, rtol=1e-6)
    assert passes.tolist() == [size, size]


def test_a_fixed_point_is_found_where_passes_overflow():
    """x_d = z_d + 1.5 x_{d-1} - 0.6 x_{d-2} is stable, but its iteration grows. Regression: NaN after 123 passes."""
    size = 784
    z = np.random.default_rng(0).normal(size=(1, size))
    first, second = (np.eye(size, k=k, dtype=np.float32) for k in (1, 2))
    weights = jnp.asarray(1.5 * first - 0.6 * second)
    truth = np.zeros(size)
    for d in range(size):
        truth[d] = z[0, d] + (1.5 * truth[d - 1] if d > 0 else 0) - (0.6 * truth[d - 2] if d > 1 else 0)
    x, _ = jax.jit(lambda z: ops.fixed_point(lambda x: z + x @ weights, jnp.zeros_like(z), 1e-6, size))(jnp.float32(z))
    np.testing.assert_allclose(x[0], truth, atol=1e-4)


def test_each_row_of_a_fixed_point_stops_on_its_own():
    """A contraction of 1/4 a pass from two distances: the row that starts on the solution stops after one pass."""

    def update(x):
        return 0.25 * x + 3

    start = jnp.array([[4.0], [1e4]])
    x, passes = ops.fixed_point(update, start, 1e-4, 100)
    np.testing.assert_allclose(x, 4.0, rtol=1e-3)
    assert passes[0] == 1 and 5 < passes[1] < 20
    alone, same = ops.fixed_point(update, start[1:], 1e-4, 100)
    np.testing.assert_array_equal(alone[0], x[1])
    assert same[0] == passes[1]
    assert int(ops.fixed_point(update, start, 1e-4, 2)[1].max()) == 2
