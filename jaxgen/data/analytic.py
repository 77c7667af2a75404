"""A synthetic scene defined by signed distance functions: no files are read, and its exact depth is known."""

import dataclasses
from typing import Annotated

import numpy as np
from annotated_types import Ge, Le

from jaxgen.core.ranges import Depth
from jaxgen.data.rays import PosedViews, Views
from jaxgen.ops.cameras import columns, on_sphere, view_rays

DISTANCE = 4.0  # from each camera to the centre of the scene
NEAR, FAR = 2.0, 6.0  # where rays start and end
ANGLE = 0.6  # horizontal field of view in radians
STEPS = 96  # of sphere tracing
CLOSE = 1e-4  # a point closer to a solid than this lies on it
LIGHT = np.array([0.5, 0.3, 0.81]) / np.linalg.norm([0.5, 0.3, 0.81])
COLOURS = np.array([[0.85, 0.25, 0.2], [0.95, 0.75, 0.2], [0.25, 0.45, 0.85], [0.35, 0.7, 0.4]])
SPECULAR = np.array([0.9, 0.0, 0.25, 0.0])  # strength of each solid's highlight


@dataclasses.dataclass(frozen=True, kw_only=True)
class AnalyticScene(PosedViews):
    """A shiny sphere, a torus, a box with rounded edges and a capsule, lit from one side, without a background.

    Cameras lie on a sphere around the scene, at elevations from -12 to 64 degrees. Held-out cameras lie between the
    training cameras. A pixel is the mean of `samples` x `samples` rays.
    """

    size: Annotated[int, Ge(1), Le(1_024)] = 64
    """Height and width of the pictures in pixels."""
    train_views: Depth = 60
    test_views: Depth = 6
    samples: Annotated[int, Ge(1), Le(64)] = 2
    """Rays per pixel along each axis."""

    def read(self, split: str) -> Views:
        poses = self._poses(split)
        pixels = np.stack([self._render(pose) for pose in poses])
        one = np.ones(len(poses))
        return Views(pixels, poses, np.tile(_intrinsics(self.size), (len(poses), 1)), NEAR * one, FAR * one, one == 0)

    def depth(self, split: str = "test") -> np.ndarray:
        """f32[V, H, W]: distance to the first solid along the ray through each pixel's centre, infinite without one."""
        size = (self.size, self.size)
        rays = [view_rays(pose, _intrinsics(self.size), size, NEAR, FAR) for pose in self._poses(split)]
        return np.stack([trace(r)[0].reshape(self.size, self.size) for r in rays]).astype(np.float32)

    def _poses(self, split: str) -> np.ndarray:
        """f64[V, 3, 4]: successive azimuths differ by the golden angle, so no two are equal."""
        num, shift = (self.train_views, 0.0) if split == "train" else (self.test_views, 0.5)
        height = -0.2 + 1.1 * (np.arange(num) + 0.5) / num
        azimuth = (np.arange(num) + shift) * np.pi * (3 - np.sqrt(5))
        return np.stack([on_sphere(a, np.arcsin(h), DISTANCE) for a, h in zip(azimuth, height)])

    def _render(self, pose: np.ndarray) -> np.ndarray:
        """uint8[size, size, 4]. A pixel's colour is the mean over its rays that hit a solid."""
        fine = self.size * self.samples
        rays = view_rays(pose, _intrinsics(fine), (fine, fine), NEAR, FAR)
        distance, which = trace(rays)
        solid = np.isfinite(distance)
        colour = np.zeros((len(rays), 4))
        at, d = columns(rays[solid])[:2]
        colour[solid, :3] = shade(at + d * distance[solid, None], d, which[solid])
        colour[solid, 3] = 1
        blocks = colour.reshape(self.size, self.samples, self.size, self.samples, 4).mean(axis=(1, 3))
        rgb = blocks[..., :3] / np.maximum(blocks[..., 3:], 1e-9)
        return np.rint(255 * np.concatenate([rgb, blocks[..., 3:]], axis=-1)).astype(np.uint8)


def _intrinsics(size: int) -> np.ndarray:
    focal = 0.5 * size / np.tan(0.5 * ANGLE)
    return np.array([focal, focal, size / 2, size / 2])


def signed_distances(x: np.ndarray) -> np.ndarray:
    """f64[N, 4]: signed distances from the points f64[N, 3] to each solid, negative inside."""
    sphere = np.linalg.norm(x - (-0.35, 0.35, 0.1), axis=-1) - 0.42
    y = x - (0.4, -0.3, -0.1)
    ring = np.stack([np.linalg.norm(y[:, :2], axis=-1) - 0.4, y[:, 2]], axis=-1)
    torus = np.linalg.norm(ring, axis=-1) - 0.15
    q = np.abs(x - (0.05, 0.0, -0.5)) - (0.75, 0.75, 0.06)
    box = np.linalg.norm(np.maximum(q, 0), axis=-1) + np.minimum(q.max(axis=-1), 0) - 0.04
    low, high = np.array([-0.45, -0.5, -0.4]), np.array([-0.45, -0.5, 0.35])
    part = np.clip((x - low) @ (high - low) / np.sum((high - low) ** 2), 0, 1)
    capsule = np.linalg.norm(x - low - part[:, None] * (high - low), axis=-1) - 0.14
    return np.stack([sphere, torus, box, capsule], axis=-1)


def trace(rays: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sphere tracing (doi:10.1007/s003710050084) of rays f32[N, 9].

    Returns the distance to the first solid, f64[N], infinite without one, and the solid's index, i64[N]. Each step is
    as long as the distance to the nearest solid, so no step passes through one.
    """
    rays = np.asarray(rays, np.float64)
    origin, direction, near, far, _ = columns(rays)
    distance, which, going = near.copy(), np.zeros(len(rays), int), np.ones(len(rays), bool)
    for _ in range(STEPS):
        where = np.flatnonzero(going)
        gap = signed_distances(origin[where] + direction[where] * distance[where, None])
        which[where], nearest = gap.argmin(axis=-1), gap.min(axis=-1)
        distance[where] += nearest
        going[where] = (nearest > CLOSE) & (distance[where] < far[where])
        if not going.any():
            break
    # A ray that grazes a solid takes ever shorter steps beside it: if it has not passed by the last step, it is a hit.
    return np.where(distance < far, distance, np.inf), which


def shade(x: np.ndarray, d: np.ndarray, which: np.ndarray) -> np.ndarray:
    """f64[N, 3]: colours of the points x on the solids `which`, seen along the directions d.

    Lambertian shading with ambient light, and a Blinn-Phong highlight, which depends on d.
    """
    rows = np.arange(len(x))
    difference = [signed_distances(x + e)[rows, which] - signed_distances(x - e)[rows, which] for e in 1e-4 * np.eye(3)]
    normal = np.stack(difference, axis=-1)
    normal /= np.maximum(np.linalg.norm(normal, axis=-1, keepdims=True), 1e-12)
    base = COLOURS[which]
    # The chequered floor shows how fine the resolution is.
    checks = (np.floor(x[:, 0] * 4) + np.floor(x[:, 1] * 4)) % 2
    base = np.where((which == 2)[:, None] & (checks == 0)[:, None], base * 0.6 + 0.3, base)
    half = LIGHT - d
    half /= np.linalg.norm(half, axis=-1, keepdims=True)
    light = 0.35 + 0.65 * np.maximum(normal @ LIGHT, 0)
    highlight = SPECULAR[which] * np.maximum(np.sum(normal * half, axis=-1), 0) ** 30
    return np.clip(base * light[:, None] + highlight[:, None], 0, 1)
