"""Pictures with every pixel repeated, for models of large pictures."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from jaxgen.core.codec import Codec
from jaxgen.core.ranges import Size
from jaxgen.core.types import RawBatch
from jaxgen.data.dataset import Dataset, RandomAccess, take
from jaxgen.data.embedded import Emoji


@dataclasses.dataclass(frozen=True, kw_only=True)
class Enlarged(Dataset):
    """The examples of `data`, x uint8[N, H, W, C], as uint8[N, factor H, factor W, C], made as they are asked for."""

    data: Dataset = dataclasses.field(default_factory=lambda: Emoji(size=64))
    factor: Size = 2
    """How many times each pixel stands along both axes."""

    def load(self, split: str) -> RandomAccess:
        return _Repeated(self.data.arrays(split), self.factor)

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.data.class_names

    def captions(self, split: str = "train") -> tuple[str, ...]:
        return self.data.captions(split)

    def files_to_keep(self) -> dict[str, str]:
        return self.data.files_to_keep()

    def augmented(self, codec: Codec) -> Codec:
        return self.data.augmented(codec)


class _Repeated:
    """RandomAccess to enlarged examples."""

    def __init__(self, data: RawBatch | RandomAccess, factor: int):
        self.data, self.factor = data, factor
        small = sum(array.nbytes for array in data.values()) if isinstance(data, Mapping) else data.nbytes
        self.nbytes = small * factor**2

    def __len__(self) -> int:
        return len(self.data["x"]) if isinstance(self.data, Mapping) else len(self.data)

    def take(self, indices: np.ndarray) -> RawBatch:
        batch = take(self.data, indices)
        return {**batch, "x": batch["x"].repeat(self.factor, axis=1).repeat(self.factor, axis=2)}
