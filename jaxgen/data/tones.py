"""Texts spelled in tones: what stands for speech where no file and no package is needed."""

import dataclasses
import functools
import hashlib
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge, Le

from jaxgen.core.ranges import Samples
from jaxgen.data.embedded_texts import phrases
from jaxgen.data.speech import MadeSpeech
from jaxgen.data.speech_text import LETTERS

LOWEST = 220.0
"""Hz of the letter a; each next one is three quarters of a semitone higher, z nearly two octaves."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tones(MadeSpeech):
    """Words of the package's texts, each letter a tone of its own pitch with one overtone. A tenth is held out by a
    hash."""

    num: Samples = 2_000
    """Texts at most, those held out among them."""
    longest: Annotated[int, Ge(3), Le(60)] = 24
    """Letters and spaces of a text: words are joined as far as they fit."""
    beat: Annotated[int, Ge(1), Le(100)] = 4
    """Hops of the mel that a letter or a space lasts."""

    def every_text(self) -> tuple[str, ...]:
        return _texts(self.longest)[: self.num]

    def known(self, split: str) -> list[Any]:
        return ["tones", self.beat, self.captions(split)]

    def speech_of(self, text: str) -> np.ndarray:
        size = self.beat * self.mel.hop
        time = np.arange(size) / self.mel.rate
        # Letters begin and end softly.
        loud = 0.3 * np.minimum(1, np.minimum(np.arange(size), np.arange(size)[::-1]) / (size / 8))
        places = [LETTERS.find(letter.upper()) for letter in text]
        pitches = [LOWEST * 2 ** (place / 16) if place >= 0 else 0.0 for place in places]
        waves = [np.sin(2 * np.pi * pitch * time) + 0.5 * np.sin(4 * np.pi * pitch * time) for pitch in pitches]
        return np.concatenate([loud * wave for wave in waves]).astype(np.float32)


@functools.lru_cache(maxsize=4)
def _texts(longest: int) -> tuple[str, ...]:
    """Different texts of words in lower case, in an order that no seed changes."""
    words = [word for phrase in phrases(60) for word in phrase.lower().split() if word.isalpha() and word.isascii()]
    found: dict[str, None] = {}
    text = ""
    for word in words:
        if text and len(text) + 1 + len(word) > longest:
            found[text] = None
            text = ""
        if len(word) <= longest:
            text = f"{text} {word}" if text else word
    kept = (text for text in found if len(text) > longest // 2)
    return tuple(sorted(kept, key=lambda text: hashlib.sha256(text.encode()).digest()))
