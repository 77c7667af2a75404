"""Codecs: every level comes back from encoding and decoding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.codecs import Binarize, Dequantize, Identity, Pixels

LEVELS = jnp.arange(256, dtype=jnp.uint8).reshape(1, 16, 16, 1)


def encode(codec, x, seed=0):
    batch = jax.jit(lambda x, key: codec.encode({"x": x, "cond": jnp.ones(len(x))}, key))(x, jax.random.key(seed))
    assert set(batch) == {"x", "cond"}, "other fields pass through"
    return batch["x"]


@pytest.mark.parametrize(
    "codec",
    [Pixels(), Pixels(low=0.0), Pixels(low=-0.3, high=2.7), Dequantize(), Dequantize(noise=False), Identity()],
)
@pytest.mark.parametrize("seed", range(3))
def test_all_256_levels_come_back(codec, seed):
    x = encode(codec, LEVELS, seed)
    np.testing.assert_array_equal(codec.decode(x), LEVELS)


def test_pixels_are_equal_steps_from_low_to_high():
    x = np.asarray(encode(Pixels(), LEVELS)).ravel()
    assert x.dtype == np.float32
    np.testing.assert_allclose(x, np.linspace(-1, 1, 256), atol=1e-6)


@pytest.mark.parametrize("codec", [Pixels(), Binarize(), Dequantize()])
def test_decode_clips_values_out_of_range(codec):
    raw = codec.decode(jnp.array([-7.0, 7.0]))
    assert raw.dtype == jnp.uint8
    assert raw.tolist() == [0, 255]


@pytest.mark.parametrize("bits", range(1, 9))
def test_dequantize_keeps_the_high_bits(bits):
    codec = Dequantize(bits=bits)
    x = encode(codec, LEVELS)
    levels = LEVELS >> (8 - bits)
    noise = np.asarray(x, np.float64) * 2**bits - np.asarray(levels)
    assert noise.min() >= 0 and noise.max() < 1
    back = codec.decode(x)
    np.testing.assert_array_equal(back >> (8 - bits), levels)
    assert len(np.unique(back)) == 2**bits
    # Each level returns to the middle of its bin.
    assert np.abs(back.astype(int) - np.asarray(LEVELS).astype(int)).max() <= 2 ** (7 - bits)


def test_dequantization_noise_is_uniform():
    noise = np.asarray(encode(Dequantize(), jnp.zeros((1, 100, 100, 1), jnp.uint8)), np.float64) * 256
    assert abs(noise.mean() - 1 / 2) < 5 * np.sqrt(1 / 12 / noise.size)
    assert abs(noise.var() - 1 / 12) < 5 * np.sqrt(1 / 180 / noise.size)


@pytest.mark.parametrize("codec", [Dequantize(), Dequantize(low=-1.0)])
def test_dequantization_never_rounds_up_to_the_next_level(codec):
    """In f32, 255 + u rounds to 256 for u within 2^-17 of one: about thirty of these four million pixels."""
    x = jnp.full((64, 256, 256, 1), 255, jnp.uint8)
    assert float(encode(codec, x).max()) < 1
    assert int(jax.jit(codec.decode)(encode(codec, x - 1)).max()) == 254


def test_log_volume_is_the_width_of_a_level():
    assert np.isclose(Dequantize(bits=5, low=-1.0).log_volume, np.log(2 / 32))
    # A uniform density over the range gives every level 2^-bits.
    assert np.isclose(-np.log(2.0) + Dequantize(low=-1.0).log_volume, -8 * np.log(2))


def test_binarize_draws_with_the_pixels_probability():
    x = jnp.broadcast_to(jnp.array([0, 51, 128, 255], jnp.uint8), (10_000, 4))
    drawn = np.asarray(encode(Binarize(), x))
    assert set(np.unique(drawn)) == {0, 1}
    p = np.array([0, 51, 128, 255]) / 255
    assert np.all(np.abs(drawn.mean(0) - p) <= 5 * np.sqrt(p * (1 - p) / len(x)))
    assert not np.array_equal(drawn, encode(Binarize(), x, seed=1)), "anew at each visit"


def test_binarize_at_a_threshold():
    x = np.asarray(encode(Binarize(dynamic=False), LEVELS)).ravel()
    np.testing.assert_array_equal(x, np.arange(256) >= 128)


def test_binarize_decodes_probabilities():
    assert Binarize().decode(jnp.array([0.0, 0.2, 1.0])).tolist() == [0, 51, 255]


def test_codecs_without_weights_are_static():
    """So equal codecs share an executable, and different ones do not."""
    assert jax.tree.leaves(Pixels()) == []
    assert jax.tree.structure(Pixels()) == jax.tree.structure(Pixels())
    assert jax.tree.structure(Pixels()) != jax.tree.structure(Pixels(low=0.0))
