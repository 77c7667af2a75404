"""DiffWave's network, arXiv:2009.09761: dilated convolutions that see both sides, gated, told the step of diffusion.

Each of N residual layers adds an embedding of the step to its input, convolves it with dilation 2^(i mod cycle), gates
it (`nets.waves.GatedLayer`) and gives one part on, (h + part) / sqrt 2, and another to the sum of all, over sqrt N:
figure 2 and section 3.1.
"""

import math
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from annotated_types import Ge, Le
from flax import linen as nn

from jaxgen.core.ranges import Depth, Size, Sizes
from jaxgen.nets.dense import Dense
from jaxgen.nets.unet import ZERO, time_embedding
from jaxgen.nets.waves import (
    GatedLayer,
    MelUpsampler,
    centred_taps,
    rates_problem,
    repeated_dilations,
    zero_after,
)

SINUSOIDS = 128


class DiffWaveNet(nn.Module):
    """x: f32[B, N], a noisy waveform; t: f32[B]; y: one-hot f32[B, K]; mel: f32[B, F, bands] with F hop = N, of which
    length[b] frames are real. Returns f32[B, N], zero at initialization, and zero after an example's end, on which what
    is there has no influence. As it stands, DiffWave BASE."""

    width: Size = 64
    layers: Depth = 30
    cycle: Annotated[int, Ge(1), Le(16)] = 10
    """Layers after which dilations begin again at 1."""
    size: Annotated[int, Ge(1), Le(9)] = 3
    """Taps of each convolution, odd."""
    hidden: Size = 512
    """Of the two dense layers of the step's embedding."""
    rates: Sizes = (16, 16)
    """Of upsampling mels, if there are any."""
    dtype: Any = None

    @property
    def dilations(self) -> tuple[int, ...]:
        return repeated_dilations(self.layers, self.cycle)

    @property
    def field(self) -> int:
        """Samples that an output sees, as many on both sides of its own."""
        return 1 + (self.size - 1) * sum(self.dilations)

    def problem(self) -> str | None:
        if self.size % 2 == 0:
            return f"size is {self.size}: an odd number of taps is expected"
        return rates_problem(self.rates)

    def check(self, shape: tuple[int, ...]) -> None:
        """Accepts any length."""

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        t: jax.Array,
        out: int = 1,
        y: jax.Array | None = None,
        mel: jax.Array | None = None,
        length: jax.Array | None = None,
        train: bool = False,
    ) -> jax.Array:
        local, end = None, None
        if mel is not None:
            local = MelUpsampler(tuple(self.rates), self.dtype, name="upsampler")(mel, length)
            end = None if length is None else length * math.prod(self.rates)
        step = time_embedding(t, SINUSOIDS)
        for i in range(2):
            step = nn.silu(Dense(self.hidden, dtype=self.dtype, name=f"step_{i}")(step))
        h = nn.relu(Dense(self.width, dtype=self.dtype, name="in")(zero_after(x, end)[..., None]))
        total = jnp.zeros_like(h)
        for i, dilation in enumerate(self.dilations):
            told = Dense(self.width, dtype=self.dtype, name=f"told_{i}")(step)[:, None]
            taps = centred_taps(zero_after(h + told, end), self.size, dilation)
            more, skip = GatedLayer(self.width, self.width, self.dtype, name=f"layer_{i}")(taps, local, y)
            h, total = (h + more) / math.sqrt(2), total + skip
        h = nn.relu(Dense(self.width, dtype=self.dtype, name="hidden")(total / math.sqrt(self.layers)))
        h = Dense(1, kernel_init=ZERO, dtype=self.dtype, name="out")(h)[..., 0]
        return zero_after(h.astype(jnp.float32), end)
