"""Sound with classes: notes are of their pitch, words are spoken, and no example is of two splits."""

import dataclasses

import numpy as np
import pytest

from jaxgen.data import Notes, SpokenWords
from jaxgen.data.notes import SCALE
from jaxgen.errors import UserError

NOTES = Notes(num=200, samples=4096)


def rows(data, split):
    return {(int(c), x.tobytes()) for x, c in zip(*(data.arrays(split)[name] for name in ("x", "cond")))}


def test_notes_are_of_their_pitch():
    batch = NOTES.arrays("train")
    assert batch["x"].dtype == np.float32 and np.abs(batch["x"]).max() < 1 and len(NOTES.class_names) == 8
    hz = np.array([pitch for _, pitch in SCALE])
    for x, label in zip(batch["x"][:40], batch["cond"]):
        strength = np.abs(np.fft.rfft(x, 65_536))
        strongest = np.fft.rfftfreq(65_536, 1 / 8000)[strength.argmax()]
        assert np.argmin(np.abs(np.log2(strongest / hz))) == label
        assert abs(1200 * np.log2(strongest / hz[label])) < 20  # cents
        assert np.abs(x[:256]).max() > np.abs(x[-256:]).max()


def test_a_tenth_of_the_notes_is_held_out():
    train, test, every = (rows(NOTES, split) for split in ("train", "test", "all"))
    assert (len(train), len(test)) == (180, 20) and not train & test and train | test == every
    again = dataclasses.replace(NOTES, rate=8000)
    np.testing.assert_array_equal(again.load("test")["x"], NOTES.arrays("test")["x"])


def test_words_are_spoken_by_all_voices(tmp_path, monkeypatch):
    pytest.importorskip("espeakng_loader")
    monkeypatch.setenv("JAXGEN_CACHE", str(tmp_path))
    data = SpokenWords(words=("one", "two"), voices=("en-us",), speeds=(200,), pitches=(40, 50, 60), samples=6144)
    train, test, every = (rows(data, split) for split in ("train", "test", "all"))
    assert len(every) == 6 and test and not train & test and train | test == every
    (first, *_) = data.sayings("test")
    x = data.arrays("test")["x"][0]
    sound = data.sound(first)
    assert np.abs(sound).max() > 0.05 and np.argmax(np.abs(sound) > 1e-3) < 400  # silence is cut
    np.testing.assert_allclose(x[: len(sound)], sound, atol=0.5001 / 32_767)
    assert not x[len(sound) :].any()
    with pytest.raises(UserError, match="model and data 512: pass --data"):
        dataclasses.replace(data, samples=512).arrays("test")
