"""Layers of sequences of different lengths in one batch: what is past the end of one is zero after each, and has no
part in normalization. x: f32[B, T, C], of which places are real where `real`, bool[B, T], is true."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxgen.nets.dense import flatten_dot
from jaxgen.ops.recurrent import hidden, masked_lstm, recurrent

XAVIER = nn.initializers.xavier_uniform()


class Affine(nn.Module):
    """x W + b over the last axis. Its arrays are attributes too, for scans."""

    inputs: int
    features: int
    use_bias: bool = True
    spread: float = 0.0
    """Kernel and bias are uniform between -spread and spread; Xavier's kernel and no bias where 0."""
    dtype: Any = None

    def setup(self):
        def spread(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
            return jax.random.uniform(key, shape, minval=-self.spread, maxval=self.spread)

        kernel = spread if self.spread else XAVIER
        self.kernel = self.param("kernel", kernel, (self.inputs, self.features)).astype(self.dtype or jnp.float32)
        start = spread if self.spread else nn.initializers.zeros
        bias: Any = self.param("bias", start, (self.features,)) if self.use_bias else None
        self.bias = bias

    def __call__(self, x: jax.Array) -> jax.Array:
        out = flatten_dot(x.astype(self.kernel.dtype), self.kernel, (((x.ndim - 1,), (0,)), ((), ())))
        out = out.astype(jnp.float32)
        return out if self.bias is None else out + self.bias.reshape((1,) * (x.ndim - 1) + (-1,))


class LSTM(nn.Module):
    """The weights of an LSTM of H units: u = input(x) + h hidden."""

    inputs: int
    features: int
    dtype: Any = None

    def setup(self):
        spread = 1 / math.sqrt(self.features)
        self.input = Affine(self.inputs, 4 * self.features, spread=spread, dtype=self.dtype)
        self.hidden = Affine(self.features, 4 * self.features, use_bias=False, spread=spread, dtype=self.dtype)

    def __call__(self, x: jax.Array, real: jax.Array, reverse: bool = False) -> jax.Array:
        """h of all places of x, f32[B, T, inputs]: f32[B, T, H], zero where `real`, bool[B, T], is false."""
        flipped = (slice(None, None, -1),) if reverse else (slice(None),)
        drive, real = jnp.swapaxes(self.input(x), 0, 1)[flipped], jnp.swapaxes(real, 0, 1)[flipped]
        start = jnp.zeros((x.shape[0], self.features))
        out = recurrent(masked_lstm, hidden, self.hidden.kernel, (), (start, start), drive, real[..., None])
        return jnp.swapaxes(out[flipped], 0, 1)


class MaskedBatchNorm(nn.Module):
    """Batch normalization of x, f32[B, T, C], by the moments of the places where `real`, bool[B, T], is true, and in
    use by their running means, as PyTorch has it: momentum 0.1 and unbiased variances."""

    features: int
    momentum: float = 0.1
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: jax.Array, real: jax.Array, train: bool) -> jax.Array:
        size = (self.features,)
        scale = self.param("scale", nn.initializers.ones, size)
        bias = self.param("bias", nn.initializers.zeros, size)
        mean = self.variable("batch_stats", "mean", jnp.zeros, size)
        var = self.variable("batch_stats", "var", jnp.ones, size)
        now = mean.value, var.value
        if train:
            weight = real[..., None].astype(jnp.float32)
            count = jnp.maximum(jnp.sum(weight), 1.0)
            average = jnp.sum(x * weight, axis=(0, 1)) / count
            apart = (x - average[None, None]) * weight
            now = average, jnp.sum(apart**2, axis=(0, 1)) / count
            if not self.is_initializing():
                unbiased = now[1] * count / jnp.maximum(count - 1, 1.0)
                mean.value += self.momentum * (now[0] - mean.value)
                var.value += self.momentum * (unbiased - var.value)
        gain = scale * jax.lax.rsqrt(now[1] + self.epsilon)
        return x * gain[None, None] + (bias - now[0] * gain)[None, None]


class NormedConv(nn.Module):
    """A convolution over time of stride 1 and odd size, then normalization: zero where `real` is false."""

    inputs: int
    features: int
    size: int = 5
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, real: jax.Array, train: bool) -> jax.Array:
        kernel = self.param("kernel", XAVIER, (self.size, self.inputs, self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        kernel = kernel.astype(self.dtype or jnp.float32).reshape(-1, self.features)
        # One product: XLA's CPU back end computes convolutions in a scan, as training steps are, on one core.
        x = flatten_dot(windows(x, self.size).astype(kernel.dtype), kernel, (((2,), (0,)), ((), ())))
        x = MaskedBatchNorm(self.features, name="norm")(x.astype(jnp.float32) + bias[None, None], real, train)
        return jnp.where(real[..., None], x, 0.0)


def windows(x: jax.Array, size: int) -> jax.Array:
    """[B, T, size C]: x, [B, T, C], at each place and its neighbours, zeros past the ends."""
    half, length = size // 2, x.shape[1]
    padded = jnp.pad(x, ((0, 0), (half, half), (0, 0)))
    return jnp.concatenate([padded[:, i : i + length] for i in range(size)], axis=-1)


def reals(length: jax.Array, size: int) -> jax.Array:
    """bool[B, size]: the first length[b] of each row."""
    return jnp.arange(size)[None] < length[:, None]
