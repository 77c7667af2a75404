"""Cameras and their rays, in NumPy: a scene's rays are made once.

A pose, f64[3, 4], takes camera to world coordinates: x to the right, y up, the camera looks along -z. Intrinsics are
f64[4]: fx, fy, cx, cy in pixels, the first pixel's centre at (0.5, 0.5). A ray is f32[9]: origin, direction of length
one, near, far (distances from the origin), and radius, what a pixel's cone gains in radius per unit of distance.
"""

from typing import Generic, NamedTuple, TypeVar

import jax
import numpy as np

RAY = 9
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


def pixel_rays(
    poses: np.ndarray,
    intrinsics: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    near: np.ndarray | float,
    far: np.ndarray | float,
    planar: np.ndarray | bool = False,
) -> np.ndarray:
    """f32[N, 9] of the points (x, y), f64[N] in pixels, of cameras f64[N, 3, 4] with intrinsics f64[N, 4]. planar: near
    and far are given as depths along a camera's axis, which oblique rays reach later."""
    fx, fy, cx, cy = np.moveaxis(np.asarray(intrinsics, np.float64), -1, 0)
    local = np.stack([(x - cx) / fx, -(y - cy) / fy, -np.ones_like(x)], axis=-1)
    length = np.linalg.norm(local, axis=-1)
    direction = np.einsum("nij,nj->ni", poses[:, :, :3], local / length[:, None])
    # A disc of the variance of a square pixel, section 3.1 of arXiv:2103.13415: a pixel is 1 / f wide at depth one.
    radius = 2 / np.sqrt(12) / np.sqrt(fx * fy) / length
    later = np.where(planar, length, 1.0)
    rest = np.stack(np.broadcast_arrays(near * later, far * later, radius), axis=-1)
    return np.concatenate([poses[:, :, 3], direction, rest], axis=-1).astype(np.float32)


def view_rays(
    pose: np.ndarray, intrinsics: np.ndarray, size: tuple[int, int], near: float, far: float, planar: bool = False
) -> np.ndarray:
    """f32[H * W, 9]: the rays through the centres of a view's pixels, row by row. size: H, W. planar: see
    `pixel_rays`."""
    height, width = size
    y, x = (a.reshape(-1) + 0.5 for a in np.mgrid[:height, :width])
    n = len(x)
    return pixel_rays(np.broadcast_to(pose, (n, 3, 4)), np.broadcast_to(intrinsics, (n, 4)), x, y, near, far, planar)


def look_at(position: np.ndarray, target: np.ndarray, up: np.ndarray) -> np.ndarray:
    """The pose f64[3, 4] of a camera at `position` that looks at `target`, `up` upwards in its picture."""
    back = _unit(np.asarray(position, np.float64) - target)
    right = _unit(np.cross(up, back))
    return np.stack([right, np.cross(back, right), back, np.asarray(position, np.float64)], axis=-1)


def turntable(num: int, radius: float, elevation: float) -> np.ndarray:
    """f64[num, 3, 4]: poses on a circle about the z axis, `elevation` in radians above its plane, that look at the
    origin."""
    return np.stack([on_sphere(2 * np.pi * i / num, elevation, radius) for i in range(num)])


def on_sphere(azimuth: float, elevation: float, radius: float) -> np.ndarray:
    """The pose f64[3, 4] of a camera that looks at the origin, z upwards; angles in radians."""
    flat = np.cos(elevation)
    position = radius * np.array([flat * np.cos(azimuth), flat * np.sin(azimuth), np.sin(elevation)])
    return look_at(position, np.zeros(3), np.array([0.0, 0.0, 1.0]))


def sway(poses: np.ndarray, num: int, focus: float) -> np.ndarray:
    """f64[num, 3, 4]: poses on an ellipse as wide as half the deviation of those given, which look at the point `focus`
    before their mean: a way to look into a scene that was taken from one side."""
    mean = mean_pose(poses)
    spread = 0.5 * np.std((poses[:, :, 3] - mean[:, 3]) @ mean[:, :3], axis=0)
    target = mean[:, 3] - focus * mean[:, 2]
    angles = 2 * np.pi * np.arange(num) / num
    local = np.stack([spread[0] * np.cos(angles), spread[1] * np.sin(angles), np.zeros(num)], axis=-1)
    return np.stack([look_at(mean[:, 3] + mean[:, :3] @ p, target, mean[:, 1]) for p in local])


def mean_pose(poses: np.ndarray) -> np.ndarray:
    """The pose f64[3, 4] in the middle of poses f64[V, 3, 4], which looks and stands as they do on average."""
    centre = poses[:, :, 3].mean(axis=0)
    return look_at(centre, centre - poses[:, :, 2].mean(axis=0), poses[:, :, 1].mean(axis=0))


def recentred(poses: np.ndarray) -> np.ndarray:
    """The same poses in the coordinates of their mean."""
    mean = mean_pose(poses)
    turned = np.einsum("ji,njk->nik", mean[:, :3], poses)
    turned[:, :, 3] -= mean[:, :3].T @ mean[:, 3]
    return turned


def is_rigid(matrix: np.ndarray) -> bool:
    """Whether [3, 4] or [4, 4] is a rotation and a shift: what it does keeps lengths and handedness."""
    matrix = np.asarray(matrix, np.float64)
    if matrix.shape not in ((3, 4), (4, 4)) or not np.isfinite(matrix).all():
        return False
    rotation = matrix[:3, :3]
    last = matrix.shape == (3, 4) or np.allclose(matrix[3], (0, 0, 0, 1))
    return bool(last and np.allclose(rotation.T @ rotation, np.eye(3), atol=1e-3) and np.linalg.det(rotation) > 0)


def _unit(v: np.ndarray) -> np.ndarray:
    return v / np.linalg.norm(v)
