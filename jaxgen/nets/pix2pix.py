"""The networks of pix2pix, arXiv:1611.07004 section 6.1: a U-Net from image to image, and a critic of patches."""

from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxgen.errors import UserError
from jaxgen.nets.gan import NORMAL, Conv2D, batch_norm, dcgan_scale
from jaxgen.nets.norm import GroupNorm
from jaxgen.ops.conv import conv


class Norm(nn.Module):
    """instance: over the pixels of each map, arXiv:1607.08022, which batch normalization is for a batch of one."""

    kind: Literal["instance", "batch"]
    dtype: Any = None

    @nn.compact
    def __call__(self, h: jax.Array, train: bool) -> jax.Array:
        if self.kind == "batch":
            return batch_norm(train, dcgan_scale, self.dtype)(h)
        return GroupNorm(h.shape[-1], 1e-5, self.dtype)(h)


def even(h: jax.Array) -> jax.Array:
    """f32[B, H, W, C] with its last row and column once more where H or W is odd."""
    if h.shape[1] % 2:
        h = jnp.concatenate([h, h[:, -1:]], axis=1)
    return jnp.concatenate([h, h[:, :, -1:]], axis=2) if h.shape[2] % 2 else h


class UNetGenerator(nn.Module):
    """A stride-2 convolution for each of `channels`, as many transposed ones back, each seeing also what the encoder
    had at its size; tanh. An odd size is padded by a pixel before it is halved, and cropped after it is doubled, so
    that an image of any size comes back at that size."""

    channels: tuple[int, ...] = (64, 128, 256, 512, 512, 512, 512, 512)
    """Widths of the encoder from the image down; the paper's, to one pixel of 256."""
    norm: Literal["instance", "batch"] = "instance"
    """Of all layers but the first, the innermost and the last. The paper normalizes by the batch in sampling as in
    training, mostly a batch of one: `instance`. `batch` samples by running averages."""
    dropout: float = 0.5
    """Of the decoder's first layers, in sampling too where noise is asked for."""
    dropout_layers: int = 3
    dtype: Any = None

    def check(self, shape: tuple[int, ...]) -> None:
        """Raises UserError when images of `shape` = (H, W, C) cannot train all layers."""
        if not self.channels:
            raise UserError("model.generator.channels is empty: give one width or more")
        height, width = (-(-side // 2 ** (len(self.channels) - 1)) for side in shape[:2])
        # What the last normalized layer sees: one pixel is its own mean, and nothing is left of it.
        if self.norm == "instance" and len(self.channels) > 1 and height * width == 1:
            raise UserError(
                f"images of {shape[0]} x {shape[1]} are one pixel after {len(self.channels) - 1} halvings, where "
                "instance normalization leaves nothing: give --model.generator.channels fewer entries"
            )

    @nn.compact
    def __call__(self, source: jax.Array, out: int, train: bool = False, noise: bool = False) -> jax.Array:
        """f32[B, H, W, C] -> f32[B, H, W, out] in [-1, 1]. train: batch statistics; noise: dropout, which needs the
        rng `dropout`."""
        depth, h, skips = len(self.channels), source, []
        for i, features in enumerate(self.channels):
            # Without it innermost, which may be a single pixel: see the note on the bottleneck in section 6.1.
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


def _conv(x, kernel, strides, padding, dimension_numbers, **_):
    """`ops.conv.conv` under the signature Linen calls."""
    return conv(x, kernel, tuple(strides), tuple(padding))


class PatchCritic(nn.Module):
    """Logits of overlapping patches of a pair (the PatchGAN): 4x4 convolutions of padding 1 and stride 2, of stride 1
    from the last of `channels` on. (64, 128, 256, 512) sees patches of 70 x 70, (64, 128) of 16 x 16."""

    channels: tuple[int, ...] = (64, 128, 256, 512)
    norm: Literal["instance", "batch"] = "batch"
    """Of all layers but the first and the last."""
    dtype: Any = None

    @property
    def receptive_field(self) -> int:
        """Side in pixels of the patch that a logit sees."""
        side = 4
        for stride in reversed(self._strides):
            side = (side - 1) * stride + 4
        return side

    @property
    def _strides(self) -> tuple[int, ...]:
        return (2,) * (len(self.channels) - 1) + (1,)

    def logits(self, size: int) -> int:
        """How many patches there are along a side of `size` pixels; less than 1 where none fits."""
        for stride in (*self._strides, 1):
            size = (size - 2) // stride + 1
        return size

    def check(self, shape: tuple[int, ...]) -> None:
        """Raises UserError when images of `shape` = (H, W, C) are too small for a single logit, or layer."""
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
                conv_general_dilated=_conv,
            )(h)  # fmt: skip

        h = jnp.concatenate([source, x], axis=-1)
        for i, (features, stride) in enumerate(zip(self.channels, self._strides)):
            h = layer(h, features, stride, bias=i == 0)
            h = nn.leaky_relu(Norm(self.norm, self.dtype)(h, train) if i else h, 0.2)
        return layer(h, 1, 1, bias=True)[..., 0].astype(jnp.float32)
