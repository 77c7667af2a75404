"""Generator and critic of StyleGAN2 (arXiv:1912.04958): modulated convolutions, skip connections, residual blocks.

Letters are those of `nets.stylegan`. The critic has the signature of `nets.gan`: (x, y, train) -> logits f32[B].
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxgen.core.ranges import Depth, Size
from jaxgen.nets.stylegan import (
    NORMAL,
    EqualConv,
    EqualDense,
    Mapping,
    Noise,
    StyleGenerator,
    activated,
    doublings,
    widths,
)
from jaxgen.ops.modulated import modulated_conv, upsample


class ModulatedConv(nn.Module):
    """A convolution whose kernel the style modulates. Unless `linear`, the kernel is also demodulated, and noise with a
    learned strength and a leaky ReLU follow."""

    features: int
    size: int = 3
    up: bool = False
    linear: bool = False
    """The layer to colours, whose scale must be free: neither demodulated nor activated."""
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, w: jax.Array, noise: jax.Array | None = None) -> jax.Array:
        kernel = self.param("kernel", NORMAL, (self.size, self.size, x.shape[-1], self.features))
        style = EqualDense(x.shape[-1], bias=1.0, name="style")(w)
        if self.linear:  # otherwise demodulation removes any scale
            style = style / (x.shape[-1] * self.size**2) ** 0.5
        y = modulated_conv(x.astype(self.dtype or x.dtype), kernel, style, not self.linear, self.up)
        if not self.linear:
            strength = self.param("noise", nn.initializers.zeros, ())
            y = y if noise is None else y + (strength * noise).astype(y.dtype)
        y += self.param("bias", nn.initializers.zeros, (self.features,)).astype(y.dtype)[None, None, None]
        return y if self.linear else activated(y)


class StyleGAN2Synthesis(nn.Module):
    """A learned constant, then two modulated convolutions at each size, but one at the first. Each size adds its
    colours to the upsampled image of the size before (figure 7b)."""

    channel_base: int
    channel_max: int
    dtype: Any = None

    @nn.compact
    def __call__(self, ws: jax.Array, shape: tuple[int, ...], noise: Noise | None = None) -> jax.Array:
        times = doublings(shape)
        channels = widths(self.channel_base, self.channel_max, times)
        small = (shape[0] >> times, shape[1] >> times, channels[0])
        x = self.param("constant", NORMAL, small)
        x = jnp.broadcast_to(x[None], (ws.shape[0], *small))
        image = None
        for i in range(2 * times + 1):
            layer = ModulatedConv(channels[(i + 1) // 2], up=i % 2 == 1, dtype=self.dtype)
            x = layer(x, ws[:, i], None if noise is None else noise[i])
            if i % 2 == 0:
                # The layer to colours shares the style of the next convolution.
                colours = ModulatedConv(shape[2], 1, linear=True, dtype=self.dtype)(x, ws[:, i + 1])
                colours = colours.astype(jnp.float32)
                image = colours if image is None else upsample(image) + colours
        assert image is not None  # the loop runs at least once
        return image


class StyleGAN2Generator(StyleGenerator):
    """The generator of StyleGAN2."""

    @nn.nowrap
    def network(self) -> nn.Module:
        return StyleGAN2Synthesis(self.channel_base, self.channel_max, self.dtype)

    @nn.nowrap
    def noise_sizes(self, shape: tuple[int, ...]) -> list[tuple[int, int]]:
        return super().noise_sizes(shape)[1:]


def minibatch_deviation(x: jax.Array, group: int) -> jax.Array:
    """x: f32[B, H, W, C] with one more channel: the standard deviation over groups of examples, averaged over pixels
    and channels (section 3 of arXiv:1710.10196). Groups have `group` examples, or the next smaller divisor of B."""
    num = x.shape[0]
    group = next(size for size in range(min(group, num), 0, -1) if num % size == 0)
    # A group is of neighbours in the batch, so that it lies on one device.
    grouped = x.astype(jnp.float32).reshape(num // group, group, *x.shape[1:])
    deviation = jnp.sqrt(jnp.var(grouped, axis=1) + 1e-8)
    mean = jnp.repeat(jnp.mean(deviation, axis=(1, 2, 3)), group)
    plane = jnp.broadcast_to(mean[:, None, None, None], (*x.shape[:3], 1))
    return jnp.concatenate([x, plane.astype(x.dtype)], axis=-1)


class StyleGAN2Critic(nn.Module):
    """Residual blocks that halve the image, the minibatch deviation, a convolution and two dense layers.

    A class conditions by projection onto the output of a mapping network (arXiv:2006.06676).
    """

    channel_base: Size = 16_384
    channel_max: Size = 512
    residual: bool = True
    """False for plain blocks, as in StyleGAN, and in StyleGAN2 on CIFAR-10."""
    group: Size = 4
    """Examples in a group of the minibatch deviation."""
    depth: Depth = 8
    """Layers of the class's mapping network."""
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, y: jax.Array | None = None, train: bool = False) -> jax.Array:
        times = doublings(x.shape[1:])
        channels = widths(self.channel_base, self.channel_max, times)
        h = EqualConv(channels[times], 1, activate=True, dtype=self.dtype)(x)
        for level in range(times, 0, -1):
            inner = EqualConv(channels[level], activate=True, dtype=self.dtype)(h)
            inner = EqualConv(channels[level - 1], down=True, activate=True, dtype=self.dtype)(inner)
            if self.residual:
                h = EqualConv(channels[level - 1], 1, down=True, bias=False, dtype=self.dtype)(h)
                h = (h + inner) * 0.5**0.5
            else:
                h = inner
        h = minibatch_deviation(h, self.group)
        h = EqualConv(channels[0], activate=True, dtype=self.dtype)(h)
        h = EqualDense(channels[0], activate=True)(h.reshape(h.shape[0], -1))
        if y is None:
            return EqualDense(1)(h)[:, 0]
        direction = Mapping(channels[0], self.depth)(None, y)
        return jnp.mean(EqualDense(channels[0])(h) * direction, axis=-1) * channels[0] ** 0.5
