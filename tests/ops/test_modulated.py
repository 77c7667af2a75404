"""Modulated convolution and resampling against naive forms, and their second derivatives against XLA's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.nets.stylegan2 import StyleGAN2Critic, StyleGAN2Generator
from jaxgen.ops import modulated
from jaxgen.ops.conv import DIMS
from jaxgen.ops.modulated import FILTER, blur, conv_down, conv_up, demodulation, downsample, modulated_conv, upsample


def normal(*shape, seed=0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


def naive_filtered(x: np.ndarray, pads: tuple[int, int], gain: float = 1.0) -> np.ndarray:
    """x: [H, W] padded on both axes and convolved with the outer product of the filter."""
    x, kernel = np.pad(x, pads), gain * np.outer(FILTER, FILTER)
    height, width = x.shape[0] - 3, x.shape[1] - 3
    return np.array([[np.sum(x[i : i + 4, j : j + 4] * kernel) for j in range(width)] for i in range(height)])


def stuffed(x: np.ndarray) -> np.ndarray:
    out = np.zeros((2 * x.shape[0], 2 * x.shape[1]))
    out[::2, ::2] = x
    return out


def each_channel(x, f):
    return np.moveaxis(np.array([[f(np.asarray(image[..., c])) for c in range(x.shape[-1])] for image in x]), 1, -1)


def test_resampling_is_padding_with_zeros_and_filtering():
    x = normal(2, 6, 4, 3)
    np.testing.assert_allclose(blur(x, 2), each_channel(x, lambda a: naive_filtered(a, (2, 2))), atol=1e-5)
    np.testing.assert_allclose(downsample(x), each_channel(x, lambda a: naive_filtered(a, (1, 1))[::2, ::2]), atol=1e-5)
    doubled = each_channel(x, lambda a: naive_filtered(stuffed(a), (2, 1), 4))
    np.testing.assert_allclose(upsample(x), doubled, atol=1e-5)
    np.testing.assert_allclose(upsample(jnp.ones((1, 4, 4, 1)))[:, 1:-1, 1:-1], 1, atol=1e-6)


def direct(x, kernel, stride=1, pad=1, spread=1):
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), ((pad, pad), (pad, pad)), lhs_dilation=(spread, spread), dimension_numbers=DIMS
    )


def naive_up(x, kernel):
    full = direct(x, kernel[::-1, ::-1], pad=2, spread=2)
    return each_channel(full, lambda a: naive_filtered(a, (1, 1), 4))


def test_convolutions_with_resampling_are_the_direct_ones():
    x, kernel = normal(2, 6, 4, 3), normal(3, 3, 3, 5, seed=1)
    np.testing.assert_allclose(conv_up(x, kernel), naive_up(x, kernel), atol=1e-4)
    small = direct(jnp.asarray(each_channel(x, lambda a: naive_filtered(a, (2, 2))), jnp.float32), kernel, 2, 0)
    np.testing.assert_allclose(conv_down(x, kernel), small, atol=1e-4)
    point = normal(1, 1, 3, 5, seed=2)
    np.testing.assert_allclose(conv_down(x, point), direct(downsample(x), point, pad=0), atol=1e-5)


@pytest.mark.parametrize("up", [False, True])
@pytest.mark.parametrize("demodulate", [False, True])
def test_modulated_convolution_is_each_examples_own(up, demodulate):
    """Eqs. 1 and 3 of arXiv:1912.04958 on the kernel itself, one example at a time."""
    x, kernel, style = normal(3, 4, 6, 5), normal(3, 3, 5, 4, seed=1), 1 + 0.5 * normal(3, 5, seed=2)
    got = modulated_conv(x, kernel, style, demodulate, up)
    for i in range(3):
        own = kernel * style[i][None, None, :, None]
        if demodulate:
            own = own / jnp.sqrt(jnp.sum(own**2, axis=(0, 1, 2), keepdims=True) + 1e-8)
        expected = naive_up(x[i : i + 1], own) if up else direct(x[i : i + 1], own)
        np.testing.assert_allclose(got[i : i + 1], expected, atol=1e-4)


def test_demodulated_output_has_unit_variance():
    """For white inputs, in each channel, for any style."""
    x, kernel = normal(4, 64, 64, 16), normal(3, 3, 16, 8, seed=1)
    style = jnp.exp(normal(4, 16, seed=2))
    y = modulated_conv(x, kernel, style)[:, 1:-1, 1:-1]
    assert float(jnp.var(y)) == pytest.approx(1, abs=0.02)
    # Without demodulation, the scale is the style's: e^2 on average, over nine times sixteen inputs.
    assert float(jnp.var(modulated_conv(x, kernel, style, False))) > 100
    np.testing.assert_allclose(demodulation(kernel, 3 * style), demodulation(kernel, style) / 3, rtol=1e-5)


@pytest.mark.slow
def test_second_derivatives_are_xlas(monkeypatch):
    """Of R1 and path lengths in the parameters, within a scan: our convolutions against XLA's."""
    critic, x = StyleGAN2Critic(64, 8), normal(4, 8, 8, 2)
    generator, ws, shape = StyleGAN2Generator(6, 2, 64, 8), normal(2, 4, 6, seed=1), (8, 8, 2)
    params = {
        "critic": critic.init(jax.random.key(0), x)["params"],
        "gen": generator.init(jax.random.key(1), jnp.ones((1, 6)), shape)["params"],
    }

    def penalty(params):
        grad = jax.grad(lambda x: jnp.sum(critic.apply({"params": params["critic"]}, x)))(x)

        def image(ws):
            return generator.apply({"params": params["gen"]}, ws, shape, method="synthesize")

        path = jax.grad(lambda ws: jnp.sum(image(ws) * normal(2, 8, 8, 2, seed=2)))(ws)
        return jnp.sum(grad**2) + jnp.sum(path**2)

    def gradients():
        def body(params, _):
            grads = jax.grad(penalty)(params)
            return jax.tree.map(lambda p, g: p - 1e-4 * g, params, grads), grads

        return jax.jit(lambda p: jax.lax.scan(body, p, None, length=2)[1])(params)

    ours = gradients()

    def plain(x, kernel, strides=(1, 1), pads=((0, 0), (0, 0))):
        return jax.lax.conv_general_dilated(x, kernel, strides, pads, dimension_numbers=DIMS)

    monkeypatch.setattr(modulated, "conv", plain)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(gradients())):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5 * max(1.0, float(jnp.max(jnp.abs(b)))))
