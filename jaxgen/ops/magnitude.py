"""Operations that keep the magnitude of activations, arXiv:2312.02696, section 2.3 and appendix B.

The magnitude of x is its root mean square. Each function gives magnitude one for independent inputs of magnitude one.
"""

import math

import jax
import jax.numpy as jnp

EPS = 1e-8
SILU = 0.596
"""Root mean square of silu(x) for standard normal x."""


def unit(x: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    """x with magnitude one over each group of `axes`, computed in f32: eq. 4. Zeros stay zero, of finite gradient."""
    wide = x.astype(jnp.float32)
    return (wide * jax.lax.rsqrt(jnp.mean(wide**2, axis=axes, keepdims=True) + EPS)).astype(x.dtype)


def pixel_norm(x: jax.Array) -> jax.Array:
    """f32[..., C] with magnitude one over the channels of each pixel."""
    return unit(x, (-1,))


def unit_kernel(kernel: jax.Array) -> jax.Array:
    """A kernel f32[..., I, O] with magnitude one over the weights of each output channel: eq. 66."""
    return unit(kernel, tuple(range(kernel.ndim - 1)))


def mp_silu(x: jax.Array) -> jax.Array:
    """silu(x) / 0.596, eq. 81."""
    return jax.nn.silu(x) / SILU


def mp_sum(a: jax.Array, b: jax.Array, t: float = 0.5) -> jax.Array:
    """((1 - t) a + t b) / sqrt((1 - t)^2 + t^2), eq. 88. t: in [0, 1], the share of b."""
    return ((1 - t) * a + t * b) / math.hypot(1 - t, t)


def mp_concat(a: jax.Array, b: jax.Array, t: float = 0.5) -> jax.Array:
    """a: f32[..., N] and b: f32[..., M] as f32[..., N + M], in which their contributions are as 1 - t to t: eq. 103."""
    n, m = a.shape[-1], b.shape[-1]
    scale = math.sqrt(n + m) / math.hypot(1 - t, t)
    return jnp.concatenate([a * (scale * (1 - t) / math.sqrt(n)), b * (scale * t / math.sqrt(m))], axis=-1)


def mp_fourier(c: jax.Array, frequencies: jax.Array, phases: jax.Array) -> jax.Array:
    """sqrt(2) cos(2 pi (f c + phi)), eq. 75, in f32. c: f32[B]; frequencies, phases: f32[N]; f32[B, N]."""
    angle = c.astype(jnp.float32)[:, None] * frequencies[None] + phases[None]
    return math.sqrt(2) * jnp.cos(2 * math.pi * angle)
