"""Lenses: the distortion is OpenCV's, and undistortion is its inverse, up to where the lens folds over."""

import math

import numpy as np
import pytest

from jaxgen.ops import cameras, lenses

# Of real lenses: a phone's, a wide-angle's with tangential terms, a rational one, two fisheye lenses.
LENSES = {
    "pincushion": {"k1": 0.08, "k2": 0.03, "k3": 0.02, "k4": 0.01},
    "barrel": {"k1": -0.28, "k2": 0.07, "p1": 0.0012, "p2": -0.0008},
    "rational": {"k1": 3.2, "k2": 1.4, "k3": 0.05, "d1": 3.5, "d2": 2.3, "d3": 0.3, "p1": 0.0005, "p2": 0.0002},
    "fisheye": {"k1": -0.01, "k2": 0.02, "k3": -0.012, "k4": 0.002, "fisheye": 1},
    "equidistant": {"fisheye": 1},
}
RNG = np.random.default_rng(0)


def opencv(k: dict[str, float], x: float, y: float, z: float) -> tuple[float, float]:
    """The normalised picture coordinates of a point (x right, y down, z forwards), as OpenCV's manual has them."""
    k1, k2, k3, k4, d1, d2, d3, p1, p2 = (k.get(n, 0.0) for n in ("k1", "k2", "k3", "k4", "d1", "d2", "d3", "p1", "p2"))
    a, b = x / z, y / z
    r = math.hypot(a, b)
    if k.get("fisheye"):
        theta = math.atan(r)
        bent = theta + k1 * theta**3 + k2 * theta**5 + k3 * theta**7 + k4 * theta**9
        return bent / r * a, bent / r * b
    grown = (1 + k1 * r**2 + k2 * r**4 + k3 * r**6 + k4 * r**8) / (1 + d1 * r**2 + d2 * r**4 + d3 * r**6)
    across = a * grown + 2 * p1 * a * b + p2 * (r**2 + 2 * a**2)
    return across, b * grown + p1 * (r**2 + 2 * b**2) + 2 * p2 * a * b


@pytest.mark.parametrize("name", LENSES)
def test_rays_hit_what_opencv_projects_to_their_pixels(name):
    k = LENSES[name]
    intrinsics = cameras.camera(fx=310.0, fy=290.0, cx=330.0, cy=235.0, **k)
    pose = cameras.look_at(np.array([1.0, 2.0, 3.0]), np.array([0.2, 0.1, 0.0]), np.array([0, 0, 1]))
    seen = np.stack([*RNG.uniform(-0.9, 0.9, (2, 200)), RNG.uniform(0.9, 3, 200)], axis=-1)  # right, down, forwards
    u, v = np.array([opencv(k, *point) for point in seen]).T
    x, y = 310 * u + 330, 290 * v + 235
    world = (seen * [1, -1, -1]) @ pose[:, :3].T + pose[:, 3]
    n = len(seen)
    rays = cameras.pixel_rays(np.tile(pose, (n, 1, 1)), np.tile(intrinsics, (n, 1)), x, y, cameras.Bounds(1.0, 2.0))
    expected = world - pose[:, 3]
    expected /= np.linalg.norm(expected, axis=-1, keepdims=True)
    np.testing.assert_allclose(rays[:, 3:6], expected, atol=1e-7)
    found, shown = cameras.pixels_of(pose, intrinsics, world)
    assert shown.all()
    np.testing.assert_allclose(found, np.stack([x, y], axis=-1), atol=1e-8)


@pytest.mark.parametrize("name", LENSES)
def test_undistortion_is_the_inverse(name):
    lens = cameras.camera(**LENSES[name])[4:]
    points = RNG.uniform(-0.75, 0.75, (500, 2))
    points[0] = 0
    found, there = lenses.undistorted(lens, lenses.distorted(lens, points)[0])
    assert there.all()
    np.testing.assert_allclose(found, points, atol=1e-8)


@pytest.mark.parametrize("name", LENSES)
def test_jacobians_are_those_of_finite_differences(name):
    """Pixels grow by the lens, and so do their cones: the stretch squared is the solid angle of a pixel, seen from the
    plane of depth one or, for a fisheye lens, from the sphere."""
    lens = cameras.camera(**LENSES[name])[4:]
    points, h = RNG.uniform(-0.6, 0.6, (50, 2)), 1e-6

    def local(x: np.ndarray) -> np.ndarray:
        return lenses.sight(lens, x).local

    du, dv = ((local(points + e) - local(points - e)) / (2 * h) for e in h * np.eye(2))
    area = np.linalg.norm(np.cross(du, dv), axis=-1)
    np.testing.assert_allclose(lenses.sight(lens, points).stretch ** 2, area, rtol=1e-6)


def test_beyond_the_fold_nothing_is_seen():
    """u (1 - s) grows up to u = 1 / sqrt(3), where it is 2 / (3 sqrt(3)); beyond, the lens folds over."""
    lens = cameras.camera(k1=-1.0)[4:]
    edge = 2 / (3 * np.sqrt(3))
    points = np.array([[0.1, 0], [edge * 0.999, 0], [edge * 1.001, 0], [0, -5.0]])
    found, there = lenses.undistorted(lens, points)
    np.testing.assert_array_equal(there, [True, True, False, False])
    np.testing.assert_allclose(found[2:], [[1 / np.sqrt(3), 0], [0, -1 / np.sqrt(3)]], atol=1e-6)
    # A point off the axis by 1 is folded back to 0, where it must not be seen.
    _, shown = lenses.shown(lens, np.array([[1.0, 0, -1], [0.5, 0, -1], [0.1, 0, 1]]))
    np.testing.assert_array_equal(shown, [False, True, False])


def test_a_fisheye_sees_beside_and_behind_itself():
    lens = cameras.camera(fisheye=1)[4:]
    right, behind = lenses.sight(lens, np.array([[np.pi / 2, 0], [0, 3.0]])).local
    np.testing.assert_allclose(right, [1, 0, 0], atol=1e-12)
    np.testing.assert_allclose(behind, [0, -np.sin(3), -np.cos(3)], atol=1e-12)
    assert not lenses.sight(lens, np.array([[3.2, 0]])).seen.any()
    seen = cameras.seen_pixels(cameras.camera(f=10.0, cx=40.0, cy=40.0, fisheye=1), (80, 80))
    y, x = np.mgrid[:80, :80] - 39.5
    np.testing.assert_array_equal(seen, np.hypot(x, y) <= 10 * np.pi)


def test_views_of_several_lenses_have_each_its_own():
    pose, n = cameras.on_sphere(1.0, 0.4, 3.0), 24
    kinds = [cameras.camera(f=30.0, cx=16.0, cy=12.0, **LENSES[name]) for name in ("barrel", "fisheye")]
    kinds.append(cameras.camera(f=30.0, cx=16.0, cy=12.0))
    which, x, y = RNG.integers(0, 3, n), RNG.uniform(0, 32, n), RNG.uniform(0, 24, n)
    rays = cameras.pixel_rays(np.tile(pose, (n, 1, 1)), np.stack(kinds)[which], x, y, cameras.Bounds(1.0, 2.0))
    for i in range(n):
        one = slice(i, i + 1)
        alone = cameras.pixel_rays(pose[None], kinds[which[i]][None], x[one], y[one], cameras.Bounds(1.0, 2.0))
        np.testing.assert_allclose(rays[i], alone[0], atol=1e-7)


def test_a_pinholes_rays_are_the_same_with_and_without_a_lens():
    pose, intrinsics = cameras.on_sphere(1.0, 0.4, 4.0), np.array([50.0, 52.0, 16.5, 11.0])
    plain = cameras.view_rays(pose, intrinsics, (24, 32), 2.0, 6.0)
    with_lens = cameras.view_rays(pose, np.append(intrinsics, np.zeros(10)), (24, 32), 2.0, 6.0)
    np.testing.assert_array_equal(plain, with_lens)


@pytest.mark.parametrize("seed", range(20))
def test_whatever_the_coefficients_rays_are_finite(seed):
    """Absurd lenses too give unit directions, and pixels that they claim to see are inverses."""
    rng = np.random.default_rng(seed)
    k = {name: rng.normal() * 10.0 ** rng.integers(-6, 7) for name in ("k1", "k2", "k3", "k4", "p1", "p2", "d1")}
    intrinsics = cameras.camera(f=20.0, cx=16.0, cy=12.0, **k)
    rays = cameras.view_rays(cameras.on_sphere(1.0, 0.4, 4.0), intrinsics, (24, 32), 2.0, 6.0)
    assert np.isfinite(rays).all()
    np.testing.assert_allclose(np.linalg.norm(rays[:, 3:6], axis=-1), 1, atol=1e-5)
