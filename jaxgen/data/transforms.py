"""Cameras in transforms.json, as Blender's scripts, instant-ngp and nerfstudio write it.

A field of a frame wins over one of the file. `transform_matrix` maps camera to world. The focal lengths are fl_x and
fl_y in pixels of a picture of w x h, or follow from camera_angle_x and camera_angle_y, in radians; without the second,
pixels are square. cx and cy are the principal point, the middle unless given. k1 to k4, p1 and p2 distort as in
`jaxgen.ops.lenses`; with is_fisheye or OPENCV_FISHEYE the lens is a fisheye lens. Other cameras are refused.
"""

import dataclasses
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxgen.data.shots import FARTHEST, LONGEST, SHORTEST, Shot, check_name, check_number, resized
from jaxgen.errors import UserError
from jaxgen.ops.cameras import camera
from jaxgen.runtime.picture import ENDINGS
from jaxgen.runtime.reading import read_json

PERSPECTIVE = ("PINHOLE", "SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV")
FISHEYE = "OPENCV_FISHEYE"
DISTORTION = ("k1", "k2", "k3", "k4", "p1", "p2")
REFUSED = (
    "latlong", "equirectangular", "orthographic", "rolling_shutter", "x_fov", "y_fov", "fisheye_crop_radius", "k5",
    "k6",
)  # fmt: skip
"""Fields of cameras that are not supported: ignoring them would take the camera for another."""
HELD_OUT = ("test_filenames", "val_filenames")


@dataclasses.dataclass(frozen=True)
class Transforms:
    """The frames of a file."""

    shots: list[Shot]
    held_out: np.ndarray | None
    """bool[V]: the frames that the file names as held out; None if it names none."""


def read_transforms(file: Path, in_order_of_names: bool = False) -> Transforms:
    """The frames of a file, in its order or in that of their pictures' names.

    Raises:
      UserError: the file is no such JSON, or names only others as held out; or a frame's camera is not supported, or
        one of its numbers is missing or out of range: the line names file, frame and field.
    """
    scene = read_json(file)
    frames = scene.get("frames") if isinstance(scene, dict) else None
    if not isinstance(frames, list) or not all(isinstance(frame, dict) for frame in frames):
        raise UserError(f"{file} has no list of frames: a transforms.json of Blender or nerfstudio is expected")
    shared = {name: value for name, value in scene.items() if name != "frames"}
    shots, names = [], []
    for i, frame in enumerate(frames):
        where = f"{file}, frame {i}"
        names.append(check_name(frame.get("file_path"), "file_path", where))
        shots.append(_shot(file.parent, {**shared, **frame}, where))
    order = sorted(range(len(names)), key=names.__getitem__) if in_order_of_names else range(len(names))
    shots = [shots[i] for i in order]
    files = {picture for key in HELD_OUT for picture in _pictures(file, key, shared.get(key, []))}
    held_out = np.array([shot.picture in files for shot in shots]) if files else None
    if held_out is not None and not held_out.any():
        raise UserError(f"{file}: {' and '.join(HELD_OUT)} name no picture of its frames: correct or remove them")
    return Transforms(shots, held_out)


def _shot(folder: Path, fields: Mapping[str, Any], where: str) -> Shot:
    mask = None
    if "mask_path" in fields:
        mask = _picture(folder, check_name(fields["mask_path"], "mask_path", where))
    picture = _picture(folder, fields["file_path"])
    return Shot(picture, _matrix(fields.get("transform_matrix"), where), _camera(fields, where), mask)


def _picture(folder: Path, name: str) -> Path:
    """The file of a name that may lack its ending: Blender's do."""
    file = folder / name
    if os.path.isdir(file) or not os.path.exists(file):
        for ending in ENDINGS:
            for tried in (ending, ending.upper()):
                if os.path.exists(found := file.with_name(f"{file.name}{tried}")):
                    return found
    return file


def _pictures(file: Path, key: str, names: Any) -> list[Path]:
    """The files of a list of names."""
    if not isinstance(names, list):
        raise UserError(f"{file}: {key} is {names!r:.60}, a list of names is expected")
    return [_picture(file.parent, check_name(name, key, str(file))) for name in names]


def _matrix(value: Any, where: str) -> np.ndarray:
    rows = value if isinstance(value, list) and len(value) in (3, 4) else []
    numbers = [x for row in rows if isinstance(row, list) and len(row) == 4 for x in row if type(x) in (int, float)]
    if not rows or len(numbers) != 4 * len(rows) or not all(map(math.isfinite, numbers)):
        raise UserError(f"{where}: transform_matrix is {value!r:.60}, 4 x 4 finite numbers are expected")
    return np.array(numbers, np.float64).reshape(-1, 4)


def _camera(fields: Mapping[str, Any], where: str) -> Callable[[tuple[int, int]], np.ndarray]:
    """The intrinsics of a frame's picture, as a function of its height and width."""
    fisheye = _is_fisheye(fields, where)

    def number(name: str, low: float, high: float) -> float | None:
        return check_number(fields[name], name, where, low, high) if name in fields else None

    across, down = number("w", 0, LONGEST), number("h", 0, LONGEST)
    focal_x, focal_y = number("fl_x", SHORTEST, FARTHEST), number("fl_y", SHORTEST, FARTHEST)
    angle_x, angle_y = number("camera_angle_x", 1e-6, math.pi), number("camera_angle_y", 1e-6, math.pi)
    middle_x, middle_y = number("cx", -LONGEST, LONGEST), number("cy", -LONGEST, LONGEST)
    bends = {name: check_number(fields[name], name, where) for name in DISTORTION if name in fields}
    if focal_x is None and angle_x is None:
        raise UserError(f"{where}: neither fl_x nor camera_angle_x is given, one is expected")
    if fisheye and focal_x is None:
        raise UserError(f"{where}: fl_x is missing, which a fisheye lens needs: camera_angle_x is of pinholes")
    if fisheye and (bends.get("p1") or bends.get("p2")):
        raise UserError(f"{where}: p1 or p2 is not 0, which a fisheye lens lacks: correct them")

    def intrinsics(size: tuple[int, int]) -> np.ndarray:
        height, width = down or size[0], across or size[1]
        fx = focal_x or 0.5 * width / math.tan(0.5 * (angle_x or 0))
        fy = focal_y or (0.5 * height / math.tan(0.5 * angle_y) if angle_y and focal_x is None else fx)
        cx = width / 2 if middle_x is None else middle_x
        cy = height / 2 if middle_y is None else middle_y
        given = camera(fx=fx, fy=fy, cx=cx, cy=cy, fisheye=fisheye, **bends)
        return resized(given, (height, width), size, where)

    return intrinsics


def _is_fisheye(fields: Mapping[str, Any], where: str) -> bool:
    """Whether a supported camera is a fisheye. Raises UserError for one that is not supported."""
    for name, value in fields.items():
        none = all(v in (0, False) for v in (value if isinstance(value, list) else [value]))
        if (name in REFUSED or name.startswith("ftheta_")) and not none:
            raise UserError(
                f"{where}: {name} is {value!r:.60}, such cameras are not supported: undistort the pictures to pinholes"
            )
    model, fisheye = fields.get("camera_model", "PINHOLE"), fields.get("is_fisheye", False)
    if model not in (*PERSPECTIVE, FISHEYE):
        raise UserError(
            f"{where}: camera_model is {model!r:.60}, one of {', '.join((*PERSPECTIVE, FISHEYE))} is expected: "
            "undistort the pictures to pinholes"
        )
    if not isinstance(fisheye, bool) or (fisheye and fields.get("camera_model", FISHEYE) != FISHEYE):
        raise UserError(f"{where}: is_fisheye is {fisheye!r:.60}, which does not fit camera_model {model}: correct one")
    return fisheye or model == FISHEYE
