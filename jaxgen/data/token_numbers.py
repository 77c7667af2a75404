"""Tokens that stand for nothing that is known here, written as their numbers."""

import dataclasses

import numpy as np

from jaxgen.core.ranges import Size, Vocabulary
from jaxgen.core.types import RawBatch
from jaxgen.data.dataset import Dataset, check_split
from jaxgen.data.tokenizers import Numbers

EXAMPLES = 256


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenNumbers(Dataset):
    """x: int32[256, block + 1] tokens, uniform and independent: the form of what a model takes whose tokenizer and text
    are not at hand. Texts are numbers of tokens, each followed by a space."""

    size: Vocabulary = 2
    """Of the vocabulary."""
    block: Size = 64
    """Tokens predicted per example."""

    def load(self, split: str) -> RawBatch:
        check_split(split)
        rng = np.random.default_rng(["train", "test", "all"].index(split))
        return {"x": rng.integers(0, self.size, (EXAMPLES, self.block + 1), np.int32)}

    @property
    def vocab(self) -> int:
        return self.size

    def files_to_keep(self) -> dict[str, str]:
        return {"tokenizer.json": Numbers(self.size).to_json()}

    def texts(self, raw: np.ndarray) -> list[str]:
        return [Numbers(self.size).decode(row) for row in raw]
