"""Cameras in LLFF's poses_bounds.npy: a row of 17 numbers for each picture of the folder `images`, sorted by name."""

from pathlib import Path

import numpy as np

from jaxgen.data.shots import FARTHEST, LONGEST, SHORTEST, Shot, pictures_in, resized
from jaxgen.errors import UserError
from jaxgen.ops.cameras import camera
from jaxgen.runtime.reading import read_array


def read_llff(file: Path) -> tuple[list[Shot], np.ndarray]:
    """The shots, and the nearest and farthest depth of each, f64[V, 2].

    Raises UserError if the file is no such array, has a number out of range, or has more or fewer rows than pictures.
    """
    table = read_array(file).astype(np.float64)
    if table.ndim != 2 or table.shape[1] != 17:
        raise UserError(f"{file} has shape {table.shape}: a row of 17 numbers for each picture is expected")
    folder = file.parent / "images"
    files = pictures_in(folder)
    if len(files) != len(table):
        raise UserError(f"{file} has {len(table)} rows, {folder} has {len(files)} pictures: one row each is expected")
    for i, row in enumerate(table):
        sizes, bounds = row[4:15:5], row[15:]  # height, width, focal length
        if not 0 < bounds[0] < bounds[1] < FARTHEST:
            raise UserError(
                f"{file}, row {i}: the near bound is {bounds[0]:g}, the far bound {bounds[1]:g}, near above 0 and "
                "below far is expected: correct them"
            )
        if not np.all(np.abs(row) < FARTHEST) or not np.all((sizes > SHORTEST) & (sizes < LONGEST)):
            raise UserError(f"{file}, row {i}: a number of the pose or camera is not finite or in range: restore it")
    shots = [_shot(picture, row, f"{file}, row {i}") for i, (picture, row) in enumerate(zip(files, table))]
    return shots, table[:, 15:]


def _shot(picture: Path, row: np.ndarray, where: str) -> Shot:
    matrix = row[:15].reshape(3, 5)
    # From axes (down, right, backwards) to (right, up, backwards).
    pose = np.stack([matrix[:, 1], -matrix[:, 0], matrix[:, 2], matrix[:, 3]], axis=-1)
    # The size of the pictures that poses were estimated from; these may be smaller.
    height, width, focal = matrix[:, 4]
    given = camera(f=focal, cx=width / 2, cy=height / 2)
    return Shot(picture, pose, lambda size: resized(given, (height, width), size, where))
