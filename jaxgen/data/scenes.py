"""A folder with pictures of one scene and where they were taken from: Blender's, LLFF's or COLMAP's files.

Blender: transforms_train.json and transforms_test.json, which name the pictures. LLFF: poses_bounds.npy and images/.
COLMAP: cameras.txt and images.txt, in the folder or in sparse/0/, with images/ and, for near and far, points3D.txt.
"""

import dataclasses
import json
import pathlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from jaxgen.data.pairs import ENDINGS
from jaxgen.data.rays import PosedViews, Views
from jaxgen.data.tfds import THREADS
from jaxgen.errors import UserError
from jaxgen.ops.cameras import is_rigid, recentred, sway

HOLD_OUT = 8  # of pictures without a split, every eighth is held out, as LLFF's users do
BLENDER_NEAR, BLENDER_FAR = 2.0, 6.0
NEAREST = 4 / 3  # what the nearest thing of a scene of LLFF or COLMAP is brought to


@dataclasses.dataclass(frozen=True, kw_only=True)
class SceneFolder(PosedViews):
    """A scene from a folder of Blender's, LLFF's or COLMAP's kind, told by the files in it.

    Scenes of LLFF and COLMAP are moved to their cameras' mean pose, and scaled so that what is nearest is 4/3 away.

    Raises:
      UserError: on use: no kind is recognised, a picture is missing or cannot be read, pictures differ in size, a pose
        is not rigid, near is not below far, or the files cannot be understood.
    """

    folder: str = ""
    downscale: int = 1
    """Pictures are made this many times smaller; each pixel is then a mean over an area."""
    near: float = 0.0
    """Where rays start, as a distance; 0 for what the files say, 2 for Blender's."""
    far: float = 0.0
    """Where they end; 0 for what the files say, 6 for Blender's."""

    def read(self, split: str) -> Views:
        root, kind = self._kind()
        if self.downscale < 1:
            raise UserError(f"downscale is {self.downscale}: 1 or more is expected")
        if kind == "blender":
            views = self._blender(root, split)
        else:
            views = self._llff(root) if kind == "llff" else self._colmap(root)
            held_out = np.arange(len(views.pixels)) % HOLD_OUT == 0
            views = views.chosen(held_out == (split == "test"))
        near = np.where(self.near > 0, self.near, views.near)
        far = np.where(self.far > 0, self.far, views.far)
        if np.any(near >= far) or np.any(near <= 0):
            raise UserError(
                f"rays of {self.folder} go from near = {near.min():g} to far = {far.max():g}: near is to lie above 0 "
                f"and below far; pass --data.near and --data.far"
            )
        return dataclasses.replace(views, near=near, far=far)

    def _kind(self) -> tuple[pathlib.Path, str]:
        if not self.folder:
            raise UserError("no folder of a scene was named: pass --data.folder DIR")
        root = pathlib.Path(self.folder).expanduser()
        if not root.is_dir():
            raise UserError(f"{root} is no folder: name one that holds a scene")
        if (root / "transforms_train.json").exists():
            return root, "blender"
        if (root / "poses_bounds.npy").exists():
            return root, "llff"
        if _sparse(root) is not None:
            return root, "colmap"
        raise UserError(
            f"{root} has neither transforms_train.json (Blender) nor poses_bounds.npy (LLFF) nor images.txt and "
            "cameras.txt (COLMAP, exported as text): name the folder of a scene"
        )

    def way(self, frames: int) -> np.ndarray:
        """A turntable for Blender's scenes, which have z upwards; others are looked into from about their mean pose."""
        if self._kind()[1] == "blender":
            return super().way(frames)
        views = self.views("train")
        return sway(views.poses, frames, float(2 / (1 / views.near.mean() + 1 / views.far.mean())))

    # --- kinds ---

    def _blender(self, root: pathlib.Path, split: str) -> Views:
        file = root / f"transforms_{split}.json"
        try:
            scene = json.loads(file.read_text())
            angle, frames = float(scene["camera_angle_x"]), scene["frames"]
            files = [_with_ending(root / frame["file_path"]) for frame in frames]
            matrices = [np.array(frame["transform_matrix"], np.float64) for frame in frames]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{file} cannot be read as Blender's transforms ({type(error).__name__}: {error}): restore it"
            ) from error
        _check_poses(file, files, matrices)
        pixels, (_, width) = self._pictures(file, files)
        focal = 0.5 * width / np.tan(0.5 * angle)
        height, width = pixels.shape[1:3]
        intrinsics = np.tile([focal / self.downscale] * 2 + [width / 2, height / 2], (len(files), 1))
        poses = np.stack(matrices)[:, :3]
        ends = np.ones((len(files), 2)) * (BLENDER_NEAR, BLENDER_FAR)
        return Views(pixels, poses, intrinsics, ends[:, 0], ends[:, 1])

    def _llff(self, root: pathlib.Path) -> Views:
        file = root / "poses_bounds.npy"
        try:
            table = np.load(file, allow_pickle=False).astype(np.float64)
        except (OSError, ValueError) as error:
            raise UserError(f"{file} cannot be read ({error}): restore it") from error
        if table.ndim != 2 or table.shape[1] != 17:
            raise UserError(f"{file} has shape {table.shape}: a row of 17 numbers for each picture is expected")
        files = _listed(root / "images")
        if len(files) != len(table):
            raise UserError(f"{file} has {len(table)} rows, {root / 'images'} {len(files)} pictures: equal counts")
        matrix = table[:, :15].reshape(-1, 3, 5)
        # Its axes are down, right, backwards.
        poses = np.stack([matrix[:, :, 1], -matrix[:, :, 0], matrix[:, :, 2], matrix[:, :, 3]], axis=-1)
        _check_poses(file, files, list(poses))
        pixels, (_, width) = self._pictures(file, files)
        # Poses were found at the size that the table names; pictures may be smaller.
        focal = matrix[:, 2, 4] * (width / matrix[:, 1, 4]) / self.downscale
        middle = np.full(len(files), 0.5)
        intrinsics = np.stack([focal, focal, middle * pixels.shape[2], middle * pixels.shape[1]], axis=-1)
        return _brought_near(Views(pixels, poses, intrinsics, table[:, 15], table[:, 16]))

    def _colmap(self, root: pathlib.Path) -> Views:
        sparse = _sparse(root)
        cameras, placed = _cameras(sparse / "cameras.txt"), _images(sparse / "images.txt")
        names = sorted(placed)
        files = [root / "images" / name for name in names]
        poses = [placed[name][0] for name in names]
        _check_poses(sparse / "images.txt", files, poses)
        try:
            given = np.stack([cameras[placed[name][1]] for name in names])
        except KeyError as error:
            raise UserError(f"{sparse / 'images.txt'} names camera {error}, which cameras.txt lacks") from error
        pixels, _ = self._pictures(sparse / "images.txt", files)
        scale = np.stack([pixels.shape[2] / given[:, 0], pixels.shape[1] / given[:, 1]] * 2, axis=-1)
        poses = np.stack(poses)
        near, far = self._depths(sparse / "points3D.txt", poses)
        return _brought_near(Views(pixels, poses, given[:, 2:] * scale, near, far))

    def _depths(self, file: pathlib.Path, poses: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Near and far f64[V] of each camera: most points that lie before it, and a tenth more to each side."""
        if not file.exists():
            raise UserError(f"{file} is missing, by which near and far are found: export the points too")
        rows = [line.split() for line in file.read_text().splitlines() if line and not line.startswith("#")]
        points = np.array([row[1:4] for row in rows], np.float64).reshape(-1, 3)
        near, far = np.zeros(len(poses)), np.zeros(len(poses))
        for i, pose in enumerate(poses):
            away = -(points - pose[:, 3]) @ pose[:, 2]
            away = away[away > 0]
            if len(away):
                near[i], far[i] = np.quantile(away, (0.001, 0.999)) * (0.9, 1.1)
        return near, far

    # --- pictures ---

    def _pictures(self, source: pathlib.Path, files: list[pathlib.Path]) -> tuple[np.ndarray, tuple[int, int]]:
        """uint8[V, H, W, 4] of pictures, all of one size, and their height and width before they were made smaller."""
        missing = [file for file in files if not file.is_file()]
        if missing:
            more = f", and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise UserError(f"{missing[0]}, which {source.name} names, is missing{more}: add it, or remove its entry")
        if not files:
            raise UserError(f"{source} names no pictures: one at least is expected")
        with ThreadPoolExecutor(THREADS) as pool:
            read = list(pool.map(self._read, files))
        sizes = [size for _, size in read]
        for file, size in zip(files, sizes):
            if size != sizes[0]:
                raise UserError(
                    f"{files[0].name} is {sizes[0][1]} x {sizes[0][0]}, {file.name} {size[1]} x {size[0]}: pictures of "
                    "a scene are to be of one size"
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
            # Pillow weighs colours by alpha, so that what cannot be seen does not count.
            image = image.resize(small, Image.Resampling.BOX)
        return np.asarray(image), size


def _with_ending(file: pathlib.Path) -> pathlib.Path:
    """Blender's files are named without an ending, and are PNG."""
    return file if file.suffix.lower() in ENDINGS else file.with_name(f"{file.name}.png")


def _listed(folder: pathlib.Path) -> list[pathlib.Path]:
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    return [f for f in files if f.suffix.lower() in ENDINGS and not f.name.startswith(".")]


def _check_poses(source: pathlib.Path, files: list[pathlib.Path], matrices: list[np.ndarray]) -> None:
    for file, matrix in zip(files, matrices):
        if not is_rigid(matrix):
            raise UserError(
                f"the pose of {file.name} in {source.name} is not rigid: a rotation (orthogonal, determinant 1) and a "
                "shift are expected; mend the matrix"
            )


def _brought_near(views: Views) -> Views:
    """Moved to the mean pose, and scaled so that the nearest near is NEAREST."""
    positive = views.near[views.near > 0]
    scale = NEAREST / positive.min() if len(positive) else 1.0
    poses = recentred(views.poses)
    poses[:, :, 3] *= scale
    return dataclasses.replace(views, poses=poses, near=views.near * scale, far=views.far * scale)


def _sparse(root: pathlib.Path) -> pathlib.Path | None:
    """Where COLMAP's text files are."""
    for folder in (root, root / "sparse" / "0", root / "sparse"):
        if (folder / "images.txt").exists() and (folder / "cameras.txt").exists():
            return folder
    return None


def _lines(file: pathlib.Path) -> list[list[str]]:
    return [line.split() for line in file.read_text().splitlines() if not line.startswith("#")]


def _cameras(file: pathlib.Path) -> dict[str, tuple[float, ...]]:
    """(width, height, fx, fy, cx, cy) by camera."""
    found = {}
    for words in filter(None, _lines(file)):
        try:
            name, model = words[:2]
            width, height, *numbers = map(float, words[2:])
            if model == "PINHOLE":
                fx, fy, cx, cy = numbers
            elif model in ("SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL"):
                fx, cx, cy, *bent = numbers
                fy = fx
                if any(bent):
                    raise UserError(f"camera {name} of {file} bends lines ({model}): undistort the pictures first")
            else:
                raise UserError(f"camera {name} of {file} is of the kind {model}: export PINHOLE or SIMPLE_PINHOLE")
        except ValueError as error:
            if isinstance(error, UserError):
                raise
            raise UserError(f"{file} has a line that is no camera ({' '.join(words)[:60]}): export it anew") from error
        found[name] = (width, height, fx, fy, cx, cy)
    return found


def _images(file: pathlib.Path) -> dict[str, tuple[np.ndarray, str]]:
    """(pose f64[3, 4], camera) by the name of a picture. Every second line holds points, and may be empty."""
    found = {}
    for words in _lines(file)[::2]:
        if not words:
            continue
        try:
            w, x, y, z, *shift = map(float, words[1:8])
            camera, name = words[8], " ".join(words[9:])
        except (ValueError, IndexError) as error:
            raise UserError(f"{file} has a line that is no picture ({' '.join(words)[:60]}): export it anew") from error
        length = w * w + x * x + y * y + z * z
        # World to camera, of COLMAP's axes: x right, y down, z forwards.
        turn = np.eye(3) + 2 / max(length, 1e-12) * np.array(
            [
                [-y * y - z * z, x * y - w * z, x * z + w * y],
                [x * y + w * z, -x * x - z * z, y * z - w * x],
                [x * z - w * y, y * z + w * x, -x * x - y * y],
            ]
        )
        axes = turn.T * np.array([1.0, -1.0, -1.0])
        found[name] = (np.concatenate([axes, (-turn.T @ np.array(shift))[:, None]], axis=-1), camera)
    return found
