"""Two sets of pictures without pairs, for translation between them."""

import dataclasses
from typing import Any, Literal

import numpy as np

from jaxgen.core.ranges import OptionalSize
from jaxgen.core.types import RawBatch
from jaxgen.data.dataset import Dataset
from jaxgen.data.embedded import Digits, Emoji, area_resize
from jaxgen.errors import UserError
from jaxgen.ops.degrade import LUMA


@dataclasses.dataclass(frozen=True, kw_only=True)
class Unpaired(Dataset):
    """x: pictures of `targets`, uint8[N, size, size, C]; cond: pictures of `sources`, uint8[N, size, size, C'], which
    have nothing to do with x. N is the larger count; the smaller set comes again and again, in an order of chance.

    Raises UserError on use, for data that are no square pictures in memory.
    """

    targets: Dataset = dataclasses.field(default_factory=Digits)
    sources: Dataset = dataclasses.field(default_factory=lambda: Emoji(size=16))
    size: OptionalSize = 0
    """Height and width that both are shrunk to, by the mean over areas; 0 where they have one size."""
    channels: Literal[0, 1] = 0
    """1 makes both grey; 0 leaves them as they are."""

    def load(self, split: str) -> RawBatch:
        x, cond = (self.pictures(data, split) for data in (self.targets, self.sources))
        if x.shape[1:3] != cond.shape[1:3]:
            raise UserError(
                f"targets are {x.shape[1]} x {x.shape[2]} and sources {cond.shape[1]} x {cond.shape[2]}: pass "
                "--data.size for both"
            )
        rng, count = np.random.default_rng(0), max(len(x), len(cond))
        return {"x": repeated(x, count, rng), "cond": repeated(cond, count, rng)}

    def pictures(self, data: Dataset, split: str) -> np.ndarray:
        """Those of one of the two, in its own order, as a batch has them."""
        arrays: Any = data.arrays(split)
        x = arrays["x"] if isinstance(arrays, dict) else None
        if x is None or x.ndim != 4 or x.dtype != np.uint8 or x.shape[1] != x.shape[2]:
            raise UserError(f"{type(data).__name__} has no square pictures in memory, which unpaired sets are made of")
        if self.channels == 1 and x.shape[-1] == 3:
            x = np.rint(x @ np.array(LUMA)).astype(np.uint8)[..., None]
        if self.size and self.size > x.shape[1]:
            raise UserError(f"size is {self.size}, but {type(data).__name__} has {x.shape[1]} pixels a side")
        if self.size and self.size < x.shape[1]:
            parts = [area_resize(x[i : i + 4096].astype(np.float32), self.size) for i in range(0, len(x), 4096)]
            x = np.rint(np.concatenate(parts)).astype(np.uint8)
        return np.asarray(x)


def repeated(x: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """x, [N, ...], in an order of chance, and again in others until there are `count`."""
    orders = [rng.permutation(len(x)) for _ in range(-(-count // len(x)))]
    return x[np.concatenate(orders)[:count]]
