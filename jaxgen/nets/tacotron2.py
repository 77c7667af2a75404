"""Tacotron 2, arXiv:1712.05884, as NVIDIA's code has it: text in, frames of a log mel spectrogram out.

text: i32[B, T], T symbols of which length[b] are real; frames: f32[B, F, bands] in S = F / r groups of r, the reduction
factor: a decoder step gives r frames and one logit of having ended. Layers, by the names of the code:

  encoder     embedding, convolutions with batch normalization, a bidirectional LSTM: memory m_j, f32[B, T, E]
  prenet      two layers of the group before, whose dropout is never off: p_s
  attention   h_s = LSTM([p_s, context_{s-1}]); e_sj = v^T tanh(W h_s + V m_j + U f_sj), f the location features, a
              convolution over the weights of the step before and the sum of all before; a_s = softmax(e_s);
              context_s = sum_j a_sj m_j
  decoder     d_s = LSTM([h_s, context_s]); frames and gate are affine in [d_s, context_s]
  postnet     convolutions over all frames, added to them

What is past the end of a text or of its frames is zero at each layer, and normalization counts real places alone: a
text has the same frames by itself, among others and with padding.
"""

import functools
import itertools
import math
from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
from annotated_types import Ge, Le
from flax import linen as nn

from jaxgen.core.ranges import Decay, Depth, Positive, Size, Sizes, Vocabulary
from jaxgen.core.types import PyTree
from jaxgen.nets.dense import flatten_dot
from jaxgen.ops.recurrent import hidden, lstm, masked_lstm, matmul, recurrent

HIDDEN = -1e9
"""Added to the energies of what is not attended to."""

XAVIER = nn.initializers.xavier_uniform()


class Carried(NamedTuple):
    """What the attention carries from step to step."""

    h: jax.Array  # f32[B, A]
    c: jax.Array  # f32[B, A]
    context: jax.Array  # f32[B, E]
    weights: jax.Array  # f32[B, T], of the step before
    total: jax.Array  # f32[B, T], of all steps before


class Memory(NamedTuple):
    """What the attention attends to, and its weights."""

    query: jax.Array  # W, f32[A, K]
    location: jax.Array  # U of the convolution, f32[kernel, 2, K]
    v: jax.Array  # f32[K]
    memory: jax.Array  # m, f32[B, T, E]
    keys: jax.Array  # V m, f32[B, T, K]
    bias: jax.Array  # f32[B, T]: 0, or HIDDEN past the end of a text


class Decoded(NamedTuple):
    """Frames of a decoder, standardised, before the postnet."""

    frames: jax.Array  # f32[B, S r, bands]
    gates: jax.Array  # f32[B, S]: logits of having ended
    alignment: jax.Array  # f32[B, S, T]: weights of the attention


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


def attend(m: Memory, carry: Carried, u: jax.Array, extra: Mapping[str, jax.Array]) -> tuple[Carried, PyTree]:
    """A step of the attention from its LSTM's activations u; as output h, context and weights.

    extra: `zone_h` and `zone_c`, the parts of h and c that stay what they were; `drop`, factors of h.
    """
    h, c = lstm(u, carry.c)
    h, c = _zoned(carry.h, h, carry.c, c, extra)
    h = h * extra["drop"] if "drop" in extra else h
    before = jnp.stack([carry.weights, carry.total], axis=-1)
    size, _, width = m.location.shape
    features = flatten_dot(
        windows(before, size).astype(m.location.dtype), m.location.reshape(-1, width), (((2,), (0,)), ((), ()))
    )
    inner = jnp.tanh(features + m.keys + matmul(h, m.query)[:, None])
    energies = jnp.einsum("btk,k->bt", inner, m.v).astype(jnp.float32) + m.bias
    weights = jax.nn.softmax(energies, axis=-1)
    context = jnp.einsum("bt,bte->be", weights, m.memory)
    return Carried(h, c, context, weights, carry.total + weights), (h, context, weights)


def read_attention(carry: Carried) -> jax.Array:
    return jnp.concatenate([carry.context, carry.h], axis=-1)


def decode(_: PyTree, carry: tuple[jax.Array, jax.Array], u: jax.Array, extra: Mapping[str, jax.Array]):
    """A step of the decoder's LSTM. extra: as `attend` has it."""
    h, c = lstm(u, carry[1])
    h, c = _zoned(carry[0], h, carry[1], c, extra)
    h = h * extra["drop"] if "drop" in extra else h
    return (h, c), h


def _zoned(h: jax.Array, new_h: jax.Array, c: jax.Array, new_c: jax.Array, extra: Mapping[str, jax.Array]):
    if "zone_h" not in extra:
        return new_h, new_c
    return new_h + extra["zone_h"] * (h - new_h), new_c + extra["zone_c"] * (c - new_c)


class Tacotron2Net(nn.Module):
    """The network. As it stands, of NVIDIA's sizes."""

    vocab: Vocabulary = 148
    bands: Size = 80
    reduction: Annotated[int, Ge(1), Le(16)] = 1
    """r, frames of a decoder step."""
    encoder: Annotated[int, Ge(2), Le(65_536)] = 512
    """Channels of the embedding, the convolutions and the memory: an even number."""
    encoder_layers: Depth = 3
    encoder_size: Annotated[int, Ge(1), Le(99)] = 5
    """Places that a convolution sees: an odd number, as of the other sizes."""
    prenet: Sizes = (256, 256)
    attention_rnn: Size = 1024
    attention: Size = 128
    """K, the width in which energies are computed."""
    location_filters: Size = 32
    location_size: Annotated[int, Ge(1), Le(999)] = 31
    decoder_rnn: Size = 1024
    postnet: Size = 512
    postnet_layers: Annotated[int, Ge(2), Le(99)] = 5
    postnet_size: Annotated[int, Ge(1), Le(99)] = 5
    dropout: Decay = 0.5
    """Of the convolutions, in training."""
    prenet_dropout: Decay = 0.5
    """Of the prenet, in training and in use."""
    rnn_dropout: Decay = 0.1
    """Of the states of attention and decoder, in training."""
    zoneout: Decay = 0.0
    """Of these states, arXiv:1606.01305: in training the share that stays what it was."""
    mean: float = 0.0
    """Of log mels, which the network standardises by this and `deviation`; NVIDIA's code does not."""
    deviation: Positive = 1.0
    remat: bool = False
    """Compute the steps of the attention again for their gradients, rather than keep what these need."""
    dtype: Any = None

    def problem(self) -> str | None:
        sizes = {name: getattr(self, name) for name in ("encoder_size", "location_size", "postnet_size")}
        if even := [name for name, size in sizes.items() if size % 2 == 0]:
            return f"{even[0]} is {sizes[even[0]]}: an odd number is expected"
        if self.encoder % 2:
            return f"encoder is {self.encoder}: an even number is expected, half for each direction"
        return None

    def setup(self):
        affine, group = functools.partial(Affine, dtype=self.dtype), self.reduction * self.bands
        half, joint = self.encoder // 2, self.encoder + self.decoder_rnn
        self.embedding = nn.Embed(self.vocab, self.encoder, embedding_init=XAVIER, dtype=jnp.float32)
        self.encoder_convs = [
            NormedConv(self.encoder, self.encoder, self.encoder_size, self.dtype) for _ in range(self.encoder_layers)
        ]
        self.forwards = LSTM(self.encoder, half, self.dtype)
        self.backwards = LSTM(self.encoder, half, self.dtype)
        inputs = (group, *self.prenet)
        self.prenet_layers = [affine(a, b, use_bias=False) for a, b in zip(inputs, self.prenet)]
        self.attention_lstm = LSTM(self.prenet[-1] + self.encoder, self.attention_rnn, self.dtype)
        self.query = affine(self.attention_rnn, self.attention, use_bias=False)
        self.memory = affine(self.encoder, self.attention, use_bias=False)
        self.energy = affine(self.attention, 1, use_bias=False)
        self.location = Affine(2 * self.location_size, self.location_filters, use_bias=False)
        self.location_dense = Affine(self.location_filters, self.attention, use_bias=False)
        self.decoder_lstm = LSTM(self.attention_rnn + self.encoder, self.decoder_rnn, self.dtype)
        self.projection = affine(joint, group)
        self.gate = affine(joint, 1)
        widths = (self.bands, *[self.postnet] * (self.postnet_layers - 1), self.bands)
        pairs = itertools.pairwise(widths)
        self.postnet_convs = [NormedConv(a, b, self.postnet_size, self.dtype) for a, b in pairs]
        self.drop = nn.Dropout(self.dropout)

    def __call__(
        self, text: jax.Array, text_length: jax.Array, frames: jax.Array, length: jax.Array, masks: jax.Array,
        train: bool = False,
    ) -> tuple[Decoded, jax.Array]:  # fmt: skip
        """Frames given those before, by groups, and the frames with the postnet's, f32[B, F, bands].

        frames: standardised, F a multiple of r; length: multiples of r; masks: f32[S, B, sum of prenet], as
        `prenet_masks` gives them.
        """
        memory = self.encode(text, text_length, train)
        decoded = self.teach(memory, frames, masks, train)
        return decoded, self.refine(decoded.frames, length, train)

    # --- parts ---

    def encode(self, text: jax.Array, length: jax.Array, train: bool = False) -> Memory:
        """What the decoder attends to."""
        real = reals(length, text.shape[1])
        x = jnp.where(real[..., None], self.embedding(text), 0.0)
        for layer in self.encoder_convs:
            x = self.drop(nn.relu(layer(x, real, train)), deterministic=not train)
        x = jnp.concatenate([self.forwards(x, real), self.backwards(x, real, True)], axis=-1)
        # One kernel of convolution and dense layer: between them is nothing that is not linear.
        location = (self.location.kernel @ self.location_dense.kernel).reshape(self.location_size, 2, self.attention)
        kernels = (self.query.kernel, location.astype(self.query.kernel.dtype), self.energy.kernel[:, 0])
        return Memory(*kernels, x, self.memory(x), jnp.where(real, 0.0, HIDDEN))

    def start(self, m: Memory) -> tuple[Carried, tuple[jax.Array, jax.Array]]:
        """What attention and decoder carry into the first step."""
        batch, size = m.bias.shape
        h, d, context, weights = (
            jnp.zeros((batch, n)) for n in (self.attention_rnn, self.decoder_rnn, self.encoder, size)
        )
        return Carried(h, h, context, weights, weights), (d, d)

    def teach(self, m: Memory, frames: jax.Array, masks: jax.Array, train: bool = False) -> Decoded:
        """All steps at once, each given the frames before it. Three products over all steps stand outside the scans."""
        batch, num = frames.shape[0], frames.shape[1] // self.reduction
        groups = jnp.swapaxes(frames.reshape(batch, num, -1), 0, 1)
        before = jnp.concatenate([jnp.zeros_like(groups[:1]), groups[:-1]])
        carry, last = self.start(m)
        cut = self.prenet[-1]
        cell = self.attention_lstm.input
        drive = matmul(self._prenet(before, masks), cell.kernel[:cut]).astype(jnp.float32) + cell.bias[None, None]
        kernel = jnp.concatenate([cell.kernel[cut:], self.attention_lstm.hidden.kernel])
        zones = self._masks(num, batch, self.attention_rnn, train)
        h, context, weights = recurrent(attend, read_attention, kernel, m, carry, drive, zones, self.remat)
        drive = self.decoder_lstm.input(jnp.concatenate([h, context], axis=-1))
        zones = self._masks(num, batch, self.decoder_rnn, train)
        d = recurrent(decode, hidden, self.decoder_lstm.hidden.kernel, (), last, drive, zones)
        joint = jnp.concatenate([d, context], axis=-1)
        out = jnp.swapaxes(self.projection(joint), 0, 1).reshape(frames.shape)
        return Decoded(out, self.gate(joint)[..., 0].T, jnp.swapaxes(weights, 0, 1))

    def step(
        self, m: Memory, carry: Carried, last: tuple[jax.Array, jax.Array], group: jax.Array, mask: jax.Array
    ) -> tuple[Carried, tuple[jax.Array, jax.Array], jax.Array, jax.Array]:
        """One step in use: what is carried, a group of frames f32[B, r bands], and the gate's logit f32[B]. group: the
        one before."""
        # Two products a cell: joined kernels would be copied at every step.
        cell, inputs = self.attention_lstm, jnp.concatenate([self._prenet(group, mask), carry.context], axis=-1)
        u = cell.input(inputs) + matmul(carry.h, cell.hidden.kernel).astype(jnp.float32)
        carry, (h, context, _) = attend(m, carry, u, self._zones())
        cell = self.decoder_lstm
        u = cell.input(jnp.concatenate([h, context], axis=-1)) + matmul(last[0], cell.hidden.kernel).astype(jnp.float32)
        last, d = decode((), last, u, self._zones())
        joint = jnp.concatenate([d, context], axis=-1)
        return carry, last, self.projection(joint), self.gate(joint)[:, 0]

    def refine(self, frames: jax.Array, length: jax.Array, train: bool = False) -> jax.Array:
        """Frames with the postnet's added, zero from `length` on."""
        real = reals(length, frames.shape[1])
        frames = x = jnp.where(real[..., None], frames, 0.0)
        for i, layer in enumerate(self.postnet_convs):
            x = layer(x, real, train)
            x = x if i == len(self.postnet_convs) - 1 else jnp.tanh(x)
            x = self.drop(x, deterministic=not train)
        return frames + x

    def _prenet(self, x: jax.Array, masks: jax.Array) -> jax.Array:
        place = 0
        for layer, width in zip(self.prenet_layers, self.prenet):
            x = nn.relu(layer(x)) * masks[..., place : place + width]
            place += width
        return x

    def _masks(self, num: int, batch: int, width: int, train: bool) -> dict[str, jax.Array]:
        """What `attend` and `decode` have of zoneout and dropout, by step."""
        if not train:
            return {name: jnp.broadcast_to(zone, (num, 1, 1)) for name, zone in self._zones().items()}
        masks = {}
        for name in ("zone_h", "zone_c") if self.zoneout else ():
            masks[name] = jax.random.bernoulli(self.make_rng("dropout"), self.zoneout, (num, batch, width)) * 1.0
        if self.rnn_dropout:
            kept = jax.random.bernoulli(self.make_rng("dropout"), 1 - self.rnn_dropout, (num, batch, width))
            masks["drop"] = kept / (1 - self.rnn_dropout)
        return masks

    def _zones(self) -> dict[str, jax.Array]:
        """In use, the share that stays: the mean of what training draws."""
        return dict.fromkeys(("zone_h", "zone_c"), jnp.full((1, 1), self.zoneout)) if self.zoneout else {}


def prenet_masks(keys: jax.Array, steps: jax.Array, widths: tuple[int, ...], rate: float) -> jax.Array:
    """f32[S, B, sum(widths)]: factors of the prenet's units at steps i32[S], 0 or 1 / (1 - rate), example b by keys[b]:
    they do not depend on how many steps or examples there are."""

    def mask(key: jax.Array, step: jax.Array) -> jax.Array:
        kept = jax.random.bernoulli(jax.random.fold_in(key, step), 1 - rate, (sum(widths),))
        return kept / (1 - rate)

    return jax.vmap(jax.vmap(mask, (0, None)), (None, 0))(keys, steps)
