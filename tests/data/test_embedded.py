"""Emoji and digits: counts, splits, and pixels against their sources."""

import hashlib
import json

import numpy as np
import pytest
from messages import one_line

from jaxgen import data
from jaxgen.data import embedded
from jaxgen.errors import UserError


def test_emoji_counts_shapes_and_splits():
    for size in (64, 32, 16):
        d = data.Emoji(size=size)
        x = d.arrays("all")["x"]
        assert x.shape == (1906, size, size, 3) and x.dtype == np.uint8
        assert (x.reshape(1906, -1).min(1) < x.reshape(1906, -1).max(1)).all()  # none is blank
    train, test, both = (set(data.Emoji().names(s)) for s in ("train", "test", "all"))
    assert both == train | test
    assert (d.count("train"), d.count("test")) == (1690, 216)
    assert d.num_classes == 9 and data.Emoji(label="subgroup").num_classes == 98
    cond = d.arrays("all")["cond"]
    assert cond.dtype == np.int32 and set(cond.tolist()) == set(range(9))
    assert set(data.Emoji(label="none").arrays()) == {"x"} and data.Emoji(label="none").num_classes == 0


def test_emoji_split_is_by_hash_and_independent_of_groups():
    entries = json.loads((embedded.EMOJI / "emoji.json").read_text(encoding="utf-8"))
    assert len({e["unified"] for e in entries}) == len(entries)
    held_out = [e for e in entries if int(hashlib.sha256(e["unified"].encode()).hexdigest()[:16], 16) % 10 == 0]
    assert [e["name"].lower() for e in held_out] == list(data.Emoji().names("test"))
    food = data.Emoji(groups=("Food & Drink",))
    assert food.class_names == ("Food & Drink",) and food.count("all") == 131
    assert set(food.names("test")) == {e["name"].lower() for e in held_out if e["group"] == "Food & Drink"}
    assert food.arrays("test")["x"].shape[0] == len(food.names("test"))


def test_emoji_errors():
    with pytest.raises(UserError, match=r"did you mean Flags\?") as e:
        data.Emoji(groups=("Flag",)).count()
    one_line(e)
    with pytest.raises(UserError, match="64, 32 or 16"):
        data.Emoji(size=20).count()
    with pytest.raises(UserError, match="group, subgroup or none"):
        data.Emoji(label="kind").count()


def test_emoji_downsample_equals_naive_loop():
    from PIL import Image

    with Image.open(sorted(embedded.EMOJI.glob("sheet-*.webp"))[0]) as image:
        first = np.asarray(image.convert("RGBA"))[:64, :64].astype(np.int64)
    for size in (64, 32, 16):
        k, expected = 64 // size, np.zeros((size, size, 3), np.uint8)
        for i in range(size):
            for j in range(size):
                for c in range(3):
                    total = 0
                    for r in range(k * i, k * i + k):
                        for s in range(k * j, k * j + k):
                            alpha = first[r, s, 3]
                            total += first[r, s, c] * alpha + 255 * (255 - alpha)
                    expected[i, j, c] = round(total / (255 * k * k))
        np.testing.assert_array_equal(data.Emoji(size=size).arrays("all")["x"][0], expected)


@pytest.mark.parametrize(("side", "size"), [(6, 3), (7, 3), (5, 5), (3, 4)])
def test_area_resize_equals_fine_grid(side, size):
    """Repeat every pixel `size` times, then take means of whole boxes: no fractions of pixels."""
    x = np.random.default_rng(0).random((2, side, side, 3))
    fine = x.repeat(size, 1).repeat(size, 2).reshape(2, size, side, size, side, 3)
    np.testing.assert_allclose(data.area_resize(x, size), fine.mean((2, 4)), atol=1e-12)


def test_digits():
    from sklearn.datasets import load_digits

    d = data.Digits()
    x = d.arrays("all")["x"]
    assert x.shape == (1797, 8, 8, 1) and x.dtype == np.uint8 and x.max() == 255
    np.testing.assert_array_equal(np.rint(x[..., 0] * (16 / 255)), load_digits().images)
    assert (d.count("train"), d.count("test"), d.num_classes) == (1437, 360, 10)
    assert set(np.bincount(d.arrays("test")["cond"])) <= {35, 36, 37}
