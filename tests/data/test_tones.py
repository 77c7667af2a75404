"""Texts spelled in tones: which pitch and how long each letter is, and what is held out."""

import numpy as np
import pytest

from jaxgen.data import Spoken, Tones
from jaxgen.data.speech_text import decoded
from jaxgen.data.tones import LOWEST
from jaxgen.errors import UserError


def test_each_letter_is_a_tone_of_its_own():
    """A beat each, whose strongest frequency is that of the letter; a space is silent."""
    data = Tones(num=60, longest=12, beat=8)
    for i, text in enumerate(data.captions("test")):
        x = data.sound(i).reshape(len(text), -1)
        assert x.shape[1] == 8 * data.mel.hop
        for letter, part in zip(text, x):
            if letter == " ":
                assert not part.any()
                continue
            found = np.abs(np.fft.rfft(part, 1 << 16)).argmax() * data.mel.rate / (1 << 16)
            np.testing.assert_allclose(found, LOWEST * 2 ** ((ord(letter) - ord("a")) / 16), rtol=0.01)


def test_a_batch_is_of_texts_and_their_mels():
    data = Tones(num=60, longest=8, beat=3, frames=32)
    batch = data.batch_at(0, 0, 4)
    assert batch["x"].shape == (4, 32, 80) and batch["x"].dtype == np.float32
    said = [decoded(text[:n]) for text, n in zip(batch["text"], batch["text_length"])]
    assert set(said) <= set(data.captions("train"))
    np.testing.assert_array_equal(batch["length"], [3 * len(text) + 1 for text in said])


def test_splits_have_different_texts():
    data = Tones(num=200)
    train, test, every = (set(data.captions(split)) for split in ("train", "test", "all"))
    assert train | test == every and not train & test and len(every) == 200 and 5 < len(test) < 50
    assert data.captions() == Tones(num=200).captions() and all(12 < len(text) <= 24 for text in every)


@pytest.mark.parametrize("data", [Tones(num=1), Spoken(num=1)])
def test_no_text_to_train_on_is_one_line(data):
    with pytest.raises(UserError, match="has no texts: choose others, or more"):
        data.arrays("train")
