"""Two sets of pictures without pairs."""

import numpy as np
import pytest

from jaxgen.data import Digits, Emoji, Toy2D, Unpaired, area_resize
from jaxgen.errors import UserError


def test_both_sets_are_whole_and_of_one_size():
    data = Unpaired(targets=Digits(), sources=Emoji(size=16), size=8, channels=1)
    arrays = data.load("train")
    digits, emoji = Digits().load("train")["x"], Emoji(size=16).load("train")["x"]
    assert arrays["x"].shape == (len(emoji), 8, 8, 1)
    assert arrays["cond"].shape == (len(emoji), 8, 8, 1)
    assert {x.tobytes() for x in arrays["x"]} == {x.tobytes() for x in digits}
    grey = np.rint(emoji @ np.array([0.299, 0.587, 0.114])).astype(np.uint8)[..., None]
    small = np.rint(area_resize(grey.astype(np.float32), 8)).astype(np.uint8)
    assert sorted(x.tobytes() for x in arrays["cond"]) == sorted(x.tobytes() for x in small)


def test_the_order_is_the_same_every_time():
    data = Unpaired(targets=Digits(), sources=Digits())
    first, again = data.load("test"), Unpaired(targets=Digits(), sources=Digits()).load("test")
    np.testing.assert_array_equal(first["cond"], again["cond"])
    assert not np.array_equal(first["x"], first["cond"])


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (Unpaired(), "targets are 8 x 8 and sources 16 x 16"),
        (Unpaired(size=12), "has 8 pixels a side"),
        (Unpaired(sources=Toy2D()), "no square pictures"),
    ],
)
def test_sets_that_do_not_go_together_are_refused(data, words):
    with pytest.raises(UserError, match=words):
        data.load("test")
