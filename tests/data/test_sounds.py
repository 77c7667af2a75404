"""Pieces of sound: every sample of every clip is in one, and a short clip has zeros after it."""

import dataclasses
import os

import numpy as np
import pytest

from jaxgen.data import Sounds, Tones
from jaxgen.data.dataset import take
from jaxgen.data.sounds import Pieces
from jaxgen.errors import UserError
from jaxgen.ops.audio import Mel

MEL = Mel(rate=4000, n_fft=64, hop=16, window=64, bands=8, high=2000.0)
DATA = Sounds(data=Tones(mel=MEL, num=30), samples=512)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXGEN_CACHE", str(tmp_path / "cache"))


def test_pieces_cover_their_clips():
    lengths = np.array([1, 5, 10, 11, 37, 40])
    waves = np.arange(1, lengths.sum() + 1).astype(np.int16)
    pieces = Pieces(waves, lengths, 10)
    assert len(pieces) == 1 + 1 + 1 + 2 + 4 + 4
    found = [np.round(row[row > 0] * 32_767).astype(int) for row in pieces.take(np.arange(len(pieces)))["x"]]
    assert sorted(set(np.concatenate(found))) == list(waves)
    clip = np.repeat(np.arange(len(lengths)), lengths)
    for piece in found:
        assert len(set(clip[piece - 1])) == 1 and np.all(np.diff(piece) == 1)
        assert len(piece) == min(10, lengths[clip[piece[0] - 1]])
    # Zeros come after the samples of a clip, not before.
    short = pieces.take(np.array([1]))["x"][0]
    assert short[:5].all() and not short[5:].any()


@pytest.mark.parametrize("split", ["train", "test"])
def test_pieces_are_of_the_sounds_of_their_split(split, tmp_path):
    num = len(DATA.data.captions(split))
    sounds = [DATA.data.sound(i, split) for i in range(num)]
    counts = [max(1, -(-len(x) // 512)) for x in sounds]
    assert DATA.count(split) == sum(counts)
    first = take(DATA.arrays(split), np.array([0]))["x"][0]
    assert first.dtype == np.float32
    np.testing.assert_allclose(first, sounds[0][:512], atol=0.5001 / 32_767)
    last = take(DATA.arrays(split), np.array([sum(counts) - 1]))["x"][0]
    np.testing.assert_allclose(last, sounds[-1][-512:], atol=0.5001 / 32_767)
    # The second time they come from the cache.
    kept = {name for name in os.listdir(tmp_path / "cache" / "speech") if name.endswith((".waves", ".samples"))}
    assert len(kept) == 2
    again = DATA.load(split)
    np.testing.assert_array_equal(again.take(np.array([0]))["x"][0], first)


def test_peak():
    """Each clip by itself: its largest sample, in whichever piece it is, is the peak."""
    quiet = Sounds(data=Tones(mel=MEL, num=3), samples=4096)
    loud = dataclasses.replace(quiet, peak=0.9)
    one, other = (take(data.arrays("all"), np.arange(3))["x"] for data in (quiet, loud))
    assert np.abs(one).max() < 0.6
    np.testing.assert_allclose(np.abs(other).max(axis=1), 0.9, atol=1e-4)
    np.testing.assert_allclose(other / 0.9, one / np.abs(one).max(axis=1, keepdims=True), atol=2e-4)


def test_a_split_without_clips_is_refused():
    """Regression: an empty file was to be mapped into memory."""
    data = Sounds(data=Tones(num=1), samples=256)
    empty = next(split for split in ("train", "test") if not data.data.captions(split))
    with pytest.raises(UserError, match=f"split '{empty}' of .* has no clips"):
        data.arrays(empty)
