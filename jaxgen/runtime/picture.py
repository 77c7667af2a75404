"""The reader of pictures in files: what a viewer shows, in 8 bits."""

import io
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from jaxgen.errors import UserError
from jaxgen.runtime.reading import opened, why

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFile import ImageFile

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
"""Kinds of pictures by Pillow's names. Others are refused: some start programs, as Ghostscript."""
ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm")
"""File names that hold such pictures."""
MOST_PIXELS = 80_000_000
MOST_BYTES = 1 << 29
PART = 1 << 20
"""Pixels that are converted at a time."""


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


_TURNS = {
    2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE", 6: "ROTATE_270", 7: "TRANSVERSE",
    8: "ROTATE_90",
}  # fmt: skip
"""How a picture of each EXIF orientation is turned upright."""


@contextmanager
def undecoded(source: Path | bytes, where: str = "") -> Iterator["ImageFile"]:
    """A picture whose head was read and whose pixels were not: an open file of at most MOST_PIXELS.

    source: a file, or what one holds, called `where` in errors. Raises UserError if it is no such picture, and for
    whatever goes wrong with it in the block.
    """
    from PIL import Image  # imported here to keep start-up fast

    where = where or str(source)
    with opened(source) if isinstance(source, Path) else nullcontext(io.BytesIO(source)) as file:
        if file.seek(0, io.SEEK_END) > MOST_BYTES:
            raise UserError(f"{where} has {file.tell()} bytes, pictures have at most {MOST_BYTES}: name another file")
        file.seek(0)
        try:
            with _SILENCE, Image.open(file, formats=FORMATS) as image:
                if not 1 <= image.width * image.height <= MOST_PIXELS:
                    raise UserError(f"{where} has {image.width} x {image.height} pixels, 1 to {MOST_PIXELS} are read")
                clear = image.info.get("transparency")
                if isinstance(clear, tuple) and image.tile and ";16" in str(image.tile[0].args):
                    # Pillow keeps the high bytes of 16-bit colours, but the whole of the one that is transparent.
                    image.info["transparency"] = tuple(value >> 8 for value in clear)
                yield image
        except UserError:
            raise
        except Exception as error:  # Pillow's plugins raise whatever bad bytes lead to
            unknown = isinstance(error, Image.UnidentifiedImageError)
            reason = "its kind is unknown, or it is damaged" if unknown else why(error)
            raise UserError(f"{where} cannot be read as a picture ({reason}): give a PNG or JPEG, say") from error


def open_picture(source: Path | bytes, where: str = "") -> "Image":
    """A picture as its file has it, decoded and rotated by its EXIF orientation; the first frame of an animation.

    source: a file, or what one holds, called `where` in errors. Raises UserError if it cannot be read.
    """
    with undecoded(source, where) as image:
        return upright(image)


def upright(image: "ImageFile") -> "Image":
    """An undecoded picture, decoded and rotated by its EXIF orientation."""
    from PIL.Image import Transpose

    image.load()
    turn = _turn(image)
    return image.transpose(Transpose[turn]) if turn else image


def upright_size(image: "ImageFile") -> tuple[int, int]:
    """Width and height that an undecoded picture has upright. EXIF at the end of a PNG is not seen."""
    # Pillow decodes a PNG in search of EXIF behind the pixels.
    turn = _turn(image) if image.format != "PNG" or "exif" in image.info else ""
    across = turn in ("TRANSPOSE", "ROTATE_270", "TRANSVERSE", "ROTATE_90")
    return (image.height, image.width) if across else image.size


def _turn(image: "ImageFile") -> str:
    try:
        return _TURNS.get(image.getexif().get(0x0112, 1), "")
    except Exception:  # viewers show a picture with damaged EXIF as it lies
        return ""


def has_alpha(image: "Image") -> bool:
    """Whether parts of the picture can be transparent."""
    return "A" in image.getbands() or "a" in image.getbands() or "transparency" in image.info


def eight_bits(image: "Image", where: str) -> "Image":
    """A picture whose channels have 8 bits: 16 bits are scaled by 1 / 257, floats by 255 where all lie in [0, 1].

    Raises UserError for 32-bit integers beyond 16 bits and other floats, which have no agreed white.
    """
    from PIL import Image

    if not (image.mode.startswith("I;16") or image.mode in ("I", "F")):
        return image
    white = 1.0 if image.mode == "F" else 65535.0
    values = np.asarray(image)
    low, high = values.min(), values.max()
    if not (low >= 0 and high <= white):
        raise UserError(
            f"{where} has values from {low:g} to {high:g}, 0 to {white:g} are expected of its kind: convert it to "
            "8 bits"
        )
    grey = Image.fromarray(np.rint(values * np.float64(255 / white)).astype(np.uint8))
    if "transparency" in image.info:  # the grey level that stands for it
        opaque = Image.fromarray(np.where(values == image.info["transparency"], np.uint8(0), np.uint8(255)))
        return Image.merge("LA", (grey, opaque))
    return grey


def flat(image: "Image", channels: int, over: str = "white", where: str = "a picture") -> "Image":
    """The picture in mode L (1 channel) or RGB (3), transparent parts laid over the colour `over`.

    Raises UserError as `eight_bits` does, and for colours that have no conversion.
    """
    from PIL import Image

    image = eight_bits(image, where)
    try:
        if has_alpha(image):
            image = image if image.mode == "RGBA" else image.convert("RGBA")
            below = Image.new("RGB", image.size, over)
            below.paste(image, mask=image)
            image = below
        mode = "L" if channels == 1 else "RGB"
        return image if image.mode == mode else image.convert(mode)
    except ValueError as error:
        raise UserError(f"{where} has colours in {image.mode}, which cannot be converted: save it in RGB") from error


LARGE = 1 << 24
"""Pixels of a picture that is decoded alone, not beside those of other threads."""

_one_large = threading.Lock()


@contextmanager
def opaque(file: Path, channels: int = 3, over: str = "white") -> Iterator["Image"]:
    """A picture as `open_picture` and `flat` give it. While it is large, other threads wait with theirs."""
    with ExitStack() as alone:
        with undecoded(file) as image:
            if image.width * image.height > LARGE:
                alone.enter_context(_one_large)
            picture = flat(upright(image), channels, over, str(file))
        del image  # takes as much memory again
        yield picture


def read_picture(file: Path, channels: int = 3, over: str = "white") -> np.ndarray:
    """A picture as uint8[H, W, channels], channels 1 or 3, as `open_picture` and `flat` give it."""
    return _array(open_picture(file), channels, lambda part: flat(part, channels, over, str(file)))


def _array(image: "Image", channels: int, convert: Callable[["Image"], "Image"]) -> np.ndarray:
    """uint8[H, W, channels] of a picture that is converted in parts, so that no second copy of it takes memory."""
    width, height = image.size
    pixels = np.empty((height, width, channels), np.uint8)
    step = max(1, PART // width)
    for top in range(0, height, step):
        part = image.crop((0, top, width, min(height, top + step)))
        pixels[top : top + step] = np.asarray(convert(part)).reshape(-1, width, channels)
    return pixels
