"""The U-Net of EDM2, arXiv:2312.02696 (configuration G, figure 21): every layer keeps the magnitude of its input.

x: f32[B, H, W, C]; t: f32[B]; y: one-hot f32[B, K], all zeros for no class.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxgen.core.ranges import Decay, Depth, Fraction, Positive, Size, Sizes
from jaxgen.errors import UserError
from jaxgen.nets.magnitude import MPAttention, MPConv, MPDense, MPFourier
from jaxgen.ops.magnitude import mp_concat, mp_silu, mp_sum, pixel_norm
from jaxgen.ops.patches import depth_to_space, space_to_depth
from jaxgen.ops.resize import double, halve

LARGEST = 256.0
"""Activations are clipped to it, for the sake of half precision."""


class MPBlock(nn.Module):
    """A residual block of the encoder, which begins with a norm over channels, or of the `decoder`, which has none.

    resample: halve (-1) or double (1) height and width first. balance: the share of the residual branch.
    """

    features: int
    decoder: bool = False
    resample: int = 0
    attention: bool = False
    head_dim: int = 64
    dropout: float = 0.0
    balance: float = 0.3
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, embedding: jax.Array, train: bool = False) -> jax.Array:
        if self.resample:
            x = double(x) if self.resample > 0 else halve(x)

        def widened(x: jax.Array) -> jax.Array:
            return x if x.shape[-1] == self.features else MPConv(self.features, 1, self.dtype, name="skip")(x)

        if not self.decoder:
            x = pixel_norm(widened(x))
        h = MPConv(self.features, dtype=self.dtype, name="first")(mp_silu(x))
        # From zero on, so that the block begins as one that no embedding changes.
        gain = self.param("gain", nn.initializers.zeros, ())
        scale = 1 + MPDense(self.features, self.dtype, name="embedding")(embedding, gain)
        h = mp_silu(h * scale[:, None, None, :])
        h = nn.Dropout(self.dropout, deterministic=not train)(h)
        h = MPConv(self.features, dtype=self.dtype, name="second")(h)
        x = mp_sum(widened(x) if self.decoder else x, h, self.balance)
        if self.attention:
            x = MPAttention(self.head_dim, self.balance, self.dtype, name="attention")(x)
        return jnp.clip(x, -LARGEST, LARGEST)


class MPUNet(nn.Module):
    """`blocks` residual blocks of width * mults[i] channels at the i-th resolution, each half the one before.

    attention: heights at which self-attention ends each residual block; the first of the decoder always has it.
    balance: the share of residual branches and of attention; label_balance, of the class in the embedding;
    concat_balance, of what the encoder saved in the decoder's inputs. time_scale: factor of the network's time, whose
    Fourier features are of unit bandwidth: 1 for EDM's log(sigma) / 4, 0.001 for times from 0 to 1000.
    patch: side of the patches of pixels that are taken for one, as in `nets.unet`; heights count patches.
    remat: the backward pass recomputes each block, which takes less memory.
    """

    width: Size = 192
    mults: Sizes = (1, 2, 3, 4)
    blocks: Depth = 3
    attention: tuple[Size, ...] = (16, 8)
    head_dim: Size = 64
    dropout: Decay = 0.0
    balance: Fraction = 0.3
    label_balance: Fraction = 0.5
    concat_balance: Fraction = 0.5
    time_scale: Positive = 1.0
    patch: Size = 1
    remat: bool = False
    dtype: Any = None

    def check(self, shape: tuple[int, ...]) -> None:
        """Raises UserError if images of `shape` = (H, W, C) cannot be halved between all resolutions of `mults`, or
        heads do not divide a level with attention."""
        factor = self.patch * 2 ** (len(self.mults) - 1)
        if len(shape) != 3 or shape[0] % factor or shape[1] % factor:
            raise UserError(
                f"images of shape {shape} cannot be halved {len(self.mults) - 1} times in patches of {self.patch}: "
                f"height and width must be multiples of {factor}; give --model.network.mults fewer entries or resize "
                "the data"
            )
        lowest = len(self.mults) - 1
        for level, mult in enumerate(self.mults):
            channels, height = self.width * mult, shape[0] // self.patch >> level
            attends = level == lowest or height in self.attention
            if attends and channels % max(1, channels // self.head_dim):
                raise UserError(
                    f"{channels} channels do not split into heads of {self.head_dim}: change --model.network.width or "
                    "--model.network.head-dim"
                )

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
    ) -> jax.Array:
        """f32[B, H, W, out]. Training with dropout needs the rng `dropout`. Raises UserError for a context."""
        if context is not None:
            raise UserError("a context was given to MPUNet, which reads none: take UNet for models of texts")
        embed = self.width * max(self.mults)
        fourier = MPFourier(self.width * self.mults[0], name="fourier")(self.time_scale * t)
        embedding = MPDense(embed, self.dtype, name="noise")(fourier)
        if y is not None:
            # To magnitude one, as a root mean square, whether y is one-hot or an embedding; zeros stay zeros.
            length = jnp.sqrt(jnp.maximum(jnp.sum(y**2, axis=-1, keepdims=True), 1.0))
            label = MPDense(embed, self.dtype, name="label")(y * (math.sqrt(y.shape[-1]) / length))
            embedding = mp_sum(embedding, label, self.label_balance)
        embedding = mp_silu(embedding)
        residual = nn.remat(MPBlock, static_argnums=(3,)) if self.remat else MPBlock

        def block(h: jax.Array, features: int, name: str, attention: bool = False, resample: int = 0) -> jax.Array:
            decoder = name.startswith("decoder")
            settings = (decoder, resample, attention, self.head_dim, self.dropout, self.balance, self.dtype)
            return residual(features, *settings, name=name)(h, embedding, train)

        # A channel of ones stands for the biases that there are none of.
        h = space_to_depth(x, self.patch)
        h = jnp.concatenate([h, jnp.ones_like(h[..., :1])], axis=-1)
        h = MPConv(self.width * self.mults[0], dtype=self.dtype, name="in")(h)
        skips = [h]
        for level, mult in enumerate(self.mults):
            if level:
                h = block(h, h.shape[-1], f"encoder{level}_down", resample=-1)
                skips.append(h)
            for i in range(self.blocks):
                h = block(h, self.width * mult, f"encoder{level}_{i}", h.shape[1] in self.attention)
                skips.append(h)

        h = block(h, h.shape[-1], "decoder_in0", attention=True)
        h = block(h, h.shape[-1], "decoder_in1")
        for level, mult in reversed(list(enumerate(self.mults))):
            for i in range(self.blocks + 1):
                h = mp_concat(h, skips.pop(), self.concat_balance)
                h = block(h, self.width * mult, f"decoder{level}_{i}", h.shape[1] in self.attention)
            if level:
                h = block(h, h.shape[-1], f"decoder{level}_up", resample=1)
        # From zero on: the first prediction is the preconditioner's alone.
        gain = self.param("gain", nn.initializers.zeros, ())
        h = MPConv(out * self.patch**2, dtype=self.dtype, name="out")(h, gain).astype(jnp.float32)
        return depth_to_space(h, self.patch)


def edm2_s() -> MPUNet:
    """The network of size S, table 6: 280 M parameters with the classes of ImageNet."""
    return MPUNet(width=192)
