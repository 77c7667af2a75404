"""A folder with pictures of one scene and where they were taken from: Blender's, LLFF's or COLMAP's files.

Blender: transforms_train.json and transforms_test.json, which name the pictures. LLFF: poses_bounds.npy and images/.
COLMAP: cameras.txt and images.txt, in the folder or in sparse/0/, with images/ and, for near and far, points3D.txt.
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

HOLD_OUT = 8  # of pictures without a split, every eighth is held out, as LLFF's users do
BLENDER_NEAR, BLENDER_FAR = 2.0, 6.0
LENS = ("fl_x", "fl_y", "cx", "cy", "w", "h")
BENT = ("k1", "k2", "k3", "k4", "p1", "p2")
NEAREST = 4 / 3  # what the nearest thing of a scene of LLFF or COLMAP is brought to


@dataclasses.dataclass(frozen=True, kw_only=True)
class SceneFolder(PosedViews):
    """A scene from a folder of Blender's, LLFF's or COLMAP's kind, told by the files in it.

    Blender's layout may name each lens as fl_x, fl_y, cx, cy of w x h pixels, as other exporters do. Scenes of LLFF and
    COLMAP are moved to their cameras' mean pose, and scaled so that what is nearest is 4/3 away.

    Raises:
      UserError: on use: no kind is recognised, a picture is missing or cannot be read, pictures differ in size, a pose
        is not rigid, a lens bends lines, near is not below far, or the files cannot be understood.
    """

    folder: str = ""
    downscale: int = 1
    """Pictures are made this many times smaller; each pixel is then a mean over an area."""
    near: float = 0.0
    """Where rays start: a distance, of LLFF and COLMAP a depth along the camera's axis, in units of the scaled scene; 0
    for what the files say, 2 for Blender's."""
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
            if len(held_out) < 2:
                raise UserError(f"{root} has one picture: two at least are expected, as every {HOLD_OUT}th is held out")
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
            frames = scene["frames"]
            lenses = [_lens({**scene, **frame}) for frame in frames]
            files = [_with_ending(root / frame["file_path"]) for frame in frames]
            matrices = [np.array(frame["transform_matrix"], np.float64) for frame in frames]
        except UserError:
            raise
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{file} cannot be read as Blender's transforms ({type(error).__name__}: {error}): restore it"
            ) from error
        _check_poses(file, files, matrices)
        pixels, size = self._pictures(file, files)
        intrinsics = np.stack([lens(size) * _smaller(pixels, *size) for lens in lenses])
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
        files = _listed(root / "images")
        if len(files) != len(table):
            raise UserError(f"{file} has {len(table)} rows, {root / 'images'} {len(files)} pictures: equal counts")
        matrix = table[:, :15].reshape(-1, 3, 5)
        # Its axes are down, right, backwards.
        poses = np.stack([matrix[:, :, 1], -matrix[:, :, 0], matrix[:, :, 2], matrix[:, :, 3]], axis=-1)
        _check_poses(file, files, list(poses))
        pixels, _ = self._pictures(file, files)
        # Poses were found at the size that the table names; pictures may be smaller.
        height, width, focal = np.moveaxis(matrix[:, :, 4], -1, 0)
        intrinsics = np.stack([focal, focal, width / 2, height / 2], axis=-1) * _smaller(pixels, height, width)
        return _brought_near(Views(pixels, poses, intrinsics, table[:, 15], table[:, 16], np.ones(len(files), bool)))

    def _colmap(self, root: pathlib.Path) -> Views:
        sparse = _sparse(root)
        cameras, placed = _cameras(sparse / "cameras.txt"), _images(sparse / "images.txt")
        _check_named(sparse / "images.txt", placed)
        names = sorted(placed)
        files = [root / "images" / name for name in names]
        poses = [placed[name][0] for name in names]
        _check_poses(sparse / "images.txt", files, poses)
        try:
            given = np.stack([cameras[placed[name][1]] for name in names])
        except KeyError as error:
            raise UserError(f"{sparse / 'images.txt'} names camera {error}, which cameras.txt lacks") from error
        pixels, _ = self._pictures(sparse / "images.txt", files)
        intrinsics = given[:, 2:] * _smaller(pixels, given[:, 1], given[:, 0])
        poses = np.stack(poses)
        near, far = _depths(_points(sparse / "points3D.txt"), poses, intrinsics, pixels.shape[1:3])
        return _brought_near(Views(pixels, poses, intrinsics, near, far, np.ones(len(files), bool)))

    # --- pictures ---

    def _pictures(self, source: pathlib.Path, files: list[pathlib.Path]) -> tuple[np.ndarray, tuple[int, int]]:
        """uint8[V, H, W, 4] of pictures, all of one size, and their height and width before they were made smaller."""
        missing = [file for file in files if not file.is_file()]
        if missing:
            more = f", and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise UserError(f"{missing[0]}, which {source.name} names, is missing{more}: add it, or remove its entry")
        _check_named(source, files)
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


def _check_named(source: pathlib.Path, found: Collection) -> None:
    if not found:
        raise UserError(f"{source} names no pictures: one at least is expected")


def _smaller(pixels: np.ndarray, height: np.ndarray | float, width: np.ndarray | float) -> np.ndarray:
    """f64[..., 4]: what intrinsics of pictures of that size are multiplied by for uint8[V, H, W, 4]."""
    across, down = pixels.shape[2] / np.asarray(width), pixels.shape[1] / np.asarray(height)
    return np.stack([across, down, across, down], axis=-1)


def _lens(frame: dict) -> Callable[[tuple[int, int]], np.ndarray]:
    """Intrinsics of a picture of transforms_*.json by its height and width, whatever `frame` leaves open being
    Blender's: square pixels, the axis through the middle. Raises UserError for one that bends lines,
    KeyError and ValueError for what is no lens."""
    if bent := [name for name in BENT if frame.get(name)]:
        raise UserError(f"the lens of {frame.get('file_path')} bends lines ({', '.join(bent)}): undistort it first")
    angle = None if "fl_x" in frame else float(frame["camera_angle_x"])
    fx, fy, cx, cy, w, h = (None if frame.get(n) is None else float(frame[n]) for n in LENS)

    def at(size: tuple[int, int]) -> np.ndarray:
        height, width = h or size[0], w or size[1]
        across = 0.5 * width / np.tan(0.5 * angle) if fx is None else fx
        middle = (width / 2 if cx is None else cx, height / 2 if cy is None else cy)
        scale = np.array([size[1] / width, size[0] / height] * 2)
        return np.array([across, across if fy is None else fy, *middle]) * scale

    return at


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


def _points(file: pathlib.Path) -> np.ndarray:
    """f64[N, 3] of points3D.txt."""
    if not file.exists():
        raise UserError(f"{file} is missing, by which near and far are found: export the points too")
    try:
        return np.array([[float(word) for word in words[1:4]] for words in filter(None, _lines(file))]).reshape(-1, 3)
    except ValueError as error:
        raise UserError(f"{file} has a line that is no point ({error}): export it anew") from error


def _depths(
    points: np.ndarray, poses: np.ndarray, intrinsics: np.ndarray, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Near and far depths f64[V] of each camera: most points that its picture shows, and a tenth more to each side; 0
    where it shows none."""
    near, far = np.zeros(len(poses)), np.zeros(len(poses))
    for i, (pose, (fx, fy, cx, cy)) in enumerate(zip(poses, intrinsics)):
        right, up, back = ((points - pose[:, 3]) @ pose[:, :3]).T
        away = np.maximum(-back, 1e-12)
        x, y = cx + fx * right / away, cy - fy * up / away
        shown = away[(back < 0) & (x >= 0) & (x <= size[1]) & (y >= 0) & (y <= size[0])]
        if len(shown):
            near[i], far[i] = np.quantile(shown, (0.001, 0.999)) * (0.9, 1.1)
    return near, far


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
    """(pose f64[3, 4], camera) by the name of a picture. A line of points follows each picture's, and may be empty or
    left out."""
    found, after_picture = {}, False
    for words in _lines(file):
        if after_picture and (not words or _is_number(words[-1])):
            after_picture = False
            continue
        if not words:
            continue
        after_picture = True
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


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True
