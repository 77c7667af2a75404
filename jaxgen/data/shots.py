"""Pictures and cameras as the files of a scene describe them, and the reading of the pictures.

A camera file describes pixels as they are stored, so a picture is not rotated by its EXIF orientation.
"""

import functools
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxgen.data.rays import Views, padded
from jaxgen.data.tfds import THREADS
from jaxgen.errors import UserError
from jaxgen.ops.cameras import is_rigid, seen_pixels
from jaxgen.runtime.picture import ENDINGS, eight_bits, flat, has_alpha, undecoded

if TYPE_CHECKING:
    from PIL.Image import Image

FARTHEST = 1e9
"""Coordinates, focal lengths and coefficients beyond it are refused: float32 would overflow."""
SHORTEST = 1e-3
"""Pixels of a focal length: shorter ones are refused."""
LONGEST = 1e6
"""Pixels along a side of a picture, as a camera file may have it."""
MOST_PADDING = 4  # pictures of different sizes take at most so many times their own memory


@dataclass(frozen=True)
class Shot:
    """One picture and its camera."""

    picture: Path
    pose: np.ndarray
    """f64[3, 4] or f64[4, 4], camera to world."""
    camera: Callable[[tuple[int, int]], np.ndarray]
    """The intrinsics f64[14] of the stored picture, by its height and width."""
    mask: Path | None = None
    """A picture of the same size, in which pixels that do not count are black."""


def check_number(value: Any, name: str, where: str, low: float = -FARTHEST, high: float = FARTHEST) -> float:
    """A number between low and high, both excluded. where: what has it, in errors. Raises UserError for others."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not low < value < high:
        raise UserError(f"{where}: {name} is {value!r:.60}, a number above {low:g} and below {high:g} is expected")
    return float(value)


def check_name(value: Any, name: str, where: str) -> str:
    """A file's name. Raises UserError if it is no text, empty, or has characters that cannot be printed."""
    if not isinstance(value, str) or not value.isprintable() or not value.strip():
        raise UserError(f"{where}: {name} is {value!r:.60}, the name of a file is expected")
    return value


def resized(intrinsics: np.ndarray, given: tuple[float, float], size: tuple[int, int], where: str) -> np.ndarray:
    """Intrinsics f64[14] at a height and width, `given`, at another one.

    Raises UserError if the aspect ratios differ by more than five percent and more than rounding to pixels explains.
    """
    down, across = size[0] / given[0], size[1] / given[1]
    if abs(given[0] * across - size[0]) > 1 + 0.05 * size[0] and abs(given[1] * down - size[1]) > 1 + 0.05 * size[1]:
        raise UserError(
            f"{where}: the camera is of {given[1]:g} x {given[0]:g} pixels, the picture of {size[1]} x {size[0]}, the "
            "same aspect ratio is expected: give the picture that the camera belongs to, not rotated or cropped"
        )
    return np.concatenate([intrinsics[:4] * [across, down, across, down], intrinsics[4:]])


def pictures_in(folder: Path) -> list[Path]:
    """The pictures in a folder but hidden ones, sorted by name; none if there is no such folder."""
    try:
        files = sorted(folder.iterdir()) if os.path.isdir(folder) else []
    except OSError as error:
        raise UserError(f"{folder} cannot be listed ({error.strerror}): check its permissions") from error
    return [f for f in files if f.suffix.lower() in ENDINGS and not f.name.startswith(".")]


def read_shots(shots: Sequence[Shot], source: Path, downscale: int = 1) -> Views:
    """The views of shots, with near and far 0.

    Smaller pictures are padded to the size of the largest; what is padded does not count, nor do pixels where a mask is
    darker than half, or those that a lens maps no direction to. source: the file that describes the shots.
    downscale: pictures are shrunk by it; a pixel counts if all counted whose mean it is.

    Raises:
      UserError: there are no shots, a picture is missing or cannot be read, a mask has another size or leaves no pixel,
        a pose is not rigid, or a camera does not fit its picture.
    """
    if not shots:
        raise UserError(f"{source} names no pictures: at least one is expected")
    for shot in shots:
        _check_pose(shot, source)
    files = [file for shot in shots for file in (shot.picture, shot.mask) if file is not None]
    missing = [file for file in files if not os.path.exists(file)]
    if missing:
        more = f", and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise UserError(f"{missing[0]}, which {source.name} names, is missing{more}: add it, or remove its entry")
    with ThreadPoolExecutor(THREADS) as pool:
        read = list(pool.map(functools.partial(_read, downscale=downscale), shots))
    pixels, counted, intrinsics = (list(column) for column in zip(*read))
    sizes = [picture.shape[:2] for picture in pixels]
    size = (max(height for height, _ in sizes), max(width for _, width in sizes))
    if len(sizes) * size[0] * size[1] > MOST_PADDING * sum(height * width for height, width in sizes):
        raise UserError(
            f"the pictures that {source} names are up to {size[1]} wide and {size[0]} high, most much smaller: "
            "pictures of about one size are expected"
        )
    counted = [c & _seen(tuple(i), s) for c, i, s in zip(counted, intrinsics, sizes)]
    for shot, c in zip(shots, counted):
        if not c.any():
            raise UserError(f"no pixel of {shot.picture} is left by its mask or seen through its lens: remove it")
    whole = all(c.all() for c in counted) and all(s == size for s in sizes)
    zeros = np.zeros(len(shots))
    return Views(
        np.stack([padded(p, size) for p in pixels]),
        np.stack([shot.pose[:3] for shot in shots]),
        np.stack(intrinsics),
        near=zeros,
        far=zeros,
        planar=zeros > 0,
        counted=None if whole else np.stack([padded(c, size) for c in counted]),
    )


def _check_pose(shot: Shot, source: Path) -> None:
    pose = shot.pose
    if not is_rigid(pose) or np.abs(pose[:3, 3]).max() > FARTHEST:
        raise UserError(
            f"the pose of {shot.picture.name} in {source.name} is not rigid: a rotation (orthogonal, determinant 1) "
            "and a translation are expected; correct the matrix"
        )


# Views share a lens in general.
@functools.lru_cache(maxsize=8)
def _seen(intrinsics: tuple[float, ...], size: tuple[int, int]) -> np.ndarray:
    pinhole = not any(intrinsics[4:])
    seen = np.ones(size, bool) if pinhole else seen_pixels(np.array(intrinsics), size)
    seen.flags.writeable = False
    return seen


def _read(shot: Shot, downscale: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pixels uint8[H, W, 4], which of them the mask leaves, bool[H, W], and intrinsics f64[14]."""
    image = _as_stored(shot.picture)
    intrinsics = shot.camera((image.height, image.width))
    counted = np.ones((image.height, image.width), bool)
    if shot.mask is not None:
        mask = flat(_as_stored(shot.mask), 1, "black", str(shot.mask))
        if mask.size != image.size:
            raise UserError(
                f"{shot.mask} is {mask.width} x {mask.height}, its picture {shot.picture.name} {image.width} x "
                f"{image.height}: a mask must have the size of its picture"
            )
        counted = np.asarray(mask) >= 128
    if downscale > 1:
        stored = (image.height, image.width)
        small = (image.width // downscale, image.height // downscale)
        if min(small) < 1:
            raise UserError(f"{shot.picture} is {image.width} x {image.height}: too small for downscale {downscale}")
        image, counted = _shrunk(image, counted, small)
        across, down = small[0] / stored[1], small[1] / stored[0]
        intrinsics = np.concatenate([intrinsics[:4] * [across, down, across, down], intrinsics[4:]])
    return np.asarray(image), counted, intrinsics


def _shrunk(image: "Image", counted: np.ndarray, size: tuple[int, int]) -> tuple["Image", np.ndarray]:
    from PIL import Image

    box = Image.Resampling.BOX
    left_out = Image.fromarray(np.where(counted, 0, 1).astype(np.float32)).resize(size, box)
    # Pillow weights colours by alpha, so transparent pixels do not count.
    return image.resize(size, box), np.asarray(left_out) == 0


def _as_stored(file: Path) -> "Image":
    """A picture in mode RGBA, not rotated by its EXIF orientation."""
    with undecoded(file) as image:
        image.load()
        deep = eight_bits(image, str(file))
        return deep.convert("RGBA") if has_alpha(deep) else deep.convert("RGB").convert("RGBA")
