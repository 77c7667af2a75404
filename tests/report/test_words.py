"""Words below the tiles of a grid."""

import numpy as np
import pytest

from jaxgen.errors import UserError
from jaxgen.report.pictures import grid
from jaxgen.report.words import LINE, MOST_LINES, wrapped


def test_each_text_stands_below_its_own_tile():
    images = np.full((4, 10, 10, 3), 200, np.uint8)
    picture = grid(images, cols=2, texts=["red apple", "", "", "cat"])
    side = 100  # of the least multiple of 10 px that words can be read below
    tile = (picture.shape[0] - 1) // 2, side + 1
    assert picture.shape == (2 * tile[0] + 1, 2 * tile[1] + 1, 3)
    for i, inked in enumerate((True, False, False, True)):
        y, x = i // 2 * tile[0] + 1, i % 2 * tile[1] + 1
        assert (picture[y : y + side, x : x + side] == 200).all()
        assert ((picture[y + side : y + tile[0] - 1, x : x + side] < 128).any()) == inked


def test_grey_pictures_have_words_too():
    assert (grid(np.zeros((2, 8, 8, 1), np.uint8), texts=["one", "two"])[..., 0] == 255).any()


def test_long_texts_are_cut_with_an_ellipsis():
    lines = wrapped("a red dragon on a mountain of gold beside a lake of ice under a sky without a star", 96)
    assert len(lines) == MOST_LINES and lines[-1].endswith("…")
    assert " ".join(lines).startswith("a red dragon on a mountain")
    (word,) = wrapped("Donaudampfschifffahrtsgesellschaft", 96)
    assert word.startswith("Donau") and word.endswith("…")
    assert wrapped("two words", 96) == ["two words"] and LINE > 0


def test_other_numbers_of_texts_are_refused():
    with pytest.raises(UserError, match="1 texts were given for 2 images"):
        grid(np.zeros((2, 8, 8, 3), np.uint8), texts=["one"])
