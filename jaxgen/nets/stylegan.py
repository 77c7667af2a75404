"""The mapping network and the layers of style-based networks, and the generator of StyleGAN (arXiv:1812.04948).

z: f32[B, latent], w = f(z): f32[B, style] its style, ws: f32[B, layers, style] one for each layer of the synthesis
network g, noise: the maps f32[B, h, w, 1] of its layers, or None for none; x = g(ws, noise): f32[B, *shape].

Parameters start from N(0, 1) and are scaled where they are used, so that Adam moves all layers at the same rate
(equalized learning rate, section 4.1 of arXiv:1710.10196).
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen.dtypes import promote_dtype

from jaxgen.errors import UserError
from jaxgen.ops.modulated import conv_down, conv_same, conv_up

NORMAL = nn.initializers.normal(1.0)
Noise = tuple[jax.Array, ...]


def doublings(shape: tuple[int, ...]) -> int:
    """Times that an image is halved until no longer even or a side is below 8. Raises UserError where more than 7
    pixels a side are left then."""
    height, width = shape[:2]
    times = 0
    while height % 2 == width % 2 == 0 and min(height, width) >= 8:
        height, width, times = height // 2, width // 2, times + 1
    if min(height, width) > 7:
        raise UserError(
            f"a {shape[0]} x {shape[1]} image cannot be halved to 4 to 7 pixels a side, only to {height} x {width}: "
            f"choose a size that is 4 to 7 times a power of two"
        )
    return times


def widths(base: int, most: int, times: int) -> list[int]:
    """Channels from the smallest map up: `base` over the usual size, 4, 8, 16 ..., at most `most`."""
    return [min(base // (4 * 2**level), most) for level in range(times + 1)]


def activated(x: jax.Array) -> jax.Array:
    """Leaky ReLU that keeps the size of what comes in, nearly."""
    return nn.leaky_relu(x, 0.2) * 2**0.5


def unit(x: jax.Array) -> jax.Array:
    """x of mean square one over its last axis."""
    return x * jax.lax.rsqrt(jnp.mean(x**2, axis=-1, keepdims=True) + 1e-8)


class EqualDense(nn.Module):
    """A dense layer at the equalized learning rate, times `multiplier`."""

    features: int
    bias: float = 0.0
    """At the start."""
    multiplier: float = 1.0
    activate: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.param("kernel", nn.initializers.normal(1 / self.multiplier), (x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.constant(self.bias), (self.features,))
        gain = self.multiplier / x.shape[-1] ** 0.5
        h = x.astype(jnp.float32) @ (kernel * gain) + (bias * self.multiplier)[None]
        return activated(h) if self.activate else h


class EqualConv(nn.Module):
    """A convolution at the equalized learning rate, SAME, or filtered to twice or half the size."""

    features: int
    size: int = 3
    up: bool = False
    down: bool = False
    bias: bool = True
    activate: bool = False
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.param("kernel", NORMAL, (self.size, self.size, x.shape[-1], self.features))
        kernel = kernel / (x.shape[-1] * self.size**2) ** 0.5
        x, kernel = promote_dtype(x, kernel, dtype=self.dtype)
        y = (conv_up if self.up else conv_down if self.down else conv_same)(x, kernel)
        if self.bias:
            y += self.param("bias", nn.initializers.zeros, (self.features,)).astype(y.dtype)[None, None, None]
        return activated(y) if self.activate else y


class Mapping(nn.Module):
    """f: z and, of a conditional network, the class y: f32[B, K] one-hot, to w: f32[B, features]; one may be None."""

    features: int
    depth: int = 8
    multiplier: float = 0.01
    """Of the learning rate (appendix C of arXiv:1812.04948)."""

    @nn.compact
    def __call__(self, z: jax.Array | None, y: jax.Array | None = None) -> jax.Array:
        parts = [] if z is None else [unit(z)]
        if y is not None:
            parts.append(unit(EqualDense(self.features, name="embed")(y)))
        h = jnp.concatenate(parts, axis=-1)
        for _ in range(self.depth):
            h = EqualDense(self.features, multiplier=self.multiplier, activate=True)(h)
        return h


class RunningMean(nn.Module):
    """The mean of w over all batches, an exponential average with `decay` for each; it starts at 0."""

    decay: float

    @nn.compact
    def __call__(self, w: jax.Array) -> None:
        mean = self.variable("batch_stats", "w_avg", jnp.zeros, w.shape[1:])
        if not self.is_initializing():
            mean.value += (1 - self.decay) * (jnp.mean(jax.lax.stop_gradient(w), axis=0) - mean.value)


class StyleGenerator(nn.Module):
    """Mapping and synthesis. The running mean of w, which truncation leads to, is a batch statistic.

    As a generator of `nets/gan.py`, one style for all layers and no noise; `styles` and `synthesize` are the two parts.
    """

    style: int = 512
    depth: int = 8
    """Layers of the mapping network."""
    channel_base: int = 16_384
    """Channels of a map times its size, 32,768 for the papers' largest networks."""
    channel_max: int = 512
    w_decay: float = 0.998
    """Decay of the mean of w, for each training batch."""
    dtype: Any = None
    """Compute type of the synthesis network; mapping and image are f32."""

    def setup(self):
        self.mapping = Mapping(self.style, self.depth)
        self.synthesis = self.network()
        self.running = RunningMean(self.w_decay)

    @nn.nowrap
    def network(self) -> nn.Module:
        """The synthesis network: (ws, shape, noise) -> x."""
        raise NotImplementedError

    @nn.nowrap
    def layers(self, shape: tuple[int, ...]) -> int:
        """Styles for an image of `shape`: two for each size."""
        return 2 * doublings(shape) + 2

    @nn.nowrap
    def noise_sizes(self, shape: tuple[int, ...]) -> list[tuple[int, int]]:
        """(height, width) of each noise map."""
        times = doublings(shape)
        return [(shape[0] >> (times - i // 2), shape[1] >> (times - i // 2)) for i in range(2 * times + 2)]

    def styles(self, z: jax.Array, y: jax.Array | None = None, train: bool = False) -> jax.Array:
        """w: f32[B, style]; with `train`, the running mean moves towards theirs."""
        w = self.mapping(z, y)
        if train or self.is_initializing():
            self.running(w)
        return w

    def synthesize(self, ws: jax.Array, shape: tuple[int, ...], noise: Noise | None = None) -> jax.Array:
        return self.synthesis(ws, shape, noise)

    def __call__(self, z: jax.Array, shape: tuple[int, ...], y: jax.Array | None = None, train: bool = False):
        ws = jnp.repeat(self.styles(z, y, train)[:, None], self.layers(shape), axis=1)
        return self.synthesize(ws, shape)


# --- StyleGAN -------------------------------------------------------------------------------------------------


class AdaIN(nn.Module):
    """Noise by learnt strengths, bias, leaky ReLU, each map to mean 0 and deviation 1, then the style's scale and
    shift: y_s (x - mu) / sigma + y_b, eq. 1 of arXiv:1812.04948, with y_s around 1."""

    @nn.compact
    def __call__(self, x: jax.Array, w: jax.Array, noise: jax.Array | None) -> jax.Array:
        channels = x.shape[-1]
        strength = self.param("noise", nn.initializers.zeros, (channels,))
        if noise is not None:
            x += (noise * strength[None, None, None]).astype(x.dtype)
        x += self.param("bias", nn.initializers.zeros, (channels,)).astype(x.dtype)[None, None, None]
        h = activated(x).astype(jnp.float32)
        h = h - jnp.mean(h, axis=(1, 2), keepdims=True)
        h = h * jax.lax.rsqrt(jnp.mean(h**2, axis=(1, 2), keepdims=True) + 1e-8)
        scale, shift = jnp.split(EqualDense(2 * channels)(w)[:, None, None], 2, axis=-1)
        return ((1 + scale) * h + shift).astype(x.dtype)


class StyleGANSynthesis(nn.Module):
    """From a learnt constant, two convolutions with AdaIN at each size, the last to colours (configuration D on, at
    its final size)."""

    channel_base: int
    channel_max: int
    dtype: Any = None

    @nn.compact
    def __call__(self, ws: jax.Array, shape: tuple[int, ...], noise: Noise | None = None) -> jax.Array:
        times = doublings(shape)
        channels = widths(self.channel_base, self.channel_max, times)
        small = (shape[0] >> times, shape[1] >> times, channels[0])
        # The paper starts from ones: maps of deviation zero, by which the first normalization divides.
        x = self.param("constant", NORMAL, small)
        x = jnp.broadcast_to(x[None], (ws.shape[0], *small))
        for i in range(2 * times + 2):
            if i:
                x = EqualConv(channels[i // 2], up=i % 2 == 0, bias=False, dtype=self.dtype)(x)
            x = AdaIN()(x, ws[:, i], None if noise is None else noise[i])
        return EqualConv(shape[2], 1, dtype=self.dtype)(x).astype(jnp.float32)


class StyleGANGenerator(StyleGenerator):
    """That of StyleGAN."""

    @nn.nowrap
    def network(self) -> nn.Module:
        return StyleGANSynthesis(self.channel_base, self.channel_max, self.dtype)
