"""The networks of CycleGAN, arXiv:1703.10593: a residual translator, and the modules that hold both directions."""

from dataclasses import field
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxgen.core.ranges import Depth, OptionalDepth, Size
from jaxgen.errors import UserError
from jaxgen.nets.conv import linen_conv
from jaxgen.nets.gan import NORMAL, Conv2D
from jaxgen.nets.pix2pix import Norm, PatchCritic


class ResNetTranslator(nn.Module):
    """A 7x7 convolution, `halvings` of stride 2, residual `blocks`, as many doublings, a 7x7 convolution and tanh
    (section 7.2). Edges are mirrored, and each example is normalized by itself. Sides that 2^halvings does not divide
    are padded at the border, and the output is cropped."""

    width: Size = 64
    blocks: Depth = 9
    """9 for 256 pixels, 6 for 128."""
    halvings: OptionalDepth = 2
    dtype: Any = None

    def check(self, shape: tuple[int, ...]) -> None:
        """Raises UserError for images of `shape` = (H, W, C) that are too small, or have odd sides on the way."""
        step = 2**self.halvings
        if shape[0] % step or shape[1] % step or min(shape[:2]) < max(4, 2 * step):
            raise UserError(
                f"images of {shape[0]} x {shape[1]} do not pass {self.halvings} halvings: sides are to divide by "
                f"{step} and have {max(4, 2 * step)} pixels or more; change --model.generator.there.halvings"
            )

    @nn.compact
    def __call__(self, source: jax.Array, out: int, train: bool = False) -> jax.Array:
        """f32[B, H, W, C] -> f32[B, H, W, out] in [-1, 1]."""

        def mirrored(h: jax.Array, features: int, size: int, bias: bool = False) -> jax.Array:
            pad = size // 2
            h = jnp.pad(h, ((0, 0), (pad, pad), (pad, pad), (0, 0)), "reflect")
            return nn.Conv(
                features, (size, size), padding="VALID", use_bias=bias, kernel_init=NORMAL, dtype=self.dtype,
                conv_general_dilated=linen_conv,
            )(h)  # fmt: skip

        def normalized(h: jax.Array) -> jax.Array:
            return Norm("instance", self.dtype)(h, train)

        height, width = source.shape[1:3]
        around = [(0, -size % 2**self.halvings) for size in (height, width)]
        source = jnp.pad(source, ((0, 0), *around, (0, 0)), mode="edge")
        h = nn.relu(normalized(mirrored(source, self.width, 7)))
        for i in range(self.halvings):
            h = Conv2D(self.width * 2 ** (i + 1), 3, 2, bias=False, kernel_init=NORMAL, dtype=self.dtype)(h)
            h = nn.relu(normalized(h))
        for _ in range(self.blocks):
            inner = nn.relu(normalized(mirrored(h, h.shape[-1], 3)))
            h = h + normalized(mirrored(inner, h.shape[-1], 3))
        for _ in range(self.halvings):
            h = Conv2D(h.shape[-1] // 2, up="transposed", bias=False, kernel_init=NORMAL, dtype=self.dtype)(h)
            h = nn.relu(normalized(h))
        return jnp.tanh(mirrored(h, out, 7, bias=True)[:, :height, :width].astype(jnp.float32))


class BothWays(nn.Module):
    """G `there`, from sources to targets, and F `back`. Each maps (images, channels, train) to images."""

    there: nn.Module = field(default_factory=ResNetTranslator)
    back: nn.Module = field(default_factory=ResNetTranslator)

    def __call__(self, source: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        return self.to_target(source, x.shape[-1]), self.to_source(x, source.shape[-1])

    def to_target(self, source: jax.Array, out: int, train: bool = False) -> jax.Array:
        return self.there(source, out, train)

    def to_source(self, x: jax.Array, out: int, train: bool = False) -> jax.Array:
        return self.back(x, out, train)


class TwoCritics(nn.Module):
    """A critic for each kind of images, which sees these alone: it gets sources without channels."""

    of_source: nn.Module = field(default_factory=lambda: PatchCritic(norm="instance"))
    of_target: nn.Module = field(default_factory=lambda: PatchCritic(norm="instance"))

    def __call__(self, source: jax.Array, x: jax.Array, train: bool = False) -> tuple[jax.Array, jax.Array]:
        """Logits f32[B, h, w] of the sources, and of the targets."""
        return self.of_source(source[..., :0], source, train), self.of_target(x[..., :0], x, train)
