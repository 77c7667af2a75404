"""Maps in overlapping tiles: the whole's inside, blended as lines between tiles, whatever the sizes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.nets.taesd import TinyAutoencoder
from jaxgen.ops.resize import double, halve
from jaxgen.ops.tiles import cover, tiled


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


@pytest.mark.parametrize(
    ("side", "tile", "scale"), [(14, 8, 1), (20, 8, 4), (9, 8, 2), (8, 8, 3), (5, 8, 3), (7, 1, 2)]
)
def test_tiles_cover_a_side_once(side, tile, scale):
    starts, weights = cover(side, tile, scale)
    size = min(side, tile)
    assert starts[0] == 0 and starts[-1] + size == side
    assert weights.shape == (len(starts), size * scale) and weights.min() >= 0
    total = np.zeros(side * scale)
    for start, weight in zip(starts, weights):
        total[start * scale : (start + size) * scale] += weight
    np.testing.assert_allclose(total, 1, rtol=1e-6)


@pytest.mark.parametrize("tile", [0, 1, 3, 8, 100])
@pytest.mark.parametrize(("function", "unit"), [(jnp.tanh, 1), (double, 1), (halve, 2)])
def test_what_sees_a_pixel_alone_is_the_same_in_tiles(function, unit, tile):
    x = normal(2, 22, 14, 3)
    found = jax.jit(lambda x: tiled(function, x, tile, unit))(x)
    np.testing.assert_allclose(found, function(x), atol=1e-6)


def test_neighbours_are_blended_by_a_line():
    """A quarter of a side of 8 is two units, here of three pixels each."""

    def mean(x):
        return jnp.broadcast_to(jnp.mean(x, axis=(1, 2), keepdims=True), (len(x), 3 * x.shape[1], 3 * x.shape[2], 1))

    x = jnp.arange(14.0).reshape(1, 1, 14, 1)
    row = tiled(mean, x, 8)[0, 0, :, 0]
    first, second = 3.5, 9.5
    np.testing.assert_allclose(row[:18], first, rtol=1e-6)
    np.testing.assert_allclose(row[18:24], first + (second - first) * np.arange(6) / 6, rtol=1e-6)
    np.testing.assert_allclose(row[24:], second, rtol=1e-6)


@pytest.mark.parametrize("way", ["encode", "decode"])
def test_inside_a_tile_a_network_sees_the_whole(way):
    """A tiny autoencoder, which looks 19 latents far: the same to rounding that far from a seam, else not."""
    network = TinyAutoencoder(latent=2, width=4)
    params = network.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
    # Weights that let far pixels count.
    params = jax.tree.map(lambda p: p + 0.1 * normal(*p.shape, seed=p.size), params)
    side, reach, overlap = 64, 19, 16
    x = normal(1, 64, 8 * 112, 3) if way == "encode" else normal(1, 8, 112, 2)
    scale, unit = (1, 8) if way == "encode" else (8, 1)

    def function(x):
        return network.apply(params, x, method=way)

    found = np.asarray(jax.jit(lambda x: tiled(function, x, side, unit))(x))
    whole = np.asarray(jax.jit(function)(x))
    assert found.shape == whole.shape
    left, right = (side - max(reach, overlap)) * scale, (112 - side + max(reach, overlap)) * scale
    tolerance = 1e-5 * np.abs(whole).max()
    for part in (np.s_[:, :, :left], np.s_[:, :, right:]):
        np.testing.assert_allclose(found[part], whole[part], atol=tolerance)
    assert np.abs(found - whole).max() > 10 * tolerance
