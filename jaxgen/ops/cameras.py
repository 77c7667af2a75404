"""Cameras and their rays. In NumPy, as a scene's rays are computed only once.

A pose, f64[3, 4], maps camera to world coordinates; in a camera's coordinates x points right and y up, and the camera
looks along -z. Intrinsics are f64[4]: fx, fy, cx, cy in pixels, with the first pixel's centre at (0.5, 0.5). With
a lens (see `jaxgen.ops.lenses`) behind them they are f64[14]. A ray is f32[9]: origin, unit direction, near and far
(distances from the origin), and the radius of the pixel's cone at distance one.
"""

from typing import Generic, NamedTuple, TypeVar

import jax
import numpy as np

from jaxgen.ops import lenses

RAY = 9
INTRINSICS = 4 + lenses.LENS
Array = TypeVar("Array", np.ndarray, jax.Array)


class Rays(NamedTuple, Generic[Array]):
    """Columns of rays [..., 9]: origin and direction [..., 3], near, far and radius [...]."""

    origin: Array
    direction: Array
    near: Array
    far: Array
    radius: Array


def columns(rays: Array) -> Rays[Array]:
    """The named columns of rays [..., 9], arrays of NumPy or JAX."""
    return Rays(rays[..., :3], rays[..., 3:6], rays[..., 6], rays[..., 7], rays[..., 8])


class Bounds(NamedTuple):
    """Where rays begin and end: numbers, or arrays [N] for N rays."""

    near: np.ndarray | float
    far: np.ndarray | float
    planar: np.ndarray | bool = False
    """Whether near and far are depths along the camera's axis instead of distances along the ray, which they always are
    for a fisheye lens."""


def pixel_rays(poses: np.ndarray, intrinsics: np.ndarray, x: np.ndarray, y: np.ndarray, bounds: Bounds) -> np.ndarray:
    """Rays f32[N, 9] through the points (x, y), f64[N] in pixels, of cameras with poses f64[N, 3, 4] and intrinsics
    f64[N, 4 or 14]."""
    intrinsics = np.asarray(intrinsics, np.float64)
    fx, fy, _, _ = np.moveaxis(intrinsics[:, :4], -1, 0)
    local, stretch, _ = _sight(intrinsics, x, y)
    length = np.linalg.norm(local, axis=-1)
    direction = np.einsum("nij,nj->ni", poses[:, :, :3], local / length[:, None])
    # A disc with the variance of a square pixel, section 3.1 of arXiv:2103.13415. A pixel is 1 / f wide at depth one.
    radius = 2 / np.sqrt(12) / np.sqrt(fx * fy) / length * stretch
    later = np.where(bounds.planar, length, 1.0)
    rest = np.stack(np.broadcast_arrays(bounds.near * later, bounds.far * later, radius), axis=-1)
    return np.concatenate([poses[:, :, 3], direction, rest], axis=-1).astype(np.float32)


def _sight(intrinsics: np.ndarray, x: np.ndarray, y: np.ndarray) -> lenses.Sight:
    """What the points (x, y), f64[N] in pixels, see through lenses f64[N, 4 or 14]."""
    fx, fy, cx, cy = np.moveaxis(intrinsics[:, :4], -1, 0)
    points, kinds = np.stack([(x - cx) / fx, (y - cy) / fy], axis=-1), intrinsics[:, 4:]
    if np.array_equal(kinds, np.broadcast_to(kinds[:1], kinds.shape)):
        return lenses.sight(kinds[0], points)
    kinds, which = np.unique(kinds, axis=0, return_inverse=True)
    found = lenses.Sight(np.empty((len(x), 3)), np.empty(len(x)), np.empty(len(x), bool))
    for i, lens in enumerate(kinds):
        here = which.reshape(-1) == i
        for column, values in zip(found, lenses.sight(lens, points[here])):
            column[here] = values
    return found


def seen_pixels(intrinsics: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """bool[H, W]: the pixels of a view that its lens, of intrinsics f64[4 or 14], maps any direction to. size: H, W."""
    y, x = (a.reshape(-1) + 0.5 for a in np.mgrid[: size[0], : size[1]])
    return _sight(np.broadcast_to(intrinsics, (len(x), len(intrinsics))), x, y).seen.reshape(size)


def pixels_of(pose: np.ndarray, intrinsics: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where a camera sees points of the world f64[N, 3], f64[N, 2] in pixels, and whether it can, bool[N]."""
    found, seen = lenses.shown(intrinsics[4:], (points - pose[:, 3]) @ pose[:, :3])
    return found * intrinsics[:2] + intrinsics[2:4], seen


def camera(**numbers: float) -> np.ndarray:
    """Intrinsics f64[14] by name: fx and fy, or f for both, cx, cy, and the lens's k1 to k4, d1 to d3, p1, p2 and
    fisheye, which are 0 unless given."""
    names = ("fx", "fy", "cx", "cy", "k1", "k2", "k3", "k4", "d1", "d2", "d3", "p1", "p2", "fisheye")
    if "f" in numbers:
        numbers = {**numbers, "fx": numbers["f"], "fy": numbers["f"]}
    return np.array([numbers.get(name, 0.0) for name in names])


def view_rays(
    pose: np.ndarray, intrinsics: np.ndarray, size: tuple[int, int], near: float, far: float, planar: bool = False
) -> np.ndarray:
    """The rays through the pixel centres of a view, row by row: f32[H * W, 9]. size: H, W. planar: see `Bounds`."""
    height, width = size
    y, x = (a.reshape(-1) + 0.5 for a in np.mgrid[:height, :width])
    n = len(x)
    poses, cameras = np.broadcast_to(pose, (n, 3, 4)), np.broadcast_to(intrinsics, (n, len(intrinsics)))
    return pixel_rays(poses, cameras, x, y, Bounds(near, far, planar))


def look_at(position: np.ndarray, target: np.ndarray, up: np.ndarray) -> np.ndarray:
    """The pose f64[3, 4] of a camera at `position` that looks at `target`, with `up` pointing up in its image."""
    back = _unit(np.asarray(position, np.float64) - target)
    right = _unit(np.cross(up, back))
    return np.stack([right, np.cross(back, right), back, np.asarray(position, np.float64)], axis=-1)


def turntable(num: int, radius: float, elevation: float) -> np.ndarray:
    """Poses f64[num, 3, 4] that look at the origin from a circle about the z axis, `elevation` radians above the xy
    plane."""
    return np.stack([on_sphere(2 * np.pi * i / num, elevation, radius) for i in range(num)])


def on_sphere(azimuth: float, elevation: float, radius: float) -> np.ndarray:
    """The pose f64[3, 4] of a camera that looks at the origin from a sphere, with z up; angles in radians."""
    flat = np.cos(elevation)
    position = radius * np.array([flat * np.cos(azimuth), flat * np.sin(azimuth), np.sin(elevation)])
    return look_at(position, np.zeros(3), np.array([0.0, 0.0, 1.0]))


def sway(poses: np.ndarray, num: int, focus: float) -> np.ndarray:
    """Poses f64[num, 3, 4] on an ellipse, for a scene photographed from one side. The ellipse's half-axes are half the
    standard deviations of the given positions. All poses look at the point at distance `focus` before `mean_pose`."""
    mean = mean_pose(poses)
    spread = 0.5 * np.std((poses[:, :, 3] - mean[:, 3]) @ mean[:, :3], axis=0)
    target = mean[:, 3] - focus * mean[:, 2]
    angles = 2 * np.pi * np.arange(num) / num
    local = np.stack([spread[0] * np.cos(angles), spread[1] * np.sin(angles), np.zeros(num)], axis=-1)
    return np.stack([look_at(mean[:, 3] + mean[:, :3] @ p, target, mean[:, 1]) for p in local])


def mean_pose(poses: np.ndarray) -> np.ndarray:
    """The pose f64[3, 4] at the mean position of poses f64[V, 3, 4], with their mean viewing and up directions."""
    centre = poses[:, :, 3].mean(axis=0)
    return look_at(centre, centre - poses[:, :, 2].mean(axis=0), poses[:, :, 1].mean(axis=0))


def recentred(poses: np.ndarray) -> np.ndarray:
    """The same poses in the coordinates of `mean_pose`."""
    mean = mean_pose(poses)
    turned = np.einsum("ji,njk->nik", mean[:, :3], poses)
    turned[:, :, 3] -= mean[:, :3].T @ mean[:, 3]
    return turned


def is_rigid(matrix: np.ndarray) -> bool:
    """Whether a matrix [3, 4] or [4, 4] is a rotation and a translation, without scaling, shear or mirroring."""
    matrix = np.asarray(matrix, np.float64)
    if matrix.shape not in ((3, 4), (4, 4)) or not np.isfinite(matrix).all():
        return False
    rotation = matrix[:3, :3]
    if np.abs(rotation).max() > 2:  # products of large numbers would overflow
        return False
    last = matrix.shape == (3, 4) or np.allclose(matrix[3], (0, 0, 0, 1))
    return bool(last and np.allclose(rotation.T @ rotation, np.eye(3), atol=1e-3) and np.linalg.det(rotation) > 0)


def _unit(v: np.ndarray) -> np.ndarray:
    return v / np.linalg.norm(v)
