"""Digits that move: where they are at each frame, what they are called, and that a clip is a function of its number."""

import numpy as np
import pytest

from jaxgen.data import Digits, MovingDigits
from jaxgen.data.moving_digits import FASTEST, QUADRANTS, SLOWEST, bounced, placed
from jaxgen.errors import UserError

DATA = MovingDigits(size=12, frames=7, num=120)


def test_clips_are_functions_of_their_number():
    """More of them, or the test split, move none; another seed moves all."""
    x = DATA.arrays("train")["x"]
    assert (x.shape, x.dtype) == ((120, 7, 12, 12, 1), np.uint8)
    np.testing.assert_array_equal(MovingDigits(size=12, frames=7, num=20).arrays("train")["x"], x[:20])
    assert len(np.unique(x.reshape(120, -1), axis=0)) == 120
    other = MovingDigits(size=12, frames=7, num=20, seed=1).arrays("train")["x"]
    assert not any(np.array_equal(a, b) for a, b in zip(other, x))
    both = DATA.arrays("all")["x"]
    assert len(both) == 132
    np.testing.assert_array_equal(both[120:], DATA.arrays("test")["x"])


def test_walls_turn_a_walk_back():
    """Against a loop over steps that are reflected where they would pass a wall."""
    place, step, walked = 1.3, -0.7, []
    for _ in range(100):
        walked.append(place)
        place += step
        if not 0 <= place <= 4:
            place, step = -place if place < 0 else 8 - place, -step
    np.testing.assert_allclose(bounced(1.3 - 0.7 * np.arange(100), 4), walked, atol=1e-9)


def test_a_digit_is_seen_where_it_is():
    """At whole pixels as it is; between them by bilinear weights, against a loop over pixels."""
    digit = Digits().arrays("train")["x"][5, :, :, 0]
    whole = placed(digit[None], np.array([[[3.0, 1.0]]]), 12)[0, 0]
    np.testing.assert_array_equal(whole[3:11, 1:9], digit)
    assert whole.sum() == digit.sum(dtype=int)
    row, column = 2.25, 3.6
    expected = np.zeros((12, 12))
    for i in range(8):
        for j in range(8):
            for di, dj in ((0, 0), (0, 1), (1, 0), (1, 1)):
                weight = (row % 1 if di else 1 - row % 1) * (column % 1 if dj else 1 - column % 1)
                expected[int(row) + i + di, int(column) + j + dj] += weight * digit[i, j]
    got = placed(digit[None], np.array([[[row, column]]]), 12)[0, 0]
    np.testing.assert_allclose(got, expected, atol=0.5 + 1e-9)


def test_digits_move_evenly_and_are_those_that_they_are_called():
    """A free digit's centre of mass moves by one vector a frame, of the speed that there is, into its quadrant."""
    data = MovingDigits(size=40, frames=3, num=200, label="motion")
    x, cond = data.arrays("train")["x"][..., 0].astype(float), data.arrays("train")["cond"]
    at = np.arange(40)
    mass = x.sum(axis=(2, 3))
    centre = np.stack([(x.sum(axis=3) * at).sum(axis=2) / mass, (x.sum(axis=2) * at).sum(axis=2) / mass], axis=-1)
    first, second = centre[:, 1] - centre[:, 0], centre[:, 2] - centre[:, 1]
    free = np.abs(first - second).max(axis=1) < 0.1
    assert free.mean() > 0.8
    speed = np.linalg.norm(first[free], axis=1)
    assert SLOWEST - 0.1 < speed.min() < speed.max() < FASTEST + 0.1
    clear = free & (np.abs(first).min(axis=1) > 0.1)
    quadrant = 2 * (first[:, 0] < 0) + (first[:, 1] < 0)
    np.testing.assert_array_equal(cond[clear] // 10, quadrant[clear])
    assert data.class_names[13] == f"3 {QUADRANTS[1]}" and len(data.class_names) == 40
    plain = MovingDigits(size=40, frames=3, num=200).arrays("train")
    np.testing.assert_array_equal(plain["cond"], cond % 10)


def test_held_out_clips_show_held_out_digits():
    """At whole pixels, a digit's picture is one of its own split and class."""
    for split in ("train", "test"):
        digits = Digits().arrays(split)
        clips = DATA.arrays(split)
        totals = clips["x"].sum(axis=(2, 3, 4), dtype=int)
        for i in range(12):
            own = digits["x"][digits["cond"] == clips["cond"][i]].sum(axis=(1, 2, 3), dtype=int)
            assert np.abs(own[:, None] - totals[i]).max(axis=1).min() < 30


def test_two_digits_overlap_by_the_brighter():
    two = MovingDigits(size=16, frames=4, num=30, digits=2, label="none")
    assert set(two.arrays("train")) == {"x"} and two.num_classes == 0
    one = MovingDigits(size=16, frames=4, num=30, label="none").arrays("train")["x"]
    assert np.all(two.arrays("train")["x"] >= one) and np.any(two.arrays("train")["x"] > one)
    with pytest.raises(UserError, match="have no one class: choose the label none"):
        MovingDigits(digits=2).arrays("train")
