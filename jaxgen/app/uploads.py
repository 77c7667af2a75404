"""Pictures that a browser sends: as bytes, fitted to what a model takes, and kept in files that commands name."""

import base64
import binascii
import hashlib
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

from jaxgen.errors import UserError
from jaxgen.inference.images import OPAQUE
from jaxgen.runtime.files import write_bytes
from jaxgen.runtime.picture import flat, open_picture, undecoded
from jaxgen.runtime.png import png_bytes

LARGEST = 512
"""The longer side, in pixels, of pictures for models that take any size."""
RESIZED = Image.Resampling


def content_of(given: Any, name: str) -> bytes:
    """The bytes of a text in base64, with or without the beginning of a data URL. Raises UserError for what is none."""
    if not isinstance(given, str):
        raise UserError(f"the picture {name} is a {type(given).__name__}: its bytes in base64 are expected")
    text = given.partition(",")[2] if given.startswith("data:") else given
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise UserError(f"the picture {name} is not in base64") from None


def decoded(given: Any, name: str) -> Image.Image:
    """The picture of such a text. Raises UserError for what is none."""
    return open_picture(content_of(given, name), f"the picture {name}")


def fitted(picture: Image.Image, shape: tuple[int, ...] | None) -> Image.Image:
    """A picture as one of `shape` = (H, W, C): its middle, shrunk by means over areas. None: of any size."""
    if shape is None:
        picture = flat(picture, 3)
        return ImageOps.contain(picture, (LARGEST, LARGEST)) if max(picture.size) > LARGEST else picture
    height, width, channels = shape
    picture = flat(picture, channels)
    if picture.size == (width, height):
        return picture
    shrinks = picture.width >= width and picture.height >= height
    return ImageOps.fit(picture, (width, height), RESIZED.BOX if shrinks else RESIZED.BICUBIC)


def fitted_mask(picture: Image.Image, shape: tuple[int, ...]) -> Image.Image:
    """A mask, white where a picture of `shape` is drawn anew. Raises UserError for one without
    white."""
    mask = flat(picture, 1, "black")
    if mask.size != (shape[1], shape[0]):
        mask = ImageOps.fit(mask, (shape[1], shape[0]), RESIZED.NEAREST)
    mask = mask.point([255 if level >= OPAQUE else 0 for level in range(256)])
    if mask.getextrema() == (0, 0):
        raise UserError("the mask is empty: paint over what is to be drawn anew")
    return mask


def kept(picture: Image.Image, folder: Path) -> Path:
    """The PNG of a picture in a folder."""
    return _kept(png_bytes(picture), ".png", folder)


def kept_clip(given: Any, name: str, folder: Path) -> Path:
    """A clip as it was sent, in a folder. Raises UserError for what is none."""
    content = content_of(given, name)
    with undecoded(content, f"the clip {name}") as image:
        if getattr(image, "n_frames", 1) < 2:
            raise UserError(f"the clip {name} has one frame: give an animation, as a GIF")
        kind = str(image.format).lower()
    return _kept(content, f".{kind}", folder)


def _kept(content: bytes, ending: str, folder: Path) -> Path:
    """A file of a folder, under a name that its contents give."""
    file = folder / f"{hashlib.sha256(content).hexdigest()[:16]}{ending}"
    if not file.exists():
        write_bytes(file, content)
    return file
