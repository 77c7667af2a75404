"""GPT: p(x) = prod_t p(x_t | x_<t) over tokens, trained as nanoGPT is (GPT-2's layout and start, Radford et al. 2019).

x: i32[B, T]. Of text, T is a window and one more: each token but the first is predicted, and a sample goes on from a
prompt, cond = {"prompt": i32[N, P], "length": i32[N]}: row i's first length[i] tokens, whatever is after them. Of codes
(`start`, or classes), all T are predicted, the first from a learnt start that stands for the class: cond i32[N].

Sampling reads the prompt in one pass and then scans, keeping keys and values; rows of any lengths lie in one batch,
their last tokens side by side, so that each step writes one slot. A text longer than the window is exact in this sense:
each token is drawn from the model given the last tokens, above `Decoding.keep` and up to window, from position 0 on.
"""

from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxgen.core.keys import coin_each, fold_each, one_key, split_each
from jaxgen.core.model import LossModel
from jaxgen.core.types import Batch, Metrics, PyTree, TrainState
from jaxgen.errors import UserError
from jaxgen.models.shared import check_classes, check_labels, check_rows, check_tokens, class_grid, concrete
from jaxgen.nets.gpt import TokenTransformer
from jaxgen.nets.transformer import KeysValues
from jaxgen.ops.decoding import Decoding
from jaxgen.optim import Adam, Optimizer

# A step of sampling reads the whole cache: it grows at most so many times, each for so many tokens at least, as each
# compiles the step anew.
STAGES = 4
STAGE_TOKENS = 64


class Writer(NamedTuple):
    """Where sampling stands. R rows: one for each sample, or two where it is guided."""

    cache: list[KeysValues]  # [R * groups, S, d] of each block
    slot: jax.Array  # i32[]: where the next token goes, of S slots that are used in a circle
    count: jax.Array  # i32[R]: tokens that the row has before `slot`, one slot after another
    token: jax.Array  # i32[R]: the last one, not yet in the cache
    kept: jax.Array | None  # i32[R, S]: the tokens of the slots, where the window may have to be read anew
    seen: jax.Array | None  # bool[N, V]: those that the penalty is for
    ended: jax.Array  # bool[N]


def widened(writer: Writer, slots: int) -> Writer:
    """The writer with `slots` slots, if it has fewer, which must then be full."""
    old = writer.cache[0][0].shape[1]
    if slots == old:
        return writer

    def wider(a: jax.Array) -> jax.Array:
        return jnp.pad(a, [(0, slots - old) if axis == 1 else (0, 0) for axis in range(a.ndim)])

    cache, kept = jax.tree.map(wider, (writer.cache, writer.kept))
    return writer._replace(cache=cache, kept=kept, slot=jnp.int32(old))


@dataclass(frozen=True, kw_only=True)
class GPT(LossModel):
    """x: i32[B, T]; cond, where num_classes > 0: i32[B] in [0, num_classes)."""

    network: TokenTransformer = field(default_factory=TokenTransformer)
    optimizer: Optimizer = Adam(lr=1e-3, b2=0.99, weight_decay=0.1, clip=1.0)
    num_classes: int = 0
    start: bool = False
    """Predict the first token too, from a learnt start, as of codes; text goes on from a prompt."""
    class_dropout: float = 0.0
    """Share of labels that training leaves out, which guidance asks for."""
    guidance: float = 1.0
    """w of log p(x_t) + (w - 1) (log p(x_t | class) - log p(x_t)): 1 is the class alone."""
    decoding: Decoding = Decoding()

    # --- what it takes ---

    @property
    def vocab(self) -> int:
        return self.network.vocab

    @property
    def window(self) -> int:
        """Tokens that are seen at once."""
        return self.network.window

    @property
    def from_start(self) -> bool:
        """Whether all tokens are predicted, from a learnt start."""
        return self.start or self.num_classes > 0

    @property
    def num_tokens(self) -> int:
        """Tokens drawn."""
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
            raise UserError("text goes on from a prompt, not from a learnt start: leave --model.start out")
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
            check_labels(self.num_classes, cond)
        elif self.start:
            if cond is not None:
                raise UserError("this model starts by itself: leave the condition out")
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
        """-log p of each predicted token, f32[B, T or T - 1]. keys: of dropout, in training."""
        x, starts = batch["x"].astype(jnp.int32), None
        dropout = {}
        if keys is not None:
            keys_drop, keys_label = split_each(keys, 2)
            dropout = {"train": True, "rngs": {"dropout": one_key(keys_drop)}}
        if self.from_start:
            y = batch["cond"] if self.num_classes else jnp.zeros(len(x), jnp.int32)
            if keys is not None and self.class_dropout:
                y = jnp.where(coin_each(keys_label, self.class_dropout), self.num_classes, y)
            x = jnp.concatenate([self.vocab + y[:, None].astype(jnp.int32), x], axis=1)
            starts = params["starts"]["embedding"]
        logits = self.network.apply({"params": params["network"]}, x[:, :-1], starts, **dropout)
        return optax.softmax_cross_entropy_with_integer_labels(logits, x[:, 1:])

    def loss(self, params: PyTree, state: TrainState, keys: jax.Array, batch: Batch) -> tuple[jax.Array, Metrics]:
        """Nats per token."""
        return jnp.mean(self.nats(params, batch, keys)), {}

    def evaluate(self, state: TrainState, keys: jax.Array, batch: Batch) -> Metrics:
        """Means over the predicted tokens of each example, f32[B]; where the data says how many bytes of UTF-8 these
        are, in bits per byte too, f32[B, 2]: bits and bytes, as a mean of ratios would be that of no text."""
        nats = jnp.mean(self.nats(state.sampling_params, batch), axis=1)
        numbers = {"nats_per_token": nats, "bits_per_token": nats / jnp.log(2.0)}
        if "bytes" in batch:
            bits = nats * (batch["x"].shape[1] - 1 + self.from_start) / jnp.log(2.0)
            numbers["bits_per_byte"] = jnp.stack([bits, batch["bytes"].astype(jnp.float32)], axis=-1)
        return numbers

    # --- sampling ---

    def sample(self, state: TrainState, keys: jax.Array, cond: PyTree = None) -> jax.Array:
        """i32[N, num_tokens] of codes; of text the prompt and what follows it, i32[N, P + num_tokens]."""
        params, texts, done = state.sampling_params, [], 0
        stages = self._stages(self._read_first(cond))
        writer = self.begin(params, keys.shape[0], cond, slots=stages[0][0])
        for slots, num in stages:
            writer, text = self.write(params, widened(writer, slots), keys, done, num)
            texts, done = [*texts, text], done + num
        drawn = jnp.concatenate(texts, axis=1)
        return drawn if self.from_start else joined(cond, drawn, max(0, self.decoding.end))

    def _read_first(self, cond: PyTree) -> int:
        """Tokens that are read before the first is drawn."""
        return 0 if self.from_start else min(cond["prompt"].shape[1], self.network.window) - 1

    def _stages(self, size: int) -> list[tuple[int, int]]:
        """Slots of the cache and tokens drawn with so many, one stage after another: a step reads all slots, used or
        not. Few stages, as the step is compiled for each."""
        total = self.num_tokens
        slots = min(size + total, self.network.window)
        count = min(max((slots - size) // STAGE_TOKENS, 1), STAGES)
        ends = [size + (slots - size) * (i + 1) // count for i in range(count)]
        # The last one's slots are used in a circle, should there be more tokens.
        drawn = np.diff([size, *ends[:-1], size + total])
        return list(zip(ends, drawn.tolist()))

    def begin(self, params: PyTree, num: int, cond: PyTree, tokens: int = 0, slots: int = 0) -> Writer:
        """Before the first of `tokens` tokens (`num_tokens` when 0) of `num` samples: the prompt is read. slots: of the
        cache, as many as are needed when 0."""
        tokens, window = tokens or self.num_tokens, self.network.window
        seen = None
        if self.from_start:
            y = jnp.asarray(cond) if self.num_classes else jnp.zeros(num, jnp.int32)
            y = jnp.concatenate([y, jnp.full_like(y, self.num_classes)]) if self.guidance != 1 else y
            token, size = self.vocab + y.astype(jnp.int32), 0
            count = jnp.zeros_like(token)
        else:
            # Lengths are at most the window, whatever is after them.
            prompt = jnp.asarray(cond["prompt"], jnp.int32)[:, :window]
            length = jnp.asarray(cond["length"], jnp.int32)
            size = self._read_first(cond)
            token = jnp.take_along_axis(prompt, length[:, None] - 1, axis=1)[:, 0]
            count = length - 1
        # Slots for all that is ever seen at once.
        long, slots = size + tokens > window, slots or min(size + tokens, window)
        rows = token.shape[0]
        cache = self.network.body.empty_cache(rows, slots)
        kept = jnp.zeros((rows, slots), jnp.int32) if long else None
        if size:
            # Moved to the right, so that all rows' last tokens are at one place.
            place = jnp.arange(size)[None] - (size - count[:, None])
            before = jnp.take_along_axis(prompt[:, :size], jnp.clip(place, 0, size - 1), axis=1)
            cache = self._read(params, cache, before, jnp.maximum(place, 0), place >= 0)
            kept = kept.at[:, :size].set(before) if long else None
        if self.decoding.repetition_penalty != 1:
            seen = jnp.zeros((num, self.vocab), bool)
            if not self.from_start:
                real = jnp.arange(size + 1)[None] < length[:, None]
                seen = seen.at[jnp.arange(num)[:, None], jnp.where(real, prompt, token[:, None])].set(True)
        return Writer(cache, jnp.int32(size), count, token, kept, seen, jnp.zeros(num, bool))

    def _read(self, params: PyTree, cache: list[KeysValues], tokens, positions, real) -> list[KeysValues]:
        """The cache with keys and values of tokens, i32[R, P], in its first slots. real: bool[R, P]."""
        size = tokens.shape[1]
        # What is no token sees itself, for something to see.
        mask = (jnp.tri(size, dtype=bool)[None] & real[:, None]) | jnp.eye(size, dtype=bool)[None]
        k, v = self.network.apply({"params": params["network"]}, tokens, positions, mask, method="keep")
        return [(a.at[:, :size].set(k[i]), b.at[:, :size].set(v[i])) for i, (a, b) in enumerate(cache)]

    def write(
        self, params: PyTree, writer: Writer, keys: jax.Array, first: jax.Array | int, num: int
    ) -> tuple[Writer, jax.Array]:
        """Draws `num` tokens, the `first`-th and on: i32[N, num]."""
        # Sliced here, once: see Transformer.layers.
        layers = self.network.body.layers(params["network"]["body"], writer.count.shape[0])
        fill = max(0, self.decoding.end)

        def step(writer: Writer, i: jax.Array) -> tuple[Writer, jax.Array]:
            writer, logits = self.advance(params, layers, writer)
            if self.guidance != 1:
                with_class, without = jnp.split(jax.nn.log_softmax(logits), 2)
                logits = without + self.guidance * (with_class - without)
            token = self.decoding.draw(fold_each(keys, i), logits, writer.seen)
            token = jnp.where(writer.ended, fill, token)
            ended, seen = writer.ended, writer.seen
            if self.decoding.end >= 0:
                ended = ended | (token == self.decoding.end)
            if seen is not None:
                seen = seen.at[jnp.arange(token.shape[0]), token].set(True)
            both = jnp.concatenate([token, token]) if self.guidance != 1 else token
            return writer._replace(token=both, seen=seen, ended=ended), token

        writer, drawn = jax.lax.scan(step, writer, first + jnp.arange(num))
        return writer, drawn.T

    def advance(self, params: PyTree, layers: list[Any], writer: Writer) -> tuple[Writer, jax.Array]:
        """The writer after its tokens were read, and logits f32[R, V] of those that follow."""
        network, starts = self.network, params["starts"]["embedding"] if self.from_start else None
        slots = writer.cache[0][0].shape[1]
        if writer.kept is not None:
            writer = self._make_room(params, writer)
        cache, slot, count, token = writer[:4]
        variables, position = {"params": params["network"]}, count[:, None]
        x = network.apply(variables, token[:, None], position, starts, method="embed")
        age = jnp.mod(slot - jnp.arange(slots), slots)
        seen = (age[None] <= position)[:, None]
        h, cache = network.body.decode(params["network"]["body"], layers, cache, x, slot, seen, position)
        logits = network.apply(variables, h[:, 0], method="logits")
        kept = writer.kept
        if kept is not None:
            kept = jax.lax.dynamic_update_slice_in_dim(kept, token[:, None], slot, axis=1)
        return writer._replace(cache=cache, slot=jnp.mod(slot + 1, slots), count=count + 1, kept=kept), logits

    def _make_room(self, params: PyTree, writer: Writer) -> Writer:
        """Reads the last tokens of rows whose window is full again, from position 0 on."""
        window = self.network.window
        keep = self.decoding.keep or window // 2

        def again(writer: Writer) -> Writer:
            full, slots = writer.count == window, writer.kept.shape[1]
            count, cache = jnp.where(full, keep, writer.count), writer.cache
            if keep:
                place = jnp.mod(writer.slot - keep + jnp.arange(keep), slots)
                positions = jnp.broadcast_to(jnp.arange(keep)[None], (full.shape[0], keep))
                variables = {"params": params["network"]}
                new = self.network.apply(variables, writer.kept[:, place], positions, method="keep")
                chosen = jnp.repeat(full, self.network.body.key_heads)[:, None, None]
                cache = [
                    tuple(a.at[:, place].set(jnp.where(chosen, b[i], a[:, place])) for a, b in zip(layer, new))
                    for i, layer in enumerate(cache)
                ]
            return writer._replace(cache=cache, count=count)

        return jax.lax.cond(jnp.any(writer.count == window), again, lambda writer: writer, writer)

    def sample_cond(self, num: int, batch: Batch) -> PyTree:
        """Classes in runs; of text, first tokens of held-out examples."""
        if self.num_classes:
            return class_grid(num, self.num_classes)
        if self.start:
            return None
        first = jnp.take(jnp.asarray(batch["x"], jnp.int32)[:, :1], jnp.arange(num), axis=0, mode="wrap")
        return {"prompt": first, "length": jnp.ones(num, jnp.int32)}


# --- prompts ----------------------------------------------------------------------------------------------------


def joined(cond: PyTree, drawn: jax.Array, fill: int) -> jax.Array:
    """Prompts of any lengths and the tokens drawn after them, i32[N, P + num], filled up with `fill`."""
    prompt, length = jnp.asarray(cond["prompt"], jnp.int32), jnp.asarray(cond["length"], jnp.int32)[:, None]
    size, num = prompt.shape[1], drawn.shape[1]
    place = jnp.arange(size + num)[None]
    given = jnp.take_along_axis(prompt, jnp.clip(place, 0, size - 1), axis=1)
    new = jnp.take_along_axis(drawn, jnp.clip(place - length, 0, num - 1), axis=1)
    return jnp.where(place < length, given, jnp.where(place < length + num, new, fill))


def prompts(rows: list[Any], window: int) -> dict[str, np.ndarray]:
    """The condition for prompts of any lengths, padded to one of few sizes, so that a growing one compiles no program
    of its own. Raises UserError for an empty one, or one longer than the window."""
    length = [len(tokens) for tokens in rows]
    check_lengths(length, window)
    size = min(max(16, 1 << (max(length) - 1).bit_length()), window)  # a power of two
    prompt = np.zeros((len(rows), size), np.int32)
    for row, tokens in zip(prompt, rows):
        row[: len(tokens)] = tokens
    return {"prompt": prompt, "length": np.array(length, np.int32)}


def fitting(cond: PyTree, tokens: int, window: int) -> PyTree:
    """The prompts that leave room for `tokens` more, without the end of their padding if need be; concrete ones. Raises
    UserError when the longest leaves none. The last token drawn is never read, so there is a place more."""
    room = window + 1 - tokens
    longest = int(np.max(cond["length"]))
    if longest > room:
        raise UserError(f"a prompt of {longest} and {tokens} more leave the window of {window}: write fewer")
    return {**cond, "prompt": cond["prompt"][:, :room]}


def check_lengths(length: Any, window: int) -> None:
    """Raises UserError unless prompts have 1 to `window` tokens each. length: of each."""
    if not len(length) or min(length) < 1:
        raise UserError("a prompt is empty: one token at least is expected, such as a line break")
    if max(length) > window:
        raise UserError(f"a prompt has {max(length)} tokens, the window {window}: leave its beginning out")


def check_prompt(cond: PyTree, vocab: int, window: int) -> None:
    """Raises UserError unless cond holds prompts of 1 to `window` tokens of the vocabulary."""
    if not isinstance(cond, dict) or set(cond) != {"prompt", "length"}:
        raise UserError("text goes on from a prompt: {'prompt': i32[N, P], 'length': i32[N]}, as gpt.prompts makes it")
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


@partial(jax.jit, static_argnums=(0, 2, 4))
def begin(model: GPT, params: PyTree, num: int, cond: PyTree, tokens: int) -> Writer:
    """`GPT.begin`, compiled, for those who show text as it is written."""
    return model.begin(params, num, cond, tokens)


@partial(jax.jit, static_argnums=(0, 5), donate_argnums=2)
def write(model: GPT, params: PyTree, writer: Writer, keys: jax.Array, first: jax.Array, num: int):
    """`GPT.write`, compiled."""
    return model.write(params, writer, keys, first, num)
