"""Pictures, and each once more mirrored left to right."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from jaxgen.core.codec import Codec
from jaxgen.core.types import RawBatch
from jaxgen.data.dataset import Dataset, RandomAccess
from jaxgen.data.embedded import Emoji


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mirrored(Dataset):
    """The examples of `data`, after which those of the train split come mirrored."""

    data: Dataset = dataclasses.field(default_factory=Emoji)

    def load(self, split: str) -> RawBatch | RandomAccess:
        arrays = self.data.arrays(split)
        if split != "train":
            return arrays
        if not isinstance(arrays, Mapping):
            return _WithMirrored(arrays)
        both = {name: np.concatenate([array, array]) for name, array in arrays.items()}
        return {**both, "x": np.concatenate([arrays["x"], arrays["x"][:, :, ::-1]])}

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.data.class_names

    def captions(self, split: str = "train") -> tuple[str, ...]:
        return self.data.captions(split) * (2 if split == "train" else 1)

    def files_to_keep(self) -> dict[str, str]:
        return self.data.files_to_keep()

    def augmented(self, codec: Codec) -> Codec:
        return self.data.augmented(codec)


class _WithMirrored:
    """RandomAccess to examples, and after them to their mirror images."""

    def __init__(self, data: RandomAccess):
        self.data, self.nbytes = data, 2 * data.nbytes

    def __len__(self) -> int:
        return 2 * len(self.data)

    def take(self, indices: np.ndarray) -> RawBatch:
        batch, mirrored = self.data.take(indices % len(self.data)), indices >= len(self.data)
        return {**batch, "x": np.where(mirrored.reshape(-1, 1, 1, 1), batch["x"][:, :, ::-1], batch["x"])}
