"""A folder with pictures of one scene and their cameras, in the layout of Blender, LLFF, nerfstudio or COLMAP.

The first of these that the folder has decides. Blender: transforms_train.json and transforms_test.json. LLFF:
poses_bounds.npy and images/. nerfstudio and instant-ngp: transforms.json. COLMAP: cameras, images and points3D, binary
or text, in the folder, sparse/0/ or sparse/, and images/.
"""

import dataclasses
import math
import os
from pathlib import Path

import numpy as np

from jaxgen.core.ranges import NonNegative, PathName, Size
from jaxgen.data.colmap import colmap_folder, read_colmap
from jaxgen.data.llff import read_llff
from jaxgen.data.rays import PosedViews, Views
from jaxgen.data.shots import FARTHEST, read_shots
from jaxgen.data.transforms import read_transforms
from jaxgen.errors import UserError
from jaxgen.ops.cameras import pixels_of, recentred, sway
from jaxgen.runtime.reading import user_path

HOLD_OUT = 8  # every eighth picture is held out where files name no split, as is usual for LLFF
BLENDER_NEAR, BLENDER_FAR = 2.0, 6.0
NEAREST = 4 / 3  # scenes of LLFF and COLMAP are scaled so that the smallest near bound becomes this
DISTANCE = (BLENDER_NEAR + BLENDER_FAR) / 2  # mean distance of the cameras that transforms.json is scaled to
RADIUS = (BLENDER_FAR - BLENDER_NEAR) / 2  # of the ball about the centre that they see


@dataclasses.dataclass(frozen=True, kw_only=True)
class SceneFolder(PosedViews):
    """A scene from a folder in the layout of Blender, LLFF, nerfstudio or COLMAP, recognised by its files.

    Scenes of LLFF and COLMAP are recentred on the mean camera pose, and scaled so that the smallest near bound is 4/3.
    A scene of transforms.json alone is moved so that the point nearest to all cameras' axes is the origin, turned so
    that the cameras' mean up is z, and scaled so that cameras are 4 away on average. Unless files name a split, every
    eighth picture by name is held out. Lenses distort as their files say; masks and pictures of several sizes are
    supported.

    Raises:
      UserError: on use: the layout is unknown, a file is missing or cannot be parsed, a picture cannot be read, a pose
        is not rigid, a camera is not supported or out of range, or near is not below far.
    """

    folder: PathName = ""
    """The folder of the scene."""
    downscale: Size = 1
    """Pictures are shrunk by this factor; each pixel becomes the mean over an area."""
    near: NonNegative = 0.0
    """Where rays start, in units of the scaled scene: a distance for transforms and fisheye lenses, else a depth along
    the camera's axis. 0 takes it from the files. Those of Blender have none, and 2 is used; with transforms.json alone
    it is 2 before the centre, at least a tenth of the way to it."""
    far: NonNegative = 0.0
    """Where rays end, in the same units. 0 takes it from the files. Those of Blender have none, and 6 is used; with
    transforms.json alone it is 2 behind the centre."""

    def read(self, split: str) -> Views:
        root, layout = self._layout()
        if self.downscale < 1:
            raise UserError(f"downscale is {self.downscale}: 1 or more is expected")
        if not all(0 <= value < math.inf for value in (self.near, self.far)):
            raise UserError(f"near is {self.near} and far is {self.far}: finite numbers of 0 or more are expected")
        if layout == "blender":
            file = root / f"transforms_{split}.json"
            views = read_shots(read_transforms(file).shots, file, self.downscale)
            ones = np.ones(len(views.pixels))
            views = dataclasses.replace(views, near=ones * BLENDER_NEAR, far=ones * BLENDER_FAR)
        else:
            views, held_out = {"llff": self._llff, "transforms": self._transforms, "colmap": self._colmap}[layout](root)
            if held_out is None:
                held_out = np.arange(len(views.pixels)) % HOLD_OUT == 0
            if held_out.all() or not held_out.any():
                raise UserError(
                    f"{root} has one picture, or all of its pictures are held out: at least one of two is for training"
                )
            views = views.select(held_out == (split == "test"))
        near = np.where(self.near > 0, self.near, views.near)
        far = np.where(self.far > 0, self.far, views.far)
        if np.any(near >= far) or np.any(near <= 0):
            raise UserError(
                f"rays of {self.folder} go from near = {near.min():g} to far = {far.max():g}: near must be above 0 "
                f"and below far; pass --data.near and --data.far"
            )
        if far.max() > FARTHEST or np.abs(views.poses).max() > FARTHEST:
            raise UserError(
                f"rays of {self.folder} go from near = {near.min():g} to far = {far.max():g}, cameras are up to "
                f"{np.abs(views.poses).max():g} away: all below {FARTHEST:g} is expected, a bound may be too near"
            )
        return dataclasses.replace(views, near=near, far=far)

    def _layout(self) -> tuple[Path, str]:
        """The folder, and "blender", "llff", "transforms" or "colmap"."""
        if not self.folder:
            raise UserError("no scene folder was given: pass --data.folder DIR")
        root = user_path(self.folder)
        if not os.path.isdir(root):
            raise UserError(f"{root} is not a folder: pass the folder of a scene")
        for name, layout in (
            ("transforms_train.json", "blender"), ("poses_bounds.npy", "llff"), ("transforms.json", "transforms"),
        ):  # fmt: skip
            if os.path.exists(root / name):
                return root, layout
        if colmap_folder(root) is not None:
            return root, "colmap"
        raise UserError(
            f"{root} has neither transforms_train.json (Blender) nor poses_bounds.npy (LLFF) nor transforms.json "
            "(nerfstudio) nor cameras and images as .bin or .txt (COLMAP): pass the folder of a scene"
        )

    def camera_path(self, frames: int) -> np.ndarray:
        """A turntable for scenes of transforms, whose z axis points up; otherwise small movements about the mean
        pose."""
        if self._layout()[1] in ("blender", "transforms"):
            return super().camera_path(frames)
        views = self.views("train")
        return sway(views.poses, frames, float(2 / (1 / views.near.mean() + 1 / views.far.mean())))

    # --- layouts without files for each split: all views, and which are held out, where files say it ---

    def _transforms(self, root: Path) -> tuple[Views, np.ndarray | None]:
        file = root / "transforms.json"
        transforms = read_transforms(file, in_order_of_names=True)
        views = read_shots(transforms.shots, file, self.downscale)
        poses = _centred(views.poses, file)
        distance = np.linalg.norm(poses[:, :, 3], axis=-1)
        near, far = np.maximum(distance - RADIUS, 0.1 * distance), distance + RADIUS
        return dataclasses.replace(views, poses=poses, near=near, far=far), transforms.held_out

    def _llff(self, root: Path) -> tuple[Views, None]:
        file = root / "poses_bounds.npy"
        shots, bounds = read_llff(file)
        views = read_shots(shots, file, self.downscale)
        planar = np.ones(len(shots), bool)
        return _normalized(dataclasses.replace(views, near=bounds[:, 0], far=bounds[:, 1], planar=planar)), None

    def _colmap(self, root: Path) -> tuple[Views, None]:
        folder = colmap_folder(root)
        assert folder is not None  # `_layout` has found it
        shots, points, source = read_colmap(folder, root / "images")
        views = read_shots(shots, source, self.downscale)
        # Behind a fisheye lens, which may see more than half of space, depths along the axis bound nothing.
        views = dataclasses.replace(views, planar=views.intrinsics[:, -1] == 0)
        near, far = _bounds(points, views)
        return _normalized(dataclasses.replace(views, near=near, far=far)), None


def _normalized(views: Views) -> Views:
    """The views recentred on their mean pose, and scaled so that the smallest near bound is NEAREST."""
    positive = views.near[views.near > 0]
    scale = NEAREST / max(positive.min(), 1e-30) if len(positive) else 1.0
    poses = recentred(views.poses)
    poses[:, :, 3] *= scale
    return dataclasses.replace(views, poses=poses, near=views.near * scale, far=views.far * scale)


def _centred(poses: np.ndarray, file: Path) -> np.ndarray:
    """Poses f64[V, 3, 4] about the point nearest to all cameras' axes in the sense of least squares, with their mean up
    direction along z, at a mean distance of DISTANCE from it.

    Raises UserError if the axes are parallel, or the point lies behind the cameras.
    """
    axes, positions = -poses[:, :, 2], poses[:, :, 3]
    across = np.eye(3) - axes[:, :, None] * axes[:, None]  # onto the plane across each axis
    total = across.mean(axis=0)
    # The smallest eigenvalue is about the mean squared sine of the angles between the axes.
    parallel = np.linalg.eigvalsh(total)[0] < 1e-4
    centre = positions[0] if parallel else np.linalg.solve(total, (across @ positions[:, :, None]).mean(axis=0)[:, 0])
    distance = np.linalg.norm(positions - centre, axis=-1).mean()
    if parallel or distance <= 0 or np.mean(np.sum((centre - positions) * axes, axis=-1)) <= 0:
        raise UserError(
            f"{file}: its cameras look in parallel or away from each other, so no centre is found for near and far: "
            "write transforms_train.json and transforms_test.json instead, whose cameras are used as they are"
        )
    up = poses[:, :, 1].mean(axis=0) + np.array([0, 0, 1e-9])  # z if the directions cancel out
    up /= np.linalg.norm(up)
    side = np.cross(up, np.eye(3)[np.argmin(np.abs(up))])
    side /= np.linalg.norm(side)
    turn = np.stack([side, np.cross(up, side), up])
    return turn @ np.concatenate([poses[:, :, :3], ((positions - centre) * (DISTANCE / distance))[..., None]], axis=-1)


def _bounds(points: np.ndarray, views: Views) -> tuple[np.ndarray, np.ndarray]:
    """Near and far of each view, f64[V]: quantiles over the points f64[N, 3] in its picture, with a margin of a tenth.
    Points in pixels that do not count, of which smaller pictures have some beside them, are left out.

    Both are 0 for a picture that shows no point.
    """
    near, far = np.zeros(len(views.poses)), np.zeros(len(views.poses))
    height, width = views.size
    for i, (pose, intrinsics) in enumerate(zip(views.poses, views.intrinsics)):
        (x, y), seen = (a.T for a in pixels_of(pose, intrinsics, points))
        local = points - pose[:, 3]
        away = -local @ pose[:, 2] if views.planar[i] else np.linalg.norm(local, axis=-1)
        inside = seen & (x >= 0) & (x < width) & (y >= 0) & (y < height)
        if views.counted is not None:
            inside[inside] = views.counted[i, y[inside].astype(int), x[inside].astype(int)]
        shown = away[inside]
        if len(shown):
            near[i], far[i] = np.quantile(shown, (0.001, 0.999)) * (0.9, 1.1)
    return near, far
