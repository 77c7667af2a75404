"""Pictures in files: read as arrays of a given shape, written without loss."""

from pathlib import Path

import numpy as np

from jaxgen.data.pairs import open_picture
from jaxgen.errors import UserError


def sources(file: Path, channels: int, num: int) -> np.ndarray:
    """A picture of any size, to be translated `num` times: uint8[num, H, W, channels]. Raises UserError if it cannot be
    read."""
    pixels = np.asarray(open_picture(file).convert("L" if channels == 1 else "RGB"))
    return np.broadcast_to(pixels.reshape(1, *pixels.shape[:2], channels), (num, *pixels.shape[:2], channels))


def save_each(folder: Path, images: np.ndarray) -> None:
    """Images uint8[N, H, W, 1 or 3] as 0.png, 1.png, ..., pixel by pixel."""
    for i, image in enumerate(images):
        save_image(image, folder / f"{i}.png")


def save_image(image: np.ndarray, file: Path) -> None:
    """uint8[H, W, 1 or 3] pixel by pixel. Raises UserError when it cannot be written, or not without loss."""
    from PIL import Image

    if file.suffix != ".png":
        raise UserError(f"{file} is to be written pixel by pixel: give it a name that ends in .png")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(file)
    except OSError as error:
        raise UserError(f"cannot write {file}: {error.strerror}") from error


def read_image(file: Path, shape: tuple[int, ...]) -> np.ndarray:
    """A picture as uint8[*shape]. Raises UserError when it cannot be read or has another size."""
    from PIL import Image

    try:
        with Image.open(file) as picture:
            pixels = np.asarray(picture.convert("L" if shape[-1] == 1 else "RGB"))
    except OSError as error:
        raise UserError(f"{file} cannot be read as a picture ({error}): give a PNG, say") from error
    pixels = pixels.reshape(*pixels.shape[:2], -1)
    if pixels.shape != tuple(shape):
        raise UserError(f"{file} is {pixels.shape[1]} x {pixels.shape[0]}, the model draws {shape[1]} x {shape[0]}")
    return pixels


def read_pixels(file: Path, shape: tuple[int, ...]) -> np.ndarray:
    """A picture as uint8[*shape], nothing lost. Raises UserError when it has another size, or colours, transparency or
    depth that such an array cannot hold."""
    from PIL import Image

    pixels = read_image(file, shape)
    with Image.open(file) as picture:
        same = picture.mode in ("1", "L", "LA", "P", "RGB", "RGBA")
        kept = Image.fromarray(pixels[..., 0] if shape[-1] == 1 else pixels).convert("RGBA")
        if not same or not np.array_equal(np.asarray(picture.convert("RGBA")), np.asarray(kept)):
            raise UserError(f"{file} does not fit into {shape[-1]} channels of 8 bits: convert it first")
    return pixels
