"""Parts of networks of raw sound: taps of dilated convolutions, gated layers, and mels brought to every sample.

h: f32[B, T, C], features of T samples. A dilated convolution is a dense layer of its taps: XLA's CPU back end has no
fast gradient for others, and a step of sampling has the same parameters.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen.dtypes import promote_dtype

from jaxgen.nets.dense import Dense

SLOPE = 0.4
"""Of the leaky ReLUs after upsampling, as in DiffWave's appendix."""


def shifted(h: jax.Array, by: int) -> jax.Array:
    """h_{t - by} at t, zeros where there is none; by < 0 looks ahead."""
    length, by = h.shape[1], max(-h.shape[1], min(by, h.shape[1]))
    padded = jnp.pad(h, ((0, 0), (max(0, by), max(0, -by)), (0, 0)))
    return padded[:, max(0, -by) : max(0, -by) + length]


def causal_taps(h: jax.Array, size: int, dilation: int) -> jax.Array:
    """h_{t - (size - 1) dilation}, ..., h_{t - dilation}, h_t, f32[B, T, size C]."""
    return jnp.concatenate([shifted(h, j * dilation) for j in range(size - 1, -1, -1)], axis=-1)


def centred_taps(h: jax.Array, size: int, dilation: int) -> jax.Array:
    """As many taps on both sides of t, of an odd `size`, f32[B, T, size C]."""
    reach = size // 2
    return jnp.concatenate([shifted(h, j * dilation) for j in range(reach, -reach - 1, -1)], axis=-1)


def zero_after(x: jax.Array, length: jax.Array | None) -> jax.Array:
    """x, f32[B, T, ...], with zeros after the first length[b] samples; as it is without a length."""
    if length is None:
        return x
    real = jnp.arange(x.shape[1])[None] < length[:, None]
    return jnp.where(real.reshape(*real.shape, *[1] * (x.ndim - 2)), x, 0)


def repeated_dilations(layers: int, cycle: int) -> tuple[int, ...]:
    """1, 2, 4, ..., 2^(cycle - 1), over and over, for so many layers."""
    return tuple(2 ** (i % cycle) for i in range(layers))


class GatedLayer(nn.Module):
    """z = tanh(a) sigmoid(b), eqs. 2 and 3 of arXiv:1609.03499, where a and b are sums of a dilated convolution, of the
    mel at the sample and of the class. Returns what is added to the features, [..., width], and what goes to the sum of
    all layers, [..., skip], each a 1x1 convolution of z.

    taps: [..., size C]; mel: [..., bands]; y: one-hot [B, K].
    """

    width: int
    skip: int
    dtype: Any = None

    @nn.compact
    def __call__(
        self, taps: jax.Array, mel: jax.Array | None = None, y: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        h = Dense(2 * self.width, dtype=self.dtype, name="dilated")(taps)
        if mel is not None:
            h += Dense(2 * self.width, use_bias=False, dtype=self.dtype, name="mel")(mel)
        if y is not None:
            label = Dense(2 * self.width, use_bias=False, dtype=self.dtype, name="label")(y)
            h += label.reshape(label.shape[0], *[1] * (h.ndim - 2), label.shape[-1])
        a, b = jnp.split(h, 2, axis=-1)
        out = Dense(self.width + self.skip, dtype=self.dtype, name="out")(jnp.tanh(a) * nn.sigmoid(b))
        return out[..., : self.width], out[..., self.width :]


class MelUpsampler(nn.Module):
    """Mels at every sample: f32[B, F, bands] to f32[B, F hop, bands], hop the product of `rates`.

    A transposed convolution for each rate r, with a kernel of 2 r samples and 3 bands and stride r, then a leaky ReLU:
    section 4.1 and appendix of arXiv:2009.09761. Kernels start as linear interpolation of each band by itself.
    """

    rates: tuple[int, ...]
    """Even."""
    dtype: Any = None

    @nn.compact
    def __call__(self, mel: jax.Array, length: jax.Array | None = None) -> jax.Array:
        """length: i32[B], the frames that are real. What is after them counts as zeros."""
        h = mel
        for i, rate in enumerate(self.rates):
            h, length = zero_after(h, length), None if length is None else length * rate
            kernel = self.param(f"kernel_{i}", lambda _, rate=rate: _linear(rate))
            bias = self.param(f"bias_{i}", nn.initializers.zeros, ())
            h, kernel, bias = promote_dtype(h, kernel, bias, dtype=self.dtype)
            h = nn.leaky_relu(up(h, kernel) + bias, SLOPE)
        return h


def _linear(rate: int) -> jax.Array:
    """f32[2 rate, 3]: linear interpolation between frames, in the band itself."""
    places = jnp.abs(jnp.arange(2 * rate) + 0.5 - rate) / rate
    return (1 - places)[:, None] * jnp.array([0.0, 1.0, 0.0])[None]


def up(h: jax.Array, kernel: jax.Array) -> jax.Array:
    """y_{n, m} = sum_{i, q} h_{i, m + q - 1} kernel_{n + r / 2 - r i, q}, f32[B, r T, M] of h, f32[B, T, M]; kernel:
    f32[2 r, 3], r even."""
    batch, length, bands = h.shape
    rate = kernel.shape[0] // 2
    # Sample r i + k sees frames i + 1, i and i - 1 at k, k + r and k + 2 r of a kernel with zeros around it.
    around = jnp.pad(kernel, ((rate // 2, rate // 2), (0, 0))).reshape(3, rate, 3)
    wide = jnp.pad(h, ((0, 0), (1, 1), (1, 1)))
    seen = [wide[:, 1 + frame : 1 + frame + length, band : band + bands] for frame in (1, 0, -1) for band in range(3)]
    out = jnp.stack(seen, axis=-1).reshape(-1, 9) @ around.transpose(0, 2, 1).reshape(9, rate)
    return out.reshape(batch, length, bands, rate).swapaxes(2, 3).reshape(batch, rate * length, bands)


def rates_problem(rates: tuple[int, ...]) -> str | None:
    """What is wrong with the rates of a `MelUpsampler`."""
    if odd := [rate for rate in rates if rate % 2]:
        return f"rates has {odd[0]}: even rates of upsampling are expected"
    return None
