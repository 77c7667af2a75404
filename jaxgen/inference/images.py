"""Pictures in files: read as arrays of a given shape, written without loss."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxgen.errors import UserError
from jaxgen.runtime.files import check_output, write_bytes, write_text
from jaxgen.runtime.picture import eight_bits, flat, has_alpha, open_picture, read_picture, undecoded, upright
from jaxgen.runtime.png import Origin, png_bytes

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFile import ImageFile

OPAQUE = 128
"""Of 255: what a mask or an alpha channel has at least where it is white or opaque."""


def sources(file: Path, channels: int, num: int) -> np.ndarray:
    """A picture of any size, to be translated `num` times: uint8[num, H, W, channels], channels 1 or 3. Raises
    UserError if it cannot be read."""
    pixels = read_picture(file, channels)
    return np.broadcast_to(pixels, (num, *pixels.shape))


def save_each(folder: Path, images: np.ndarray, origin: Origin | None = None) -> None:
    """Images uint8[N, H, W, 1 or 3] as 0.png, 1.png, ..., pixel by pixel. Raises UserError as `save_image` does."""
    for i, image in enumerate(images):
        save_image(image, folder / f"{i}.png", origin and {"sample": i, **origin})


def save_files(
    folder: Path, images: np.ndarray, cond: Any = None, texts: Sequence[str] = (), origin: Origin | None = None
) -> None:
    """Images as `save_each` writes them, and in metadata.jsonl their labels i32[N], where `cond` has any, and the texts
    that say what each was asked to show. Raises UserError for what is no images."""
    if images.ndim != 4 or images.dtype != np.uint8:
        raise UserError(f"samples are {images.dtype}{list(images.shape)}: --files needs images")
    save_each(folder, images, origin)
    rows: list[dict[str, Any]] = [{"file_name": f"{i}.png"} for i in range(len(images))]
    if labelled := getattr(cond, "shape", None) == (len(images),):
        rows = [{**row, "label": int(label)} for row, label in zip(rows, cond)]
    if texts:
        rows = [{**row, "text": text} for row, text in zip(rows, texts)]
    if labelled or texts:
        write_text(folder / "metadata.jsonl", "".join(json.dumps(row) + "\n" for row in rows))


def save_image(image: np.ndarray, file: Path, origin: Origin | None = None) -> None:
    """uint8[H, W, 1 or 3] pixel by pixel, with its origin; the file is whole or absent. Raises UserError when it cannot
    be written, or not without loss."""
    from PIL import Image

    _check_png(file)
    picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    data = png_bytes(picture, origin and {"picture": file.name, **origin})
    try:
        write_bytes(file, data)
    except OSError as error:
        raise UserError(f"{file} cannot be written ({error.strerror or error}): name another place") from error


def check_image_output(file: Path) -> None:
    """Raises UserError for a file that `save_image` could not write."""
    _check_png(file)
    check_output(file, folder=False)


def _check_png(file: Path) -> None:
    if file.suffix != ".png":
        raise UserError(f"{file} is to be written pixel by pixel: give it a name that ends in .png")


def read_image(file: Path, shape: tuple[int, ...]) -> np.ndarray:
    """A picture as a viewer shows it over white, uint8[*shape]. Raises UserError when it cannot be read or has another
    size."""
    return _pixels(flat(_of_size(file, shape), shape[-1], where=str(file)), shape)


def read_frames(file: Path, shape: tuple[int, ...], num: int) -> np.ndarray:
    """The first `num` frames of an animation, such as a GIF, uint8[num, *shape], each as `read_image` has it. Raises
    UserError as that does, and where there are fewer frames."""
    frames = []
    with undecoded(file) as animation:
        there = getattr(animation, "n_frames", 1)
        if there < num:
            raise UserError(f"{file} has {there} frames, the first {num} are to be kept: keep fewer, or name another")
        _check_size(file, animation, shape)
        for frame in range(num):
            animation.seek(frame)
            frames.append(_pixels(flat(animation.copy(), shape[-1], where=str(file)), shape))
    return np.stack(frames)


def read_mask(file: Path, shape: tuple[int, ...]) -> np.ndarray:
    """Where a picture of shape (H, W, C) stays: bool[H, W, 1], false where the mask is white. Transparent parts of a
    mask are black. Raises UserError as `read_image` does."""
    return _pixels(flat(_of_size(file, shape), 1, "black", str(file)), (*shape[:2], 1)) < OPAQUE


def read_with_alpha(file: Path, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """The colours that a picture's file has, uint8[*shape], and where it is opaque, bool[H, W, 1]. Colours are not laid
    over white: alpha says what stays, not how it looks. Raises UserError as `read_image` does, and for a picture that
    is opaque everywhere."""
    picture = _of_size(file, shape)
    rgba = eight_bits(picture, str(file)).convert("RGBA")
    stays = np.asarray(rgba)[..., 3:] >= OPAQUE
    if not has_alpha(picture) or np.all(stays):
        raise UserError(f"{file} has no transparent parts: erase what is to be drawn anew, or give a mask")
    return _pixels(rgba.convert("L" if shape[-1] == 1 else "RGB"), shape), stays


def read_pixels(file: Path, shape: tuple[int, ...]) -> np.ndarray:
    """A picture as uint8[*shape], nothing lost. Raises UserError when it has another size, or colours, transparency,
    depth or frames that such an array cannot hold."""
    from PIL import Image

    with undecoded(file) as undone:
        same = undone.mode in ("1", "L", "LA", "P", "RGB", "RGBA") and not _is_deep(undone)
        same = same and getattr(undone, "n_frames", 1) == 1
        picture = upright(undone)
        _check_size(file, picture, shape)
        pixels = _pixels(flat(picture, shape[-1], where=str(file)), shape)
        kept = Image.fromarray(pixels[..., 0] if shape[-1] == 1 else pixels).convert("RGBA")
        if not same or not np.array_equal(np.asarray(picture.convert("RGBA")), np.asarray(kept)):
            raise UserError(f"{file} does not fit into {shape[-1]} channels of 8 bits: convert it first")
    return pixels


def _is_deep(image: "ImageFile") -> bool:
    """Whether Pillow shortens the channels of an undecoded picture to 8 bits."""
    arguments = [part for tile in image.tile for part in (tile.args if isinstance(tile.args, tuple) else (tile.args,))]
    # Of PNG and TIFF by the names of its raw modes, of PPM by the largest value.
    return any(
        part.endswith((";16B", ";16L", ";16N")) if isinstance(part, str) else image.format == "PPM" and part > 255
        for part in arguments
        if isinstance(part, str | int)
    )


def _of_size(file: Path, shape: tuple[int, ...]) -> "Image":
    """The picture of a file, known to be of shape (H, W, C)."""
    picture = open_picture(file)
    _check_size(file, picture, shape)
    return picture


def _check_size(file: Path, picture: "Image", shape: tuple[int, ...]) -> None:
    if len(shape) != 3 or shape[-1] not in (1, 3):
        raise UserError(f"the model's data is {list(shape)}, which no picture in a file is: [H, W, 1 or 3] is expected")
    if (picture.height, picture.width) != tuple(shape[:2]):
        size = f"{picture.width} x {picture.height}"
        raise UserError(f"{file} is {size}, the model draws {shape[1]} x {shape[0]}: resize it")


def _pixels(image: "Image", shape: tuple[int, ...]) -> np.ndarray:
    return np.asarray(image).reshape(shape).copy()
