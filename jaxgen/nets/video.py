"""Networks of clips: the U-Net and the DiT of images with layers over time between theirs, arXiv:2204.03458 section 3.

x: f32[B, F, H, W, C], F frames. All layers of the network of images see each frame by itself. The layers over time see
each pixel, or token, by itself. Each is added to a residual and starts at zero, so that a network of clips starts as
that of images, whose parameters it has under the same names: it may be started from a run of images (`init`).
"""

from collections.abc import Callable
from dataclasses import field
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxgen.core.ranges import OptionalSize, Sizes
from jaxgen.errors import UserError
from jaxgen.nets.conv import Conv
from jaxgen.nets.dense import Dense
from jaxgen.nets.dit import DiT, DiTBlock, modulate
from jaxgen.nets.transformer import Attention, BlockSettings
from jaxgen.nets.unet import ZERO, UNet, norm


def by_images(network: Callable[..., jax.Array], x: jax.Array, t: jax.Array, out: int, *told: Any) -> jax.Array:
    """f32[B, F, H, W, out] of a network that is given the frames of x as images f32[B * F, H, W, C].

    told: y, context, context_mask and train. Each frame is told its clip's time, class and context."""
    *arrays, train = told
    frames = x.shape[1]
    y, context, mask = (None if a is None else jnp.repeat(a, frames, axis=0) for a in arrays)
    h = network(x.reshape(-1, *x.shape[2:]), jnp.repeat(t, frames), out, y, context, mask, train, frames)
    return h.reshape(*x.shape[:-1], out)


def check_clips(shape: tuple[int, ...]) -> None:
    """Raises UserError for what is no shape of clips, (F, H, W, C)."""
    if len(shape) != 4:
        raise UserError(f"examples of shape {shape} are no clips: (F, H, W, C) is expected; choose another network")


class TemporalConv(nn.Module):
    """Norm, SiLU and a convolution over `size` frames from zero, added to x: f32[B * F, H, W, C]. Frames before the
    first and after the last are zeros."""

    size: int = 3
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, frames: int) -> jax.Array:
        h = nn.silu(norm(x.shape[-1], self.dtype)(x))
        h = h.reshape(-1, frames, *h.shape[1:])
        # One product of the frames side by side: XLA's CPU back end is slow at convolutions over three axes.
        around = jnp.pad(h, ((0, 0), ((self.size - 1) // 2, self.size // 2), *[(0, 0)] * 3))
        h = jnp.concatenate([around[:, i : i + frames] for i in range(self.size)], axis=-1)
        return x + Dense(x.shape[-1], kernel_init=ZERO, dtype=self.dtype, name="out")(h).reshape(x.shape)


class TemporalAttention(nn.Module):
    """Norm and self-attention over frames from zero, added to x: f32[B * F, H, W, C]. Attention sees how far frames are
    apart, by rotary positions where the paper has learned biases. Heads have `head_dim` channels."""

    head_dim: int = 64
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, frames: int) -> jax.Array:
        channels = x.shape[-1]
        heads = max(1, channels // self.head_dim)
        settings = BlockSettings(heads, channels, rotary=True, zero_out=True, dtype=self.dtype)
        h = norm(channels, self.dtype)(x).reshape(-1, frames, x[0, ..., 0].size, channels)
        return x + pixelwise(Attention(settings, name="attention"), h).reshape(x.shape)


def pixelwise(attention: Attention, h: jax.Array) -> jax.Array:
    """Attention over the frames of each pixel or token: f32[B, F, T, C] -> f32[B, F, T, C]."""
    clips, frames, count, channels = h.shape
    h = attention(h.swapaxes(1, 2).reshape(clips * count, frames, channels))[0]
    return h.reshape(clips, count, frames, channels).swapaxes(1, 2)


class VideoUNet(UNet):
    """A U-Net of clips. A convolution over time follows each residual block, with its attention if there is one, and
    attention over time follows attention.

    time_kernel: frames that a convolution over time sees; 0 for none, as in the paper.
    """

    time_kernel: OptionalSize = 3

    def check(self, shape: tuple[int, ...]) -> None:
        """Raises UserError for clips of `shape` = (F, H, W, C) whose frames do not fit the U-Net."""
        check_clips(shape)
        super().check(shape[1:])

    def told_texts(self, shape: tuple[int, ...]) -> UNet:
        return super().told_texts(shape[1:])

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        t: jax.Array,
        out: int,
        y: jax.Array | None = None,
        context: jax.Array | None = None,
        context_mask: jax.Array | None = None,
        train: bool = False,
        frames: int = 0,
    ) -> jax.Array:
        """f32[B, F, H, W, out]."""
        return by_images(super().__call__, x, t, out, y, context, context_mask, train)

    def _over_time(self, h: jax.Array, frames: int, name: str, attention: bool) -> jax.Array:
        convolve, attend = TemporalConv, TemporalAttention
        if self.remat:
            convolve, attend = (nn.remat(kind, static_argnums=(2,)) for kind in (convolve, attend))
        if self.time_kernel:
            h = convolve(self.time_kernel, self.dtype, name=f"TemporalConv_{name}")(h, frames)
        if attention:
            h = attend(self.head_dim, self.dtype, name=f"TemporalAttention_{name}")(h, frames)
        return h


class VideoDiTBlock(DiTBlock):
    """A DiT's block, then attention over the frames of each token, with modulated input and an output gate that starts
    at zero. tokens: f32[B * F, T, C]; where: [F], whose length is the number of frames."""

    @nn.compact
    def __call__(
        self,
        tokens: jax.Array,
        embedding: jax.Array,
        where: jax.Array,
        context: jax.Array | None = None,
        context_mask: jax.Array | None = None,
    ) -> jax.Array:
        tokens = super().__call__(tokens, embedding, context, context_mask)
        channels = tokens.shape[-1]
        gains = Dense(3 * channels, kernel_init=ZERO, dtype=self.dtype, name="temporal_modulation")(nn.silu(embedding))
        shift, scale, gate = jnp.split(gains, 3, axis=-1)
        settings = BlockSettings(self.heads, channels, rotary=True, dtype=self.dtype)
        h = modulate(tokens, shift, scale, self.dtype).reshape(-1, where.shape[0], *tokens.shape[1:])
        h = pixelwise(Attention(settings, name="temporal_attention"), h).reshape(tokens.shape)
        return tokens + gate[:, None] * h


class VideoDiT(DiT):
    """A DiT of clips: its blocks are `VideoDiTBlock`s."""

    def check(self, shape: tuple[int, ...]) -> None:
        """Raises UserError for clips of `shape` = (F, H, W, C) whose frames do not fit the DiT."""
        check_clips(shape)
        super().check(shape[1:])

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        t: jax.Array,
        out: int,
        y: jax.Array | None = None,
        context: jax.Array | None = None,
        context_mask: jax.Array | None = None,
        train: bool = False,
        frames: int = 0,
    ) -> jax.Array:
        """f32[B, F, H, W, out]."""
        return by_images(super().__call__, x, t, out, y, context, context_mask, train)

    def _blocks(
        self,
        tokens: jax.Array,
        embedding: jax.Array,
        context: jax.Array | None,
        context_mask: jax.Array | None,
        frames: int,
    ) -> jax.Array:
        told = (embedding, jnp.zeros(frames))
        return self._scanned(VideoDiTBlock, tokens, *told, *(() if context is None else (context, context_mask)))


class StackedFrames(nn.Module):
    """A network of images that sees a clip as one image, whose channels are those of all frames: F times as cheap as a
    network that sees each frame by itself, and tied to the number of frames. As the network of arXiv:2205.09853."""

    network: nn.Module = field(default_factory=UNet)
    """Of images f32[B, H, W, F * C], such as `UNet` or `DiT`."""

    def check(self, shape: tuple[int, ...]) -> None:
        """Raises UserError for clips of `shape` = (F, H, W, C) whose frames do not fit the network."""
        check_clips(shape)
        self.network.check((*shape[1:3], shape[0] * shape[3]))

    @nn.compact
    def __call__(self, x: jax.Array, t: jax.Array, out: int, *told: Any, **named: Any) -> jax.Array:
        """f32[B, F, H, W, out]. told, named: y, context, context_mask and train, as of the network."""
        frames = x.shape[1]
        h = self.network(jnp.moveaxis(x, 1, 3).reshape(len(x), *x.shape[2:4], -1), t, frames * out, *told, **named)
        return jnp.moveaxis(h.reshape(*h.shape[:3], frames, out), 3, 1)


class ClipEncoder(nn.Module):
    """The features of a clip, x f32[B, F, H, W, C] -> f32[B, *shape], shape = (D,): 4x4 stride-2 convolutions of each
    frame, after each of which one of stride 2 over three frames halves their number, and a dense layer."""

    channels: Sizes = (32, 64)
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        for i, features in enumerate(self.channels):
            frames, images = x.shape[1], x.reshape(-1, *x.shape[2:])
            h = nn.relu(Conv(features, 4, 2, dtype=self.dtype, name=f"space{i}")(images))
            h = h.reshape(-1, frames, *h.shape[1:])
            around = jnp.pad(h, ((0, 0), (1, 1), *[(0, 0)] * 3))
            h = jnp.concatenate([around[:, i : i + frames : 2] for i in range(3)], axis=-1)
            x = nn.relu(Dense(features, dtype=self.dtype, name=f"time{i}")(h))
        return nn.Dense(shape[0], dtype=self.dtype, name="out")(x.reshape(x.shape[0], -1)).astype(jnp.float32)
