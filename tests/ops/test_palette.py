"""Palettes: exact where there are few colours, otherwise k-means, the same every time."""

import numpy as np
import pytest

from jaxgen.ops import palette as module
from jaxgen.ops.palette import palette

RNG = np.random.default_rng(0)
SPOTS = np.array([[10, 10, 200], [120, 30, 40], [250, 240, 230], [40, 160, 60]])
CLOUDS = np.concatenate([np.clip(RNG.normal(spot, 6, (300, 3)), 0, 255).astype(np.uint8) for spot in SPOTS])


def error(pixels, colours):
    """Mean squared distance from the nearest colour, by brute force."""
    each = (pixels[:, None].astype(float) - colours[None]) ** 2
    return each.sum(axis=2).min(axis=1).mean()


def test_few_colours_are_kept_as_they_are():
    levels = np.round(np.arange(17) * 255 / 16).astype(np.uint8)
    pixels = RNG.permutation(np.repeat(levels, RNG.integers(1, 50, 17)))[:, None]
    np.testing.assert_array_equal(palette(pixels, 17)[:, 0], levels)
    more = palette(pixels, 20)[:, 0]
    np.testing.assert_array_equal(more, [*levels, 255, 255, 255])


@pytest.mark.parametrize("seed", range(3))
def test_separate_clouds_have_their_means(seed):
    found = palette(CLOUDS, 4, seed=seed)
    means = np.stack([CLOUDS[300 * i : 300 * (i + 1)].mean(axis=0) for i in range(4)])
    means = means[np.argsort(means.sum(axis=1))]  # the darkest first
    np.testing.assert_allclose(found, means, atol=0.5001)


def test_lloyds_fixed_point_on_grey_levels():
    """Each centre is the weighted mean of the levels that are nearest to it, to half a level of rounding."""
    pixels = np.clip(RNG.gamma(1.0, 60, 20_000), 0, 255).astype(np.uint8)[:, None]
    centres = palette(pixels, 8, steps=500)[:, 0].astype(float)
    assert len(np.unique(centres)) == 8
    near = np.abs(pixels.astype(float) - centres[None]).argmin(axis=1)
    means = [pixels[near == k].mean() for k in range(8)]
    # Rounded centres move the borders between them by half a level.
    np.testing.assert_allclose(centres, means, atol=1.5)
    even = np.linspace(0, 255, 8).round()
    assert error(pixels, centres[:, None]) < 0.8 * error(pixels, even[:, None])


def test_the_order_of_pixels_does_not_matter_and_nothing_is_left_to_chance():
    one = palette(CLOUDS, 16)
    np.testing.assert_array_equal(palette(RNG.permutation(CLOUDS), 16), one)
    assert one.dtype == np.uint8 and one.shape == (16, 3)
    assert error(CLOUDS, one) < 0.6 * error(CLOUDS, palette(CLOUDS, 4))


def test_of_very_many_colours_some_are_clustered(monkeypatch):
    monkeypatch.setattr(module, "CONSIDERED", 200)
    monkeypatch.setattr(module, "ROWS", 7)
    means = np.stack([CLOUDS[300 * i : 300 * (i + 1)].mean(axis=0) for i in range(4)])
    assert error(CLOUDS, palette(CLOUDS, 4)) < 1.2 * error(CLOUDS, means)
