"""WaveNet, arXiv:1609.03499: causal dilated convolutions, gated, whose skips are summed.

x: i32[B, T], tokens, or f32[B, T], values. Output t sees x_s for t - field < s <= t alone. Sampling goes sample by
sample: each layer keeps the last (size - 1) dilation of its inputs in a queue (arXiv:1611.09482), so that a step costs
one sample and not a whole field.
"""

from typing import Annotated, Any

import jax
import jax.numpy as jnp
from annotated_types import Ge, Le
from flax import linen as nn

from jaxgen.core.ranges import Depth, Size, Sizes
from jaxgen.nets.dense import Dense
from jaxgen.nets.waves import GatedLayer, MelUpsampler, causal_taps, rates_problem, repeated_dilations

Queues = tuple[jax.Array, ...]
"""Of each layer [(size - 1) dilation, B, width], sample s at place s modulo their number."""


class WaveNetNet(nn.Module):
    """As it stands, 30 layers of a vocoder of 22 kHz."""

    width: Size = 64
    """Of residuals."""
    skip: Size = 256
    """Of the sum of all layers and of the layer after it."""
    layers: Depth = 30
    cycle: Annotated[int, Ge(1), Le(16)] = 10
    """Layers after which dilations begin again at 1."""
    size: Annotated[int, Ge(2), Le(8)] = 2
    """Taps of each convolution."""
    rates: Sizes = (16, 16)
    """Of upsampling mels, if there are any."""
    dtype: Any = None

    @property
    def dilations(self) -> tuple[int, ...]:
        return repeated_dilations(self.layers, self.cycle)

    @property
    def field(self) -> int:
        """Samples that an output sees."""
        return 1 + (self.size - 1) * sum(self.dilations)

    def problem(self) -> str | None:
        return rates_problem(self.rates)

    def setup(self) -> None:
        self.entry = Entry(self.width, self.dtype)
        self.gated = [GatedLayer(self.width, self.skip, self.dtype) for _ in range(self.layers)]
        self.exit = Exit(self.skip, self.dtype)
        self.upsampler = MelUpsampler(tuple(self.rates), self.dtype)

    def __call__(
        self,
        x: jax.Array,
        tokens: int,
        outputs: int,
        mel: jax.Array | None = None,
        length: jax.Array | None = None,
        y: jax.Array | None = None,
    ) -> jax.Array:
        """f32[B, T, outputs]. tokens: how many there are, 0 for values. mel: f32[B, F, bands], F hop = T."""
        local = None if mel is None else self.upsampler(mel, length)
        h = self.entry(x, tokens)
        total = jnp.zeros((*h.shape[:-1], self.skip), h.dtype)
        for layer, dilation in zip(self.gated, self.dilations):
            more, skip = layer(causal_taps(h, self.size, dilation), local, y)
            h, total = h + more, total + skip
        return self.exit(total, outputs)

    def upsampled(self, mel: jax.Array, length: jax.Array | None = None) -> jax.Array:
        """f32[B, F hop, bands], of which `step` takes one sample."""
        return self.upsampler(mel, length)

    def start(self, num: int) -> Queues:
        """Queues before the first sample of `num` waveforms: zeros, as before the beginning in a whole pass."""
        sizes = [(self.size - 1) * dilation for dilation in self.dilations]
        return tuple(jnp.zeros((size, num, self.width), self.dtype or jnp.float32) for size in sizes)

    def step(
        self,
        x: jax.Array,
        queues: Queues,
        t: jax.Array,
        tokens: int,
        outputs: int,
        local: jax.Array | None = None,
        y: jax.Array | None = None,
    ) -> tuple[jax.Array, Queues]:
        """The output at t alone, f32[B, outputs], and the queues after it. x: [B], sample t; local: f32[B, bands]."""
        h, kept = self.entry(x, tokens), []
        total = jnp.zeros((*h.shape[:-1], self.skip), h.dtype)
        for layer, queue, dilation in zip(self.gated, queues, self.dilations):
            places = [(t - j * dilation) % len(queue) for j in range(self.size - 1, 0, -1)]
            before = [jax.lax.dynamic_index_in_dim(queue, place, keepdims=False) for place in places]
            more, skip = layer(jnp.concatenate([*before, h], axis=-1), local, y)
            kept.append(jax.lax.dynamic_update_index_in_dim(queue, h.astype(queue.dtype), t % len(queue), 0))
            h, total = h + more, total + skip
        return self.exit(total, outputs), tuple(kept)


class Entry(nn.Module):
    """Embeddings of tokens i32[...], or a dense layer of values f32[...]: [..., width]."""

    width: int
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, tokens: int) -> jax.Array:
        if tokens:
            return nn.Embed(tokens, self.width, dtype=self.dtype, name="embed")(x)
        return Dense(self.width, dtype=self.dtype, name="value")(x[..., None])


class Exit(nn.Module):
    """ReLU, 1x1, ReLU, 1x1: section 2.4."""

    width: int
    dtype: Any = None

    @nn.compact
    def __call__(self, total: jax.Array, outputs: int) -> jax.Array:
        h = nn.relu(Dense(self.width, dtype=self.dtype, name="hidden")(nn.relu(total)))
        return Dense(outputs, dtype=self.dtype, name="out")(h).astype(jnp.float32)
