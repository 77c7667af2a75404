"""The mapping network and the layers of style-based networks, and the generator of StyleGAN (arXiv:1812.04948).

z: f32[B, latent]; w = f(z): f32[B, style], its style; ws: f32[B, layers, style], one style per layer of the synthesis
network g; noise: one map f32[B, h, w, 1] per layer, or None for no noise; x = g(ws, noise): f32[B, *shape].

Parameters start from N(0, 1) and are scaled where they are used, so that Adam trains all layers at the same rate
(equalized learning rate, section 4.1 of arXiv:1710.10196).
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen.dtypes import promote_dtype

from jaxgen.core.ranges import Decay, Depth, Size
from jaxgen.errors import UserError
from jaxgen.ops.magnitude import pixel_norm, unit
from jaxgen.ops.modulated import conv_down, conv_same, conv_up

NORMAL = nn.initializers.normal(1.0)
Noise = tuple[jax.Array, ...]


def doublings(shape: tuple[int, ...]) -> int:
    """How often an image can be halved while both sides are even and at least 8. Raises UserError unless that leaves
    at most 7 pixels a side."""
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
    """Channels from the smallest map up: `base` divided by the nominal size, 4, 8, 16, ..., but at most `most`."""
    return [min(base // (4 * 2**level), most) for level in range(times + 1)]


def activated(x: jax.Array) -> jax.Array:
    """Leaky ReLU times sqrt(2), which about preserves the magnitude of x."""
    return nn.leaky_relu(x, 0.2) * 2**0.5


class EqualDense(nn.Module):
    """A dense layer with equalized learning rate, times `multiplier`."""

    features: int
    bias: float = 0.0
    """Initial value."""
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
    """A SAME convolution with equalized learning rate. up, down: double or halve the size, with low-pass filters."""

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
    """The mapping network f: z, and a one-hot class y: f32[B, K], to w: f32[B, features]. Either may be None."""

    features: int
    depth: int = 8
    multiplier: float = 0.01
    """Multiplier of the learning rate (appendix C of arXiv:1812.04948)."""

    @nn.compact
    def __call__(self, z: jax.Array | None, y: jax.Array | None = None) -> jax.Array:
        parts = [] if z is None else [pixel_norm(z)]
        if y is not None:
            parts.append(pixel_norm(EqualDense(self.features, name="embed")(y)))
        h = jnp.concatenate(parts, axis=-1)
        for _ in range(self.depth):
            h = EqualDense(self.features, multiplier=self.multiplier, activate=True)(h)
        return h


class RunningMean(nn.Module):
    """An exponential moving average of the mean of w over batches, with `decay` per batch. It starts at 0."""

    decay: float

    @nn.compact
    def __call__(self, w: jax.Array) -> None:
        mean = self.variable("batch_stats", "w_avg", jnp.zeros, w.shape[1:])
        if not self.is_initializing():
            mean.value += (1 - self.decay) * (jnp.mean(jax.lax.stop_gradient(w), axis=0) - mean.value)


class StyleGenerator(nn.Module):
    """Mapping and synthesis. The running mean of w, towards which truncation moves w, is a batch statistic.

    A call is that of a generator of `nets.gan`, with the same style for all layers and no noise. `styles` and
    `synthesize` are its two parts.
    """

    style: Size = 512
    depth: Depth = 8
    """Layers of the mapping network."""
    channel_base: Size = 16_384
    """Channels of a map times its size; 32,768 in the papers' largest networks."""
    channel_max: Size = 512
    w_decay: Decay = 0.998
    """Decay of the running mean of w, per training batch."""
    dtype: Any = None
    """Compute type of the synthesis network; mapping and image are f32."""

    def setup(self):
        self.mapping = Mapping(self.style, self.depth)
        self.synthesis = self.network()
        self.running = RunningMean(self.w_decay)

    @nn.nowrap
    def network(self) -> nn.Module:
        """The synthesis network, (ws, shape, noise) -> x."""
        raise NotImplementedError

    @nn.nowrap
    def layers(self, shape: tuple[int, ...]) -> int:
        """Number of styles for an image of `shape`: two per size."""
        return 2 * doublings(shape) + 2

    @nn.nowrap
    def noise_sizes(self, shape: tuple[int, ...]) -> list[tuple[int, int]]:
        """(height, width) of each noise map."""
        times = doublings(shape)
        return [(shape[0] >> (times - i // 2), shape[1] >> (times - i // 2)) for i in range(2 * times + 2)]

    def styles(self, z: jax.Array, y: jax.Array | None = None, train: bool = False) -> jax.Array:
        """w: f32[B, style]. train: update the running mean of w."""
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
    """Adaptive instance normalization: y_s (x - mu) / sigma + y_b, eq. 1 of arXiv:1812.04948, with y_s, around 1,
    and y_b from the style. Before it, noise with learned strengths, a bias and a leaky ReLU."""

    @nn.compact
    def __call__(self, x: jax.Array, w: jax.Array, noise: jax.Array | None) -> jax.Array:
        channels = x.shape[-1]
        strength = self.param("noise", nn.initializers.zeros, (channels,))
        if noise is not None:
            x += (noise * strength[None, None, None]).astype(x.dtype)
        x += self.param("bias", nn.initializers.zeros, (channels,)).astype(x.dtype)[None, None, None]
        h = activated(x).astype(jnp.float32)
        h = h - jnp.mean(h, axis=(1, 2), keepdims=True)
        h = unit(h, (1, 2))
        scale, shift = jnp.split(EqualDense(2 * channels)(w)[:, None, None], 2, axis=-1)
        return ((1 + scale) * h + shift).astype(x.dtype)


class StyleGANSynthesis(nn.Module):
    """A learned constant, then two convolutions with AdaIN at each size, and a 1 x 1 convolution to colours at the last
    (the paper's configurations D to F, without progressive growing)."""

    channel_base: int
    channel_max: int
    dtype: Any = None

    @nn.compact
    def __call__(self, ws: jax.Array, shape: tuple[int, ...], noise: Noise | None = None) -> jax.Array:
        times = doublings(shape)
        channels = widths(self.channel_base, self.channel_max, times)
        small = (shape[0] >> times, shape[1] >> times, channels[0])
        # Not ones as in the paper: the first normalization would divide by their standard deviation, zero.
        x = self.param("constant", NORMAL, small)
        x = jnp.broadcast_to(x[None], (ws.shape[0], *small))
        for i in range(2 * times + 2):
            if i:
                x = EqualConv(channels[i // 2], up=i % 2 == 0, bias=False, dtype=self.dtype)(x)
            x = AdaIN()(x, ws[:, i], None if noise is None else noise[i])
        return EqualConv(shape[2], 1, dtype=self.dtype)(x).astype(jnp.float32)


class StyleGANGenerator(StyleGenerator):
    """The generator of StyleGAN."""

    @nn.nowrap
    def network(self) -> nn.Module:
        return StyleGANSynthesis(self.channel_base, self.channel_max, self.dtype)
