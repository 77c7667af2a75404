"""The networks of HiFi-GAN, arXiv:2010.05646: a generator of waveforms from mels, and its critics.

mel: f32[B, F, bands]; x: f32[B, N], a waveform of N = F hop samples, where hop is the product of the generator's rates.
Every convolution is along time, with zeros around what is real, and weight-normalized (arXiv:1602.07868): its weights
are g v / |v|, with a norm for each output (of a transposed convolution: for each input); v is `kernel`, g `scale`.
Layers have the names of the published code.
"""

import math
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
from annotated_types import Ge, Le, MinLen
from flax import linen as nn
from flax.linen.dtypes import promote_dtype

from jaxgen.core.ranges import Size, Sizes
from jaxgen.ops.conv import DIMS, conv
from jaxgen.ops.spectral import iterate, spectral_norm, unit

SLOPE = 0.1
"""Of the leaky ReLUs for negative inputs."""
LAST_SLOPE = 0.01
"""Of the one before the generator's last layer, as in the published code."""

Dilations = Annotated[tuple[Sizes, ...], MinLen(1)]


class Judged(NamedTuple):
    """What critics say of a waveform."""

    logits: list[jax.Array]  # f32[B, n] of each critic
    features: list[jax.Array]  # the outputs of all layers of all critics, [B, ...] each


# --- convolutions ---------------------------------------------------------------------------------------------


def _uniform(module: nn.Module, name: str, shape: tuple[int, ...], fan_in: int) -> jax.Array:
    """A parameter that starts uniform in +-1 / sqrt(fan_in), as PyTorch's convolutions do."""
    bound = 1 / math.sqrt(fan_in)
    return module.param(name, lambda key: jax.random.uniform(key, shape, minval=-bound, maxval=bound))


def _weight_normed(module: nn.Module, v: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    """g v / |v|, the norm over `axes`; g starts as |v|, for weights that start as v."""
    norm = jnp.sqrt(jnp.sum(v**2, axis=axes, keepdims=True))
    g = module.param("scale", lambda key: norm.reshape(-1))
    return v * (g.reshape(norm.shape) / norm)


class ColumnConv(nn.Module):
    """Convolution of x, f32[B, T, W, C], along T: f32[B, ceil(T / stride), W, features], each column by itself."""

    features: int
    size: int
    """Of the kernel, odd."""
    stride: int = 1
    groups: int = 1
    spectral: bool = False
    """Divide the kernel by its largest singular value (arXiv:1802.05957) in the place of weight normalization."""
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (self.size, x.shape[-1] // self.groups, self.features)
        fan_in = shape[0] * shape[1]
        kernel = _uniform(self, "kernel", shape, fan_in)
        kernel = self._bounded(kernel) if self.spectral else _weight_normed(self, kernel, (0, 1))
        bias = _uniform(self, "bias", (self.features,), fan_in)
        x, kernel, bias = promote_dtype(x, kernel[:, None], bias, dtype=self.dtype)
        around = self.size // 2
        strides, pads = (self.stride, 1), ((around, around), (0, 0))
        if self.groups == 1:
            x = conv(x, kernel, strides, pads)
        else:
            x = jax.lax.conv_general_dilated(
                x, kernel, strides, pads, dimension_numbers=DIMS, feature_group_count=self.groups
            )
        return x + bias[None, None, None]

    def _bounded(self, kernel: jax.Array) -> jax.Array:
        u = self.variable("spectral", "u", lambda: unit(jax.random.normal(self.make_rng("params"), (self.features,))))
        if self.is_mutable_collection("spectral"):
            u.value = iterate(jax.lax.stop_gradient(kernel), u.value)
        return kernel / jnp.maximum(spectral_norm(kernel, u.value), 1e-12)


class DilatedConv(nn.Module):
    """Convolution of x, f32[B, T, C], along T whose taps lie `dilation` samples apart."""

    features: int
    size: int
    dilation: int = 1
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        batch, length, channels = x.shape
        # Samples of one residue modulo the dilation are a column of their own: a plain convolution along it.
        x = jnp.pad(x, ((0, 0), (0, -length % self.dilation), (0, 0)))
        x = x.reshape(batch, -1, self.dilation, channels)
        x = ColumnConv(self.features, self.size, dtype=self.dtype, name="conv")(x)
        return x.reshape(batch, -1, self.features)[:, :length]


class UpConv(nn.Module):
    """Transposed convolution of x, f32[B, T, C], along T: f32[B, rate T, features],
    y_n = sum_i x_i w[n + (size - rate) / 2 - rate i]."""

    features: int
    size: int
    rate: int
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        (batch, length, channels), size, rate = x.shape, self.size, self.rate
        fan_in = size * self.features
        kernel = _uniform(self, "kernel", (size, channels, self.features), fan_in)
        kernel = _weight_normed(self, kernel, (0, 2))
        bias = _uniform(self, "bias", (self.features,), fan_in)
        # A plain convolution gives the `rate` samples after each input as channels.
        parts = -(-size // rate)
        kernel = jnp.pad(kernel, ((0, parts * rate - size), (0, 0), (0, 0)))
        kernel = kernel.reshape(parts, rate, channels, self.features)[::-1].swapaxes(1, 2)
        x, kernel, bias = promote_dtype(x, kernel.reshape(parts, 1, channels, -1), bias, dtype=self.dtype)
        x = conv(x[:, :, None], kernel, (1, 1), ((parts - 1, parts - 1), (0, 0)))
        start = (size - rate) // 2
        return x.reshape(batch, -1, self.features)[:, start : start + rate * length] + bias[None, None]


# --- generator ------------------------------------------------------------------------------------------------


def _leaky(x: jax.Array, slope: float = SLOPE) -> jax.Array:
    return jax.nn.leaky_relu(x, slope)


def _zero_after(x: jax.Array, length: jax.Array | None) -> jax.Array:
    """x, f32[B, T, C], with zeros after the first length[b] samples; as it is where there is no length."""
    if length is None:
        return x
    real = jnp.arange(x.shape[1])[None] < length[:, None]
    return jnp.where(real[..., None], x, 0)


class ResBlock(nn.Module):
    """Residual convolutions, each of another dilation, after which type 1 has one without (appendix A)."""

    size: int
    dilations: tuple[int, ...]
    twice: bool
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, length: jax.Array | None) -> jax.Array:
        for j, dilation in enumerate(self.dilations):
            first = f"convs1_{j}" if self.twice else f"convs_{j}"
            h = DilatedConv(x.shape[-1], self.size, dilation, self.dtype, name=first)(_leaky(x))
            if self.twice:
                h = _leaky(_zero_after(h, length))
                h = DilatedConv(x.shape[-1], self.size, dtype=self.dtype, name=f"convs2_{j}")(h)
            x = x + _zero_after(h, length)
        return x


class Generator(nn.Module):
    """Mel to waveform: upsampling by transposed convolutions, after each of which the mean of residual blocks of
    several sizes of kernels (multi-receptive field fusion, section 2.2). As it stands, V1 of the paper.

    mel: f32[B, F, bands]; length: i32[B], the frames that are real, all where there is none. Returns f32[B, F hop] in
    [-1, 1]: zeros after an example's end, and before it what the example gives without padding.
    """

    bands: Size = 80
    channels: Size = 512
    """Of the first layer; each upsampling halves them."""
    rates: Sizes = (8, 8, 2, 2)
    """Of upsampling."""
    up_sizes: Sizes = (16, 16, 4, 4)
    """Of the kernels of upsampling."""
    sizes: Sizes = (3, 7, 11)
    """Of the kernels of the residual blocks."""
    dilations: Dilations = ((1, 3, 5), (1, 3, 5), (1, 3, 5))
    """Of the convolutions of each residual block."""
    twice: bool = True
    """Residual blocks of type 1, with two convolutions for each dilation; or of type 2, with one."""
    dtype: Any = None

    @property
    def hop(self) -> int:
        """Samples of a frame."""
        return math.prod(self.rates)

    def problem(self) -> str | None:
        if len(self.rates) != len(self.up_sizes) or len(self.sizes) != len(self.dilations):
            return (
                f"{len(self.rates)} rates have {len(self.up_sizes)} up_sizes and {len(self.sizes)} sizes "
                f"{len(self.dilations)} dilations: as many of each are expected"
            )
        for rate, size in zip(self.rates, self.up_sizes):
            if size < rate or (size - rate) % 2:
                return f"a kernel of {size} cannot upsample by {rate}: the rate, or an even number more, is expected"
        if even := [size for size in self.sizes if size % 2 == 0]:
            return f"sizes has {even[0]}: odd sizes of kernels are expected"
        if self.channels % 2 ** len(self.rates):
            return f"channels is {self.channels}, a multiple of {2 ** len(self.rates)} is expected: each rate halves it"
        return None

    @nn.compact
    def __call__(self, mel: jax.Array, length: jax.Array | None = None) -> jax.Array:
        x = DilatedConv(self.channels, 7, dtype=self.dtype, name="conv_pre")(_zero_after(mel, length))
        x, blocks = _zero_after(x, length), len(self.sizes)
        for i, (rate, size) in enumerate(zip(self.rates, self.up_sizes)):
            x = UpConv(x.shape[-1] // 2, size, rate, self.dtype, name=f"ups_{i}")(_leaky(x))
            length = None if length is None else length * rate
            x = _zero_after(x, length)
            kinds = enumerate(zip(self.sizes, self.dilations))
            fields = [
                ResBlock(k, dilations, self.twice, self.dtype, name=f"resblocks_{i * blocks + j}")(x, length)
                for j, (k, dilations) in kinds
            ]
            x = sum(fields[1:], fields[0]) / blocks
        x = DilatedConv(1, 7, dtype=self.dtype, name="conv_post")(_leaky(x, LAST_SLOPE))
        return jnp.tanh(_zero_after(x, length)[..., 0].astype(jnp.float32))


V1 = Generator()
V2 = Generator(channels=128)
V3 = Generator(
    channels=256, rates=(8, 8, 4), up_sizes=(16, 16, 8), sizes=(3, 5, 7), dilations=((1, 2), (2, 6), (3, 12)),
    twice=False,
)  # fmt: skip
"""The generators of the paper, appendix A.1."""


# --- critics --------------------------------------------------------------------------------------------------


class PeriodCritic(nn.Module):
    """Judges x, f32[B, N], by samples `period` apart: a row of the picture [N / period, period] is a period. Returns
    logits f32[B, n] and the outputs of all layers."""

    period: int
    widths: tuple[int, ...]
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, list[jax.Array]]:
        x = jnp.pad(x, ((0, 0), (0, -x.shape[1] % self.period)), mode="reflect")
        x = x.reshape(x.shape[0], -1, self.period, 1)
        features = []
        for i, (width, stride) in enumerate(zip((*self.widths, self.widths[-1]), (*[3] * len(self.widths), 1))):
            x = _leaky(ColumnConv(width, 5, stride, dtype=self.dtype, name=f"convs_{i}")(x))
            features.append(x)
        features.append(ColumnConv(1, 3, dtype=self.dtype, name="conv_post")(x))
        return features[-1].reshape(x.shape[0], -1).astype(jnp.float32), features


class ScaleCritic(nn.Module):
    """Judges x, f32[B, N], by strided convolutions in groups of channels. Returns as `PeriodCritic` does."""

    widths: tuple[int, ...]
    sizes: tuple[int, ...]
    strides: tuple[int, ...]
    groups: tuple[int, ...]
    spectral: bool
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, list[jax.Array]]:
        x = x[:, :, None, None]
        features = []
        for i, how in enumerate(zip(self.widths, self.sizes, self.strides, self.groups)):
            x = _leaky(ColumnConv(*how, spectral=self.spectral, dtype=self.dtype, name=f"convs_{i}")(x))
            features.append(x)
        features.append(ColumnConv(1, 3, spectral=self.spectral, dtype=self.dtype, name="conv_post")(x))
        return features[-1].reshape(x.shape[0], -1).astype(jnp.float32), features


def halved(x: jax.Array) -> jax.Array:
    """Means of four samples, one every two, with two zeros at both ends: f32[B, 1 + floor(N / 2)] of f32[B, N]."""
    count = x.shape[1] // 2 + 1
    x = jnp.pad(x, ((0, 0), (2, 2)))[:, : 2 * (count + 1)]
    pairs = jnp.sum(x.reshape(x.shape[0], -1, 2), axis=-1)
    return (pairs[:, :-1] + pairs[:, 1:]) / 4


class WaveCritic(nn.Module):
    """Multi-period and multi-scale critics (section 2.3): of samples so many apart, and of the waveform at its own rate
    and at halves of it. x: f32[B, N]. The critic of the whole rate is normalized spectrally, all others by weight."""

    periods: Sizes = (2, 3, 5, 7, 11)
    period_widths: Sizes = (32, 128, 512, 1024)
    """Channels of the layers of stride 3; another follows."""
    scales: Annotated[int, Ge(0), Le(8)] = 3
    scale_widths: Sizes = (128, 128, 256, 512, 1024, 1024, 1024)
    scale_sizes: Sizes = (15, 41, 41, 41, 41, 41, 5)
    """Of kernels."""
    scale_strides: Sizes = (1, 2, 2, 4, 4, 1, 1)
    scale_groups: Sizes = (1, 4, 16, 16, 16, 16, 1)
    """Groups of channels that do not see each other."""
    dtype: Any = None

    def problem(self) -> str | None:
        lists = (self.scale_widths, self.scale_sizes, self.scale_strides, self.scale_groups)
        if len({len(values) for values in lists}) > 1:
            return (
                f"scale_widths, sizes, strides and groups have {', '.join(str(len(v)) for v in lists)} numbers: as "
                "many of each are expected"
            )
        if even := [size for size in self.scale_sizes if size % 2 == 0]:
            return f"scale_sizes has {even[0]}: odd sizes of kernels are expected"
        if len(set(self.periods)) < len(self.periods):
            return f"periods are {', '.join(map(str, self.periods))}: each once is expected"
        for before, width, groups in zip((1, *self.scale_widths), self.scale_widths, self.scale_groups):
            if before % groups or width % groups:
                return f"{before} and {width} channels are not of {groups} groups: multiples are expected"
        return None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> Judged:
        found = [
            PeriodCritic(period, tuple(self.period_widths), self.dtype, name=f"period_{period}")(x)
            for period in self.periods
        ]
        how = (self.scale_widths, self.scale_sizes, self.scale_strides, self.scale_groups)
        for i in range(self.scales):
            found.append(ScaleCritic(*how, spectral=i == 0, dtype=self.dtype, name=f"scale_{i}")(x))
            x = halved(x)
        return Judged([logits for logits, _ in found], [layer for _, layers in found for layer in layers])
