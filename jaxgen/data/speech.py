"""Speech with its text: a folder in LJSpeech's layout, or made by eSpeak NG from the texts of the package.

A batch holds text: i32[B, T], the symbols of `speech_text` with zeros after them; text_length: i32[B]; x: f32[B, F,
bands], log mel spectrograms with the log of the floor after them; length: i32[B], their frames. F is a multiple of
`frames`, and T follows from F, so that there are few shapes to compile a step for. Batches are of clips of similar
lengths.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge, Le

from jaxgen.core.ranges import PathName, Place, Positive, Samples
from jaxgen.core.types import RawBatch
from jaxgen.data.dataset import Dataset, check_split, held_out_tenth
from jaxgen.data.embedded_texts import SHORTEST, phrases
from jaxgen.data.speech_cache import mels_of
from jaxgen.data.speech_index import Clip, clips
from jaxgen.data.speech_text import SYMBOLS, encoded, read_dictionary
from jaxgen.errors import UserError
from jaxgen.ops.audio import Mel
from jaxgen.runtime.espeak import PITCHES, RATES, spoken
from jaxgen.runtime.progress import say
from jaxgen.runtime.reading import user_path
from jaxgen.runtime.sound import cmu_dictionary, read_sound, resampled, voiced

CMU = "cmu"
"""Names the dictionary of pocketsphinx."""
TEXT = 16
"""T is a multiple of this."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Speech(Dataset):
    """Base of sets of speech. A subclass says its texts and sounds."""

    mel: Mel = Mel()
    frames: Annotated[int, Ge(1), Le(4_096)] = 64
    """Frames of a batch are padded to a multiple of this."""
    dictionary: Annotated[str, Place((CMU,))] = ""
    """A pronouncing dictionary in the format of CMU's: its words are read as phonemes, not as letters. cmu is the one
    that comes with pocketsphinx, of the extra `speech`."""
    trim: Positive = 40.0
    """Silence at both ends is cut: what is so many decibels below the loudest part."""

    def captions(self, split: str = "train") -> tuple[str, ...]:
        """The text of each clip, as it was written."""
        raise NotImplementedError

    def sound(self, index: int, split: str = "test") -> np.ndarray:
        """The waveform of a clip, f32[N] at `mel.rate`, silence cut."""
        raise NotImplementedError

    def known(self, split: str) -> list[Any]:
        """All that the waveforms of a split depend on beside `mel`, as JSON."""
        raise NotImplementedError

    def texts_of(self, split: str) -> tuple[str, ...]:
        """`captions`. Raises UserError where there is none: nothing could be made of them."""
        texts = self.captions(split)
        if not texts:
            raise UserError(f"split {split!r} of {self} has no texts: choose others, or more of them")
        return texts

    @property
    def vocab(self) -> int:
        return len(SYMBOLS)

    def tokens(self, texts: Sequence[str]) -> dict[str, np.ndarray]:
        """`text` and `text_length` of texts. Raises UserError for a text that cannot be spoken."""
        symbols = [self._encoded(text) for text in texts]
        length = np.array([len(row) for row in symbols], np.int32)
        return {"text": _padded(symbols, _ceil(int(length.max()), TEXT)), "text_length": length}

    def _encoded(self, text: str) -> np.ndarray:
        if not self.dictionary:
            return encoded(text)
        return encoded(
            text, read_dictionary(cmu_dictionary() if self.dictionary == CMU else user_path(self.dictionary))
        )

    def indices_at(self, seed: int, step: int, batch_size: int, split: str = "train") -> np.ndarray:
        # Which raises the errors about sizes, and gives the order of equal lengths.
        super().indices_at(seed, step, batch_size, split)
        n = self.count(split)
        epoch, start = divmod(step * batch_size, n)
        head = self._order(seed, epoch, batch_size, split)[start : start + batch_size]
        if len(head) == batch_size:
            return head.copy()
        rest = self._order(seed, epoch + 1, batch_size, split)[: batch_size - len(head)]
        return np.concatenate([head, rest])

    def _order(self, seed: int, epoch: int, batch_size: int, split: str) -> np.ndarray:
        return _by_length(self, seed, epoch, batch_size, split)

    def _trimmed(self, x: np.ndarray, what: str) -> np.ndarray:
        """x without silence at its ends. Raises UserError where that is all of it, or too little is left."""
        x = x[voiced(x, self.trim)]
        if len(x) <= self.mel.n_fft // 2:
            how = f"has {len(x)} samples that are not silent" if len(x) else "is silent"
            raise UserError(f"{what} {how}, more than {self.mel.n_fft // 2} are expected: remove it")
        return x


class Clips:
    """RandomAccess to clips that are padded together."""

    def __init__(self, data: Speech, texts: list[np.ndarray], mels: np.ndarray, frames: np.ndarray):
        self.texts, self.mels, self.lengths = texts, mels, frames
        self.ends = np.cumsum(frames)
        self.silence, self.frames = data.mel.silence, data.frames
        self.buckets = -(-frames // data.frames)
        longest = np.zeros(int(self.buckets.max()) + 1, np.int64)
        np.maximum.at(longest, self.buckets, [len(text) for text in texts])
        self.text_sizes = _ceil(np.maximum.accumulate(longest), TEXT)
        """The T of a batch by its number of buckets: enough for the texts of all clips that fit in it."""
        self.nbytes = mels.nbytes

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, indices: np.ndarray) -> RawBatch:
        return self.take_among(indices, indices)

    def take_among(self, indices: np.ndarray, whole: np.ndarray) -> RawBatch:
        """The clips at `indices`, padded as those at `whole` are: a part of a batch has the shape of all of it."""
        bucket = int(self.buckets[whole].max())
        mel = np.full((len(indices), bucket * self.frames, self.mels.shape[1]), self.silence, np.float32)
        for row, i in zip(mel, indices):
            row[: self.lengths[i]] = self.mels[self.ends[i] - self.lengths[i] : self.ends[i]]
        texts = [self.texts[i] for i in indices]
        return {
            "text": _padded(texts, int(self.text_sizes[bucket])),
            "text_length": np.array([len(text) for text in texts], np.int32),
            "x": mel,
            "length": self.lengths[indices].astype(np.int32),
        }


def _ceil(n, step: int):
    return -(-n // step) * step


def _padded(rows: Sequence[np.ndarray], size: int) -> np.ndarray:
    out = np.zeros((len(rows), size), np.int32)
    for place, row in zip(out, rows):
        place[: len(row)] = row
    return out


@functools.lru_cache(maxsize=8)
def _by_length(data: Speech, seed: int, epoch: int, batch_size: int, split: str) -> np.ndarray:
    """int32[N]: the order of an epoch. Each batch within it is of neighbours by length, and the batches are shuffled.

    Batches that two epochs share, at its beginning and its end, take the shortest clips.
    """
    clips = data.arrays(split)
    assert isinstance(clips, Clips)
    n, random = len(clips), np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, epoch, 1])))
    order = random.permutation(n)
    # Clips of one bucket are of equal length here: which of them meet in a batch differs from epoch to epoch.
    order = order[np.argsort(clips.buckets[order], kind="stable")]
    first = -epoch * n % batch_size
    last = (n - first) % batch_size
    whole = order[first + last :].reshape(-1, batch_size)
    order = np.concatenate([order[:first], *whole[random.permutation(len(whole))], order[first : first + last]])
    order = order.astype(np.int32)
    order.flags.writeable = False
    return order


# --- folders --------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class SpeechFolder(Speech):
    """Clips of a folder in LJSpeech's layout, as `data.speech_index` says it, WAV or FLAC of any rate and number of
    channels.

    Raises:
      UserError: on use: no folder, metadata that are wrong, sound that cannot be read or is silent, a text that cannot
        be spoken.
    """

    folder: PathName = ""
    longest: Positive = 30.0
    """Seconds: longer clips are left out, and it is said how many."""

    def load(self, split: str) -> Clips:
        symbols = _symbols(self)  # first, as it takes less time to fail than sound to be read
        kept, mels, frames = _folder(self, split)
        return Clips(self, [symbols[clip.name] for clip in kept], mels, frames)

    def captions(self, split: str = "train") -> tuple[str, ...]:
        return tuple(clip.text for clip in _folder(self, split)[0])

    def sound(self, index: int, split: str = "test") -> np.ndarray:
        return self.sound_of(_folder(self, split)[0][index])

    def known(self, split: str) -> list[Any]:
        return ["folder", self.trim, [(str(clip.file), *clip.stamp) for clip in self.clips(split)]]

    def sound_of(self, clip: Clip) -> np.ndarray:
        return self._trimmed(read_sound(clip.file, self.mel.rate), str(clip.file))

    def symbols_of(self, clip: Clip) -> np.ndarray:
        try:
            return self._encoded(clip.text)
        except UserError as error:
            raise UserError(f"clip {clip.name} of {self.folder}: {error}") from error

    def clips(self, split: str) -> list[Clip]:
        """All clips of a split, those that are too long among them."""
        check_split(split)
        if not self.folder:
            raise UserError("no folder of speech was given: pass --data.folder DIR")
        every = clips(user_path(self.folder).absolute())
        return [clip for clip in every if split == "all" or clip.held_out == (split == "test")]


@functools.lru_cache(maxsize=4)
def _symbols(data: SpeechFolder) -> dict[str, np.ndarray]:
    """Those of the texts of all clips, by name."""
    return {clip.name: data.symbols_of(clip) for clip in data.clips("all")}


@functools.lru_cache(maxsize=8)
def _folder(data: SpeechFolder, split: str) -> tuple[list[Clip], np.ndarray, np.ndarray]:
    """Clips of a split that are not too long, their mels and frames. Their texts may be none that can be spoken."""
    every = data.clips(split)
    mels, frames = mels_of(lambda i: data.sound_of(every[i]), len(every), data.mel, data.known(split))
    fits = (frames - 1) * data.mel.hop / data.mel.rate <= data.longest
    if fits.all():
        return every, mels, frames
    if not fits.any():
        raise UserError(
            f"all {len(every)} clips of {data.folder} are longer than {data.longest:g} s: raise data.longest"
        )
    say(f"{np.sum(~fits)} of {len(every)} clips of {data.folder} are longer than {data.longest:g} s and left out")
    kept = np.flatnonzero(fits)
    return [every[i] for i in kept], mels[np.repeat(fits, frames)], frames[fits]


# --- made of texts --------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class MadeSpeech(Speech):
    """Base of sets whose sound is made of their texts, of which a tenth is held out by a hash. A subclass says all
    texts, and how one sounds."""

    def every_text(self) -> tuple[str, ...]:
        """Of both splits, all different."""
        raise NotImplementedError

    def speech_of(self, text: str) -> np.ndarray:
        """The waveform of any text, f32[N] at `mel.rate`."""
        raise NotImplementedError

    def load(self, split: str) -> Clips:
        texts = self.texts_of(split)
        mels, frames = mels_of(lambda i: self.speech_of(texts[i]), len(texts), self.mel, self.known(split))
        return Clips(self, [self._encoded(text) for text in texts], mels, frames)

    def captions(self, split: str = "train") -> tuple[str, ...]:
        check_split(split)
        return _split(self.every_text(), split)

    def sound(self, index: int, split: str = "test") -> np.ndarray:
        return self.speech_of(self.captions(split)[index])


@functools.lru_cache(maxsize=8)
def _split(every: tuple[str, ...], split: str) -> tuple[str, ...]:
    """Those of the texts that are of a split. Kept, as the sound of each is asked for by its place among them."""
    held_out = held_out_tenth(every)
    return tuple(text for text in every if split == "all" or (text in held_out) == (split == "test"))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spoken(MadeSpeech):
    """Phrases of the package's texts, spoken by eSpeak NG: no files are needed. A tenth is held out by a hash.

    They are made once, and kept in the user's cache.

    Raises:
      UserError: on use, without the extra `speech`, or for a voice that eSpeak NG does not know.
    """

    num: Samples = 4_000
    """Texts at most, those held out among them. There are a few thousand."""
    longest: Annotated[int, Ge(2 * SHORTEST), Le(200)] = 60
    """Characters of a text."""
    voice: str = "en-us"
    """One of eSpeak NG's."""
    speed: Annotated[int, Ge(RATES[0]), Le(RATES[1])] = 175
    """Words a minute."""
    pitch: Annotated[int, Ge(PITCHES[0]), Le(PITCHES[1])] = 50

    def every_text(self) -> tuple[str, ...]:
        return phrases(self.longest)[: self.num]

    def known(self, split: str) -> list[Any]:
        return ["spoken", self.trim, self.voice, self.speed, self.pitch, self.captions(split)]

    def speech_of(self, text: str) -> np.ndarray:
        """The waveform of any text, f32[N] at `mel.rate`, silence cut."""
        x, rate = spoken(text, self.voice, self.speed, self.pitch)
        return self._trimmed(resampled(x, rate, self.mel.rate), f"speech of {text!r:.60}")
