"""GPT: p(x) = prod_t p(x_t | x_<t) over tokens, trained like nanoGPT (GPT-2's architecture and initialisation, Radford
et al. 2019).

x: i32[B, T]. For text, T is the window plus one: every token but the first is predicted. A sample continues a prompt,
cond = {"prompt": i32[N, P], "length": i32[N]}; row i's prompt is its first length[i] tokens, the rest is padding. For
codes (`start`, or classes), all T tokens are predicted, the first from a learnt start token of the class: cond i32[N].

Sampling reads the prompt in one pass and then scans, caching keys and values. Prompts of different lengths share a
batch; their last tokens are aligned, so that each step writes one slot of the cache. When a text outgrows the window,
each token is drawn exactly from the model given the most recent tokens, between `Decoding.keep` and `window` of them,
with positions counted from the first of these.
"""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.core.keys import coin_each, fold_each, one_key, split_each
from jaxgen.core.model import LossModel
from jaxgen.core.ranges import Fraction, NonNegative, OptionalSize
from jaxgen.core.types import Batch, Metrics, PyTree, TrainState
from jaxgen.errors import UserError
from jaxgen.models.shared import ClassConditionalModel, check_classes, check_rows, check_tokens, concrete
from jaxgen.nets.apply import apply
from jaxgen.nets.gpt import TokenTransformer
from jaxgen.nets.lora import merged
from jaxgen.nets.transformer import DecodeParams, KeysValues, Placement
from jaxgen.ops.decoding import Decoding
from jaxgen.optim import Adam, Optimizer

# A sampling step reads the whole cache, so the cache grows in stages. Each stage compiles the step again: there are at
# most STAGES, of STAGE_TOKENS tokens or more.
STAGES = 4
STAGE_TOKENS = 64


class Writer(NamedTuple):
    """The state of sampling. R rows: one for each sample, or two with guidance."""

    cache: list[KeysValues]  # [R * groups, S, d] of each block
    slot: jax.Array  # i32[]: the slot of the next token; the S slots form a ring
    count: jax.Array  # i32[R]: tokens of each row in the slots before `slot`
    token: jax.Array  # i32[R]: the last token, which is not yet in the cache
    kept: jax.Array | None  # i32[R, S]: the tokens in the slots, where the window may have to be read again
    seen: jax.Array | None  # bool[N, V]: tokens under the repetition penalty
    ended: jax.Array  # bool[N]: samples that have drawn the end token


def widened(writer: Writer, slots: int) -> Writer:
    """The writer with its cache enlarged to `slots` slots. A smaller cache must be full."""
    old = writer.cache[0][0].shape[1]
    if slots == old:
        return writer

    def wider(a: jax.Array) -> jax.Array:
        return jnp.pad(a, [(0, slots - old) if axis == 1 else (0, 0) for axis in range(a.ndim)])

    cache, kept = jax.tree.map(wider, (writer.cache, writer.kept))
    return writer._replace(cache=cache, kept=kept, slot=jnp.int32(old))


@dataclass(frozen=True, kw_only=True)
class GPT(ClassConditionalModel, LossModel):
    """x: i32[B, T]; cond, where num_classes > 0: i32[B] in [0, num_classes)."""

    network: TokenTransformer = field(default_factory=TokenTransformer)
    optimizer: Optimizer = Adam(lr=1e-3, b2=0.99, weight_decay=0.1, clip=1.0)
    num_classes: OptionalSize = 0
    start: bool = False
    """Predict the first token too, from a learnt start token, as for codes; text continues a prompt instead."""
    class_dropout: Fraction = 0.0
    """Fraction of labels dropped in training; guidance needs some."""
    guidance: NonNegative = 1.0
    """w of log p(x_t) + w (log p(x_t | class) - log p(x_t)): 1 is the class alone, without guidance."""
    decoding: Decoding = Decoding()

    # --- sizes and checks ---

    @property
    def vocab(self) -> int:
        return self.network.vocab

    @property
    def window(self) -> int:
        """The longest context, in tokens."""
        return self.network.window

    @property
    def from_start(self) -> bool:
        """Whether all tokens are predicted, the first from a learnt start token."""
        return self.start or self.num_classes > 0

    @property
    def num_tokens(self) -> int:
        """Tokens drawn for each sample."""
        return self.decoding.tokens or self.network.window

    def check(self, batch: Batch) -> None:
        self.network.check()
        self._check_decoding()
        x, window = batch["x"], self.network.window
        check_rows(x)
        length = x.shape[1] if self.from_start else x.shape[1] - 1
        if not 1 <= length <= window:
            raise UserError(f"examples ask for {length} positions, the window has {window}: set --model.network.window")
        check_tokens(x, self.vocab)
        check_classes(self.num_classes, batch)
        if self.from_start and "bytes" in batch:
            raise UserError("text continues a prompt, not a learnt start: leave --model.start out")
        if self.from_start and x.shape[1] != self.num_tokens:
            raise UserError(
                f"examples have {x.shape[1]} tokens, samples {self.num_tokens}: set --model.decoding.tokens, or the "
                f"window where that is 0, to {x.shape[1]}"
            )

    def _check_decoding(self) -> None:
        window = self.network.window
        self.decoding.check(self.vocab, window)
        if self.from_start and self.num_tokens > window:
            raise UserError(f"model.decoding.tokens is {self.num_tokens}, codes end with the window, {window}")
        if self.guidance != 1 and not (self.num_classes and self.class_dropout):
            raise UserError(
                f"model.guidance is {self.guidance}: it needs classes, and training with --model.class-dropout 0.1"
            )

    def check_cond(self, cond: PyTree) -> None:
        self._check_decoding()
        if self.num_classes:
            super().check_cond(cond)
        elif self.start:
            if cond is not None:
                raise UserError("this model needs no prompt: leave the condition out")
        else:
            check_prompt(cond, self.vocab, self.network.window)

    # --- training ---

    def init_params(self, key: jax.Array, batch: Batch) -> dict[str, PyTree]:
        key_network, key_starts = jax.random.split(key)
        params = {"network": self.network.init(key_network, batch["x"][:1, :2])["params"]}
        if self.from_start:
            count = max(1, self.num_classes + bool(self.class_dropout))
            shape = (count, self.network.body.width)
            params["starts"] = {"embedding": 0.02 * jax.random.normal(key_starts, shape)}
        return params

    def nats(self, params: PyTree, batch: Batch, keys: jax.Array | None = None) -> jax.Array:
        """-log p of each predicted token, f32[B, T or T - 1]. keys: for dropout, given in training."""
        x, starts, dropout = batch["x"].astype(jnp.int32), None, {}
        if keys is not None:
            keys_drop, keys_label = split_each(keys, 2)
            dropout = {"train": True, "rngs": {"dropout": one_key(keys_drop)}}
        if self.from_start:
            y = batch["cond"] if self.num_classes else jnp.zeros(len(x), jnp.int32)
            if keys is not None and self.class_dropout:
                y = jnp.where(coin_each(keys_label, self.class_dropout), self.num_classes, y)
            x = jnp.concatenate([self.vocab + y[:, None].astype(jnp.int32), x], axis=1)
            starts = params["starts"]["embedding"]
        variables = {"params": params["network"]}
        return apply(self.network, variables, x[:, :-1], x[:, 1:], starts, method="nats", **dropout)

    def loss(self, params: PyTree, state: TrainState, keys: jax.Array, batch: Batch) -> tuple[jax.Array, Metrics]:
        """Nats per token."""
        return jnp.mean(self.nats(params, batch, keys)), {}

    def evaluate(self, state: TrainState, keys: jax.Array, batch: Batch) -> Metrics:
        """Means over the predicted tokens of each example, f32[B]. If the data counts the UTF-8 bytes of these tokens,
        also `bits_per_byte`, f32[B, 2], as bits and bytes: the ratio for a text is a sum over a sum."""
        nats = jnp.mean(self.nats(state.sampling_params, batch), axis=1)
        numbers = {"nats_per_token": nats, "bits_per_token": nats / jnp.log(2.0)}
        if "bytes" in batch:
            bits = nats * (batch["x"].shape[1] - 1 + self.from_start) / jnp.log(2.0)
            numbers["bits_per_byte"] = jnp.stack([bits, batch["bytes"].astype(jnp.float32)], axis=-1)
        return numbers

    # --- sampling ---

    def sample(self, state: TrainState, keys: jax.Array, cond: PyTree = None) -> jax.Array:
        """Codes i32[N, num_tokens]; for text the prompts with their continuations, i32[N, P + num_tokens]."""
        drawn = self.drawn(state.sampling_params, keys, cond)
        return drawn if self.from_start else joined(cond, drawn, max(0, self.decoding.end))

    def drawn(self, params: PyTree, keys: jax.Array, cond: PyTree = None, given: jax.Array | None = None) -> jax.Array:
        """The tokens that are drawn, i32[N, num_tokens]. given: i32[N, num_tokens], tokens that are taken instead of
        drawn ones where they are not negative; what is drawn goes on from these."""
        texts, done = [], 0
        stages = self._stages(self._prefix_size(cond))
        writer = self.begin(params, keys.shape[0], cond, slots=stages[0][0])
        for slots, num in stages:
            part = None if given is None else given[:, done : done + num]
            writer, text = self.write(params, widened(writer, slots), keys, done, num, part)
            texts, done = [*texts, text], done + num
        return jnp.concatenate(texts, axis=1)

    @property
    def together(self) -> int:
        return 1

    def _prefix_size(self, cond: PyTree) -> int:
        """Tokens of the prompt that are read before the first one is drawn: all but the last."""
        return 0 if self.from_start else min(cond["prompt"].shape[1], self.network.window) - 1

    def _stages(self, size: int) -> list[tuple[int, int]]:
        """For each stage of sampling, the slots of the cache and the tokens drawn with it; see STAGES. size: tokens
        read first."""
        total = self.num_tokens
        slots = min(size + total, self.network.window)
        count = min(max((slots - size) // STAGE_TOKENS, 1), STAGES)
        ends = [size + (slots - size) * (i + 1) // count for i in range(count)]
        # Further tokens go round the ring of the last stage.
        drawn = np.diff([size, *ends[:-1], size + total])
        return list(zip(ends, drawn.tolist()))

    def begin(self, params: PyTree, num: int, cond: PyTree, tokens: int = 0, slots: int = 0) -> Writer:
        """The writer of `num` samples of `tokens` tokens (`num_tokens` when 0) once it has read their prompts. slots:
        the size of the cache; as many as needed when 0."""
        tokens, window = tokens or self.num_tokens, self.network.window
        seen = None
        if self.from_start:
            y = jnp.asarray(cond) if self.num_classes else jnp.zeros(num, jnp.int32)
            y = jnp.concatenate([y, jnp.full_like(y, self.num_classes)]) if self.guidance != 1 else y
            token, size = self.vocab + y.astype(jnp.int32), 0
            count = jnp.zeros_like(token)
        else:
            # Lengths are at most the window; the rest is padding.
            prompt = jnp.asarray(cond["prompt"], jnp.int32)[:, :window]
            length = jnp.asarray(cond["length"], jnp.int32)
            size = self._prefix_size(cond)
            token = jnp.take_along_axis(prompt, length[:, None] - 1, axis=1)[:, 0]
            count = length - 1
        long, slots = size + tokens > window, slots or min(size + tokens, window)
        rows = token.shape[0]
        cache = self.network.body.empty_cache(rows, slots)
        kept = jnp.zeros((rows, slots), jnp.int32) if long else None
        if size:
            # Shifted to the right, so that all rows' last tokens are aligned.
            place = jnp.arange(size)[None] - (size - count[:, None])
            before = jnp.take_along_axis(prompt[:, :size], jnp.clip(place, 0, size - 1), axis=1)
            cache = self._read(params, cache, before, jnp.maximum(place, 0), place >= 0)
            if kept is not None:
                kept = kept.at[:, :size].set(before)
        if self.decoding.repetition_penalty != 1:
            seen = jnp.zeros((num, self.vocab), bool)
            if not self.from_start:
                real = jnp.arange(size + 1)[None] < length[:, None]
                seen = seen.at[jnp.arange(num)[:, None], jnp.where(real, prompt, token[:, None])].set(True)
        return Writer(cache, jnp.int32(size), count, token, kept, seen, jnp.zeros(num, bool))

    def _read(self, params: PyTree, cache: list[KeysValues], tokens, positions, real) -> list[KeysValues]:
        """The cache with the keys and values of tokens, i32[R, P], in its first slots. real: bool[R, P], false for
        padding."""
        size = tokens.shape[1]
        # Padding attends to itself, as a row of the mask must not be empty.
        mask = (jnp.tri(size, dtype=bool)[None] & real[:, None]) | jnp.eye(size, dtype=bool)[None]
        k, v = apply(self.network, {"params": params["network"]}, tokens, positions, mask, method="keep")
        return [(a.at[:, :size].set(k[i]), b.at[:, :size].set(v[i])) for i, (a, b) in enumerate(cache)]

    def write(
        self, params: PyTree, writer: Writer, keys: jax.Array, first: jax.Array | int, num: int, given: Any = None
    ) -> tuple[Writer, jax.Array]:
        """The writer, and tokens `first` to `first + num - 1` of each sample, i32[N, num]. given: those of `drawn`."""
        # Sliced once, outside the scan: see `Transformer.decode_params`.
        layers = self.network.body.decode_params(merged(params["network"])["body"], writer.count.shape[0])
        fill = max(0, self.decoding.end)

        def step(writer: Writer, place: tuple[jax.Array, jax.Array | None]) -> tuple[Writer, jax.Array]:
            i, fixed = place
            writer, logits = self.advance(params, layers, writer)
            if self.guidance != 1:
                with_class, without = jnp.split(jax.nn.log_softmax(logits), 2)
                logits = without + self.guidance * (with_class - without)
            token = self.decoding.draw(fold_each(keys, i), logits, writer.seen)
            token = jnp.where(writer.ended, fill, token)
            token = token if fixed is None else jnp.where(fixed >= 0, fixed, token)
            ended, seen = writer.ended, writer.seen
            if self.decoding.end >= 0:
                ended = ended | (token == self.decoding.end)
            if seen is not None:
                seen = seen.at[jnp.arange(token.shape[0]), token].set(True)
            both = jnp.concatenate([token, token]) if self.guidance != 1 else token
            return writer._replace(token=both, seen=seen, ended=ended), token

        places = (first + jnp.arange(num), None if given is None else given.T)
        writer, drawn = jax.lax.scan(step, writer, places)
        return writer, drawn.T

    def advance(self, params: PyTree, layers: DecodeParams, writer: Writer) -> tuple[Writer, jax.Array]:
        """The writer once its last tokens are in the cache, and logits f32[R, V] of the next ones."""
        network, starts = self.network, params["starts"]["embedding"] if self.from_start else None
        slots = writer.cache[0][0].shape[1]
        if writer.kept is not None:
            writer = self._make_room(params, writer, writer.kept)
        cache, slot, count, token = writer[:4]
        variables, position = {"params": params["network"]}, count[:, None]
        x = apply(network, variables, token[:, None], position, starts, method="embed")
        age = jnp.mod(slot - jnp.arange(slots), slots)
        seen = (age[None] <= position)[:, None]
        h, cache = network.body.decode(layers, cache, x, Placement(position, seen, slot=slot))
        logits = apply(network, variables, h[:, 0], method="logits")
        kept = writer.kept
        if kept is not None:
            kept = jax.lax.dynamic_update_slice_in_dim(kept, token[:, None], slot, axis=1)
        return writer._replace(cache=cache, slot=jnp.mod(slot + 1, slots), count=count + 1, kept=kept), logits

    def _make_room(self, params: PyTree, writer: Writer, kept: jax.Array) -> Writer:
        """The writer in which each row with a full window keeps only its last tokens, read again from position 0 on."""
        window = self.network.window
        keep = self.decoding.keep or window // 2

        def again(writer: Writer) -> Writer:
            full, slots = writer.count == window, kept.shape[1]
            count, cache = jnp.where(full, keep, writer.count), writer.cache
            if keep:
                place = jnp.mod(writer.slot - keep + jnp.arange(keep), slots)
                positions = jnp.broadcast_to(jnp.arange(keep)[None], (full.shape[0], keep))
                variables = {"params": params["network"]}
                new = apply(self.network, variables, kept[:, place], positions, method="keep")
                chosen = jnp.repeat(full, self.network.body.key_heads)[:, None, None]

                def replaced(old: jax.Array, new: jax.Array) -> jax.Array:
                    return old.at[:, place].set(jnp.where(chosen, new, old[:, place]))

                k, v = new
                cache = [(replaced(a, k[i]), replaced(b, v[i])) for i, (a, b) in enumerate(cache)]
            return writer._replace(cache=cache, count=count)

        return jax.lax.cond(jnp.any(writer.count == window), again, lambda writer: writer, writer)

    def sample_cond(self, num: int, batch: Batch) -> PyTree:
        """Every class equally often; for text, prompts of one token, the first of each held-out example."""
        if self.num_classes:
            return super().sample_cond(num, batch)
        if self.start:
            return None
        first = jnp.take(jnp.asarray(batch["x"], jnp.int32)[:, :1], jnp.arange(num), axis=0, mode="wrap")
        return {"prompt": first, "length": jnp.ones(num, jnp.int32)}


# --- prompts ----------------------------------------------------------------------------------------------------


def joined(cond: PyTree, drawn: jax.Array, fill: int) -> jax.Array:
    """Prompts of any lengths followed by the tokens drawn after them, i32[N, P + num], padded with `fill`."""
    prompt, length = jnp.asarray(cond["prompt"], jnp.int32), jnp.asarray(cond["length"], jnp.int32)[:, None]
    size, num = prompt.shape[1], drawn.shape[1]
    place = jnp.arange(size + num)[None]
    given = jnp.take_along_axis(prompt, jnp.clip(place, 0, size - 1), axis=1)
    new = jnp.take_along_axis(drawn, jnp.clip(place - length, 0, num - 1), axis=1)
    return jnp.where(place < length, given, jnp.where(place < length + num, new, fill))


def prompts(rows: list[Any], window: int) -> dict[str, np.ndarray]:
    """The condition for prompts of any lengths, padded to one of a few sizes, so that not every length compiles a new
    program. Raises UserError for an empty prompt, or one longer than the window."""
    length = [len(tokens) for tokens in rows]
    check_lengths(length, window)
    size = min(max(16, 1 << (max(length) - 1).bit_length()), window)  # a power of two
    prompt = np.zeros((len(rows), size), np.int32)
    for row, tokens in zip(prompt, rows):
        row[: len(tokens)] = tokens
    return {"prompt": prompt, "length": np.array(length, np.int32)}


def fitting(cond: PyTree, tokens: int, window: int) -> PyTree:
    """Concrete prompts with padding trimmed, so that `tokens` more fit into the window. The last token drawn is never
    read and needs no place. Raises UserError when the longest prompt leaves too little room."""
    room = window + 1 - tokens
    longest = int(np.max(cond["length"]))
    if longest > room:
        raise UserError(f"a prompt of {longest} tokens and {tokens} more exceed the window of {window}: write fewer")
    return {**cond, "prompt": cond["prompt"][:, :room]}


def check_lengths(length: Any, window: int) -> None:
    """Raises UserError unless each of the lengths is from 1 to `window`."""
    if not len(length) or min(length) < 1:
        raise UserError("a prompt is empty: at least one token is expected, such as a line break")
    if max(length) > window:
        raise UserError(f"a prompt has {max(length)} tokens, the window {window}: leave its beginning out")


def check_prompt(cond: PyTree, vocab: int, window: int) -> None:
    """Raises UserError unless cond holds prompts of 1 to `window` tokens of the vocabulary."""
    if not isinstance(cond, dict) or set(cond) != {"prompt", "length"}:
        raise UserError("text continues a prompt: {'prompt': i32[N, P], 'length': i32[N]}, as gpt.prompts makes it")
    prompt, length = cond["prompt"], cond["length"]
    if np.ndim(prompt) != 2 or np.shape(length) != np.shape(prompt)[:1]:
        given = f"{list(np.shape(prompt))} and {list(np.shape(length))}"
        raise UserError(f"prompt and length have the shapes {given}: [N, P] and [N] are expected")
    if not (concrete(prompt) and concrete(length)):
        return
    prompt, length = np.asarray(prompt), np.asarray(length)
    check_lengths(length, window)
    if length.max() > prompt.shape[1]:
        raise UserError(f"a prompt's length is {length.max()}, but {prompt.shape[1]} tokens were given")
    check_tokens(prompt[np.arange(prompt.shape[1]) < length[:, None]], vocab)
