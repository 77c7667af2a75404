"""Single words of many made voices, labelled: what Speech Commands is to its users, without a download."""

import dataclasses
import itertools
from typing import Annotated

import numpy as np
from annotated_types import Ge, Le, MinLen

from jaxgen.core.types import RawBatch
from jaxgen.data.dataset import Dataset, check_split, held_out_tenth
from jaxgen.data.speech_cache import LOUDEST, waves_of
from jaxgen.errors import UserError
from jaxgen.ops.audio import Rate
from jaxgen.runtime.espeak import PITCHES, RATES, spoken
from jaxgen.runtime.sound import resampled, voiced

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
VOICES = ("en-us", "en-us+m3", "en-us+m5", "en-us+m7", "en-us+f1", "en-us+f2", "en-us+f3", "en-us+f4")
QUIET = 40.0
"""Decibels below the loudest part at which silence begins."""

Saying = tuple[int, str, int, int]
"""A word, a voice of eSpeak NG, words a minute and a pitch."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SpokenWords(Dataset):
    """x: f32[B, samples] in [-1, 1]; cond: i32[B], the word. By eSpeak NG, each word in every voice, speed and pitch;
    zeros after it. A tenth is held out by a hash. They are made once, and kept in the user's cache.

    Raises:
      UserError: on use, without the extra `speech`, for an unknown voice, or for a word longer than `samples`.
    """

    words: Annotated[tuple[str, ...], MinLen(1)] = DIGITS
    voices: Annotated[tuple[str, ...], MinLen(1)] = VOICES
    speeds: Annotated[tuple[Annotated[int, Ge(RATES[0]), Le(RATES[1])], ...], MinLen(1)] = (160, 185, 210, 235)
    """Words a minute."""
    pitches: Annotated[tuple[Annotated[int, Ge(PITCHES[0]), Le(PITCHES[1])], ...], MinLen(1)] = (30, 45, 60, 75)
    rate: Rate = 8_000
    """Samples a second."""
    samples: Annotated[int, Ge(64), Le(1 << 20)] = 6_144

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.words

    def sayings(self, split: str) -> list[Saying]:
        """Those of a split, word by word."""
        check_split(split)
        every = list(itertools.product(range(len(self.words)), self.voices, self.speeds, self.pitches))
        names = ["/".join(map(str, (self.words[word], *how))) for word, *how in every]
        held_out = held_out_tenth(names)
        return [one for one, name in zip(every, names) if split == "all" or (name in held_out) == (split == "test")]

    def load(self, split: str) -> RawBatch:
        sayings = self.sayings(split)
        known = ["words", self.rate, self.words, sayings]
        waves, lengths = waves_of(lambda i: self.sound(sayings[i]), len(sayings), known)
        x = np.zeros((len(lengths), self.samples), np.float32)
        for row, end, length, saying in zip(x, np.cumsum(lengths), lengths, sayings):
            if length > self.samples:
                raise UserError(
                    f"{self.words[saying[0]]!r} of {saying[1]} has {length} samples, model and data {self.samples}: "
                    f"pass --data.samples {-(-length // 256) * 256}, or faster speeds"
                )
            row[:length] = waves[end - length : end] / np.float32(LOUDEST)
        return {"x": x, "cond": np.array([word for word, *_ in sayings], np.int32)}

    def sound(self, saying: Saying) -> np.ndarray:
        """The waveform f32[N], silence cut."""
        word, voice, speed, pitch = saying
        x, rate = spoken(self.words[word], voice, speed, pitch)
        x = resampled(x, rate, self.rate)
        return x[voiced(x, QUIET)]
