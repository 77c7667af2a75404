"""The networks of pix2pix, arXiv:1611.07004 section 6.1: a U-Net from image to image, and the PatchGAN critic."""

from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxgen.core.ranges import Decay, OptionalDepth, Sizes
from jaxgen.errors import UserError
from jaxgen.nets.conv import linen_conv
from jaxgen.nets.gan import NORMAL, Conv2D, batch_norm, dcgan_scale
from jaxgen.nets.norm import GroupNorm


class Norm(nn.Module):
    """Batch or instance normalization. The latter (arXiv:1607.08022) is batch normalization of each example alone."""

    kind: Literal["instance", "batch"]
    dtype: Any = None

    @nn.compact
    def __call__(self, h: jax.Array, train: bool) -> jax.Array:
        if self.kind == "batch":
            return batch_norm(train, dcgan_scale, self.dtype)(h)
        return GroupNorm(h.shape[-1], 1e-5, self.dtype)(h)


def even(h: jax.Array) -> jax.Array:
    """f32[B, H, W, C] with its last row repeated if H is odd, and its last column if W is."""
    if h.shape[1] % 2:
        h = jnp.concatenate([h, h[:, -1:]], axis=1)
    return jnp.concatenate([h, h[:, :, -1:]], axis=2) if h.shape[2] % 2 else h


class UNetGenerator(nn.Module):
    """A stride-2 convolution for each of `channels`, then as many transposed ones with skips from the encoder; tanh.

    An odd size is padded by a pixel before it is halved and cropped after it is doubled, so that the output has the
    size of the input, whatever it is.
    """

    channels: Sizes = (64, 128, 256, 512, 512, 512, 512, 512)
    """Widths of the encoder from the image down. The default is the paper's, which reduces 256 pixels to one."""
    norm: Literal["instance", "batch"] = "instance"
    """Normalization of all layers but the first, the innermost and the last. The paper uses batch statistics in
    sampling too, mostly with batches of one: that is `instance`. `batch` samples with running averages."""
    dropout: Decay = 0.5
    """Dropout of the decoder's first layers, in sampling too if noise is wanted."""
    dropout_layers: OptionalDepth = 3
    dtype: Any = None

    def check(self, shape: tuple[int, ...]) -> None:
        """Raises UserError if images of `shape` = (H, W, C) are too small to train all layers."""
        if not self.channels:
            raise UserError("model.generator.channels is empty: give one width or more")
        height, width = (-(-side // 2 ** (len(self.channels) - 1)) for side in shape[:2])
        # The input size of the last normalized layer. A single pixel is its own mean: normalizing it leaves zero.
        if self.norm == "instance" and len(self.channels) > 1 and height * width == 1:
            raise UserError(
                f"images of {shape[0]} x {shape[1]} are one pixel after {len(self.channels) - 1} halvings, where "
                "instance normalization leaves nothing: give --model.generator.channels fewer entries"
            )

    @nn.compact
    def __call__(self, source: jax.Array, out: int, train: bool = False, noise: bool = False) -> jax.Array:
        """f32[B, H, W, C] -> f32[B, H, W, out] in [-1, 1]. train: use batch statistics. noise: use dropout, which needs
        the rng `dropout`."""
        depth, h, skips = len(self.channels), source, []
        for i, features in enumerate(self.channels):
            # Not the innermost layer, which may have a single pixel: see the note on the bottleneck in section 6.1.
            normalized = 0 < i < depth - 1
            h = even(nn.leaky_relu(h, 0.2) if i else h)
            h = Conv2D(features, 4, 2, bias=not normalized, kernel_init=NORMAL, dtype=self.dtype)(h)
            h = Norm(self.norm, self.dtype)(h, train) if normalized else h
            skips.append(h)
        h = skips.pop()
        for i, skip in enumerate(reversed(skips)):
            features = skip.shape[-1]
            h = Conv2D(features, up="transposed", bias=False, kernel_init=NORMAL, dtype=self.dtype)(nn.relu(h))
            h = Norm(self.norm, self.dtype)(h[:, : skip.shape[1], : skip.shape[2]], train)
            if i < self.dropout_layers:
                h = nn.Dropout(self.dropout, deterministic=not noise)(h)
            h = jnp.concatenate([h, skip], axis=-1)
        h = Conv2D(out, up="transposed", kernel_init=NORMAL, dtype=self.dtype)(nn.relu(h))
        return jnp.tanh(h[:, : source.shape[1], : source.shape[2]].astype(jnp.float32))


class PatchCritic(nn.Module):
    """The PatchGAN critic: logits of overlapping patches of a pair of images.

    4x4 convolutions with padding 1; all have stride 2 but the last of `channels` and the logits' layer, which have
    stride 1. (64, 128, 256, 512) sees patches of 70 x 70 pixels, (64, 128) of 16 x 16.
    """

    channels: Sizes = (64, 128, 256, 512)
    norm: Literal["instance", "batch"] = "batch"
    """Normalization of all layers but the first and the last."""
    dtype: Any = None

    @property
    def receptive_field(self) -> int:
        """Side, in pixels, of the patch that one logit sees."""
        side = 4
        for stride in reversed(self._strides):
            side = (side - 1) * stride + 4
        return side

    @property
    def _strides(self) -> tuple[int, ...]:
        return (2,) * (len(self.channels) - 1) + (1,)

    def logits(self, size: int) -> int:
        """Number of patches along a side of `size` pixels; less than 1 if none fits."""
        for stride in (*self._strides, 1):
            size = (size - 2) // stride + 1
        return size

    def check(self, shape: tuple[int, ...]) -> None:
        """Raises UserError if `channels` is empty, or images of `shape` = (H, W, C) are too small for one logit."""
        if not self.channels:
            raise UserError("model.critic.channels is empty: give one width or more")
        if self.logits(min(shape[:2])) < 1:
            raise UserError(
                f"images of {shape[0]} x {shape[1]} are too small for patches of {self.receptive_field} pixels: give "
                "--model.critic.channels fewer entries"
            )

    @nn.compact
    def __call__(self, source: jax.Array, x: jax.Array, train: bool = False) -> jax.Array:
        """Pairs f32[B, H, W, C] and f32[B, H, W, C'] to logits f32[B, h, w]."""

        def layer(h: jax.Array, features: int, stride: int, bias: bool) -> jax.Array:
            return nn.Conv(
                features, (4, 4), stride, padding=1, use_bias=bias, kernel_init=NORMAL, dtype=self.dtype,
                conv_general_dilated=linen_conv,
            )(h)  # fmt: skip

        h = jnp.concatenate([source, x], axis=-1)
        for i, (features, stride) in enumerate(zip(self.channels, self._strides)):
            h = layer(h, features, stride, bias=i == 0)
            h = nn.leaky_relu(Norm(self.norm, self.dtype)(h, train) if i else h, 0.2)
        return layer(h, 1, 1, bias=True)[..., 0].astype(jnp.float32)
