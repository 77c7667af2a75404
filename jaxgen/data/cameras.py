"""Cameras around a scene that no picture was taken of, for a model that is to imagine it."""

import dataclasses
from typing import Annotated

import numpy as np
from annotated_types import Ge, Gt, Le, Lt

from jaxgen.core.ranges import Samples, Seed
from jaxgen.core.types import RawBatch
from jaxgen.data.rays import PosedViews, Views
from jaxgen.ops.cameras import on_sphere
from jaxgen.ops.views import CAMERA

Degrees = Annotated[float, Ge(-89), Le(89)]
GOLDEN = np.pi * (3 - np.sqrt(5))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cameras(PosedViews):
    """x: uint8[N, size, size, 3], white, as nothing is known of what is to be seen. cond: f32[N, 13], the camera (see
    `jaxgen.ops.views`), which looks at the origin from a sphere with z up.

    Training cameras have a uniform azimuth and a uniform elevation; held-out ones, all at one elevation, follow one
    another by the golden angle.
    """

    size: Annotated[int, Ge(1), Le(1_024)] = 32
    """Height and width of the views in pixels."""
    train_views: Samples = 4096
    test_views: Annotated[int, Ge(1), Le(1_000)] = 8
    elevation: tuple[Degrees, Degrees] = (0.0, 30.0)
    """Lowest and highest elevation of training cameras in degrees."""
    test_elevation: Degrees = 45.0
    """Of held-out cameras, in degrees. Training does not look from there if it is beyond `elevation`."""
    distance: Annotated[float, Gt(0)] = 4.0
    """From each camera to the origin."""
    angle: Annotated[float, Gt(0), Lt(180)] = 30.0
    """Field of view in degrees."""
    poses_seed: Seed = 0
    """What the training cameras are drawn by."""

    @property
    def pictured(self) -> bool:
        return False

    @property
    def picture_size(self) -> None:
        """An example is a whole view."""
        return None

    def problem(self) -> str | None:
        low, high = self.elevation
        return f"elevation is {low} to {high} degrees: lowest <= highest is expected" if low > high else None

    def read(self, split: str) -> Views:
        poses = self._poses(split)
        one = np.ones(len(poses))
        pixels = np.broadcast_to(np.zeros(4, np.uint8), (len(poses), self.size, self.size, 4))
        intrinsics = np.tile([self._focal, self._focal, self.size / 2, self.size / 2], (len(poses), 1))
        # The model itself bounds the scene.
        return Views(pixels, poses, intrinsics, 0 * one, 2 * self.distance * one, one == 0)

    def load(self, split: str) -> RawBatch:
        poses = self.views(split).poses
        focal = np.full((len(poses), 1), self._focal / self.size)
        cameras = np.concatenate([poses.reshape(len(poses), 12), focal], axis=1).astype(np.float32)
        assert cameras.shape[1] == CAMERA
        white = np.broadcast_to(np.full(3, 255, np.uint8), (len(poses), self.size, self.size, 3))
        return {"x": white, "cond": cameras}

    @property
    def _focal(self) -> float:
        """In pixels."""
        return 0.5 * self.size / np.tan(0.5 * np.radians(self.angle))

    def _poses(self, split: str) -> np.ndarray:
        """f64[V, 3, 4]."""
        if split == "train":
            rng = np.random.default_rng(self.poses_seed)
            azimuth = rng.uniform(0, 2 * np.pi, self.train_views)
            elevation = np.radians(rng.uniform(*self.elevation, self.train_views))
        else:
            azimuth = np.arange(self.test_views) * GOLDEN
            elevation = np.full(self.test_views, np.radians(self.test_elevation))
        return np.stack([on_sphere(a, e, self.distance) for a, e in zip(azimuth, elevation)])
