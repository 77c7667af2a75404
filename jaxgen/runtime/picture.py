"""The reader of pictures in files: what a viewer shows, in 8 bits."""

import io
import threading
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from jaxgen.errors import UserError
from jaxgen.runtime.reading import read_bytes, why

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "MPO")
"""Kinds of pictures by Pillow's names. Others are refused: some start programs, as Ghostscript."""
ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm")
"""File names that hold such pictures."""
MOST_PIXELS = 80_000_000
MOST_BYTES = 1 << 29


class _Silence:
    """While entered by any thread, no warnings: `catch_warnings` alone is of one thread at a time."""

    def __init__(self):
        self.lock, self.count = threading.Lock(), 0
        self.caught: warnings.catch_warnings | None = None

    def __enter__(self) -> None:
        with self.lock:
            if self.count == 0:
                self.caught = warnings.catch_warnings()
                self.caught.__enter__()
                warnings.simplefilter("ignore")
            self.count += 1

    def __exit__(self, *_: object) -> None:
        with self.lock:
            self.count -= 1
            if self.count == 0 and self.caught is not None:
                self.caught.__exit__(None, None, None)


_SILENCE = _Silence()


def open_picture(source: Path | bytes, where: str = "") -> "Image":
    """A picture as its file has it, decoded and rotated by its EXIF orientation; the first frame of an animation.

    source: a file, or what one holds, called `where` in errors. Raises UserError if it cannot be read.
    """
    from PIL import Image, ImageOps  # imported here to keep start-up fast

    where = where or str(source)
    data = read_bytes(source, MOST_BYTES) if isinstance(source, Path) else source
    try:
        with _SILENCE, Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if image.width * image.height > MOST_PIXELS:
                raise UserError(f"{where} has {image.width} x {image.height} pixels, at most {MOST_PIXELS} are read")
            image.load()
            return ImageOps.exif_transpose(image)
    except UserError:
        raise
    except Exception as error:  # Pillow's plugins raise whatever bad bytes lead to
        unknown = isinstance(error, Image.UnidentifiedImageError)
        reason = "its kind is unknown, or it is damaged" if unknown else why(error)
        raise UserError(f"{where} cannot be read as a picture ({reason}): give a PNG or JPEG, say") from error


def has_alpha(image: "Image") -> bool:
    """Whether parts of the picture can be transparent."""
    return "A" in image.getbands() or "a" in image.getbands() or "transparency" in image.info


def eight_bits(image: "Image", where: str) -> "Image":
    """A picture whose channels have 8 bits: 16 bits are scaled by 1 / 257, floats by 255 where all lie in [0, 1].

    Raises UserError for 32-bit integers beyond 16 bits and other floats, which have no agreed white.
    """
    from PIL import Image

    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        values = np.asarray(image).astype(np.float64)
        white = 1.0 if image.mode == "F" else 65535.0
        if not np.all((values >= 0) & (values <= white)):
            raise UserError(
                f"{where} has values from {values.min():g} to {values.max():g}, 0 to {white:g} are expected of its "
                "kind: convert it to 8 bits"
            )
        return Image.fromarray(np.rint(values * (255 / white)).astype(np.uint8))
    return image


def flat(image: "Image", channels: int, over: str = "white", where: str = "a picture") -> "Image":
    """The picture in mode L (1 channel) or RGB (3), transparent parts laid over the colour `over`."""
    from PIL import Image

    image = eight_bits(image, where)
    if has_alpha(image):
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, over), image)
    return image.convert("L" if channels == 1 else "RGB")


def read_picture(file: Path, channels: int = 3, over: str = "white") -> np.ndarray:
    """A picture as uint8[H, W, channels], channels 1 or 3, as `open_picture` and `flat` give it."""
    pixels = np.asarray(flat(open_picture(file), channels, over, str(file)))
    return pixels.reshape(*pixels.shape[:2], channels)


def read_alpha(file: Path) -> np.ndarray | None:
    """How opaque each pixel is, uint8[H, W, 1]; None if the picture has no transparent parts."""
    image = open_picture(file)
    if not has_alpha(image):
        return None
    return np.asarray(eight_bits(image, str(file)).convert("RGBA"))[..., 3:].copy()
