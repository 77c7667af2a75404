"""Posed pictures of one scene as rays. Each example is one pixel:

x: uint8[N, 3], its colour over white. cond: f32[N, 9], the ray through its centre (see `jaxgen.ops.cameras`).
alpha: uint8[N, 1]. Rays are ordered view by view and row by row; whole views are held out. Pixels that a mask leaves
out give no rays, but in the held-out split, which keeps whole pictures: there no number counts them.
"""

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import numpy as np

from jaxgen.core.types import RawBatch
from jaxgen.data.dataset import Dataset, RandomAccess
from jaxgen.errors import UserError
from jaxgen.ops.cameras import RAY, Bounds, pixel_rays, turntable

ON_DEVICE = 4 << 30  # bytes; the rays of a larger split are computed on demand
ELEVATION = np.pi / 6  # of the cameras on a turntable


@dataclasses.dataclass(frozen=True)
class Views:
    """Pictures of a scene with their cameras.

    pixels: uint8[V, H, W, 4], colours not premultiplied by alpha. poses: f64[V, 3, 4], camera to world. intrinsics:
    f64[V, 4 or 14]. near, far: f64[V], distances from the camera, or depths along its axis where planar, bool[V], is
    True. counted: bool[V, H, W], False where a mask leaves a pixel out; None if all count.
    """

    pixels: np.ndarray
    poses: np.ndarray
    intrinsics: np.ndarray
    near: np.ndarray
    far: np.ndarray
    planar: np.ndarray
    counted: np.ndarray | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the pictures."""
        return self.pixels.shape[1], self.pixels.shape[2]

    def select(self, which: np.ndarray) -> "Views":
        """The views at the given indices, or where a mask is True."""
        found: dict[str, Any] = {name: None if a is None else a[which] for name, a in vars(self).items()}
        return Views(**found)


def padded(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Arrays [..., H, W, C] or pixels bool[..., H, W] of pictures with zeros to the right and below, up to `size`."""
    first = pixels.ndim - (2 if pixels.dtype == bool else 3)
    widths = [(0, 0)] * pixels.ndim
    for axis, length in enumerate(size, first):
        widths[axis] = (0, length - pixels.shape[axis])
    return np.pad(pixels, widths)


def composite(pixels: np.ndarray, background: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> np.ndarray:
    """RGBA pixels uint8[..., 4] over a background colour in [0, 1]: uint8[..., 3]."""
    alpha = pixels[..., 3:].astype(np.float32)
    behind = 255 * np.array(background, np.float32)
    return np.rint((pixels[..., :3] * alpha + behind * (255 - alpha)) / 255).astype(np.uint8)


def concatenate(parts: list[Views]) -> Views:
    """The views of all parts, in order. Smaller pictures are padded with pixels that do not count."""
    size = (max(p.size[0] for p in parts), max(p.size[1] for p in parts))
    if any(p.counted is not None or p.size != size for p in parts):
        counted = [np.ones(p.pixels.shape[:3], bool) if p.counted is None else p.counted for p in parts]
        parts = [
            dataclasses.replace(p, pixels=padded(p.pixels, size), counted=padded(c, size))
            for p, c in zip(parts, counted)
        ]
    columns = {f.name: [getattr(p, f.name) for p in parts] for f in dataclasses.fields(Views)}
    found: dict[str, Any] = {name: None if c[0] is None else np.concatenate(c) for name, c in columns.items()}
    return Views(**found)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PosedViews(Dataset):
    """Base of all scenes. A subclass implements `read`."""

    def read(self, split: str) -> Views:
        """The views of a split."""
        raise NotImplementedError

    def views(self, split: str = "test") -> Views:
        """The views of a split, read once per process."""
        return _views(self, split)

    def load(self, split: str) -> RawBatch | RandomAccess:
        rays = _Rays(self.views(split), whole=split == "test")
        if rays.nbytes > ON_DEVICE:
            return rays
        # One view at a time, since intermediate values are f64.
        per_view = int(np.prod(rays.views.size))
        parts = [rays.take(np.arange(i, min(i + per_view, len(rays)))) for i in range(0, len(rays), per_view)]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def padded_batches(
        self, batch_size: int, split: str = "test", limit: int | None = None
    ) -> Iterator[tuple[RawBatch, np.ndarray]]:
        """As of any data set; pixels that do not count have a False mask, too.

        Raises:
          UserError: as of any data set, or none of the first `limit` pixels count.
        """
        counted = self.views(split).counted if split == "test" else None
        if counted is None:
            yield from super().padded_batches(batch_size, split, limit)
            return
        flat = counted.reshape(-1)
        if not flat[:limit].any():
            raise UserError(f"masks leave out all of the first {limit} held-out pixels: choose a larger limit")
        for i, (batch, mask) in enumerate(super().padded_batches(batch_size, split, limit)):
            here = flat[i * batch_size : (i + 1) * batch_size]
            yield batch, mask & np.pad(here, (0, batch_size - len(here)))

    @property
    def picture_size(self) -> tuple[int, int] | None:
        return self.views("test").size

    def depth(self, split: str = "test") -> np.ndarray | None:
        """f32[V, H, W]: exact distances to what is seen in the views of a split, infinite where nothing is; None where
        they are not known."""
        return None

    def camera_path(self, frames: int) -> np.ndarray:
        """f64[frames, 3, 4]: camera poses for a film of the scene, a circle about the z axis.

        Its distance from the origin is the mean distance of the training cameras.
        """
        distance = np.linalg.norm(self.views("train").poses[:, :, 3], axis=-1).mean()
        return turntable(frames, float(distance), ELEVATION)


@functools.lru_cache(maxsize=4)
def _views(dataset: PosedViews, split: str) -> Views:
    if split != "all":
        return dataset.read(split)
    return concatenate([_views(dataset, "train"), _views(dataset, "test")])


class _Rays:
    """RandomAccess to the rays of views, computed from their cameras. whole: also of pixels that do not count."""

    def __init__(self, views: Views, whole: bool):
        self.views = views
        self.pixels = None if whole or views.counted is None else np.flatnonzero(views.counted)
        self.nbytes = len(self) * (3 + 1 + 4 * RAY)

    def __len__(self) -> int:
        return int(np.prod(self.views.pixels.shape[:3])) if self.pixels is None else len(self.pixels)

    def take(self, indices: np.ndarray) -> RawBatch:
        views, (height, width) = self.views, self.views.size
        indices = indices if self.pixels is None else self.pixels[indices]
        view, y, x = np.unravel_index(indices, (len(views.pixels), height, width))
        pixel = views.pixels[view, y, x]
        bounds = Bounds(views.near[view], views.far[view], views.planar[view])
        rays = pixel_rays(views.poses[view], views.intrinsics[view], x + 0.5, y + 0.5, bounds)
        return {"x": composite(pixel), "cond": rays, "alpha": pixel[:, 3:].copy()}
