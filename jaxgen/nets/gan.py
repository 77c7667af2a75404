"""Generators and critics: fully connected ones, DCGAN (arXiv:1511.06434), and the layers of these and others.

A generator is (z: f32[B, latent], shape, y, train) -> x: f32[B, *shape]; a critic is (x, y, train) -> logits f32[B].
y: one-hot f32[B, K] or None. train: use batch statistics and dropout, instead of running averages and none.
"""

import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen.dtypes import promote_dtype

from jaxgen.core.ranges import Decay, Fraction, Size, Sizes
from jaxgen.nets.condition import concat_condition
from jaxgen.nets.conv import halved
from jaxgen.nets.norm import BatchNorm
from jaxgen.ops.conv import conv, doubled_kernel, upconv
from jaxgen.ops.spectral import iterate, spectral_norm, unit

Init = nn.initializers.Initializer
NORMAL = nn.initializers.normal(0.02)  # section 4 of arXiv:1511.06434, kernels and dense layers alike
LECUN = nn.linear.default_kernel_init


class SpectralNorm(nn.Module):
    """`layer` with its `kernel` divided by the kernel's largest singular value, arXiv:1802.05957.

    The singular vector u is kept in the collection `spectral`. A pass in which that collection is mutable improves u by
    one power iteration; any other uses it unchanged.
    """

    layer: nn.Module

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        def normalized(variables):
            kernel = variables["params"]["kernel"].astype(jnp.float32)
            u = self.variable(
                "spectral", "u", lambda: unit(jax.random.normal(self.make_rng("params"), kernel.shape[-1:]))
            )
            if self.is_mutable_collection("spectral"):
                u.value = iterate(jax.lax.stop_gradient(kernel), u.value)
            sigma = jnp.maximum(spectral_norm(kernel, u.value), 1e-12)
            return {**variables, "params": {**variables["params"], "kernel": kernel / sigma}}

        apply = nn.map_variables(
            lambda layer: layer(x), "params", trans_in_fn=normalized, init=self.is_initializing(), rngs=True
        )
        return apply(self.layer)


def normed(layer: nn.Module, spectral: bool) -> nn.Module:
    """`layer`, with spectral normalization if `spectral`."""
    return SpectralNorm(layer) if spectral else layer


class Conv2D(nn.Module):
    """A square convolution with SAME padding.

    up: `nearest` doubles the image first; `transposed` is a 4x4 transposed convolution of stride 2, padding 1 in
    PyTorch's terms. Both are computed by `ops.conv.upconv`. bias: False before batch normalization, which cancels a
    bias, so that it would only drift.
    """

    features: int
    size: int = 3
    stride: int = 1
    up: Literal["none", "nearest", "transposed"] = "none"
    bias: bool = True
    kernel_init: Init = LECUN
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        size = {"none": self.size, "nearest": 3, "transposed": 4}[self.up]
        kernel = self.param("kernel", self.kernel_init, (size, size, x.shape[-1], self.features))
        x, kernel = promote_dtype(x, kernel, dtype=self.dtype)
        if self.up == "none":
            pads = jax.lax.padtype_to_pads(x.shape[1:3], (size, size), (self.stride, self.stride), "SAME")
            h = conv(x, kernel, (self.stride, self.stride), tuple(pads))
        else:
            h = upconv(x, doubled_kernel(kernel) if self.up == "nearest" else kernel)
        if not self.bias:
            return h
        return h + self.param("bias", nn.initializers.zeros, (self.features,)).astype(h.dtype)[None, None, None]


def batch_norm(train: bool, scale_init: Init = nn.initializers.ones, dtype: Any = None) -> BatchNorm:
    """Batch normalization with PyTorch's epsilon and momentum."""
    return BatchNorm(not train, momentum=0.9, epsilon=1e-5, scale_init=scale_init, dtype=dtype)


def dcgan_scale(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """The initializer of DCGAN's normalization scales: mean 1, standard deviation 0.02."""
    return 1 + 0.02 * jax.random.normal(key, shape, dtype)


class Head(nn.Module):
    """Features phi: f32[B, F] to logits f32[B]: psi . phi + b, plus y^T V phi if y is given (projection discriminator,
    section 3 of arXiv:1802.05637)."""

    spectral: bool = False
    bias: bool = True
    kernel_init: Init = LECUN
    dtype: Any = None

    @nn.compact
    def __call__(self, phi: jax.Array, y: jax.Array | None = None) -> jax.Array:
        psi = nn.Dense(1, use_bias=self.bias, kernel_init=self.kernel_init, dtype=self.dtype)
        logit = normed(psi, self.spectral)(phi)[:, 0]
        if y is not None:
            v = nn.Dense(phi.shape[-1], use_bias=False, kernel_init=self.kernel_init, dtype=self.dtype)
            logit += jnp.sum(normed(v, self.spectral)(y) * phi, axis=-1)
        return logit.astype(jnp.float32)


# --- fully connected ------------------------------------------------------------------------------------------


class MLPGenerator(nn.Module):
    """Dense layers with leaky ReLU, and batch normalization in all but the first."""

    hidden: tuple[Size, ...] = (128, 256, 512, 1024)
    normalize: bool = True
    squash: bool = True
    """End with tanh, for data in [-1, 1]."""
    dtype: Any = None

    @nn.compact
    def __call__(self, z: jax.Array, shape: tuple[int, ...], y: jax.Array | None = None, train: bool = False):
        h = concat_condition(z, y)
        for i, width in enumerate(self.hidden):
            normalize = self.normalize and i > 0
            h = nn.Dense(width, use_bias=not normalize, dtype=self.dtype)(h)
            h = nn.leaky_relu(batch_norm(train, dtype=self.dtype)(h) if normalize else h, 0.2)
        x = nn.Dense(math.prod(shape), dtype=self.dtype)(h).astype(jnp.float32).reshape(-1, *shape)
        return jnp.tanh(x) if self.squash else x


class MLPCritic(nn.Module):
    """Dense layers with leaky ReLU and dropout."""

    hidden: tuple[Size, ...] = (512, 256)
    dropout: Decay = 0.0
    spectral: bool = False
    projection: bool = False
    """Condition by projection; otherwise the class is concatenated to the input."""
    bias: bool = True
    """A bias of the logit, which cancels in a Wasserstein critic's loss."""
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, y: jax.Array | None = None, train: bool = False) -> jax.Array:
        h = x.reshape(x.shape[0], -1)
        h = h if self.projection else concat_condition(h, y)
        for width in self.hidden:
            h = nn.leaky_relu(normed(nn.Dense(width, dtype=self.dtype), self.spectral)(h), 0.2)
            h = nn.Dropout(self.dropout, deterministic=not train)(h)
        return Head(self.spectral, self.bias, dtype=self.dtype)(h, y if self.projection else None)


# --- DCGAN ----------------------------------------------------------------------------------------------------


class DCGANGenerator(nn.Module):
    """A dense layer to the smallest map, then doublings, the last with tanh and the others with batch normalization and
    a leaky ReLU of `slope`.

    channels: widths from the smallest map up. The image is 2^len(channels) times the size of that map, cropped.
    """

    channels: Sizes = (512, 256, 128, 64)
    up: Literal["nearest", "transposed"] = "transposed"
    slope: Fraction = 0.0
    dtype: Any = None

    @nn.compact
    def __call__(self, z: jax.Array, shape: tuple[int, ...], y: jax.Array | None = None, train: bool = False):
        def activated(h: jax.Array) -> jax.Array:
            return nn.leaky_relu(batch_norm(train, dcgan_scale, self.dtype)(h), self.slope)

        height, width, out = shape
        times = len(self.channels)
        small = (halved(height, times), halved(width, times), self.channels[0])
        h = nn.Dense(math.prod(small), use_bias=False, kernel_init=NORMAL, dtype=self.dtype)(concat_condition(z, y))
        h = activated(h.reshape(-1, *small))
        for features in self.channels[1:]:
            h = activated(Conv2D(features, up=self.up, bias=False, kernel_init=NORMAL, dtype=self.dtype)(h))
        h = Conv2D(out, up=self.up, kernel_init=NORMAL, dtype=self.dtype)(h)
        return jnp.tanh(h[:, :height, :width].astype(jnp.float32))


class DCGANCritic(nn.Module):
    """Stride-2 convolutions with leaky ReLU, and batch normalization in all but the first, then a dense layer."""

    channels: Sizes = (64, 128, 256, 512)
    size: Size = 4
    normalize: bool = True
    """Use batch normalization. A gradient penalty needs it off, as each example must be independent of the others."""
    dropout: Decay = 0.0
    """Share of whole channels that are dropped."""
    spectral: bool = False
    projection: bool = False
    """Condition by projection; otherwise the class is concatenated to the image as constant channels."""
    bias: bool = True
    """A bias of the logit, which cancels in a Wasserstein critic's loss."""
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, y: jax.Array | None = None, train: bool = False) -> jax.Array:
        h = x if self.projection else concat_condition(x, y)
        for i, features in enumerate(self.channels):
            normalize = self.normalize and i > 0
            layer = Conv2D(features, self.size, 2, bias=not normalize, kernel_init=NORMAL, dtype=self.dtype)
            h = normed(layer, self.spectral)(h)
            h = nn.leaky_relu(batch_norm(train, dcgan_scale, self.dtype)(h) if normalize else h, 0.2)
            h = nn.Dropout(self.dropout, broadcast_dims=(1, 2), deterministic=not train)(h)
        head = Head(self.spectral, self.bias, NORMAL, self.dtype)
        return head(h.reshape(h.shape[0], -1), y if self.projection else None)
