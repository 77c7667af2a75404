"""Enlarged pictures: each pixel is repeated, labels and captions stay."""

import numpy as np

from jaxgen.data import Captioned, Emoji
from jaxgen.data.enlarged import Enlarged


def test_pixels_are_repeated_and_nothing_else_changes():
    small = Emoji(size=16)
    large = Enlarged(data=small, factor=3)
    batch, expected = large.batch_at(0, 1, 4), small.batch_at(0, 1, 4)
    assert batch["x"].shape == (4, 48, 48, 3) and batch["x"].dtype == np.uint8
    for i, j in ((0, 0), (1, 2), (2, 1)):
        np.testing.assert_array_equal(batch["x"][:, i::3, j::3], expected["x"])
    np.testing.assert_array_equal(batch["cond"], expected["cond"])
    assert large.captions("test") == small.captions("test")
    assert large.count("train") == small.count("train")
    assert (
        large.arrays("train").nbytes == 9 * small.arrays("train")["x"].nbytes + 9 * small.arrays("train")["cond"].nbytes
    )


def test_captions_go_with_them():
    told = Captioned(data=Enlarged(data=Emoji(size=16), factor=2), tokenizer="bytes", window=12)
    batch, plain = (
        told.batch_at(0, 0, 4),
        Captioned(data=Emoji(size=16), tokenizer="bytes", window=12).batch_at(0, 0, 4),
    )
    np.testing.assert_array_equal(batch["text"], plain["text"])
    assert batch["x"].shape == (4, 32, 32, 3)
    # A loaded split of enlarged pictures is enlarged again.
    assert Enlarged(data=Enlarged(data=Emoji(size=16)), factor=2).batch_at(0, 0, 1)["x"].shape == (1, 64, 64, 3)
