"""Distortion of lenses and its inverse, in NumPy and float64: OpenCV's models, as COLMAP and nerfstudio use them.

A point (u, v), with v pointing down, is where a ray meets the plane at depth one. For a fisheye lens its distance from
(0, 0) is instead the angle between the ray and the camera's axis, in radians. With s = u^2 + v^2, the lens moves it to

  (u, v) (1 + k1 s + k2 s^2 + k3 s^3 + k4 s^4) / (1 + d1 s + d2 s^2 + d3 s^3)
    + (2 p1 u v + p2 (s + 2 u^2), p1 (s + 2 v^2) + 2 p2 u v)

A lens is f64[10]: k1, k2, k3, k4, d1, d2, d3, p1, p2, and 1 for a fisheye lens or 0. All zeros are a pinhole.
"""

from typing import NamedTuple

import numpy as np
from numpy.polynomial import Polynomial

LENS = 10
ITERATIONS = 80  # of bisection at worst; Newton's method ends after about five
CLOSE = 1e-10  # error of an inverse that counts as found
FLAT = 1e-9  # a determinant below it is that of a fold


class Sight(NamedTuple):
    """What points of a picture see: local f64[N, 3], directions in the camera's axes (x right, y up, z backwards), of
    depth one or, for a fisheye lens, of length one; stretch f64[N], the side there of a square of side one in the
    picture; seen bool[N], whether the lens maps any direction to the point."""

    local: np.ndarray
    stretch: np.ndarray
    seen: np.ndarray


# At the poles of absurd lenses numbers overflow; such points count as not found.
_SILENT = np.errstate(all="ignore")


@_SILENT
def distorted(lens: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where a lens f64[10] moves the points f64[N, 2], and the determinants f64[N] of its Jacobian there."""
    moved, jacobian = _with_jacobian(lens, points)
    return moved, _determinant(jacobian)


@_SILENT
def undistorted(lens: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The points f64[N, 2] that a lens f64[10] moves to the given ones, and whether there are any, bool[N].

    Only the region around the axis counts where the lens has not folded over. Points without an inverse are replaced by
    near ones of that region.
    """
    limit = _fold(lens)
    goal = np.linalg.norm(points, axis=-1)
    found = points * (_inverse_radius(lens, goal, limit) / np.where(goal > 0, goal, 1))[:, None]
    if lens[7:9].any():
        found = _polished(lens, points, found)
    moved, determinant = distorted(lens, found)
    error = np.abs(moved - points).max(axis=-1)
    inside = np.linalg.norm(found, axis=-1) <= limit * (1 + CLOSE)
    return found, (error <= CLOSE * (1 + goal)) & (determinant > FLAT) & inside


def sight(lens: np.ndarray, points: np.ndarray) -> Sight:
    """What the points f64[N, 2] of a picture behind a lens f64[10] see."""
    ones = np.ones(len(points))
    if not lens.any():  # also without columns
        return Sight(np.stack([points[:, 0], -points[:, 1], -ones], axis=-1), ones, ones > 0)
    plane, seen = undistorted(lens, points)
    area = np.where(seen, distorted(lens, plane)[1], 1)
    if not lens[-1]:
        return Sight(np.stack([plane[:, 0], -plane[:, 1], -ones], axis=-1), 1 / np.sqrt(area), seen)
    angle = np.linalg.norm(plane, axis=-1)
    flat = np.sinc(angle / np.pi)  # sin(angle) / angle
    local = np.stack([plane[:, 0] * flat, -plane[:, 1] * flat, -np.cos(angle)], axis=-1)
    return Sight(local, np.sqrt(np.abs(flat) / area), seen)


def shown(lens: np.ndarray, local: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The inverse of `sight`: the points f64[N, 2] at which the directions f64[N, 3] appear, and whether they do."""
    right, up, back = local.T
    if lens[-1]:
        across = np.hypot(right, up)
        angle = np.arctan2(across, -back)
        scale, before = angle / np.maximum(across, 1e-300), angle <= min(_fold(lens), np.pi)
    else:
        scale = 1 / np.maximum(-back, 1e-12)
        before = (back < 0) & (np.hypot(right, up) * scale <= _fold(lens))
    # Directions that do not appear could overflow in high powers.
    plane = np.where(before[:, None], np.stack([right * scale, -up * scale], axis=-1), 0)
    moved, determinant = distorted(lens, plane)
    return moved, before & (determinant > FLAT)


def _radial(lens: np.ndarray) -> tuple[Polynomial, Polynomial]:
    """Numerator and denominator of the radial factor, as polynomials in s."""
    return Polynomial([1, *lens[:4]]), Polynomial([1, *lens[4:7]])


def _fold(lens: np.ndarray) -> float:
    """The distance from the axis up to which distances grow under the radial distortion: infinite if they always do,
    and pi at most for a fisheye lens."""
    top, bottom = _radial(lens)
    s = Polynomial([0, 1])
    slope = (top + 2 * s * top.deriv()) * bottom - 2 * s * top * bottom.deriv()
    # Coefficients as small as this move nothing, and would overflow in the companion matrix.
    roots = np.concatenate([p.trim(1e-30).roots() for p in (slope, bottom)])
    real = roots[(np.abs(roots.imag) <= 1e-9 * np.abs(roots)) & (roots.real > 0)].real
    return min(np.sqrt(real.min()) if len(real) else np.inf, np.pi if lens[-1] else np.inf)


def _inverse_radius(lens: np.ndarray, goal: np.ndarray, limit: float) -> np.ndarray:
    """The distances f64[N], up to `limit`, that the radial distortion moves to `goal`: Newton's method, with bisection
    where it leaves the interval that is known to hold the solution. Without a solution, the limit."""
    top, bottom = _radial(lens)
    top_slope, bottom_slope = top.deriv(), bottom.deriv()
    low, high = np.zeros_like(goal), np.full_like(goal, limit)
    if not np.isfinite(limit):
        high = goal + 1
        for _ in range(ITERATIONS):
            short = high * top(high**2) / bottom(high**2) < goal
            if not short.any():
                break
            high = np.where(short, 2 * high, high)
    r = np.minimum(goal, high)
    for _ in range(ITERATIONS):
        s = r**2
        over, under = top(s), bottom(s)
        error = r * over / under - goal
        slope = (over + 2 * s * top_slope(s)) / under - 2 * s * over * bottom_slope(s) / under**2
        low, high = np.where(error < 0, r, low), np.where(error >= 0, r, high)
        new = r - error / np.where(slope > 1e-12, slope, 1e-12)
        new = np.where((new >= low) & (new <= high), new, (low + high) / 2)
        done = np.all(np.abs(new - r) <= 1e-15 * (1 + r))
        r = new
        if done:
            break
    return r


def _polished(lens: np.ndarray, points: np.ndarray, start: np.ndarray) -> np.ndarray:
    """The inverse of the whole distortion by Newton's method, from that of the radial part alone."""
    found = start
    for _ in range(ITERATIONS):
        moved, jacobian = _with_jacobian(lens, found)
        error, determinant = moved - points, _determinant(jacobian)
        determinant = np.where(np.abs(determinant) > 1e-6, determinant, 1e-6)[:, None]
        (a, b), (c, d) = np.moveaxis(jacobian, 0, -1)
        step = np.stack([d * error[:, 0] - b * error[:, 1], a * error[:, 1] - c * error[:, 0]], axis=-1) / determinant
        # Beyond the picture's corner a step may be huge, and its powers overflow.
        step = np.clip(step, -0.5, 0.5)
        found = found - step
        if np.all(np.abs(step) <= 1e-15 * (1 + np.abs(found))):
            break
    # Where it went astray, NaN included.
    return np.where(np.linalg.norm(found - start, axis=-1, keepdims=True) < 1, found, start)


def _with_jacobian(lens: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distorted points f64[N, 2] and the Jacobian f64[N, 2, 2] at the given ones."""
    (top, bottom), (p1, p2) = _radial(lens), lens[7:9]
    u, v = points.T
    s = u**2 + v**2
    over, under = top(s), bottom(s)
    factor = over / under
    slope = (top.deriv()(s) - factor * bottom.deriv()(s)) / under
    moved_u = u * factor + 2 * p1 * u * v + p2 * (s + 2 * u**2)
    moved_v = v * factor + p1 * (s + 2 * v**2) + 2 * p2 * u * v
    du = factor + 2 * u**2 * slope + 2 * p1 * v + 6 * p2 * u
    dv = factor + 2 * v**2 * slope + 6 * p1 * v + 2 * p2 * u
    both = 2 * u * v * slope + 2 * p1 * u + 2 * p2 * v
    jacobian = np.stack([np.stack([du, both], axis=-1), np.stack([both, dv], axis=-1)], axis=-2)
    return np.stack([moved_u, moved_v], axis=-1), jacobian


def _determinant(jacobian: np.ndarray) -> np.ndarray:
    return jacobian[:, 0, 0] * jacobian[:, 1, 1] - jacobian[:, 0, 1] * jacobian[:, 1, 0]
