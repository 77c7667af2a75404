"""The image sets that come with the package, and area resampling."""

import dataclasses
import functools
import json
import pathlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import numpy as np

from jaxgen.core.types import RawBatch
from jaxgen.data.dataset import Dataset, check_split, in_tenth
from jaxgen.errors import UserError, nearest


def area_resize(x: np.ndarray, size: int) -> np.ndarray:
    """Area resampling: each output pixel is the mean over the area it covers, fractions of input pixels included.

    x: float[..., S, S, C], square. Returns float[..., size, size, C] of the same dtype, not rounded.
    """
    side = x.shape[-2]
    edges = np.arange(size + 1) * (side / size)
    pixel = np.arange(side)
    # weight[i, j]: the fraction of output pixel i that input pixel j covers; each row sums to one.
    overlap = np.minimum(edges[1:, None], pixel + 1) - np.maximum(edges[:-1, None], pixel)
    weight = (np.clip(overlap, 0, None) * (size / side)).astype(x.dtype)
    rows = np.tensordot(weight, x, axes=(1, x.ndim - 3))  # [size, ..., S, C]
    return np.moveaxis(np.tensordot(weight, rows, axes=(1, x.ndim - 2)), (0, 1), (-2, -3))


# ---------------------------------------------------------------------------------------------- emoji

EMOJI = pathlib.Path(__file__).parent / "emoji"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Emoji(Dataset):
    """1,906 Noto emoji over white, part of the package: x uint8[N, size, size, 3], cond int32[N] by `label`.

    About one in ten is held out as "test", chosen by a hash of its code points, so neither their order nor `groups`
    moves a picture between the splits.

    Raises:
      UserError: on use, when `size`, `label` or a name in `groups` is unknown.
    """

    size: Literal[64, 32, 16] = 32
    """Height and width in pixels; below 64 each pixel is the mean of a square of the original."""
    label: Literal["group", "subgroup", "none"] = "group"
    """The meaning of `cond`: one of 9 groups or one of 98 subgroups; "none" leaves it out."""
    groups: tuple[str, ...] = ()
    """Keeps only these groups, such as ("Smileys & Emotion",); all if empty."""

    def load(self, split: str) -> RawBatch:
        if self.size not in (64, 32, 16):
            raise UserError(f"Emoji size is {self.size}: choose 64, 32 or 16")
        chosen = self._indices(split)
        x = _emoji_pixels(self.size)[chosen]
        if self.label == "none":
            return {"x": x}
        entries, names = _emoji_entries(), self.class_names
        cond = np.array([names.index(entries[i][self.label]) for i in chosen], np.int32)
        return {"x": x, "cond": cond}

    @property
    def class_names(self) -> tuple[str, ...]:
        if self.label == "none":
            return ()
        if self.label not in ("group", "subgroup"):
            raise UserError(f"Emoji label is {self.label!r}: choose group, subgroup or none")
        entries = _emoji_entries()
        return tuple(dict.fromkeys(entries[i][self.label] for i in self._indices("all")))

    def names(self, split: str = "train") -> tuple[str, ...]:
        """A caption for each example, in example order: "grinning face", "flag: norway", ..."""
        entries = _emoji_entries()
        return tuple(entries[i]["name"].lower() for i in self._indices(split))

    def captions(self, split: str = "train") -> tuple[str, ...]:
        return self.names(split)

    def _indices(self, split: str) -> list[int]:
        entries = _emoji_entries()
        known = tuple(dict.fromkeys(e["group"] for e in entries))
        for group in self.groups:
            if group not in known:
                raise UserError(f"Emoji group is {group!r}{nearest(group, known)}: choose from {', '.join(known)}")
        groups = self.groups or known
        check_split(split)
        held_out = {"train": (False,), "test": (True,), "all": (False, True)}[split]
        return [i for i, e in enumerate(entries) if e["group"] in groups and in_tenth(e["unified"]) in held_out]


@functools.lru_cache(maxsize=1)
def _emoji_entries() -> tuple[dict[str, str], ...]:
    return tuple(json.loads((EMOJI / "emoji.json").read_text(encoding="utf-8")))


@functools.lru_cache(maxsize=2)
def _emoji_pixels(size: int) -> np.ndarray:
    """uint8[N, size, size, 3], every emoji over white."""

    def read(path: pathlib.Path) -> np.ndarray:
        with Image.open(path) as image:
            sheet = np.asarray(image.convert("RGBA"))
        rows, cols = sheet.shape[0] // 64, sheet.shape[1] // 64
        pictures = sheet.reshape(rows, 64, cols, 64, 4).swapaxes(1, 2).reshape(rows * cols, 64, 64, 4)
        colour, alpha = pictures[..., :3].astype(np.float32), pictures[..., 3:].astype(np.float32)
        # 255 times the picture over white: integers below 2^16. The weights are powers of two, so f32 holds every
        # intermediate value exactly, and only the last step rounds.
        over_white = colour * alpha + 255 * (255 - alpha)
        return np.rint(area_resize(over_white, size) / 255).astype(np.uint8)

    from PIL import Image  # imported here to keep start-up fast

    with ThreadPoolExecutor() as pool:
        pictures = np.concatenate(list(pool.map(read, sorted(EMOJI.glob("sheet-*.webp")))))
    return pictures[: len(_emoji_entries())]  # the last sheet is padded


# --------------------------------------------------------------------------------------------- digits


@dataclasses.dataclass(frozen=True, kw_only=True)
class Digits(Dataset):
    """scikit-learn's 8 x 8 digits: x uint8[N, 8, 8, 1], cond int32[N]; 1,437 training and 360 test examples.

    The source's values v = 0..16 become x = rint(v * 255 / 16), which rint(x * 16 / 255) inverts exactly. The split is
    stratified: every fifth digit is test, after sorting by class (ties in source order).
    """

    def load(self, split: str) -> RawBatch:
        from sklearn.datasets import load_digits  # imported here, as it takes a second

        source: Any = load_digits()  # a Bunch, which has no types
        x = np.rint(source.images * 255 / 16).astype(np.uint8)[..., None]
        cond = source.target.astype(np.int32)
        test = np.zeros(len(cond), bool)
        test[np.argsort(cond, kind="stable")[::5]] = True
        chosen = {"train": ~test, "test": test, "all": np.ones_like(test)}[split]
        return {"x": x[chosen], "cond": cond[chosen]}

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple("0123456789")
