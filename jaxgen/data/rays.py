"""Posed pictures of one scene as rays: x uint8[N, 3], the colour over white, cond f32[N, 9], the ray through a pixel's
centre (see `jaxgen.ops.cameras`), alpha uint8[N, 1]. Rays come view by view, row by row; whole views are held out.
"""

import dataclasses
import functools

import numpy as np

from jaxgen.data.dataset import Dataset, RandomAccess, RawBatch
from jaxgen.errors import UserError
from jaxgen.ops.cameras import RAY, pixel_rays, turntable

ON_DEVICE = 4 << 30  # bytes: rays of larger splits are made as they are asked for
ELEVATION = np.pi / 6  # of the cameras of a turntable


@dataclasses.dataclass(frozen=True)
class Views:
    """pixels: uint8[V, H, W, 4], colours not multiplied by alpha. poses: f64[V, 3, 4]. intrinsics: f64[V, 4]. near,
    far: f64[V], distances from the camera, or depths along its axis where bool[V] planar is true."""

    pixels: np.ndarray
    poses: np.ndarray
    intrinsics: np.ndarray
    near: np.ndarray
    far: np.ndarray
    planar: np.ndarray

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.pixels.shape[1:3]

    def chosen(self, which: np.ndarray) -> "Views":
        """Those views at indices or where a mask is true."""
        return Views(*(getattr(self, f.name)[which] for f in dataclasses.fields(self)))


def over(pixels: np.ndarray, background: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> np.ndarray:
    """uint8[..., 4] over a colour in [0, 1], white: uint8[..., 3]."""
    alpha = pixels[..., 3:].astype(np.float32)
    behind = 255 * np.array(background, np.float32)
    return np.rint((pixels[..., :3] * alpha + behind * (255 - alpha)) / 255).astype(np.uint8)


def joined(parts: list[Views]) -> Views:
    return Views(*(np.concatenate([getattr(p, f.name) for p in parts]) for f in dataclasses.fields(Views)))


@dataclasses.dataclass(frozen=True, kw_only=True)
class PosedViews(Dataset):
    """Base of scenes: a subclass gives `read`."""

    def read(self, split: str) -> Views:
        """The views of a split."""
        raise NotImplementedError

    def views(self, split: str = "test") -> Views:
        """The views of a split, read once per process."""
        return _views(self, split)

    def load(self, split: str) -> RawBatch | RandomAccess:
        rays = _Rays(self.views(split))
        if rays.nbytes > ON_DEVICE:
            return rays
        # A view at a time: in between, rays are f64.
        per = int(np.prod(rays.views.size))
        parts = [rays.take(np.arange(i, i + per)) for i in range(0, len(rays), per)]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    @property
    def frame(self) -> tuple[int, int]:
        return self.views("test").size

    def way(self, frames: int) -> np.ndarray:
        """f64[frames, 3, 4]: poses for a film of the scene, a circle about the z axis as far out as the pictures to
        train on were taken on average."""
        distance = np.linalg.norm(self.views("train").poses[:, :, 3], axis=-1).mean()
        return turntable(frames, float(distance), ELEVATION)


@functools.lru_cache(maxsize=4)
def _views(dataset: PosedViews, split: str) -> Views:
    if split != "all":
        return dataset.read(split)
    train, test = _views(dataset, "train"), _views(dataset, "test")
    if train.size != test.size:
        raise UserError(f"pictures to train on are {train.size} pixels, held-out ones {test.size}: name one split")
    return joined([train, test])


class _Rays:
    """RandomAccess to the rays of views, made from their cameras."""

    def __init__(self, views: Views):
        self.views = views
        self.nbytes = len(self) * (3 + 1 + 4 * RAY)

    def __len__(self) -> int:
        return int(np.prod(self.views.pixels.shape[:3]))

    def take(self, indices: np.ndarray) -> RawBatch:
        views, (height, width) = self.views, self.views.size
        view, y, x = np.unravel_index(indices, (len(views.pixels), height, width))
        pixel = views.pixels[view, y, x]
        cameras = (views.poses[view], views.intrinsics[view])
        ends = (views.near[view], views.far[view], views.planar[view])
        rays = pixel_rays(*cameras, x + 0.5, y + 0.5, *ends)
        return {"x": over(pixel), "cond": rays, "alpha": pixel[:, 3:].copy()}
