"""Pairs of pictures, a source and what it is to become: x is the target, cond the source, both uint8[N, H, W, C]."""

import dataclasses
import hashlib
import pathlib
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Literal

import numpy as np

from jaxgen.data.dataset import Dataset, RandomAccess, RawBatch
from jaxgen.data.edges import canny
from jaxgen.data.embedded import Emoji, area_resize
from jaxgen.data.tfds import IN_MEMORY, THREADS
from jaxgen.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image

ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")


@dataclasses.dataclass(frozen=True, kw_only=True)
class EmojiEdges(Dataset):
    """The embedded emoji, x uint8[N, size, size, 3], from line drawings of them, cond uint8[N, size, size, 1].

    The lines are Canny's edges at 64 pixels, black on white, shrunk by area with the picture. Held out are the same
    pictures as of `Emoji`, but for four that look exactly like one to train on, such as a flag that two places fly.

    Raises:
      UserError: on use, when `size` or a name in `groups` is unknown.
    """

    size: Literal[64, 32, 16] = 32
    """Side in pixels."""
    groups: tuple[str, ...] = ()
    """Only these groups, such as ("Smileys & Emotion",); all when empty."""

    def load(self, split: str) -> RawBatch:
        x, large = (Emoji(size=size, label="none", groups=self.groups).arrays(split)["x"] for size in (self.size, 64))
        if split == "test":
            known = {picture.tobytes() for picture in Emoji(size=self.size, label="none").arrays("train")["x"]}
            unseen = [picture.tobytes() not in known for picture in x]
            x, large = x[unseen], large[unseen]
        drawn = canny(large)
        paper = np.where(drawn[..., None], np.float32(0), np.float32(255))
        return {"x": x, "cond": np.rint(area_resize(paper, self.size)).astype(np.uint8)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class PairFolder(Dataset):
    """Pairs from the user's folders: x uint8[N, *size, target_channels], cond uint8[N, *size, source_channels].

    Without `targets`, each picture of `folder` is a pair side by side; with it, `folder` has the sources, `targets` the
    targets, and those of one name (without its ending) belong together. Subfolders `train` and `test`, or `val`, are
    the splits; where there is no `train`, about one in ten is held out, chosen by a hash of its name, so that further
    pictures do not move it. Transparent pictures lie over white.

    Raises:
      UserError: on use: a folder or one of a pair is missing, two files have one name, the two of a pair differ in
        size, a picture cannot be read, or `size` is no size.
    """

    folder: str = ""
    """Where the pairs, or the sources, are."""
    targets: str = ""
    """Where the targets are, when not side by side with the sources."""
    source: Literal["left", "right"] = "left"
    """Of pairs side by side: the half that is the source."""
    size: tuple[int, int] = (256, 256)
    """Height and width that pictures are brought to."""
    fit: Literal["crop", "stretch"] = "crop"
    """Whether other proportions are cropped to the middle, or stretched."""
    source_channels: Literal[3, 1] = 3
    """1 for grey."""
    target_channels: Literal[3, 1] = 3

    def load(self, split: str) -> RawBatch | RandomAccess:
        if min(self.size) < 1:
            raise UserError(f"PairFolder size is {self.size}: give height and width in pixels, such as 256 256")
        pairs = _Pairs(self, self._split(split))
        return pairs if pairs.nbytes >= IN_MEMORY else pairs.take(np.arange(len(pairs)))

    def _split(self, split: str) -> list[tuple[pathlib.Path, pathlib.Path]]:
        """The files of source and target of each example; one file twice where they are side by side."""
        if not self.folder:
            raise UserError("no folder of pairs was named: pass --data.folder DIR")
        root = pathlib.Path(self.folder).expanduser()
        if (root / "train").is_dir():
            test = "test" if (root / "test").is_dir() else "val"
            parts = {"train": ("train",), "test": (test,), "all": ("train", test)}[split]
            return [pair for part in parts for pair in self._matched(root, part)]
        pairs = self._matched(root, "")
        hashes = {source.stem: _hash(source.stem) for source, _ in pairs}
        # Of a handful, the one of the smallest hash where none is a multiple of ten.
        held_out = {s for s, h in hashes.items() if h % 10 == 0} or {min(hashes, key=hashes.get)}
        return [pair for pair in pairs if split == "all" or (pair[0].stem in held_out) == (split == "test")]

    def _matched(self, root: pathlib.Path, part: str) -> list[tuple[pathlib.Path, pathlib.Path]]:
        sources = _pictures(root / part)
        if not self.targets:
            return [(file, file) for file in sources.values()]
        other = pathlib.Path(self.targets).expanduser() / part
        targets = _pictures(other)
        for these, those, where in ((sources, targets, other), (targets, sources, root / part)):
            alone = [file for name, file in these.items() if name not in those]
            if alone:
                more = f", nor have {len(alone) - 1} more" if len(alone) > 1 else ""
                raise UserError(
                    f"{alone[0]} has no partner named {alone[0].stem} in {where}{more}: add it, or move these away"
                )
        return [(file, targets[name]) for name, file in sources.items()]


def _pictures(folder: pathlib.Path) -> dict[str, pathlib.Path]:
    """The pictures of a folder by name without ending, sorted."""
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder: name one that holds pictures")
    found: dict[str, pathlib.Path] = {}
    for file in sorted(folder.iterdir()):
        if file.suffix.lower() not in ENDINGS or file.name.startswith("."):
            continue
        if file.stem in found:
            raise UserError(f"{folder} has {found[file.stem].name} and {file.name}: names are to be unique, rename one")
        found[file.stem] = file
    if not found:
        raise UserError(f"{folder} has no pictures ({', '.join(e[1:] for e in ENDINGS)}): name another folder")
    return found


def _hash(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")


def open_picture(file: pathlib.Path) -> "Image":
    """A picture as it is to be looked at, in RGB: turned as its camera says, over white where it is transparent.

    Raises UserError when it cannot be read.
    """
    from PIL import Image, ImageOps  # here, as start-up should not pay for it

    try:
        with Image.open(file) as image:
            turned = ImageOps.exif_transpose(image)
            if "A" not in turned.getbands() and "transparency" not in turned.info:
                return turned.convert("RGB")
            turned = turned.convert("RGBA")
            return Image.alpha_composite(Image.new("RGBA", turned.size, "white"), turned).convert("RGB")
    # Pillow's plugins have no common error for bad bytes.
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        line = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{file} cannot be read as a picture ({line}): replace it, or give another") from error


class _Pairs:
    """RandomAccess over files; decodes with Pillow, in threads."""

    def __init__(self, dataset: PairFolder, files: list[tuple[pathlib.Path, pathlib.Path]]):
        self.dataset, self.files = dataset, files
        height, width = dataset.size
        self.nbytes = len(files) * height * width * (dataset.source_channels + dataset.target_channels)

    def __len__(self) -> int:
        return len(self.files)

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
            source, target = self._halves(files[0])
        else:
            source, target = open_picture(files[0]), open_picture(files[1])
            if source.size != target.size:
                sizes = " and ".join(f"{file} is {p.width} x {p.height}" for file, p in zip(files, (source, target)))
                raise UserError(f"{sizes}: the two of a pair are to be of one size, so that their pixels correspond")
        return self._fitted(source, self.dataset.source_channels), self._fitted(target, self.dataset.target_channels)

    def _halves(self, file: pathlib.Path) -> tuple["Image", "Image"]:
        both = open_picture(file)
        if both.width % 2:
            raise UserError(
                f"{file} is {both.width} x {both.height}, side by side an even width is expected: mend it, or name the "
                f"folder of the targets with --data.targets"
            )
        middle = both.width // 2
        left, right = both.crop((0, 0, middle, both.height)), both.crop((middle, 0, both.width, both.height))
        return (left, right) if self.dataset.source == "left" else (right, left)

    def _fitted(self, image: "Image", channels: int) -> np.ndarray:
        from PIL import Image, ImageOps

        size = self.dataset.size[::-1]
        if self.dataset.fit == "crop":
            image = ImageOps.fit(image, size, Image.Resampling.BICUBIC)
        else:
            image = image.resize(size, Image.Resampling.BICUBIC)
        pixels = np.asarray(image.convert("L" if channels == 1 else "RGB"))
        return pixels.reshape(*self.dataset.size, channels)
