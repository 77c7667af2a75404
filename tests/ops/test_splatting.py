"""Projection, harmonics and tiles of splats against float64 and against one pixel at a time."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.ops import rasterizing, splatting
from jaxgen.ops.cameras import on_sphere
from jaxgen.ops.rasterizing import Tiling
from jaxgen.ops.splatting import Gaussians, Splats

SIZE = (13, 18)
FOCAL = 20.0
POSE = on_sphere(0.7, 0.4, 3.0)
CAMERA = np.concatenate([POSE.reshape(-1), [FOCAL, FOCAL + 1, 9.5, 6.0, 1.0, 5.0]]).astype(np.float32)
TILING = Tiling(SIZE, 4, 1200)
HALF = 21 / 32  # with which no box of a splat at odd sixteenths ends on a pixel's centre
BACKGROUND = np.array([0.2, 0.5, 0.9])


def scene(num: int = 30, seed: int = 0, degree: int = 1) -> Gaussians:
    rng = np.random.default_rng(seed)
    arrays = (
        rng.uniform(-0.7, 0.7, (num, 3)), np.log(rng.uniform(0.05, 0.3, (num, 3))), rng.normal(size=(num, 4)),
        rng.uniform(0.1, 0.98, num), 0.4 * rng.normal(size=(num, (degree + 1) ** 2, 3)),
    )  # fmt: skip
    return Gaussians(*(jnp.asarray(a, jnp.float32) for a in arrays))


@partial(jax.jit, static_argnums=1)
def drawn(gaussians: Gaussians, tiling: Tiling = TILING):
    """rgb f32[H, W, 3], depth and opacity f32[H, W], and the share of pairs left out."""
    camera = splatting.camera_of(jnp.asarray(CAMERA))
    splats = splatting.project(gaussians, camera, tiling.size)
    seen, dropped = rasterizing.rendered(splats, camera, tiling, jnp.asarray(BACKGROUND, jnp.float32))
    return (*seen, dropped)


def slow_turn(q: np.ndarray) -> np.ndarray:
    """The rotation of a quaternion as a product with the basis vectors: q v q*."""
    w, v = q[0] / np.linalg.norm(q), q[1:] / np.linalg.norm(q)
    return np.stack([e + 2 * np.cross(v, np.cross(v, e) + w * e) for e in np.eye(3)], axis=-1)


def in_pixels(point: np.ndarray) -> np.ndarray:
    """Where the camera sees a point, by its pose."""
    right, up, back = (point - POSE[:, 3].astype(np.float64)) @ POSE[:, :3]
    return np.array([FOCAL * right / -back + 9.5, (FOCAL + 1) * -up / -back + 6.0])


def slow_splats(g: Gaussians) -> list[dict]:
    """Each Gaussian's ellipse in f64, the Jacobian by differences."""
    found = []
    for mean, log_scale, q, opacity, sh in zip(*(np.asarray(a, np.float64) for a in g)):
        h = 1e-5
        jacobian = np.stack([(in_pixels(mean + h * e) - in_pixels(mean - h * e)) / (2 * h) for e in np.eye(3)], axis=-1)
        turn = slow_turn(q)
        covariance = turn @ np.diag(np.exp(2 * log_scale)) @ turn.T
        flat = jacobian @ covariance @ jacobian.T + 0.3 * np.eye(2)
        d = (mean - POSE[:, 3]) / np.linalg.norm(mean - POSE[:, 3])
        linear = np.array([0.28209479177, *(np.sqrt(3 / (4 * np.pi)) * np.array([-d[1], d[2], -d[0]]))])
        depth = -(mean - POSE[:, 3]) @ POSE[:, 2]
        colour = np.maximum(0.5 + linear[: len(sh)] @ sh, 0)
        found.append({"at": in_pixels(mean), "covariance": flat, "o": opacity, "rgb": colour, "depth": depth})
    return found


def slow_picture(g: Gaussians) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """rgb, depth along rays and opacity, pixel by pixel over all Gaussians in order."""
    splats = sorted(slow_splats(g), key=lambda s: s["depth"])
    for s in splats:
        s["conic"] = np.linalg.inv(s["covariance"])
    rgb, depth, opacity = np.zeros((*SIZE, 3)), np.zeros(SIZE), np.zeros(SIZE)
    for y, x in np.ndindex(*SIZE):
        left, colour, far = 1.0, np.zeros(3), 0.0
        for s in splats:
            off = np.array([x + 0.5, y + 0.5]) - s["at"]
            alpha = min(0.99, s["o"] * np.exp(-0.5 * off @ s["conic"] @ off))
            if alpha < 1 / 255:
                continue
            colour, far = colour + left * alpha * s["rgb"], far + left * alpha * s["depth"]
            left *= 1 - alpha
        ray = np.array([(x + 0.5 - 9.5) / FOCAL, (y + 0.5 - 6.0) / (FOCAL + 1), 1])
        rgb[y, x], opacity[y, x] = colour + left * BACKGROUND, 1 - left
        depth[y, x] = far / (1 - left) * np.linalg.norm(ray) if left < 1 - 1e-3 else 5.0
    return rgb, depth, opacity


def test_ellipses_are_those_of_the_map_s_numerical_jacobian():
    g = scene()
    splats = jax.jit(lambda g: splatting.project(g, splatting.camera_of(jnp.asarray(CAMERA)), SIZE))(g)
    slow = slow_splats(g)
    np.testing.assert_allclose(splats.mean, [s["at"] for s in slow], rtol=1e-4)
    np.testing.assert_allclose(splats.depth, [s["depth"] for s in slow], rtol=1e-5)
    np.testing.assert_allclose(splats.rgb, [s["rgb"] for s in slow], atol=1e-5)
    a, b, c = np.asarray(splats.conic, np.float64).T
    conic = np.moveaxis(np.array([[a, b], [b, c]]), -1, 0)
    np.testing.assert_allclose(np.linalg.inv(conic), [s["covariance"] for s in slow], rtol=2e-3, atol=2e-3)
    # The box: on its sides, the ellipse's opacity is 1 / 255 at most, and that much where they touch.
    half = np.sqrt(2 * np.log(255 * np.asarray(g.opacity, np.float64)))[:, None]
    sides = half * np.sqrt([np.diag(s["covariance"]) for s in slow])
    np.testing.assert_allclose(splats.extent, sides, rtol=1e-3)


@pytest.mark.parametrize("degree", [1, 2, 3])
def test_harmonics_are_orthonormal_and_even_or_odd(degree):
    """By quadrature on the sphere, exact to this degree: products of two integrate to 0 or 1."""
    z, weights = np.polynomial.legendre.leggauss(8)
    angle = 2 * np.pi * np.arange(16) / 16
    flat = np.sqrt(1 - z**2)[:, None]
    d = np.stack(np.broadcast_arrays(flat * np.cos(angle), flat * np.sin(angle), z[:, None]), axis=-1).reshape(-1, 3)
    area = np.repeat(weights, 16) * 2 * np.pi / 16
    count = (degree + 1) ** 2
    basis = np.stack(splatting.harmonics(jnp.asarray(d, jnp.float32), count))
    np.testing.assert_allclose((basis * area) @ basis.T, np.eye(count), atol=1e-5)
    back = np.stack(splatting.harmonics(jnp.asarray(-d, jnp.float32), count))[degree**2 :]
    np.testing.assert_allclose(back, (-1) ** degree * basis[degree**2 :], atol=1e-6)


def test_harmonics_of_degree_two_by_their_formulas():
    x, y, z = d = np.array([2.0, -1, 2]) / 3
    found = np.array(splatting.harmonics(jnp.asarray(d[None], jnp.float32), 9))[4:, 0]
    half = 0.5 * np.sqrt(15 / np.pi)
    zonal = 0.25 * np.sqrt(5 / np.pi) * (3 * z * z - 1)
    np.testing.assert_allclose(
        found, [half * x * y, -half * y * z, zonal, -half * x * z, half / 2 * (x * x - y * y)], rtol=1e-5
    )


def test_a_picture_is_that_of_a_loop_over_pixels():
    """Of tiles that the picture does not divide into, with more pairs in a tile than it takes at a time."""
    g = scene()
    rgb, depth, opacity, dropped = drawn(g)
    slow = slow_picture(g)
    assert 0.3 < slow[2].mean() < 0.98 and dropped == 0
    np.testing.assert_allclose(rgb, slow[0], atol=3e-4)
    np.testing.assert_allclose(opacity, slow[2], atol=3e-4)
    np.testing.assert_allclose(depth, slow[1], rtol=3e-3)


@pytest.fixture(scope="module")
def gradients():
    """The gradient of a weighted sum of all that is rendered, and that sum as a function."""
    rng = np.random.default_rng(1)
    wanted = jnp.asarray(rng.normal(size=(*SIZE, 3)), jnp.float32)

    def total(g: Gaussians) -> jax.Array:
        rgb, depth, opacity, _ = drawn(g)
        return jnp.sum(wanted * rgb) + jnp.sum(wanted[..., 0] * opacity * depth)

    return jax.jit(total), jax.jit(jax.grad(total))


def test_gradients_are_those_of_finite_differences(gradients):
    """Of Gaussians so wide that none ends within the picture, and at depths so far apart that none overtakes another,
    along a random way in each array."""
    total, grad = gradients
    rng = np.random.default_rng(2)
    g = scene(30, 3)
    away = np.arange(30)[:, None] * 0.05 + 2.0
    place = POSE[:, 3] - away * POSE[:, 2] + rng.normal(0, 0.3, (30, 2)) @ POSE[:, :2].T
    g = g._replace(mean=jnp.asarray(rng.permutation(place), jnp.float32))
    wide = jnp.asarray(np.log(rng.uniform(1.5, 2.5, (30, 3))), jnp.float32)
    g = g._replace(log_scale=wide, opacity=0.1 + 0.1 * g.opacity, sh=0.3 * g.sh)
    assert drawn(g)[2].max() < 1 - 1e-3  # no pixel stops early
    found = grad(g)
    for name in Gaussians._fields:
        slopes = getattr(found, name)
        way = rng.normal(size=slopes.shape).astype(np.float32) + np.sign(slopes)
        h = 2e-2 / np.abs(way).max()
        ends = [float(total(g._replace(**{name: getattr(g, name) + sign * h * way}))) for sign in (1, -1)]
        expected = (ends[0] - ends[1]) / (2 * h)
        np.testing.assert_allclose(np.sum(slopes * way), expected, rtol=1e-2, atol=1e-2, err_msg=name)


def test_what_is_out_of_the_picture_changes_nothing(gradients):
    """Behind the camera, beside the picture, or transparent: nor is there a gradient in it."""
    g, grad = scene(), gradients[1]
    away = np.asarray(g.mean).copy()
    away[27] = POSE[:, 3] + 2 * POSE[:, 2]
    away[28] = 40 * POSE[:, 0]
    moved = g._replace(mean=jnp.asarray(away), opacity=g.opacity.at[29].set(1e-9))
    fewer = Gaussians(*(a.at[27:].set(a[:1]) for a in g))._replace(opacity=g.opacity.at[27:].set(0.0))
    for one, other in zip(drawn(moved), drawn(fewer)):
        np.testing.assert_array_equal(one, other)
    found = grad(moved)
    for array in found:
        assert np.all(np.isfinite(array))
        np.testing.assert_array_equal(array[27:], 0)
        assert np.any(array[:27])


def test_tiles_of_any_size_give_the_same_picture():
    for side in (7, 18):
        for one, other in zip(drawn(scene(), Tiling(SIZE, side, 1200))[:3], drawn(scene())[:3]):
            np.testing.assert_allclose(one, other, atol=2e-4)


def test_without_room_the_farthest_are_left_out():
    g = scene()
    order = np.argsort([s["depth"] for s in slow_splats(g)])
    *_, dropped = drawn(g, Tiling(SIZE, 18, 12))
    np.testing.assert_allclose(dropped, 18 / 30, atol=1e-6)
    near = g._replace(opacity=g.opacity.at[order[12:]].set(0.0))
    for one, other in zip(drawn(g, Tiling(SIZE, 18, 12))[:3], drawn(near)[:3]):
        np.testing.assert_allclose(one, other, atol=2e-4)


@pytest.mark.parametrize("count", [300, 70_000])
def test_pairs_are_in_order_of_tiles_and_depth(count):
    """By packed keys, and by two keys where one has no room for both."""
    rng = np.random.default_rng(0)
    tiling = Tiling((700, 700), 2, 2 * count)
    splats = Splats(
        mean=jnp.asarray(rng.integers(-40, 5640, (count, 2)) / 8 + 1 / 16, jnp.float32), conic=jnp.ones((count, 3)),
        extent=jnp.full((count, 2), HALF), depth=jnp.asarray(rng.permutation(count) + 1, jnp.float32),
        rgb=jnp.ones((count, 3)), opacity=jnp.ones(count),
    )  # fmt: skip
    assert (count == 300) == ((tiling.tiles + 1) * count < 2**32)
    pairs = jax.jit(rasterizing.paired, static_argnums=1)(splats, tiling)
    start, splat = np.asarray(pairs.start), np.asarray(pairs.splat)
    mean, depth = np.asarray(splats.mean, np.float64), np.asarray(splats.depth)
    first, last = np.ceil(mean - HALF - 0.5), np.floor(mean + HALF - 0.5)  # pixels
    expected = set()
    for i in np.flatnonzero(np.all((last >= first) & (last >= 0) & (first < 700), axis=-1)):
        (left, top), (right, low) = np.clip(first[i], 0, 699) // 2, np.clip(last[i], 0, 699) // 2
        expected |= {(int(y) * 350 + int(x), i) for y in np.arange(top, low + 1) for x in np.arange(left, right + 1)}
    tile = np.repeat(np.arange(tiling.tiles), np.diff(start))
    assert set(zip(tile.tolist(), splat[: start[-1]].tolist())) == expected and len(expected) == start[-1]
    falls = np.flatnonzero(np.diff(depth[splat[: start[-1]]]) < 0) + 1
    assert set(falls) <= set(start.tolist())
