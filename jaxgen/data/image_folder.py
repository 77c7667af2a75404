"""A folder of pictures as a data set, with classes and captions; `data.picture_index` says by which convention."""

import dataclasses
import functools
import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from annotated_types import Ge, Le

from jaxgen.codecs import Augmented
from jaxgen.core.codec import Codec
from jaxgen.core.ranges import PathName
from jaxgen.core.types import RawBatch
from jaxgen.data.dataset import Dataset, RandomAccess, check_split
from jaxgen.data.picture_index import Entry, classes, has_classes, index
from jaxgen.data.tfds import IN_MEMORY, THREADS
from jaxgen.errors import UserError
from jaxgen.runtime.cache import private_folder
from jaxgen.runtime.files import replacing
from jaxgen.runtime.picture import opaque
from jaxgen.runtime.progress import say
from jaxgen.runtime.reading import read_array, user_path

if TYPE_CHECKING:
    from PIL.Image import Image

FORMAT = 1
"""To be raised when decoding changes."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageFolder(Dataset):
    """Pictures of a folder: x uint8[N, size, size, channels], and cond int32[N] where they have classes.

    The folder holds `train` and `test` (or `val`) folders, or a tenth of its pictures is held out, chosen by a hash of
    their names. Classes are subfolders. Captions are the column `text` of metadata.jsonl or metadata.csv, whose
    `file_name` names the picture, or lie in NAME.txt beside NAME.png. Pictures are read as a viewer shows them: upright
    by EXIF, 16 bits scaled to 8, the first frame of an animation, transparent parts over `background`. Hidden files and
    files of other kinds are passed over. Sets of more than 2 GiB are decoded once into the user's cache and read from
    there.

    Raises:
      UserError: on use: no folder or no pictures, metadata that name other files, a picture that cannot be decoded.
    """

    folder: PathName = ""
    size: Annotated[int, Ge(1), Le(4_096)] = 64
    """Height and width to resize to, antialiased."""
    channels: Literal[3, 1] = 3
    """3 for RGB, 1 for grey."""
    fit: Literal["crop", "pad", "stretch"] = "crop"
    """Pictures that are no squares are cropped to the middle, padded with `background`, or stretched."""
    background: Literal["white", "black", "grey"] = "white"
    label: str = "auto"
    """The meaning of `cond`: folder, none, or a column of the metadata; auto for folders where there are several."""
    skip_corrupt: bool = False
    """Leave out pictures that cannot be decoded, and say how many; else they are an error."""
    flip: bool = False
    """Training mirrors each picture left to right with probability 1/2, anew in each step."""
    shift: Annotated[int, Ge(0), Le(1_024)] = 0
    """Training moves each picture by up to so many pixels along each axis; edges are reflected."""

    def load(self, split: str) -> RawBatch | RandomAccess:
        entries = self._entries(split)
        pixels, good = _pixels(self, entries)
        arrays = {"x": pixels}
        if names := self.class_names:
            labels = dict(zip((e.name for e in self._index), self._classes))
            arrays["cond"] = np.array([names.index(labels[e.name]) for e in entries], np.int32)
        rows = np.flatnonzero(good)
        if isinstance(pixels, np.memmap):
            return Mapped(arrays, rows)
        # Not copied where none is left out: `_pixels` keeps what it gave.
        return arrays if all(good) else {name: array[rows] for name, array in arrays.items()}

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(sorted(set(self._classes)))

    def augmented(self, codec: Codec) -> Codec:
        return Augmented(codec, self.flip, self.shift) if self.flip or self.shift else codec

    def captions(self, split: str = "train") -> tuple[str, ...]:
        """The caption of each example, in example order. Raises UserError if a picture has none."""
        entries = self._entries(split)
        good = _pixels(self, entries)[1]
        found = [(entry, entry.column("text")) for entry, fine in zip(entries, good) if fine]
        for entry, text in found:
            if not text:
                raise UserError(
                    f"{entry.file} has no caption: add it to metadata.jsonl as text, or put it into "
                    f"{entry.file.with_suffix('.txt').name}"
                )
        return tuple(text or "" for _, text in found)

    @property
    def _index(self) -> tuple[Entry, ...]:
        if not self.folder:
            raise UserError("no folder of pictures was given: pass --images DIR, or --data.folder DIR")
        return index(user_path(self.folder).absolute())

    @property
    def _classes(self) -> tuple[str, ...]:
        """The class of each picture of the index; empty without classes."""
        if self.label == "none" or (self.label == "auto" and not has_classes(self._index)):
            return ()
        return classes(self._index, "folder" if self.label == "auto" else self.label, Path(self.folder))

    def _entries(self, split: str) -> tuple[Entry, ...]:
        check_split(split)
        return tuple(e for e in self._index if split == "all" or e.held_out == (split == "test"))


class Mapped:
    """RandomAccess to the `rows` of arrays that may lie in files."""

    def __init__(self, arrays: dict[str, np.ndarray], rows: np.ndarray):
        self.arrays, self.rows = arrays, rows
        self.nbytes = sum(array.nbytes for array in arrays.values())

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, indices: np.ndarray) -> RawBatch:
        indices = self.rows[indices]
        # Sorted, so that the file is read forwards.
        order = np.argsort(indices)
        back = np.empty_like(order)
        back[order] = np.arange(len(order))
        return {name: np.asarray(array[indices[order]])[back] for name, array in self.arrays.items()}


# --- decoding -------------------------------------------------------------------------------------------------


# As many as data sets keep splits in memory.
@functools.lru_cache(maxsize=8)
def _pixels(data: ImageFolder, entries: tuple[Entry, ...]) -> tuple[np.ndarray, tuple[bool, ...]]:
    """uint8[N, size, size, channels], and which of the pictures could be decoded: of the others it holds zeros."""
    shape = (len(entries), data.size, data.size, data.channels)
    if int(np.prod(shape, dtype=object)) < IN_MEMORY or (folder := private_folder("images")) is None:
        pixels = np.zeros(shape, np.uint8)
        return pixels, _decode(data, entries, pixels)
    file = folder / f"{_key(data, entries)}.npy"
    flags = file.with_suffix(".good.npy")
    if not file.exists():
        say(f"decoding {len(entries):,} pictures into {file}, once")
        with replacing(file) as partial:
            pixels = np.lib.format.open_memmap(partial, "w+", np.uint8, shape)
            good = _decode(data, entries, pixels)
            pixels.flush()
            with replacing(flags) as beside, beside.open("wb") as out:
                np.save(out, np.array(good))
    return np.load(file, mmap_mode="r", allow_pickle=False), tuple(map(bool, read_array(flags)))


def _key(data: ImageFolder, entries: tuple[Entry, ...]) -> str:
    """A hash of all that the pixels depend on."""
    settings = [FORMAT, data.size, data.channels, data.fit, data.background, data.skip_corrupt]
    known = json.dumps([*settings, [(str(e.file), *e.stamp) for e in entries]])
    return hashlib.sha256(known.encode("utf-8", "surrogateescape")).hexdigest()[:20]


def _decode(data: ImageFolder, entries: tuple[Entry, ...], out: np.ndarray) -> tuple[bool, ...]:
    """Writes the pictures into `out`, uint8[N, size, size, channels]; False for one that is corrupt.

    Raises UserError for the first corrupt one, unless these are to be skipped, and where all are.
    """

    def one(i: int) -> str:
        try:
            out[i] = _read(data, entries[i].file)
        except UserError as error:
            if not data.skip_corrupt:
                raise
            return str(error)
        return ""

    with ThreadPoolExecutor(THREADS) as pool:
        errors = list(pool.map(one, range(len(entries))))
    if wrong := [error for error in errors if error]:
        if len(wrong) == len(entries):
            raise UserError(f"none of {len(entries)} pictures can be decoded; the first: {wrong[0]}")
        say(f"{len(wrong)} of {len(entries)} pictures are left out; the first: {wrong[0]}")
    return tuple(not error for error in errors)


def _read(data: ImageFolder, file: Path) -> np.ndarray:
    """A picture as uint8[size, size, channels]."""
    with opaque(file, data.channels, data.background) as image:
        return np.asarray(_square(image, data)).reshape(data.size, data.size, data.channels)


def _square(image: "Image", data: ImageFolder) -> "Image":
    from PIL import Image, ImageOps

    size = (data.size, data.size)
    # Lanczos is antialiased in Pillow: where a picture shrinks, its support covers all pixels.
    if data.fit == "crop":
        return ImageOps.fit(image, size, Image.Resampling.LANCZOS)
    if data.fit == "pad":
        return ImageOps.pad(image, size, Image.Resampling.LANCZOS, color=data.background)
    return image.resize(size, Image.Resampling.LANCZOS)
