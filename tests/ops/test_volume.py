"""Volume rendering against loops, NumPy and closed forms; cones, boxes and occupancy likewise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.core import sample_keys
from jaxgen.core.configuration import check_fields
from jaxgen.errors import UserError
from jaxgen.ops import encodings, volume
from jaxgen.ops.occupancy import Occupancy, lookup, pack


def edges(rng, rays: int, num: int) -> np.ndarray:
    """f32[rays, num + 1] rising from 0 to 1."""
    inner = np.sort(rng.random((rays, num - 1)), axis=-1)
    return np.concatenate([np.zeros((rays, 1)), inner, np.ones((rays, 1))], axis=-1).astype(np.float32)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_weights_are_those_of_a_loop(rng):
    """In f64, with opaque and empty intervals; not negative, at most one in sum."""
    sigma = rng.exponential(5, (20, 40)).astype(np.float32) * rng.integers(0, 2, (20, 40))
    sigma[3, 5], sigma[4] = 1e30, 0
    delta = rng.random((20, 40)).astype(np.float32) * 0.1
    w = np.asarray(volume.weights(jnp.array(sigma), jnp.array(delta)))
    expected = np.zeros((20, 40))
    for i in range(20):
        left = 1.0
        for j in range(40):
            alpha = 1 - np.exp(-min(float(sigma[i, j]) * float(delta[i, j]), 1e6))
            expected[i, j] = left * alpha
            left *= 1 - alpha
    np.testing.assert_allclose(w, expected, atol=1e-6)
    assert w.min() >= 0
    assert w.sum(axis=-1).max() <= 1 + 1e-6
    assert w[4].sum() == 0


def test_a_homogeneous_medium_is_its_closed_form(rng):
    """1 - exp(-sigma d) for any division into intervals, and its mean depth."""
    t = volume.distances(jnp.array(edges(rng, 8, 200)), jnp.full(8, 2.0), jnp.full(8, 5.0))
    density = np.geomspace(1e-4, 10, 8).astype(np.float32)
    w = volume.weights(jnp.broadcast_to(density[:, None], (8, 200)), jnp.diff(t, axis=-1))
    seen = volume.composite(w, jnp.ones((8, 200, 3)), t, jnp.zeros((1, 3)))
    np.testing.assert_allclose(seen.opacity, 1 - np.exp(-3.0 * density.astype(np.float64)), atol=1e-5)
    np.testing.assert_allclose(seen.rgb[:, 0], seen.opacity, atol=1e-6)
    # In a denser medium nearly all light stops within its length.
    assert abs(seen.depth[-1] - 2.1) < 0.01


def test_the_compositor_is_a_loop(rng):
    s = edges(rng, 6, 30)
    t = 2 + 4 * s
    sigma, rgb = rng.exponential(1, (6, 30)).astype(np.float32), rng.random((6, 30, 3)).astype(np.float32)
    background = np.array([[0.2, 0.5, 1.0]], np.float32)
    w = volume.weights(jnp.array(sigma), jnp.diff(jnp.array(t), axis=-1))
    seen = volume.composite(w, jnp.array(rgb), jnp.array(t), jnp.array(background))
    for i in range(6):
        left, colour, depth = 1.0, np.zeros(3), 0.0
        for j in range(30):
            alpha = 1 - np.exp(-float(sigma[i, j]) * float(t[i, j + 1] - t[i, j]))
            colour += left * alpha * rgb[i, j]
            depth += left * alpha * (t[i, j] + t[i, j + 1]) / 2
            left *= 1 - alpha
        np.testing.assert_allclose(seen.rgb[i], colour + left * background[0], atol=1e-5)
        np.testing.assert_allclose(seen.opacity[i], 1 - left, atol=1e-5)
        np.testing.assert_allclose(seen.depth[i], depth / (1 - left), rtol=1e-4)


def test_an_empty_ray_shows_the_background_at_its_end():
    t = jnp.linspace(2.0, 6.0, 9)[None]
    w = volume.weights(jnp.zeros((1, 8)), jnp.diff(t, axis=-1))
    seen = volume.composite(w, jnp.ones((1, 8, 3)), t, jnp.array([[1.0, 0.5, 0.0]]))
    np.testing.assert_array_equal(seen.rgb[0], [1.0, 0.5, 0.0])
    assert (seen.depth[0], seen.opacity[0]) == (6.0, 0.0)


def test_stratified_edges_rise_and_lie_about_their_places():
    s = np.asarray(volume.stratified(500, 10, sample_keys(0, 500)))
    assert np.all(np.diff(s, axis=-1) >= 0) and s.min() == 0 and s.max() == 1
    place = np.arange(11) / 10
    assert np.all(np.abs(s - place) <= 0.05 + 1e-6)
    np.testing.assert_allclose(s[:, 1:-1].mean(axis=0), place[1:-1], atol=0.01)
    np.testing.assert_allclose(volume.stratified(2, 10)[1], place, atol=1e-6)


def test_disparity_is_even_in_one_over_distance():
    t = volume.distances(volume.stratified(1, 4), jnp.array([1.0]), jnp.array([9.0]), disparity=True)
    np.testing.assert_allclose(np.diff(1 / np.asarray(t[0])), -8 / 36, rtol=1e-5)
    np.testing.assert_allclose(t[0, [0, -1]], [1, 9], rtol=1e-6)


def test_resampling_is_the_inverse_of_the_distribution_function(rng):
    """NumPy's interpolation of it, at even quantiles; and where it is drawn, as many as the weights say."""
    s, w = edges(rng, 7, 20), rng.exponential(1, (7, 20)).astype(np.float32) * rng.integers(0, 2, (7, 20))
    w[2] = 0  # nothing seen: even
    found = np.asarray(volume.resample(jnp.array(s), jnp.array(w), 33))
    for i in range(7):
        pdf = w[i].astype(np.float64) + volume.FLOOR
        cdf = np.concatenate([[0], np.cumsum(pdf / pdf.sum())])
        np.testing.assert_allclose(found[i], np.interp((np.arange(33) + 0.5) / 33, cdf, s[i]), atol=1e-4)
    drawn = np.asarray(volume.resample(jnp.array(s), jnp.array(w), 2000, sample_keys(0, len(s))))
    assert np.all(np.diff(drawn, axis=-1) >= 0)
    for i in range(7):
        share = np.histogram(drawn[i], s[i])[0] / 2000
        pdf = w[i] + volume.FLOOR
        np.testing.assert_allclose(share, pdf / pdf.sum(), atol=2e-3)


def test_resampling_survives_intervals_without_length():
    s = jnp.array([[0.0, 0.5, 0.5, 0.5, 1.0]])
    for w in ([0.0, 1.0, 1.0, 0.0], [0.0, 0.0, 0.0, 0.0], [1e-30, 0.0, 0.0, 1e30]):
        found = np.asarray(volume.resample(s, jnp.array([w]), 16))
        assert np.all(np.isfinite(found)) and found.min() >= 0 and found.max() <= 1


def test_the_interlevel_loss_is_its_double_sum(rng):
    s, p = edges(rng, 5, 12), edges(rng, 5, 7)
    w, q = rng.random((5, 12)).astype(np.float32) / 12, rng.random((5, 7)).astype(np.float32) / 7
    found = volume.interlevel(*map(jnp.array, (s, w, p, q)))
    for i in range(5):
        total = 0.0
        for j in range(12):
            over = [q[i, k] for k in range(7) if p[i, k] < s[i, j + 1] and p[i, k + 1] > s[i, j]]
            total += max(0.0, w[i, j] - sum(over)) ** 2 / (w[i, j] + 1e-7)
        np.testing.assert_allclose(found[i], total, rtol=1e-4, atol=1e-7)
    # The same step function bounds itself; the field is not moved by it, a proposal that is too low is raised.
    np.testing.assert_allclose(volume.interlevel(*map(jnp.array, (s, w, s, w))), 0, atol=1e-9)
    by_w, by_q = jax.grad(lambda w, q: jnp.sum(volume.interlevel(s, w, p, q)), (0, 1))(3 * jnp.array(w), jnp.array(q))
    assert np.all(by_w == 0) and np.all(by_q <= 0) and np.any(by_q < 0)


def test_the_distortion_is_its_double_sum(rng):
    s, w = edges(rng, 5, 15), rng.random((5, 15)).astype(np.float32) / 15
    middle = (s[:, 1:] + s[:, :-1]) / 2
    pairs = np.einsum("bi,bj,bij->b", w, w, np.abs(middle[:, :, None] - middle[:, None]))
    expected = pairs + np.sum(w**2 * np.diff(s, axis=-1), axis=-1) / 3
    np.testing.assert_allclose(volume.distortion(jnp.array(s), jnp.array(w)), expected, rtol=1e-4)


def test_blurring_is_a_maximum_a_mean_and_a_floor():
    w = np.array([[0.0, 0.0, 1.0, 0.0, 0.0, 0.5]])
    np.testing.assert_allclose(volume.blurred(jnp.array(w))[0], [0.01, 0.51, 1.01, 0.51, 0.26, 0.51], rtol=1e-6)


def test_cones_look_again_at_what_seems_empty():
    """By the floor, 1.26 of 128 intervals' weights in 3.28 lie outside the two widths about the one that has it all."""
    w = jnp.zeros((1, 128)).at[0, 64].set(1.0)
    s = jnp.linspace(0.0, 1.0, 129)[None]
    far = jnp.abs(volume.resample(s, volume.blurred(w), 128) - 64.5 / 128) > 1.5 / 128
    assert abs(int(jnp.sum(far)) - 128 * 1.25 / 3.28) <= 1


def test_gradients_are_finite_everywhere():
    """Where densities are zero or huge, and intervals have no length."""
    sigma = jnp.array([[0.0, 1e30, 5.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    t = jnp.array([[2.0, 3.0, 3.0, 4.0, 5.0], [6.0, 6.0, 6.0, 6.0, 6.0]])

    def total(sigma, t):
        w = volume.weights(sigma, jnp.diff(t, axis=-1))
        seen = volume.composite(w, jnp.ones((2, 4, 3)), t, jnp.zeros((1, 3)))
        s = t / 6
        bent = volume.distortion(s, w) + volume.interlevel(s, w, s, w * 0.5)
        return jnp.sum(seen.rgb) + jnp.sum(seen.depth) + jnp.sum(seen.opacity) + jnp.sum(bent)

    value, grads = jax.jit(jax.value_and_grad(total, (0, 1)))(sigma, t)
    assert np.isfinite(value) and all(np.all(np.isfinite(g)) for g in grads)


# --- encodings and cones ------------------------------------------------------------------------------------------


def test_frequencies_are_sines_and_cosines(rng):
    x = rng.uniform(-1, 1, (5, 3)).astype(np.float32)
    found = np.asarray(encodings.frequencies(jnp.array(x), 4))
    angles = np.pi * np.concatenate([x * 2.0**k for k in range(4)], axis=-1)
    np.testing.assert_allclose(found, np.concatenate([np.sin(angles), np.cos(angles)], axis=-1), atol=1e-5)


def test_integrated_frequencies_are_means_over_a_gaussian(rng):
    x, var = np.array([[0.3, -0.5, 0.1]], np.float32), np.array([[0.01, 0.002, 0.05]], np.float32)
    draws = (x + np.sqrt(var) * rng.standard_normal((400_000, 3))).astype(np.float32)
    found = encodings.integrated_frequencies(jnp.array(x), jnp.array(var), 5)[0]
    np.testing.assert_allclose(found, np.mean(encodings.frequencies(jnp.array(draws), 5), axis=0), atol=5e-3)
    np.testing.assert_allclose(
        encodings.integrated_frequencies(jnp.array(x), jnp.zeros((1, 3)), 5), encodings.frequencies(jnp.array(x), 5)
    )


def test_gaussians_of_cones_have_the_moments_of_points_in_them(rng):
    t0, t1, radius = 1.0, 2.5, 0.2
    direction = np.array([0.6, 0.0, 0.8])
    n = 1_000_000
    # Uniform in a frustum: the disc at t has an area that goes with t^2.
    t = np.cbrt(t0**3 + (t1**3 - t0**3) * rng.random(n))
    r, angle = radius * t * np.sqrt(rng.random(n)), 2 * np.pi * rng.random(n)
    side, up = np.array([0.8, 0.0, -0.6]), np.array([0.0, 1.0, 0.0])
    points = t[:, None] * direction + (r * np.cos(angle))[:, None] * side + (r * np.sin(angle))[:, None] * up
    mean, var = encodings.frustum_gaussians(
        jnp.ones((1, 3)), jnp.array(direction, jnp.float32)[None], jnp.array([radius]), jnp.array([[t0, t1]])
    )
    np.testing.assert_allclose(mean[0, 0], 1 + points.mean(axis=0), atol=2e-3)
    np.testing.assert_allclose(var[0, 0], points.var(axis=0), atol=1e-3)


def test_rays_are_cut_to_the_box(rng):
    """Against a fine march along each ray. One ray is parallel to a face, one starts inside."""
    origin = rng.uniform(-3, 3, (40, 3)).astype(np.float32)
    direction = rng.standard_normal((40, 3)).astype(np.float32)
    origin[0], direction[0] = (0, 0, -3), (0, 0, 1)
    origin[1] = 0.1
    direction /= np.linalg.norm(direction, axis=-1, keepdims=True)
    near, far = np.full(40, 0.5, np.float32), np.full(40, 8.0, np.float32)
    enters, leaves = encodings.box_crossing(*map(jnp.array, (origin, direction, near, far)), 1.0)
    walk = np.linspace(0.5, 8, 20_000)
    for i in range(40):
        inside = walk[np.all(np.abs(origin[i] + walk[:, None] * direction[i]) <= 1, axis=-1)]
        if len(inside):
            np.testing.assert_allclose([enters[i], leaves[i]], [inside[0], inside[-1]], atol=2e-3)
        elif leaves[i] - enters[i] > 1e-3:
            raise AssertionError(i)


# --- occupancy ----------------------------------------------------------------------------------------------------


def test_every_cell_is_visited_in_turn():
    grid = Occupancy(resolution=4, cells=16)
    seen = np.concatenate([grid.places(jnp.array(turn)) for turn in range(4)])
    assert sorted(seen) == list(range(64))
    points = grid.points(grid.places(jnp.array(1)), jax.random.key(0))
    cells = jnp.zeros(64, bool).at[grid.places(jnp.array(1))].set(True).reshape(4, 4, 4)
    assert np.all(lookup(cells, points)) and np.sum(cells) == 16
    assert not lookup(jnp.ones((4, 4, 4), bool), jnp.array([1.01, 0.0, 0.0]))


def test_a_cell_is_forgotten_slowly():
    grid = Occupancy(resolution=2, cells=8, warmup=10, threshold=0.5, decay=0.5)
    state, places = grid.start(), grid.places(jnp.array(0))
    assert np.all(grid.occupied(state, jnp.array(100)))  # not visited yet
    density = jnp.zeros(8).at[3].set(4.0)
    state = grid.seen(state, places, density)
    assert np.all(grid.occupied(state, jnp.array(9)))
    assert np.sum(grid.occupied(state, jnp.array(10))) == 1
    state = grid.seen(state, places, jnp.zeros(8))
    assert state.reshape(-1)[3] == 2.0
    # The threshold follows the mean down, so that some cells always count as occupied.
    assert np.sum(grid.occupied(state * 1e-3, jnp.array(10))) == 1


def test_packing_keeps_order_and_says_who_is_whole(rng):
    wanted = rng.random((9, 6)) < 0.4
    index, whole = pack(jnp.array(wanted), 12)
    expected = np.flatnonzero(wanted)[:12]
    np.testing.assert_array_equal(index, np.concatenate([expected, np.full(12 - len(expected), 54)]))
    np.testing.assert_array_equal(whole, np.cumsum(wanted.sum(axis=-1)) <= 12)


def test_settings_of_the_grid_are_checked():
    with pytest.raises(UserError, match="a divisor of the 27 cells"):
        check_fields(Occupancy(resolution=3, cells=10))
