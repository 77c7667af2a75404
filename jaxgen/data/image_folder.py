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
from jaxgen.data.picture_cache import PictureFile, cached_pictures
from jaxgen.data.picture_index import Entry, classes, has_classes, in_order, index
from jaxgen.data.tfds import IN_MEMORY, THREADS
from jaxgen.errors import UserError
from jaxgen.runtime.cache import private_folder
from jaxgen.runtime.picture import opaque
from jaxgen.runtime.progress import say
from jaxgen.runtime.reading import user_path

if TYPE_CHECKING:
    from PIL.Image import Image

FORMAT = 1
"""To be raised when decoding changes."""
FEW = 10
"""Held-out pictures that numbers of them should be of at least."""
SHOWN = 10
"""Corrupt pictures that an error names."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageFolder(Dataset):
    """Pictures of a folder: x uint8[N, size, size, channels], and cond int32[N] where they have classes.

    The folder holds `train` and `test` (or `val`, `valid` ...) folders, or a tenth of its pictures is held out, chosen
    by a hash of their names. Classes are subfolders. Captions are the column `text` of metadata.jsonl or metadata.csv,
    whose `file_name` names the picture, or lie in NAME.txt beside NAME.png. Pictures are read as a viewer shows them:
    upright by EXIF, 16 bits scaled to 8, the first frame of an animation, transparent parts over `background`. Hidden
    files and files of other kinds are passed over. Sets of more than 2 GiB are decoded once into the user's cache and
    read from there.

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
        cond = None
        if names := self.class_names:
            labels = dict(zip((e.name for e in self._index), self._classes))
            cond = np.array([names.index(labels[e.name]) for e in entries], np.int32)
        if split == "test" and len(entries) < FEW <= len(self._index):
            say(f"{self.folder}: {len(entries)} of {len(self._index)} are held out; a folder test chooses them")
        if isinstance(pixels, PictureFile):
            return Streamed(pixels, cond)
        arrays = {"x": pixels} if cond is None else {"x": pixels, "cond": cond}
        # Not copied where none is left out: `_pixels` keeps what it gave.
        return arrays if all(good) else {name: array[np.flatnonzero(good)] for name, array in arrays.items()}

    @property
    def class_names(self) -> tuple[str, ...]:
        return in_order(set(self._classes))

    def augmented(self, codec: Codec) -> Codec:
        return Augmented(codec, self.flip, self.shift) if self.flip or self.shift else codec

    def captions(self, split: str = "train") -> tuple[str, ...]:
        """The caption of each example, in example order. Raises UserError if a picture of any split has none, before
        one is decoded unless some are to be left out."""
        entries = self._entries(split)
        if self.skip_corrupt:
            entries = tuple(entry for entry, good in zip(entries, _pixels(self, entries)[1]) if good)
        asked = entries if self.skip_corrupt else self._index
        if missing := [entry.file for entry in asked if not entry.column("text")]:
            others = f" ({len(missing)} pictures have none)" if len(missing) > 1 else ""
            raise UserError(
                f"{missing[0]} has no caption{others}: add it to metadata.jsonl as text, or put it into "
                f"{missing[0].with_suffix('.txt').name}"
            )
        return tuple(entry.column("text") or "" for entry in entries)

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


class Streamed:
    """RandomAccess to the good pictures of a file, with their labels."""

    def __init__(self, pictures: PictureFile, cond: np.ndarray | None):
        self.pictures, self.rows = pictures, np.flatnonzero(pictures.good)
        self.cond = None if cond is None else cond[self.rows]
        self.nbytes = len(self.rows) * pictures.row + (0 if self.cond is None else self.cond.nbytes)

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, indices: np.ndarray) -> RawBatch:
        batch = {"x": self.pictures.read(self.rows[indices])}
        return batch if self.cond is None else {**batch, "cond": self.cond[indices]}


# --- decoding -------------------------------------------------------------------------------------------------


# As many as data sets keep splits in memory.
@functools.lru_cache(maxsize=8)
def _pixels(data: ImageFolder, entries: tuple[Entry, ...]) -> tuple[np.ndarray | PictureFile, tuple[bool, ...]]:
    """uint8[N, size, size, channels], and which of the pictures could be decoded: of the others it holds zeros."""
    shape = (len(entries), data.size, data.size, data.channels)
    if int(np.prod(shape, dtype=object)) < IN_MEMORY or (folder := private_folder("images")) is None:
        pixels = np.zeros(shape, np.uint8)
        errors = _decode(data, entries, range(len(entries)), pixels)
        _judge(data, errors)
        return pixels, tuple(not error for error in errors)
    decode, judge = functools.partial(_decode, data, entries), functools.partial(_judge, data)
    pictures = cached_pictures(folder / f"{_key(data, entries)}.pixels", shape, decode, judge)
    return pictures, tuple(pictures.good.tolist())


def _key(data: ImageFolder, entries: tuple[Entry, ...]) -> str:
    """A hash of all that the pixels depend on."""
    settings = [FORMAT, data.size, data.channels, data.fit, data.background, data.skip_corrupt]
    known = json.dumps([*settings, [(str(e.file), *e.stamp) for e in entries]])
    return hashlib.sha256(known.encode("utf-8", "surrogateescape")).hexdigest()[:20]


def _decode(data: ImageFolder, entries: tuple[Entry, ...], indices: range, out: np.ndarray) -> list[str]:
    """Writes pictures into `out`, uint8[len(indices), size, size, channels]; why each is corrupt, "" for a good one."""

    def one(i: int) -> str:
        try:
            out[i] = _read(data, entries[indices[i]].file)
        except UserError as error:
            return str(error)
        return ""

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(one, range(len(indices))))


def _judge(data: ImageFolder, errors: list[str]) -> None:
    """Says how many pictures are left out. Raises UserError if that is all of them, or none is to be."""
    if wrong := [error for error in errors if error]:
        if not data.skip_corrupt:
            if len(wrong) == 1:
                raise UserError(wrong[0])
            some = "; ".join(wrong[:SHOWN]) + ("; ..." if len(wrong) > SHOWN else "")
            raise UserError(f"{len(wrong)} of {len(errors)} pictures cannot be decoded: {some}")
        if len(wrong) == len(errors):
            raise UserError(f"none of {len(errors)} pictures can be decoded; the first: {wrong[0]}")
        say(f"{len(wrong)} of {len(errors)} pictures are left out; the first: {wrong[0]}")


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
