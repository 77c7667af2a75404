"""A folder with pictures of one scene and their cameras, in Blender's, LLFF's or COLMAP's layout.

Blender: transforms_train.json and transforms_test.json, which name the pictures. LLFF: poses_bounds.npy and images/.
COLMAP: cameras.txt, images.txt and points3D.txt, in the folder, sparse/ or sparse/0/, and images/.
"""

import dataclasses
import json
import pathlib
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from jaxgen.data.pairs import ENDINGS
from jaxgen.data.rays import PosedViews, Views
from jaxgen.data.tfds import THREADS
from jaxgen.errors import UserError
from jaxgen.ops.cameras import is_rigid, recentred, sway

HOLD_OUT = 8  # every eighth picture is held out where files name no split, as is usual for LLFF
BLENDER_NEAR, BLENDER_FAR = 2.0, 6.0
LENS = ("fl_x", "fl_y", "cx", "cy", "w", "h")
DISTORTION = ("k1", "k2", "k3", "k4", "p1", "p2")
NEAREST = 4 / 3  # scenes of LLFF and COLMAP are scaled so that the smallest near bound becomes this


@dataclasses.dataclass(frozen=True, kw_only=True)
class SceneFolder(PosedViews):
    """A scene from a folder in Blender's, LLFF's or COLMAP's layout, recognised by its files.

    Blender's layout may give the intrinsics of a lens as fl_x, fl_y, cx and cy for w x h pixels, as other exporters do.
    Scenes of LLFF and COLMAP are recentred on the mean camera pose, and scaled so that the smallest near bound is 4/3.

    Raises:
      UserError: on use: the layout is unknown, a picture is missing or unreadable, pictures differ in size, a pose is
        not rigid, a lens has distortion, near is not below far, or a file cannot be parsed.
    """

    folder: str = ""
    """The folder of the scene."""
    downscale: int = 1
    """Pictures are shrunk by this factor; each pixel becomes the mean over an area."""
    near: float = 0.0
    """Where rays start, in units of the scaled scene: a distance for Blender's layout, else a depth along the camera's
    axis. 0 takes it from the files; Blender's have none, and 2 is used."""
    far: float = 0.0
    """Where rays end, in the same units. 0 takes it from the files; Blender's have none, and 6 is used."""

    def read(self, split: str) -> Views:
        root, layout = self._layout()
        if self.downscale < 1:
            raise UserError(f"downscale is {self.downscale}: 1 or more is expected")
        if layout == "blender":
            views = self._blender(root, split)
        else:
            views = self._llff(root) if layout == "llff" else self._colmap(root)
            held_out = np.arange(len(views.pixels)) % HOLD_OUT == 0
            if len(held_out) < 2:
                raise UserError(f"{root} has one picture: at least two are needed, as every {HOLD_OUT}th is held out")
            views = views.select(held_out == (split == "test"))
        near = np.where(self.near > 0, self.near, views.near)
        far = np.where(self.far > 0, self.far, views.far)
        if np.any(near >= far) or np.any(near <= 0):
            raise UserError(
                f"rays of {self.folder} go from near = {near.min():g} to far = {far.max():g}: near must be above 0 "
                f"and below far; pass --data.near and --data.far"
            )
        return dataclasses.replace(views, near=near, far=far)

    def _layout(self) -> tuple[pathlib.Path, str]:
        """The folder, and "blender", "llff" or "colmap"."""
        if not self.folder:
            raise UserError("no scene folder was given: pass --data.folder DIR")
        root = pathlib.Path(self.folder).expanduser()
        if not root.is_dir():
            raise UserError(f"{root} is not a folder: pass the folder of a scene")
        if (root / "transforms_train.json").exists():
            return root, "blender"
        if (root / "poses_bounds.npy").exists():
            return root, "llff"
        if _colmap_folder(root) is not None:
            return root, "colmap"
        raise UserError(
            f"{root} has neither transforms_train.json (Blender) nor poses_bounds.npy (LLFF) nor images.txt and "
            "cameras.txt (COLMAP, exported as text): pass the folder of a scene"
        )

    def camera_path(self, frames: int) -> np.ndarray:
        """A turntable for Blender's scenes, whose z axis points up; otherwise small movements about the mean pose."""
        if self._layout()[1] == "blender":
            return super().camera_path(frames)
        views = self.views("train")
        return sway(views.poses, frames, float(2 / (1 / views.near.mean() + 1 / views.far.mean())))

    # --- layouts ---

    def _blender(self, root: pathlib.Path, split: str) -> Views:
        file = root / f"transforms_{split}.json"
        try:
            scene = json.loads(file.read_text())
            frames = scene["frames"]
            lenses = [_blender_lens({**scene, **frame}) for frame in frames]
            files = [_with_suffix(root / frame["file_path"]) for frame in frames]
            matrices = [np.array(frame["transform_matrix"], np.float64) for frame in frames]
        except UserError:
            raise
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{file} cannot be read as Blender's transforms ({type(error).__name__}: {error}): restore it"
            ) from error
        _check_poses(file, files, matrices)
        pixels, size = self._pictures(file, files)
        intrinsics = np.stack([lens(size) * _shrinkage(pixels, *size) for lens in lenses])
        poses = np.stack(matrices)[:, :3]
        ones = np.ones(len(files))
        return Views(pixels, poses, intrinsics, ones * BLENDER_NEAR, ones * BLENDER_FAR, ones == 0)

    def _llff(self, root: pathlib.Path) -> Views:
        file = root / "poses_bounds.npy"
        try:
            table = np.load(file, allow_pickle=False).astype(np.float64)
        except (OSError, ValueError) as error:
            raise UserError(f"{file} cannot be read ({error}): restore it") from error
        if table.ndim != 2 or table.shape[1] != 17:
            raise UserError(f"{file} has shape {table.shape}: a row of 17 numbers for each picture is expected")
        files = _pictures_in(root / "images")
        if len(files) != len(table):
            raise UserError(
                f"{file} has {len(table)} rows, {root / 'images'} has {len(files)} pictures: one row each is expected"
            )
        matrix = table[:, :15].reshape(-1, 3, 5)
        # From axes (down, right, backwards) to (right, up, backwards).
        poses = np.stack([matrix[:, :, 1], -matrix[:, :, 0], matrix[:, :, 2], matrix[:, :, 3]], axis=-1)
        _check_poses(file, files, list(poses))
        pixels, _ = self._pictures(file, files)
        # The table has the size of the pictures that poses were estimated from; these may be smaller.
        height, width, focal = np.moveaxis(matrix[:, :, 4], -1, 0)
        intrinsics = np.stack([focal, focal, width / 2, height / 2], axis=-1) * _shrinkage(pixels, height, width)
        return _normalized(Views(pixels, poses, intrinsics, table[:, 15], table[:, 16], np.ones(len(files), bool)))

    def _colmap(self, root: pathlib.Path) -> Views:
        folder = _colmap_folder(root)
        assert folder is not None  # `_layout` has found it
        source = folder / "images.txt"
        cameras, images = _colmap_cameras(folder / "cameras.txt"), _colmap_images(source)
        _check_not_empty(source, images)
        names = sorted(images)
        files = [root / "images" / name for name in names]
        matrices = [images[name][0] for name in names]
        _check_poses(source, files, matrices)
        try:
            given = np.stack([cameras[images[name][1]] for name in names])
        except KeyError as error:
            raise UserError(f"{source} names camera {error}, which cameras.txt lacks") from error
        pixels, _ = self._pictures(source, files)
        intrinsics = given[:, 2:] * _shrinkage(pixels, given[:, 1], given[:, 0])
        poses = np.stack(matrices)
        size = (pixels.shape[1], pixels.shape[2])
        near, far = _depth_bounds(_colmap_points(folder / "points3D.txt"), poses, intrinsics, size)
        return _normalized(Views(pixels, poses, intrinsics, near, far, np.ones(len(files), bool)))

    # --- pictures ---

    def _pictures(self, source: pathlib.Path, files: list[pathlib.Path]) -> tuple[np.ndarray, tuple[int, int]]:
        """The pictures, uint8[V, H, W, 4], all of one size, and their height and width before shrinking."""
        missing = [file for file in files if not file.is_file()]
        if missing:
            more = f", and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise UserError(f"{missing[0]}, which {source.name} names, is missing{more}: add it, or remove its entry")
        _check_not_empty(source, files)
        with ThreadPoolExecutor(THREADS) as pool:
            read = list(pool.map(self._read, files))
        sizes = [size for _, size in read]
        for file, size in zip(files, sizes):
            if size != sizes[0]:
                raise UserError(
                    f"{files[0].name} is {sizes[0][1]} x {sizes[0][0]}, {file.name} {size[1]} x {size[0]}: all "
                    "pictures of a scene must have one size"
                )
        return np.stack([pixels for pixels, _ in read]), sizes[0]

    def _read(self, file: pathlib.Path) -> tuple[np.ndarray, tuple[int, int]]:
        from PIL import Image

        try:
            with Image.open(file) as image:
                image = image.convert("RGBA")
        except (OSError, SyntaxError, ValueError) as error:
            raise UserError(f"{file} cannot be read as a picture ({error}): replace it") from error
        size = (image.height, image.width)
        if self.downscale > 1:
            small = (image.width // self.downscale, image.height // self.downscale)
            if min(small) < 1:
                raise UserError(f"{file} is {image.width} x {image.height}: too small for downscale {self.downscale}")
            # Pillow weights colours by alpha, so transparent pixels do not count.
            image = image.resize(small, Image.Resampling.BOX)
        return np.asarray(image), size


def _check_not_empty(source: pathlib.Path, pictures: Collection) -> None:
    if not pictures:
        raise UserError(f"{source} names no pictures: at least one is expected")


def _shrinkage(pixels: np.ndarray, height: np.ndarray | float, width: np.ndarray | float) -> np.ndarray:
    """f64[..., 4]: the factors from intrinsics at height x width to those at the size of pixels, uint8[V, H, W, 4]."""
    across, down = pixels.shape[2] / np.asarray(width), pixels.shape[1] / np.asarray(height)
    return np.stack([across, down, across, down], axis=-1)


def _blender_lens(frame: dict) -> Callable[[tuple[int, int]], np.ndarray]:
    """The intrinsics of one frame of transforms_*.json, as a function of the picture's height and width.

    Defaults are Blender's: square pixels, and the principal point in the middle. Raises UserError for a lens with
    distortion, and KeyError, TypeError or ValueError if the entries are not those of a lens.
    """
    if distorted := [name for name in DISTORTION if frame.get(name)]:
        names = ", ".join(distorted)
        raise UserError(f"the lens of {frame.get('file_path')} has distortion ({names}): undistort the pictures first")
    fx, fy, cx, cy, w, h = (None if frame.get(n) is None else float(frame[n]) for n in LENS)
    angle = float(frame["camera_angle_x"]) if fx is None else 0.0

    def intrinsics(size: tuple[int, int]) -> np.ndarray:
        height, width = h or size[0], w or size[1]
        focal_x = 0.5 * width / np.tan(0.5 * angle) if fx is None else fx
        focal_y = focal_x if fy is None else fy
        middle = (width / 2 if cx is None else cx, height / 2 if cy is None else cy)
        scale = np.array([size[1] / width, size[0] / height] * 2)
        return np.array([focal_x, focal_y, *middle]) * scale

    return intrinsics


def _with_suffix(file: pathlib.Path) -> pathlib.Path:
    """Blender names files without a suffix; they are PNG."""
    return file if file.suffix.lower() in ENDINGS else file.with_name(f"{file.name}.png")


def _pictures_in(folder: pathlib.Path) -> list[pathlib.Path]:
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    return [f for f in files if f.suffix.lower() in ENDINGS and not f.name.startswith(".")]


def _check_poses(source: pathlib.Path, files: list[pathlib.Path], matrices: list[np.ndarray]) -> None:
    for file, matrix in zip(files, matrices):
        if not is_rigid(matrix):
            raise UserError(
                f"the pose of {file.name} in {source.name} is not rigid: a rotation (orthogonal, determinant 1) and a "
                "translation are expected; correct the matrix"
            )


def _normalized(views: Views) -> Views:
    """The views recentred on their mean pose, and scaled so that the smallest near bound is NEAREST."""
    positive = views.near[views.near > 0]
    scale = NEAREST / positive.min() if len(positive) else 1.0
    poses = recentred(views.poses)
    poses[:, :, 3] *= scale
    return dataclasses.replace(views, poses=poses, near=views.near * scale, far=views.far * scale)


def _colmap_folder(root: pathlib.Path) -> pathlib.Path | None:
    """The folder of COLMAP's text files, None if there is none."""
    for folder in (root, root / "sparse" / "0", root / "sparse"):
        if (folder / "images.txt").exists() and (folder / "cameras.txt").exists():
            return folder
    return None


def _lines(file: pathlib.Path) -> list[list[str]]:
    return [line.split() for line in file.read_text().splitlines() if not line.startswith("#")]


def _colmap_points(file: pathlib.Path) -> np.ndarray:
    """The points of points3D.txt, f64[N, 3]."""
    if not file.exists():
        raise UserError(f"{file} is missing, and near and far are computed from it: export the points too")
    try:
        return np.array([[float(word) for word in words[1:4]] for words in filter(None, _lines(file))]).reshape(-1, 3)
    except ValueError as error:
        raise UserError(f"{file} has a line that is not a point ({error}): export it again") from error


def _depth_bounds(
    points: np.ndarray, poses: np.ndarray, intrinsics: np.ndarray, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Near and far depth of each camera, f64[V]: quantiles over the points in its picture, with a margin of a tenth.

    Both are 0 for a picture that shows no point.
    """
    near, far = np.zeros(len(poses)), np.zeros(len(poses))
    for i, (pose, (fx, fy, cx, cy)) in enumerate(zip(poses, intrinsics)):
        right, up, back = ((points - pose[:, 3]) @ pose[:, :3]).T
        away = np.maximum(-back, 1e-12)
        x, y = cx + fx * right / away, cy - fy * up / away
        shown = away[(back < 0) & (x >= 0) & (x <= size[1]) & (y >= 0) & (y <= size[0])]
        if len(shown):
            near[i], far[i] = np.quantile(shown, (0.001, 0.999)) * (0.9, 1.1)
    return near, far


def _colmap_cameras(file: pathlib.Path) -> dict[str, tuple[float, ...]]:
    """(width, height, fx, fy, cx, cy) by camera id."""
    found = {}
    for words in filter(None, _lines(file)):
        try:
            name, model = words[:2]
            width, height, *numbers = map(float, words[2:])
            if model == "PINHOLE":
                fx, fy, cx, cy = numbers
            elif model in ("SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL"):
                fx, cx, cy, *distortion = numbers
                fy = fx
                if any(distortion):
                    raise UserError(f"camera {name} of {file} has distortion ({model}): undistort the pictures first")
            else:
                raise UserError(f"camera {name} of {file} has model {model}: export PINHOLE or SIMPLE_PINHOLE")
        except ValueError as error:
            if isinstance(error, UserError):
                raise
            line = " ".join(words)[:60]
            raise UserError(f"{file} has a line that is not a camera ({line}): export it again") from error
        found[name] = (width, height, fx, fy, cx, cy)
    return found


def _colmap_images(file: pathlib.Path) -> dict[str, tuple[np.ndarray, str]]:
    """(pose f64[3, 4], camera id) by the name of the picture.

    The line of each picture is followed by a line of points, which may be empty or missing.
    """
    found, after_picture = {}, False
    for words in _lines(file):
        if after_picture and (not words or _is_number(words[-1])):
            after_picture = False
            continue
        if not words:
            continue
        after_picture = True
        try:
            w, x, y, z, *translation = map(float, words[1:8])
            camera, name = words[8], " ".join(words[9:])
        except (ValueError, IndexError) as error:
            line = " ".join(words)[:60]
            raise UserError(f"{file} has a line that is not a picture ({line}): export it again") from error
        length = w * w + x * x + y * y + z * z
        # World to camera, with COLMAP's axes: x right, y down, z forwards.
        rotation = np.eye(3) + 2 / max(length, 1e-12) * np.array(
            [
                [-y * y - z * z, x * y - w * z, x * z + w * y],
                [x * y + w * z, -x * x - z * z, y * z - w * x],
                [x * z - w * y, y * z + w * x, -x * x - y * y],
            ]
        )
        axes = rotation.T * np.array([1.0, -1.0, -1.0])
        position = -rotation.T @ np.array(translation)
        found[name] = (np.concatenate([axes, position[:, None]], axis=-1), camera)
    return found


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True
