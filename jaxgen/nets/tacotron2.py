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
from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
from annotated_types import Ge, Le
from flax import linen as nn

from jaxgen.core.ranges import Decay, Depth, Positive, Size, Sizes, Vocabulary
from jaxgen.core.types import PyTree
from jaxgen.nets.dense import flatten_dot
from jaxgen.nets.masked import LSTM, XAVIER, Affine, NormedConv, reals, windows
from jaxgen.ops.recurrent import hidden, lstm, matmul, recurrent

HIDDEN = -1e9
"""Added to the energies of what is not attended to."""


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


class Products(NamedTuple):
    """Of one text alone, what a step in use multiplies by instead of an LSTM's kernel for its inputs [x, context]:
    context W = sum_j a_sj (m_j W), of which the rows m_j W are known before the first step. A step's time is that of
    reading its kernels, of which these are a quarter less."""

    attention: jax.Array  # m W, [T, 4 A]
    attention_input: jax.Array  # of the prenet's output, [P, 4 A]
    decoder: jax.Array  # m W, [T, 4 D]
    decoder_input: jax.Array  # of the attention's h, [A, 4 D]


class Decoded(NamedTuple):
    """Frames of a decoder, standardised, before the postnet."""

    frames: jax.Array  # f32[B, S r, bands]
    gates: jax.Array  # f32[B, S]: logits of having ended
    alignment: jax.Array  # f32[B, S, T]: weights of the attention


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

    def products(self, m: Memory) -> Products | None:
        """None where they are no fewer numbers than the kernels: for several texts, and a long one."""
        alone = isinstance(m.memory.shape[0], int) and m.memory.shape[0] == 1  # not known in an export
        if not alone or m.memory.shape[1] >= self.encoder:
            return None
        found = []
        for cell in (self.attention_lstm, self.decoder_lstm):
            kernel, cut = cell.input.kernel, cell.inputs - self.encoder
            found += [matmul(m.memory[0], kernel[cut:]), kernel[:cut]]
        return Products(*found)

    def step(
        self, m: Memory, carry: Carried, last: tuple[jax.Array, jax.Array], group: jax.Array, mask: jax.Array,
        products: Products | None = None,
    ) -> tuple[Carried, tuple[jax.Array, jax.Array], jax.Array, jax.Array]:  # fmt: skip
        """One step in use: what is carried, a group of frames f32[B, r bands], and the gate's logit f32[B]. group: the
        one before; products: as `products` gives them, to be quicker."""
        # A product for each of what a cell reads: joined kernels would be copied at every step.
        cell, x, p = self.attention_lstm, self._prenet(group, mask), products
        drive = self._drive(cell, x, carry, p and (p.attention, p.attention_input))
        u = drive + matmul(carry.h, cell.hidden.kernel).astype(jnp.float32)
        carry, (h, context, _) = attend(m, carry, u, self._zones())
        cell = self.decoder_lstm
        drive = self._drive(cell, h, carry, p and (p.decoder, p.decoder_input))
        u = drive + matmul(last[0], cell.hidden.kernel).astype(jnp.float32)
        last, d = decode((), last, u, self._zones())
        joint = jnp.concatenate([d, context], axis=-1)
        return carry, last, self.projection(joint), self.gate(joint)[:, 0]

    def _drive(
        self, cell: LSTM, x: jax.Array, carry: Carried, products: tuple[jax.Array, jax.Array] | None
    ) -> jax.Array:
        """An LSTM's activations of [x, context], f32[B, 4 H]."""
        if products is None:
            return cell.input(jnp.concatenate([x, carry.context], axis=-1))
        rows, kernel = products
        return (matmul(x, kernel) + matmul(carry.weights, rows)).astype(jnp.float32) + cell.input.bias[None]

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
