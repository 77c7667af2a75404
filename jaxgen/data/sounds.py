"""Sound without its text: pieces of one length, cut from the clips of a set of speech."""

import dataclasses
from typing import Annotated

import numpy as np
from annotated_types import Ge, Le

from jaxgen.core.ranges import Fraction
from jaxgen.core.types import RawBatch
from jaxgen.data.dataset import Dataset
from jaxgen.data.speech import Speech, Spoken
from jaxgen.data.speech_cache import LOUDEST, waves_of
from jaxgen.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sounds(Dataset):
    """x: f32[B, samples] in [-1, 1], at the rate of `data.mel`.

    A clip is as many pieces as cover it, evenly spaced; one that is shorter is a piece with zeros after it. Waveforms
    are kept in the user's cache with 16 bits a sample. Raises UserError on use where `data` does.
    """

    data: Speech = Spoken()
    samples: Annotated[int, Ge(64), Le(1 << 20)] = 16_384
    """Of a piece. A model may draw a shorter part of it at each step."""
    peak: Fraction = 0.0
    """Each clip is scaled so that this is its largest sample; 0 leaves clips as loud as they are."""

    def load(self, split: str) -> "Pieces":
        if not (num := len(self.data.captions(split))):
            raise UserError(f"split {split!r} of {self.data} has no clips: choose others, or more of them")
        waves, lengths = waves_of(
            lambda i: self._scaled(i, split), num, [self.peak, repr(self.data), *self.data.known(split)]
        )
        return Pieces(waves, lengths, self.samples)

    def _scaled(self, index: int, split: str) -> np.ndarray:
        x = self.data.sound(index, split)
        # What is silent from end to end is no clip: see `Speech.sound`.
        return x * (self.peak / np.abs(x).max()) if self.peak else x


class Pieces:
    """RandomAccess to pieces of clips that lie one after another in `waves`, i16[samples of all]."""

    def __init__(self, waves: np.ndarray, lengths: np.ndarray, samples: int):
        self.waves, self.samples = waves, samples
        counts = np.maximum(1, -(-lengths // samples))
        first = np.repeat(np.cumsum(lengths) - lengths, counts)
        self.ends = np.repeat(np.cumsum(lengths), counts)
        place = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        # The last piece of a clip ends where the clip does.
        room = np.repeat(np.maximum(0, lengths - samples), counts)
        self.starts = first + place * room // np.repeat(np.maximum(1, counts - 1), counts)
        self.nbytes = len(self.starts) * samples * 4

    def __len__(self) -> int:
        return len(self.starts)

    def take(self, indices: np.ndarray) -> RawBatch:
        out = np.zeros((len(indices), self.samples), np.float32)
        for row, i in zip(out, indices):
            piece = self.waves[self.starts[i] : min(self.ends[i], self.starts[i] + self.samples)]
            row[: len(piece)] = piece / np.float32(LOUDEST)
        return {"x": out}
