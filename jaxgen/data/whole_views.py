"""Posed pictures of one scene, an example for each picture with its camera."""

import dataclasses
from collections.abc import Iterator

import numpy as np

from jaxgen.core.types import RawBatch
from jaxgen.data.analytic import AnalyticScene
from jaxgen.data.dataset import Dataset
from jaxgen.data.rays import PosedViews, Views, composite
from jaxgen.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class WholeViews(PosedViews):
    """x: uint8[V, H, W, 3], pictures over white. cond: f32[V, 18], their cameras (see `jaxgen.ops.splatting`). alpha:
    uint8[V, H, W, 1]. counted: bool[V, H, W, 1], False where a mask leaves a pixel out; of scenes with masks alone.

    Raises:
      UserError: on use, for pictures through a lens that distorts: straight lines are expected.
    """

    scene: PosedViews = dataclasses.field(default_factory=AnalyticScene)

    def read(self, split: str) -> Views:
        return self.scene.views(split)

    def load(self, split: str) -> RawBatch:
        views = self.views(split)
        found = {"x": composite(views.pixels), "cond": cameras_of(views), "alpha": views.pixels[..., 3:].copy()}
        return found if views.counted is None else {**found, "counted": views.counted[..., None].copy()}

    def padded_batches(
        self, batch_size: int, split: str = "test", limit: int | None = None
    ) -> Iterator[tuple[RawBatch, np.ndarray]]:
        return Dataset.padded_batches(self, batch_size, split, limit)

    @property
    def pictured(self) -> bool:
        return self.scene.pictured

    @property
    def picture_size(self) -> None:
        """An example is a whole view."""
        return None

    def depth(self, split: str = "test") -> np.ndarray | None:
        return self.scene.depth(split)

    def camera_path(self, frames: int) -> np.ndarray:
        return self.scene.camera_path(frames)


def cameras_of(views: Views) -> np.ndarray:
    """The cameras of views, f32[V, 18]. Raises UserError for those that have a lens."""
    lens = views.intrinsics[:, 4:]
    if lens.any():
        which = int(np.flatnonzero(lens.any(axis=-1))[0])
        raise UserError(
            f"picture {which} was taken through a lens that distorts, which splats cannot show: give undistorted "
            "pictures, as of colmap image_undistorter, or train experiments/ngp.py, which takes lenses"
        )
    ends = np.stack([views.near, views.far], axis=-1)
    poses = views.poses.reshape(len(views.poses), 12)
    return np.concatenate([poses, views.intrinsics[:, :4], ends], axis=-1).astype(np.float32)
