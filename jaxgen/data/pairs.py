"""Pairs of pictures for image-to-image models: x is the target, cond the source, both uint8[N, H, W, C]."""

import dataclasses
import os
import pathlib
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Literal

import numpy as np

from jaxgen.core.ranges import PathName, Size
from jaxgen.core.types import RawBatch
from jaxgen.data.dataset import Dataset, RandomAccess, held_out_tenth
from jaxgen.data.edges import canny
from jaxgen.data.embedded import Digits, Emoji, area_resize
from jaxgen.data.tfds import IN_MEMORY, THREADS
from jaxgen.errors import UserError
from jaxgen.runtime.picture import ENDINGS, opaque, undecoded, upright_size
from jaxgen.runtime.reading import user_path

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclasses.dataclass(frozen=True, kw_only=True)
class EmojiEdges(Dataset):
    """Emoji from their edges: x uint8[N, size, size, 3], cond uint8[N, size, size, 1], black edges on white.

    Edges are Canny's at 64 pixels, resized by area like the picture. The splits are those of `Emoji`, without four test
    pictures that equal a training picture, such as a flag that two places share.

    Raises:
      UserError: on use, if `size` or a name in `groups` is unknown.
    """

    size: Literal[64, 32, 16] = 32
    """Height and width in pixels."""
    groups: tuple[str, ...] = ()
    """Keeps only these groups, such as ("Smileys & Emotion",); all if empty."""

    def load(self, split: str) -> RawBatch:
        x, large = (Emoji(size=size, label="none", groups=self.groups).load(split)["x"] for size in (self.size, 64))
        if split == "test":
            known = {picture.tobytes() for picture in Emoji(size=self.size, label="none").load("train")["x"]}
            unseen = [picture.tobytes() not in known for picture in x]
            x, large = x[unseen], large[unseen]
        drawing = np.where(canny(large)[..., None], np.float32(0), np.float32(255))
        return {"x": x, "cond": np.rint(area_resize(drawing, self.size)).astype(np.uint8)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShrunkPairs(Dataset):
    """Pictures of `data` from themselves made small: x uint8[N, H, W, C], and cond of the same shape, in which the
    pixels of each square of factor x factor have their mean.

    Raises:
      UserError: on use, if height or width does not divide by `factor`, or `data` does not lie in memory.
    """

    data: Dataset = dataclasses.field(default_factory=Digits)
    factor: Size = 2

    def load(self, split: str) -> RawBatch:
        arrays = self.data.arrays(split)
        if not isinstance(arrays, dict):
            raise UserError(f"{type(self.data).__name__} is read as it is needed: pairs are made of data in memory")
        x = np.asarray(arrays["x"])
        count, height, width, channels = x.shape
        if height % self.factor or width % self.factor:
            raise UserError(
                f"pictures of {height} x {width} do not shrink by {self.factor}: choose a divisor of height and width"
            )
        squares = x.reshape(count, height // self.factor, self.factor, width // self.factor, self.factor, channels)
        small = np.rint(squares.mean(axis=(2, 4))).astype(np.uint8)
        return {"x": x, "cond": small.repeat(self.factor, axis=1).repeat(self.factor, axis=2)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class PairFolder(Dataset):
    """Pairs from the user's folders: x uint8[N, *size, target_channels], cond uint8[N, *size, source_channels].

    Without `targets`, each picture of `folder` is a pair side by side. With it, `folder` has the sources and `targets`
    the targets, matched by name without suffix. The splits are the subfolders `train` and `test`, or `val`. Without a
    subfolder `train`, about one pair in ten is held out, chosen by a hash of its name, so that adding pictures does not
    change the split of others. Transparent pictures are shown over white. Hidden files are passed over.

    Raises:
      UserError: on use: a folder or a partner is missing, two files have the same name, the pictures of a pair differ
        in size, or a picture cannot be read. With the training split, the heads of all pictures are read, those of the
        held-out split too; pixels that cannot be decoded may show later.
    """

    folder: PathName = ""
    """The folder of the pairs, or of the sources."""
    targets: PathName = ""
    """The folder of the targets, if they are not side by side with the sources."""
    source: Literal["left", "right"] = "left"
    """Which half of a side-by-side pair is the source."""
    size: tuple[Size, Size] = (256, 256)
    """Height and width to resize to."""
    fit: Literal["crop", "stretch"] = "crop"
    """Whether pictures of another aspect ratio are cropped to the middle or stretched."""
    source_channels: Literal[3, 1] = 3
    """3 for RGB, 1 for grey."""
    target_channels: Literal[3, 1] = 3

    def load(self, split: str) -> RawBatch | RandomAccess:
        pairs = _Pairs(self, self._split(split))
        pairs.check(self._held_out() if split == "train" else [])
        return pairs if pairs.nbytes >= IN_MEMORY else pairs.take(np.arange(len(pairs)))

    def _split(self, split: str) -> list[tuple[pathlib.Path, pathlib.Path]]:
        """The source and target file of each example, equal for a side-by-side pair."""
        if not self.folder:
            raise UserError("no folder of pairs was given: pass --data.folder DIR")
        root = user_path(self.folder)
        if os.path.isdir(root / "train"):
            test = "test" if os.path.isdir(root / "test") else "val"
            parts = {"train": ("train",), "test": (test,), "all": ("train", test)}[split]
            return [pair for part in parts for pair in self._matched(root, part)]
        pairs = self._matched(root, "")
        held_out = held_out_tenth(source.stem for source, _ in pairs)
        return [pair for pair in pairs if split == "all" or (pair[0].stem in held_out) == (split == "test")]

    def _held_out(self) -> list[tuple[pathlib.Path, pathlib.Path]]:
        """The held-out pairs, none if their subfolder is missing."""
        root = user_path(self.folder)
        only_train = os.path.isdir(root / "train") and not any(os.path.isdir(root / part) for part in ("test", "val"))
        return [] if only_train else self._split("test")

    def _matched(self, root: pathlib.Path, part: str) -> list[tuple[pathlib.Path, pathlib.Path]]:
        """The pairs in one subfolder, '' for none. Raises UserError for a file without a partner."""
        sources = _pictures(root / part)
        if not self.targets:
            return [(file, file) for file in sources.values()]
        other = user_path(self.targets) / part
        targets = _pictures(other)
        for these, those, where in ((sources, targets, other), (targets, sources, root / part)):
            alone = [file for name, file in these.items() if name not in those]
            if alone:
                more = f", and neither have {len(alone) - 1} more" if len(alone) > 1 else ""
                raise UserError(
                    f"{alone[0]} has no partner named {alone[0].stem} in {where}{more}: add it, or remove these"
                )
        return [(file, targets[name]) for name, file in sources.items()]


def _pictures(folder: pathlib.Path) -> dict[str, pathlib.Path]:
    """The pictures of a folder, by name without suffix, sorted."""
    # Unlike pathlib's, this is false also where the name cannot be looked up.
    if not os.path.isdir(folder):
        raise UserError(f"{folder} is not a folder: pass one that holds pictures")
    try:
        files = sorted(folder.iterdir())
    except OSError as error:
        raise UserError(f"{folder} cannot be read ({error.strerror or error}): check its permissions") from error
    found: dict[str, pathlib.Path] = {}
    for file in files:
        if file.suffix.lower() not in ENDINGS or file.name.startswith("."):
            continue
        if file.stem in found:
            raise UserError(f"{folder} has {found[file.stem].name} and {file.name}: names must be unique, rename one")
        found[file.stem] = file
    if not found:
        raise UserError(f"{folder} has no pictures ({', '.join(e[1:] for e in ENDINGS)}): pass another folder")
    return found


class _Pairs:
    """RandomAccess to the pairs of a folder, decoded by Pillow in threads."""

    def __init__(self, dataset: PairFolder, files: list[tuple[pathlib.Path, pathlib.Path]]):
        self.dataset, self.files = dataset, files
        height, width = dataset.size
        self.nbytes = len(files) * height * width * (dataset.source_channels + dataset.target_channels)

    def __len__(self) -> int:
        return len(self.files)

    def check(self, others: list[tuple[pathlib.Path, pathlib.Path]]) -> None:
        """Raises UserError for a picture that is none and a pair that does not fit, of these pairs or of `others`."""
        with ThreadPoolExecutor(THREADS) as pool:
            for _ in pool.map(self._check, [*self.files, *others]):
                pass

    def _check(self, files: tuple[pathlib.Path, pathlib.Path]) -> None:
        sizes = []
        for file in dict.fromkeys(files):
            with undecoded(file) as image:
                sizes.append(upright_size(image))
        if len(set(sizes)) > 1 or (len(sizes) == 1 and sizes[0][0] % 2):
            self._read(files)  # which knows the sizes for certain, and says what is wrong

    def take(self, indices: np.ndarray) -> RawBatch:
        height, width = self.dataset.size
        batch = {
            "x": np.empty((len(indices), height, width, self.dataset.target_channels), np.uint8),
            "cond": np.empty((len(indices), height, width, self.dataset.source_channels), np.uint8),
        }
        with ThreadPoolExecutor(THREADS) as pool:
            for i, (source, target) in enumerate(pool.map(self._read, [self.files[int(i)] for i in indices])):
                batch["x"][i], batch["cond"][i] = target, source
        return batch

    def _read(self, files: tuple[pathlib.Path, pathlib.Path]) -> tuple[np.ndarray, np.ndarray]:
        """Source and target, uint8[*size, C]."""
        if files[0] == files[1]:
            return self._halves(files[0])
        resized, sizes = [], []
        for file, channels in zip(files, (self.dataset.source_channels, self.dataset.target_channels)):
            with opaque(file) as picture:
                sizes.append(picture.size)
                resized.append(self._resized(picture, channels))
                del picture  # before the next one is read
        if sizes[0] != sizes[1]:
            said = " and ".join(f"{file} is {width} x {height}" for file, (width, height) in zip(files, sizes))
            raise UserError(f"{said}: both pictures of a pair must have one size")
        return resized[0], resized[1]

    def _halves(self, file: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
        with opaque(file) as both:
            width, height = both.size
            if width % 2:
                raise UserError(
                    f"{file} is {width} x {height}, but side-by-side pairs have an even width: remove it, or "
                    "pass the folder of the targets with --data.targets"
                )
            left, right = (0, 0, width // 2, height), (width // 2, 0, width, height)
            source, target = (left, right) if self.dataset.source == "left" else (right, left)
            return (
                self._resized(both.crop(source), self.dataset.source_channels),
                self._resized(both.crop(target), self.dataset.target_channels),
            )

    def _resized(self, image: "Image", channels: int) -> np.ndarray:
        """uint8[*size, channels]."""
        from PIL import Image, ImageOps

        height, width = self.dataset.size
        if self.dataset.fit == "crop":
            image = ImageOps.fit(image, (width, height), Image.Resampling.BICUBIC)
        else:
            image = image.resize((width, height), Image.Resampling.BICUBIC)
        pixels = np.asarray(image.convert("L" if channels == 1 else "RGB"))
        return pixels.reshape(height, width, channels)
