"""Vision transformers: the encoder and decoder of ViT-VQGAN (arXiv:2110.04627), and a generator from image to image."""

import math
from dataclasses import field
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxgen.core.ranges import Decay, Size, Sizes
from jaxgen.errors import UserError
from jaxgen.nets.conv import UpConv
from jaxgen.nets.dense import Dense
from jaxgen.nets.transformer import XAVIER, Transformer, sinusoids
from jaxgen.nets.vqvae import Quantize
from jaxgen.ops.patches import depth_to_space, space_to_depth


def check_patches(patch: int, body: Transformer, shape: tuple[int, ...]) -> None:
    """Raises UserError if images of `shape` = (H, W, C) cannot be cut into patches, or the transformer is invalid or
    causal."""
    if len(shape) != 3 or shape[0] % patch or shape[1] % patch:
        raise UserError(
            f"images of shape {tuple(shape)} cannot be cut into whole patches of {patch} x {patch}: choose another "
            "patch"
        )
    body.check()
    if body.causal:
        raise UserError("the transformer is causal: patches would not see those after them; unset causal")


def attend(body: Transformer, maps: jax.Array, train: bool = False) -> jax.Array:
    """Features of patches, [B, h, w, width], after the transformer `body`, with 2-D sinusoids as positions."""
    batch, height, width, channels = maps.shape
    place = jnp.asarray(sinusoids(height, width, channels), maps.dtype)
    return body(maps.reshape(batch, -1, channels) + place[None], train=train).reshape(maps.shape)


class PatchEncoder(nn.Module):
    """Images to one vector per patch, f32[B, h, w, dim]."""

    body: Transformer
    patch: int
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, dim: int) -> jax.Array:
        h = Dense(self.body.width, kernel_init=XAVIER, dtype=self.dtype, name="patches")(space_to_depth(x, self.patch))
        h = attend(self.body, h)
        h = nn.tanh(Dense(self.body.hidden or 4 * self.body.width, dtype=self.dtype, name="code_up")(h))
        # A low dimension, in which codes are looked up: "factorized codes" of section 3.2.
        return Dense(dim, dtype=self.dtype, name="code")(h).astype(jnp.float32)


class PatchDecoder(nn.Module):
    """Codes f32[B, h, w, D] to an image f32[B, *shape]."""

    body: Transformer
    patch: int
    dtype: Any = None

    @nn.compact
    def __call__(self, q: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        h = Dense(self.body.width, kernel_init=XAVIER, dtype=self.dtype, name="code")(q)
        h = attend(self.body, h)
        h = nn.tanh(Dense(self.body.hidden or 4 * self.body.width, dtype=self.dtype, name="pixels_up")(h))
        h = Dense(self.patch**2 * shape[2], dtype=self.dtype, name="pixels")(h)
        return depth_to_space(h.astype(jnp.float32), self.patch)


class ViTCoder(nn.Module):
    """Encoder and decoder of ViT-VQGAN, section 3.1, with the methods of `nets.vqvae.VQNetwork`.

    Both are a transformer over patches, followed by two dense layers with tanh between them. There is one level of
    codes, with one code per patch.
    """

    patch: Size = 8
    encoder: Transformer = field(default_factory=lambda: Transformer(width=512, depth=8, heads=8))
    decoder: Transformer = field(default_factory=lambda: Transformer(width=512, depth=8, heads=8))
    dtype: Any = None

    def check(self, shape: tuple[int, ...]) -> None:
        """Raises UserError if images of `shape` = (H, W, C) cannot be encoded."""
        for body in (self.encoder, self.decoder):
            check_patches(self.patch, body, shape)
            if body.dropout:
                raise UserError(f"a transformer has dropout {body.dropout}: encoders and decoders of codes have none")

    def maps(self, shape: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
        """Height and width of the one map of codes, for images of `shape`."""
        return ((shape[0] // self.patch, shape[1] // self.patch),)

    @property
    def last(self) -> tuple[str, ...]:
        """Path of the last layer's kernel in the parameters."""
        return "from_code", "pixels", "kernel"

    def setup(self) -> None:
        # Copies, since one module under two names would share its parameters.
        self.to_code = PatchEncoder(self.encoder.clone(), self.patch, self.dtype)
        self.from_code = PatchDecoder(self.decoder.clone(), self.patch, self.dtype)

    def encode(self, x: jax.Array, quantize: Quantize, dim: int) -> list[jax.Array]:
        """The output of `quantize`, in a list of one level. x: f32[B, H, W, C]; dim: channels of a code."""
        return [quantize(0, self.to_code(x, dim))]

    def decode(self, codes: list[jax.Array], shape: tuple[int, ...]) -> jax.Array:
        """f32[B, *shape] of a list as `encode` returns it."""
        return self.from_code(codes[0], shape)

    def __call__(self, x: jax.Array, quantize: Quantize, dim: int, shape: tuple[int, ...]) -> jax.Array:
        return self.decode(self.encode(x, quantize, dim), shape)


class ViTGenerator(nn.Module):
    """A generator from image to image: a transformer over patches, then log2(patch) transposed convolutions with ReLU
    between them and tanh at the end, which restore the image's size.

    The source is padded at its border to whole patches, and the output is cropped.
    """

    patch: Size = 8
    """A power of two."""
    body: Transformer = field(default_factory=lambda: Transformer(width=256, depth=6, heads=8))
    channels: Sizes = (128, 64)
    """Widths of the transposed convolutions but the last one. If there are more of those, the last width repeats."""
    dropout: Decay = 0.5
    """Dropout of the transformer's output, in sampling too if noise is wanted."""
    dtype: Any = None

    def check(self, shape: tuple[int, ...]) -> None:
        """Raises UserError if doublings cannot restore the size of a patch, or `channels` is empty."""
        if self.patch < 2 or self.patch & (self.patch - 1):
            raise UserError(f"patch is {self.patch}: a power of two from 2 on is expected, as each layer doubles")
        if not self.channels:
            raise UserError("model.generator.channels is empty: give one width or more")
        check_patches(1, self.body, shape)

    @nn.compact
    def __call__(self, source: jax.Array, out: int, train: bool = False, noise: bool = False) -> jax.Array:
        """f32[B, H, W, C] -> f32[B, H, W, out] in [-1, 1]. noise: use dropout, which needs the rng `dropout`."""
        height, width = source.shape[1:3]
        around = [(0, -size % self.patch) for size in (height, width)]
        x = jnp.pad(source, ((0, 0), *around, (0, 0)), mode="edge")
        h = Dense(self.body.width, kernel_init=XAVIER, dtype=self.dtype, name="patches")(space_to_depth(x, self.patch))
        h = attend(self.body, h, train)
        h = nn.Dropout(self.dropout, deterministic=not noise)(h)
        times = int(math.log2(self.patch))
        for i in range(times - 1):
            h = nn.relu(UpConv(self.channels[min(i, len(self.channels) - 1)], dtype=self.dtype)(h))
        h = UpConv(out, dtype=self.dtype)(h)
        return jnp.tanh(h[:, :height, :width].astype(jnp.float32))
