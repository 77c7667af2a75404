"""COLMAP's models: cameras, images and points3D as binary files, which COLMAP itself prefers, or as text."""

import os
import struct
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from jaxgen.data.shots import FARTHEST, LONGEST, SHORTEST, Shot, check_name, check_number, resized
from jaxgen.errors import UserError
from jaxgen.ops.cameras import camera
from jaxgen.runtime.reading import read_bytes, read_text

FISHEYE = ("OPENCV_FISHEYE", "SIMPLE_RADIAL_FISHEYE", "RADIAL_FISHEYE")
MODELS = {
    "SIMPLE_PINHOLE": (0, "f cx cy"),
    "PINHOLE": (1, "fx fy cx cy"),
    "SIMPLE_RADIAL": (2, "f cx cy k1"),
    "RADIAL": (3, "f cx cy k1 k2"),
    "OPENCV": (4, "fx fy cx cy k1 k2 p1 p2"),
    "OPENCV_FISHEYE": (5, "fx fy cx cy k1 k2 k3 k4"),
    "FULL_OPENCV": (6, "fx fy cx cy k1 k2 p1 p2 k3 d1 d2 d3"),
    "SIMPLE_RADIAL_FISHEYE": (8, "f cx cy k1"),
    "RADIAL_FISHEYE": (9, "f cx cy k1 k2"),
}
"""The number in binary files and the parameters of each supported camera model; COLMAP's k4 to k6 are our d1 to d3."""
LARGEST = 1 << 32
"""Bytes of a binary file that is read at once."""

Camera = Callable[[tuple[int, int]], np.ndarray]


@dataclass(frozen=True)
class Image:
    """A registered image: rotation (w, x, y, z) and translation from world to camera, and its camera's id."""

    rotation: tuple[float, ...]
    translation: tuple[float, ...]
    camera: int
    name: str


def colmap_folder(root: Path) -> Path | None:
    """The folder of COLMAP's files, None if there is none."""
    for folder in (root, root / "sparse" / "0", root / "sparse"):
        if _ending(folder):
            return folder
    return None


def read_colmap(folder: Path, pictures: Path) -> tuple[list[Shot], np.ndarray, Path]:
    """The shots, sorted by name, the points f64[N, 3], and the file that names the pictures.

    Raises UserError if a file is missing, damaged or no text in UTF-8, a camera model is not supported, or a number is
    out of range.
    """
    ending = _ending(folder)
    source, points = folder / f"images.{ending}", folder / f"points3D.{ending}"
    binary = ending == "bin"
    cameras = (_binary_cameras if binary else _text_cameras)(folder / f"cameras.{ending}")
    images = (_binary_images if binary else _text_images)(source)
    if not os.path.exists(points):
        raise UserError(f"{points} is missing, and near and far are computed from it: export the points too")
    found = (_binary_points if binary else _text_points)(points)
    if not np.all(np.abs(found) < FARTHEST):
        raise UserError(f"{points} has a point that is not finite: export it again")
    shots = []
    for image in sorted(images, key=lambda image: image.name):
        where = f"{source}, image {image.name}"
        if image.camera not in cameras:
            raise UserError(f"{where}: its camera is {image.camera}, which cameras.{ending} lacks: export both again")
        shots.append(Shot(pictures / image.name, _pose(image, where), cameras[image.camera]))
    return shots, found, source


def _ending(folder: Path) -> str | None:
    """bin or txt, None if the folder has neither."""
    kinds = ("bin", "txt")
    names = ("cameras", "images")
    return next((k for k in kinds if all(os.path.exists(folder / f"{name}.{k}") for name in names)), None)


def _camera(model: str, width: float, height: float, numbers: tuple[float, ...], where: str) -> Camera:
    names = MODELS[model][1].split()
    if len(numbers) != len(names):
        raise UserError(f"{where}: {model} has {len(numbers)} parameters, {len(names)} are expected: export it again")
    size = (check_number(height, "height", where, 0, LONGEST), check_number(width, "width", where, 0, LONGEST))
    for name, number in zip(names, numbers):
        check_number(number, name, where, SHORTEST if name.startswith("f") else -FARTHEST, FARTHEST)
    given = camera(**dict(zip(names, numbers)), fisheye=model in FISHEYE)
    return partial(_resized, given, size, where)


def _resized(given: np.ndarray, size: tuple[float, float], where: str, stored: tuple[int, int]) -> np.ndarray:
    return resized(given, size, stored, where)


def _unsupported(model: str | int, where: str) -> UserError:
    return UserError(
        f"{where}: the camera model is {model}, one of {', '.join(MODELS)} is expected: undistort the pictures first"
    )


def _pose(image: Image, where: str) -> np.ndarray:
    """f64[3, 4], camera to world."""
    for name, number in zip(("QW", "QX", "QY", "QZ", "TX", "TY", "TZ"), image.rotation + image.translation):
        check_number(number, name, where)
    w, x, y, z = image.rotation
    length = w * w + x * x + y * y + z * z
    if not 0.5 < length < 2:
        raise UserError(f"{where}: its quaternion has the length {length**0.5:g}, 1 is expected: export it again")
    # World to camera, with COLMAP's axes: x right, y down, z forwards.
    rotation = np.eye(3) + 2 / length * np.array(
        [
            [-y * y - z * z, x * y - w * z, x * z + w * y],
            [x * y + w * z, -x * x - z * z, y * z - w * x],
            [x * z - w * y, y * z + w * x, -x * x - y * y],
        ]
    )
    axes = rotation.T * np.array([1.0, -1.0, -1.0])
    position = -rotation.T @ np.array(image.translation)
    return np.concatenate([axes, position[:, None]], axis=-1)


# --- text ---------------------------------------------------------------------------------------------------------


def _lines(file: Path) -> list[str]:
    return [line for line in read_text(file).split("\n") if not line.startswith("#")]


def _text_cameras(file: Path) -> dict[int, Camera]:
    found = {}
    for line in filter(str.strip, _lines(file)):
        try:
            name, model, *numbers = line.split()
            key, (width, height, *parameters) = int(name), map(float, numbers)
        except ValueError as error:
            raise UserError(f"{file} has a line that is not a camera ({line[:60]!r}): export it again") from error
        where = f"{file}, camera {key}"
        if model not in MODELS:
            raise _unsupported(model, where)
        found[key] = _camera(model, width, height, tuple(parameters), where)
    return found


def _text_images(file: Path) -> list[Image]:
    """The line of each picture is followed by a line of points, which may be empty or missing."""
    found, after_picture = [], False
    for line in _lines(file):
        last = line.rsplit(None, 1)[-1:]
        if after_picture and (not last or _is_number(last[0])):
            after_picture = False
            continue
        if not last:
            continue
        after_picture = True
        try:
            _, *numbers, key, name = line.split(None, 9)
            w, x, y, z, right, down, forwards = map(float, numbers)
            name = check_name(name.strip(), "name", str(file))
            found.append(Image((w, x, y, z), (right, down, forwards), int(key), name))
        except ValueError as error:
            if isinstance(error, UserError):
                raise
            raise UserError(f"{file} has a line that is not a picture ({line[:60]!r}): export it again") from error
    return found


def _text_points(file: Path) -> np.ndarray:
    rows = [line.split(None, 4)[1:4] for line in filter(str.strip, _lines(file))]
    try:
        return np.array([[float(word) for word in row] for row in rows], np.float64).reshape(len(rows), 3)
    except ValueError as error:
        raise UserError(f"{file} has a line that is not a point ({error}): export it again") from error


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


# --- binary, little-endian ----------------------------------------------------------------------------------------


class _Bytes:
    """A binary file that is read from its beginning. Nothing is read, and no memory taken, beyond its end."""

    def __init__(self, file: Path):
        self.file, self.data, self.at = file, read_bytes(file, LARGEST), 0

    def take(self, kinds: str) -> tuple:
        """The next values, of struct's format."""
        values = struct.Struct("<" + kinds)
        self.skip(values.size)
        return values.unpack_from(self.data, self.at - values.size)

    def skip(self, size: int) -> None:
        if size > len(self.data) - self.at:
            raise UserError(f"{self.file} ends in the middle of an entry, at {len(self.data)} bytes: export it again")
        self.at += size

    def name(self) -> str:
        end = self.data.find(b"\0", self.at)
        if end < 0:
            raise UserError(f"{self.file} has a name without an end at byte {self.at}: export it again")
        try:
            name = self.data[self.at : end].decode()
        except UnicodeDecodeError as error:
            raise UserError(f"{self.file} has a name that is not UTF-8 at byte {self.at}: rename it") from error
        self.at = end + 1
        return check_name(name, "name", str(self.file))

    def entries(self) -> Iterator[None]:
        """As many times as the file's head says; then the file must have ended."""
        (count,) = self.take("Q")
        for _ in range(count):
            yield
        if self.at != len(self.data):
            raise UserError(f"{self.file} has {len(self.data)} bytes, {self.at} are expected: restore it")


def _binary_cameras(file: Path) -> dict[int, Camera]:
    models = {number: (model, len(names.split())) for model, (number, names) in MODELS.items()}
    data, found = _Bytes(file), {}
    for _ in data.entries():
        key, number, width, height = data.take("iiQQ")
        where = f"{file}, camera {key}"
        if number not in models:
            raise _unsupported(number, where)
        model, count = models[number]
        found[key] = _camera(model, width, height, data.take(f"{count}d"), where)
    return found


def _binary_images(file: Path) -> list[Image]:
    data, found = _Bytes(file), []
    for _ in data.entries():
        _, *numbers, key = data.take("i7di")
        name = data.name()
        (count,) = data.take("Q")
        data.skip(24 * count)  # points of the picture
        found.append(Image(tuple(numbers[:4]), tuple(numbers[4:]), key, name))
    return found


def _binary_points(file: Path) -> np.ndarray:
    data, found = _Bytes(file), array("d")
    for _ in data.entries():
        _, x, y, z, _, _, _, _, count = data.take("Q3d3BdQ")  # with colour and error
        data.skip(8 * count)  # the pictures that show it
        found.extend((x, y, z))
    return np.array(found).reshape(-1, 3)
