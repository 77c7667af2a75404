"""A scene in closed form, traced along its rays: nothing is read, and its depth is known."""

import dataclasses

import numpy as np

from jaxgen.data.rays import PosedViews, Views
from jaxgen.errors import UserError
from jaxgen.ops.cameras import columns, on_sphere, view_rays

DISTANCE, NEAR, FAR = 4.0, 2.0, 6.0  # of cameras from the middle; where rays start and end
ANGLE = 0.6  # radians, the width of a picture
STEPS, CLOSE = 96, 1e-4  # of tracing; closer than this to a solid is on it
LIGHT = np.array([0.5, 0.3, 0.81]) / np.linalg.norm([0.5, 0.3, 0.81])
COLOURS = np.array([[0.85, 0.25, 0.2], [0.95, 0.75, 0.2], [0.25, 0.45, 0.85], [0.35, 0.7, 0.4]])
SHINE = np.array([0.9, 0.0, 0.25, 0.0])  # strength of each solid's highlight


@dataclasses.dataclass(frozen=True, kw_only=True)
class AnalyticScene(PosedViews):
    """A shining sphere, a torus, a box with round edges and a capsule, lit from one side, before nothing.

    Cameras stand around the scene, on the half of a sphere above it and a little below; those held out stand between
    the others. A pixel is the mean of `samples` x `samples` rays.

    Raises:
      UserError: on use, when `size`, `samples` or a number of views is below 1.
    """

    size: int = 64
    """Side of the pictures in pixels."""
    train_views: int = 60
    test_views: int = 6
    samples: int = 2
    """Rays a pixel, along each side."""

    def read(self, split: str) -> Views:
        if min(self.size, self.train_views, self.test_views, self.samples) < 1:
            raise UserError(
                f"AnalyticScene size is {self.size}, views {self.train_views} and {self.test_views}, samples "
                f"{self.samples}: each is 1 or more"
            )
        poses = self._poses(split)
        fine = self.size * self.samples
        pixels = np.stack([self._picture(pose, fine) for pose in poses])
        one = np.ones(len(poses))
        return Views(pixels, poses, np.tile(_intrinsics(self.size), (len(poses), 1)), NEAR * one, FAR * one, one == 0)

    def depth(self, split: str = "test") -> np.ndarray:
        """f32[V, H, W]: how far the first solid is along the ray of each pixel's centre, infinite where none is."""
        rays = [view_rays(p, _intrinsics(self.size), (self.size,) * 2, NEAR, FAR) for p in self._poses(split)]
        return np.stack([trace(r)[0].reshape(self.size, self.size) for r in rays]).astype(np.float32)

    def _poses(self, split: str) -> np.ndarray:
        """f64[V, 3, 4]: turned by the golden angle from one to the next, so that no two stand alike."""
        num, shift = (self.train_views, 0.0) if split == "train" else (self.test_views, 0.5)
        height = -0.2 + 1.1 * (np.arange(num) + 0.5) / num
        azimuth = (np.arange(num) + shift) * np.pi * (3 - np.sqrt(5))
        return np.stack([on_sphere(a, np.arcsin(h), DISTANCE) for a, h in zip(azimuth, height)])

    def _picture(self, pose: np.ndarray, fine: int) -> np.ndarray:
        """uint8[size, size, 4]; colours are means over what is solid of a pixel."""
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


def solids(x: np.ndarray) -> np.ndarray:
    """f64[N, 4]: distances from points f64[N, 3] to each solid, negative inside."""
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
    """How far along rays f32[N, 9] the first solid is, f64[N], infinite where there is none, and which one, i64[N]:
    steps as long as the nearest solid is away cannot go through one (doi:10.1007/s003710050084)."""
    rays = np.asarray(rays, np.float64)
    origin, direction, near, far, _ = columns(rays)
    distance, which, going = near.copy(), np.zeros(len(rays), int), np.ones(len(rays), bool)
    for _ in range(STEPS):
        where = np.flatnonzero(going)
        gap = solids(origin[where] + direction[where] * distance[where, None])
        which[where], nearest = gap.argmin(axis=-1), gap.min(axis=-1)
        distance[where] += nearest
        going[where] = (nearest > CLOSE) & (distance[where] < far[where])
        if not going.any():
            break
    # A ray that only grazes a solid slows down beside it: after all steps it counts as stopped.
    return np.where(distance < far, distance, np.inf), which


def shade(x: np.ndarray, d: np.ndarray, which: np.ndarray) -> np.ndarray:
    """f64[N, 3]: colours of points on solids seen along d, by Lambert's law with some light from everywhere, and the
    highlight of Blinn's half vector, which depends on d."""
    offsets = 1e-4 * np.eye(3)
    rows = np.arange(len(x))
    slope = [solids(x + e)[rows, which] - solids(x - e)[rows, which] for e in offsets]
    normal = np.stack(slope, axis=-1)
    normal /= np.maximum(np.linalg.norm(normal, axis=-1, keepdims=True), 1e-12)
    base = COLOURS[which]
    # The floor's checks: something to see the resolution by.
    checks = (np.floor(x[:, 0] * 4) + np.floor(x[:, 1] * 4)) % 2
    base = np.where((which == 2)[:, None] & (checks == 0)[:, None], base * 0.6 + 0.3, base)
    half = LIGHT - d
    half /= np.linalg.norm(half, axis=-1, keepdims=True)
    light = 0.35 + 0.65 * np.maximum(normal @ LIGHT, 0)
    highlight = SHINE[which] * np.maximum(np.sum(normal * half, axis=-1), 0) ** 30
    return np.clip(base * light[:, None] + highlight[:, None], 0, 1)
