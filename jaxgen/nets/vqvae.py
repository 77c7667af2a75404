"""The encoder and decoder of VQ-VAE (arXiv:1711.00937, section 4.1) and VQ-VAE-2 (arXiv:1906.00446, figure 2a): one
design for any number of levels of codes, coarsest first."""

from collections.abc import Callable
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from annotated_types import MinLen
from flax import linen as nn

from jaxgen.core.ranges import Depth, Size
from jaxgen.errors import UserError
from jaxgen.nets.conv import Conv, UpConv, halved

Quantize = Callable[[int, jax.Array], jax.Array]
"""(level, z: f32[B, h, w, D]) -> the codes that replace z, of z's shape. Level 0 is the coarsest."""


class Residual(nn.Module):
    """`blocks` residual blocks, each of ReLU, a 3x3 convolution to `hidden` channels, ReLU and a 1x1 convolution back;
    then ReLU."""

    hidden: int
    blocks: int
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for _ in range(self.blocks):
            h = Conv(self.hidden, 3, dtype=self.dtype)(nn.relu(x))
            x = x + Conv(x.shape[-1], 1, dtype=self.dtype)(nn.relu(h))
        return nn.relu(x)


class Resampling(nn.Module):
    """Settings of `Down` and `Up`. times: how often height and width are halved or doubled."""

    width: int
    hidden: int
    blocks: int
    times: int
    dtype: Any = None


class Down(Resampling):
    """4x4 stride-2 convolutions, then residual blocks: f32[B, H, W, C] -> f32[B, h, w, width]."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for i in range(self.times):
            features = self.width if i else max(1, self.width // 2)
            x = nn.relu(Conv(features, 4, 2, dtype=self.dtype)(x))
        x = Conv(self.width, 3, dtype=self.dtype)(x)
        return Residual(self.hidden, self.blocks, dtype=self.dtype)(x)


class Up(Resampling):
    """Residual blocks, then transposed convolutions, cropped to `shape`: f32[B, h, w, C] -> f32[B, *shape]."""

    @nn.compact
    def __call__(self, x: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        x = Conv(self.width, 3, dtype=self.dtype)(x)
        x = Residual(self.hidden, self.blocks, dtype=self.dtype)(x)
        for _ in range(self.times - 1):
            x = nn.relu(UpConv(max(1, self.width // 2), dtype=self.dtype)(x))
        return UpConv(shape[2], dtype=self.dtype)(x)[:, : shape[0], : shape[1]]


class ToCode(nn.Module):
    """Vectors to quantize, f32[B, h, w, dim], from a level's features and the upsampled codes of coarser levels."""

    dtype: Any = None

    @nn.compact
    def __call__(self, h: jax.Array, above: list[jax.Array], dim: int) -> jax.Array:
        return Conv(dim, 1, dtype=self.dtype)(jnp.concatenate([h, *above], axis=-1)).astype(jnp.float32)


class Beside(nn.Module):
    """x doubled `times` times and cropped to the size of `finer`, with the channels of `finer` after its own."""

    times: int
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, finer: jax.Array) -> jax.Array:
        for _ in range(self.times):
            x = UpConv(x.shape[-1], dtype=self.dtype)(x)
        return jnp.concatenate([x[:, : finer.shape[1], : finer.shape[2]], finer.astype(x.dtype)], axis=-1)


class VQNetwork(nn.Module):
    """Encoder and decoder with one or more levels of codes; a level is quantized given the codes of coarser levels.

    halvings: how often the image is halved for the finest level, then how often each level's map is halved for the next
    coarser level. (2,) is VQ-VAE, whose codes stand for 4 x 4 pixels; (2, 1) is VQ-VAE-2.
    """

    width: Size = 128
    hidden: Size = 32
    """Channels inside residual blocks."""
    blocks: Depth = 2
    halvings: Annotated[tuple[Depth, ...], MinLen(1)] = (2,)
    dtype: Any = None

    def check(self, shape: tuple[int, ...]) -> None:
        """Raises UserError if images of `shape` = (H, W, C) cannot be encoded."""
        if len(shape) != 3:
            raise UserError(f"model.shape is {tuple(shape)}: height, width and channels are expected")

    def maps(self, shape: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
        """Height and width of each level's map of codes, coarsest first, for images of `shape`."""
        times = [sum(self.halvings[: i + 1]) for i in range(len(self.halvings))]
        return tuple((halved(shape[0], n), halved(shape[1], n)) for n in reversed(times))

    @property
    def last(self) -> tuple[str, ...]:
        """Path of the last layer's kernel in the parameters."""
        return "out", f"UpConv_{self.halvings[0] - 1}", "kernel"

    def setup(self) -> None:
        shared = {"width": self.width, "hidden": self.hidden, "blocks": self.blocks, "dtype": self.dtype}
        # Each a list over levels, finest first.
        self.down = [Down(times=times, **shared) for times in self.halvings]
        self.to_code = [ToCode(dtype=self.dtype) for _ in self.halvings]
        self.tell = [Up(times=times, **shared) for times in self.halvings[1:]]
        self.beside = [Beside(times, dtype=self.dtype) for times in self.halvings[1:]]
        self.out = Up(times=self.halvings[0], **shared)

    def encode(self, x: jax.Array, quantize: Quantize, dim: int) -> list[jax.Array]:
        """The codes of each level, coarsest first. x: f32[B, H, W, C]; dim: channels of a code, D."""
        features = []
        for down in self.down:
            x = down(x)
            features.append(x)
        codes: list[jax.Array] = []
        for i in reversed(range(len(features))):
            h = features[i]
            above = [self.tell[i](codes[-1], (*h.shape[1:3], dim)).astype(h.dtype)] if codes else []
            codes.append(quantize(len(codes), self.to_code[i](h, above, dim)))
        return codes

    def decode(self, codes: list[jax.Array], shape: tuple[int, ...]) -> jax.Array:
        """f32[B, *shape] from the codes of all levels, coarsest first."""
        h = codes[0]
        for beside, finer in zip(reversed(self.beside), codes[1:]):
            h = beside(h, finer)
        return self.out(h, shape).astype(jnp.float32)

    def __call__(self, x: jax.Array, quantize: Quantize, dim: int, shape: tuple[int, ...]) -> jax.Array:
        return self.decode(self.encode(x, quantize, dim), shape)
