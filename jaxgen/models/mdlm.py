"""Masked diffusion of tokens: MDLM, arXiv:2406.07524; its bound is that of MD4, arXiv:2406.04329, as well.

x: i32[B, T]. At time t each token is hidden with probability 1 - alpha(t), independently (`ops.masking`). The network
predicts hidden tokens from those that are seen. By its two substitutions, section 3.2.3, the mask has no probability,
and tokens that are seen stay. It is not told t. Training minimises the continuous-time bound on -log p(x), section 3.4:

    integral over t of w(t) sum over hidden i of -log p(x_i | seen)

Sampling starts with all tokens hidden at t = 1. From t to s < t each hidden token is revealed with probability
(alpha(s) - alpha(t)) / (1 - alpha(t)), and is then drawn from the network's prediction: section 4.1. Tokens that are
given are seen from the start, which fills in the others. Texts longer than the window are drawn block after block, each
after the last tokens before it: section 4.2.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxgen.core.keys import coin_each, fold_each, one_key, split_each, uniform_each
from jaxgen.core.model import LossModel
from jaxgen.core.ranges import Fraction, NonNegative, OptionalSize, Size, Steps
from jaxgen.core.types import Batch, Metrics, PyTree, TrainState
from jaxgen.errors import UserError
from jaxgen.models.gpt import check_prompt, joined
from jaxgen.models.maskgit import MaskedTransformer
from jaxgen.models.shared import ClassConditionalModel, check_classes, check_rows, check_tokens
from jaxgen.nets.apply import apply
from jaxgen.ops.decoding import Decoding
from jaxgen.ops.masking import LogLinear, MaskSchedule, any_order_nats
from jaxgen.optim import Adam, Optimizer

WHICH, WHAT = range(2)  # streams of a sampling step's key: the tokens that are revealed, and what they are


class Page(NamedTuple):
    """Texts as they are written: the last tokens of each, in the first places of the window."""

    text: jax.Array  # i32[N, T]
    count: jax.Array  # i32[N]: how many are there


@dataclass(frozen=True, kw_only=True)
class MDLM(ClassConditionalModel, LossModel):
    """x: i32[B, T]; cond, where num_classes > 0: i32[B] in [0, num_classes)."""

    network: MaskedTransformer = field(default_factory=MaskedTransformer)
    optimizer: Optimizer = Adam(lr=1e-3, b2=0.99, weight_decay=0.1, clip=1.0)
    schedule: MaskSchedule = LogLinear()
    given: OptionalSize = 0
    """First tokens of each example that are never hidden. 0 for codes. With 1, text: the bound is of the tokens that
    GPT predicts, and samples continue prompts."""
    num_classes: OptionalSize = 0
    class_dropout: Fraction = 0.0
    """Fraction of labels dropped in training; guidance needs some."""
    guidance: NonNegative = 1.0
    """w of log p + w (log p(. | class) - log p), normalized again: 1 is the class alone, without guidance."""
    times: Size = 1
    """Times at which a training step sees each example, evenly spaced from a random one: 2 or more lower the variance
    of the loss, and multiply the cost."""
    evaluate_masks: Steps = 16
    """Masks by which `evaluate` estimates the bound of an example."""
    steps: Steps = 64
    """S of sampling a window, each one pass of the network; a shorter block takes its share of them."""
    block: Size = 16
    """Tokens of a text that are drawn together."""
    decoding: Decoding = Decoding()
    """How tokens are drawn as they are revealed. `tokens`: of a text, after the prompt. `keep`: tokens before a block
    that it is drawn after, where the window is full; 0 for as many as fit."""

    # --- sizes and checks ---

    @property
    def vocab(self) -> int:
        return self.network.vocab

    @property
    def window(self) -> int:
        """T."""
        return self.network.window

    @property
    def num_tokens(self) -> int:
        """Tokens drawn for each sample."""
        return (self.decoding.tokens or self.window - self.given) if self.given else self.window

    def problem(self) -> str | None:
        if self.given and self.num_classes:
            return f"given is {self.given}, num_classes {self.num_classes}: text has no classes, codes are not given"
        if self.guidance != 1 and not (self.num_classes and self.class_dropout):
            return f"guidance is {self.guidance}: it needs classes, and training with class_dropout, as 0.1"
        if self.decoding.repetition_penalty != 1:
            return "decoding.repetition_penalty is of texts that are drawn token by token: leave it 1"
        if not self.given and self.decoding.tokens not in (0, self.window):
            return f"decoding.tokens is {self.decoding.tokens}: codes fill the window, leave it 0"

    def check(self, batch: Batch) -> None:
        self.network.check()
        self._check_sampling()
        x = batch["x"]
        check_rows(x)
        if x.shape[1] != self.window:
            raise UserError(
                f"examples have {x.shape[1]} tokens, the window {self.window}: pass --model.network.window {x.shape[1]}"
            )
        if self.given >= self.window:
            raise UserError(f"model.given is {self.given} of {self.window} tokens: none is left to be drawn")
        if "bytes" in batch and not self.given:
            raise UserError("text continues a prompt, whose first token is given: pass --model.given 1")
        check_tokens(x, self.vocab)
        check_classes(self.num_classes, batch)

    def _check_sampling(self) -> None:
        self.decoding.check(self.vocab, self.window)
        if self.given and self.block + self.decoding.keep > self.window:
            raise UserError(
                f"model.block is {self.block} after {self.decoding.keep} tokens that are kept, the window "
                f"{self.window}: choose a smaller one"
            )

    def check_cond(self, cond: PyTree) -> None:
        self._check_sampling()
        if self.given:
            check_prompt(cond, self.vocab, self.window)
        else:
            super().check_cond(cond)

    # --- training ---

    def init_params(self, key: jax.Array, batch: Batch) -> dict[str, PyTree]:
        key_network, key_classes = jax.random.split(key)
        width, params = self.network.body.width, {}
        if self.num_classes:
            shape = (self.num_classes + bool(self.class_dropout), width)
            params["classes"] = {"embedding": 0.02 * jax.random.normal(key_classes, shape)}
        y = jnp.zeros((1, width)) if self.num_classes else None
        return params | {"network": self.network.init(key_network, batch["x"][:1], y)["params"]}

    def log_probs(
        self, params: PyTree, tokens: jax.Array, mask: jax.Array, cond: PyTree = None, key: jax.Array | None = None
    ) -> jax.Array:
        """log p of each token given those that are seen, f32[B, T, vocab]; of no use where it is seen itself. tokens:
        i32[B, T], hidden where mask, bool[B, T], is set. key: of dropout masks, given in training."""
        y = params["classes"]["embedding"][cond] if self.num_classes else None
        dropout = {} if key is None else {"train": True, "rngs": {"dropout": key}}
        seen = jnp.where(mask, self.vocab, tokens)
        return jax.nn.log_softmax(apply(self.network, {"params": params["network"]}, seen, y, **dropout))

    def loss(self, params: PyTree, state: TrainState, keys: jax.Array, batch: Batch) -> tuple[jax.Array, Metrics]:
        """The bound in nats per token, at `times` times of each example."""
        keys_time, keys_mask, keys_class, keys_drop = split_each(keys, 4)
        x, cond = batch["x"], batch["cond"] if self.num_classes else None
        if cond is not None and self.class_dropout:
            cond = jnp.where(coin_each(keys_class, self.class_dropout), self.num_classes, cond)
        # In (0, 1], as the weight at 0 is infinite.
        t = 1 - jnp.mod(uniform_each(keys_time, (1,)) + jnp.arange(self.times)[None] / self.times, 1)
        hidden = uniform_each(keys_mask, (self.times, x.shape[1])) >= self.schedule.alpha(t)[..., None]
        hidden = (hidden & self._drawn[None, None]).reshape(-1, x.shape[1])
        x, cond = jax.tree.map(lambda a: jnp.repeat(a, self.times, axis=0), (x, cond))
        log_p = self.log_probs(params, x, hidden, cond, one_key(keys_drop))
        nats = -jnp.take_along_axis(log_p, x[..., None], axis=-1)[..., 0]
        weights = self.schedule.weight(t).reshape(-1, 1)
        return jnp.sum(weights * nats * hidden) / (len(x) * (self.window - self.given)), {}

    @property
    def _drawn(self) -> jax.Array:
        """bool[T], false for the tokens that are given."""
        return jnp.arange(self.window) >= self.given

    def evaluate(self, state: TrainState, keys: jax.Array, batch: Batch) -> Metrics:
        """`nats_per_token` and `bits_per_token`, f32[B]: the bound on -log p of each example, per token that is not
        given, from `evaluate_masks` masks. It is the same under every schedule (`ops.masking`). If the data counts the
        UTF-8 bytes of these tokens, also `bits_per_byte`, f32[B, 2], as bits and bytes."""
        x, cond, count = batch["x"], batch.get("cond"), self.window - self.given

        def nats(mask: jax.Array) -> jax.Array:
            hidden = jnp.pad(mask, ((0, 0), (self.given, 0)))
            log_p = self.log_probs(state.sampling_params, x, hidden, cond)
            return -jnp.take_along_axis(log_p, x[..., None], axis=-1)[:, self.given :, 0]

        found = any_order_nats(keys, count, self.evaluate_masks, nats)
        numbers = {"nats_per_token": found, "bits_per_token": found / jnp.log(2.0)}
        if "bytes" in batch:
            bits = found * count / jnp.log(2.0)
            numbers["bits_per_byte"] = jnp.stack([bits, batch["bytes"].astype(jnp.float32)], axis=-1)
        return numbers

    # --- sampling ---

    def predicted(self, params: PyTree, tokens: jax.Array, mask: jax.Array, cond: PyTree = None) -> jax.Array:
        """`log_probs` with guidance, unnormalized."""
        if self.guidance == 1:
            return self.log_probs(params, tokens, mask, cond)
        cond = jnp.asarray(cond)
        both = jnp.concatenate([cond, jnp.full_like(cond, self.num_classes)])
        tokens, mask = (jnp.concatenate([a, a]) for a in (tokens, mask))
        with_class, without = jnp.split(self.log_probs(params, tokens, mask, both), 2)
        return without + self.guidance * (with_class - without)

    def reveal(
        self, params: PyTree, keys: jax.Array, tokens: jax.Array, hidden: jax.Array, drawn: jax.Array, steps: int,
        cond: PyTree = None,
    ) -> jax.Array:  # fmt: skip
        """Tokens i32[N, T] in which those of `drawn`, bool[N, T], are drawn in so many steps. hidden: bool[N, T], all
        that are not seen at first; those beyond `drawn` stay so."""

        def step(carry: tuple[jax.Array, jax.Array], i: jax.Array) -> tuple[tuple[jax.Array, jax.Array], None]:
            tokens, hidden = carry
            t, s = 1 - i / steps, 1 - (i + 1) / steps
            keys_step = fold_each(keys, i)
            log_p = self.predicted(params, tokens, hidden, cond)
            logits = self.decoding.filtered(log_p.reshape(-1, self.vocab)).reshape(log_p.shape)
            new = jax.vmap(jax.random.categorical)(fold_each(keys_step, WHAT), logits)
            # Not less than at s = 0, where all are revealed, whatever it is rounded to.
            share = jnp.where(i == steps - 1, 2.0, self.schedule.revealed(t, s))
            chosen = uniform_each(fold_each(keys_step, WHICH), tokens.shape[1:]) < share
            chosen = chosen & hidden & drawn
            return (jnp.where(chosen, new.astype(jnp.int32), tokens), hidden & ~chosen), None

        return jax.lax.scan(step, (tokens, hidden), jnp.arange(steps))[0][0]

    def infill(
        self, state: TrainState, keys: jax.Array, tokens: jax.Array, given: jax.Array, cond: PyTree = None
    ) -> jax.Array:
        """i32[N, T]: `tokens`, i32[N, T], where given, bool[N or 1, T], is true, and the others drawn to go with them.
        cond: i32[N] for a conditional model."""
        hidden = ~jnp.broadcast_to(given, tokens.shape)
        return self.reveal(state.sampling_params, keys, tokens.astype(jnp.int32), hidden, hidden, self.steps, cond)

    def sample(self, state: TrainState, keys: jax.Array, cond: PyTree = None) -> jax.Array:
        """Codes i32[N, T] (cond: i32[N] for a conditional model); for text the prompts with their continuations,
        i32[N, P + num_tokens], of cond {"prompt": i32[N, P], "length": i32[N]} (`models.gpt`)."""
        shape = (keys.shape[0], self.window)
        if not self.given:
            return self.infill(state, keys, jnp.zeros(shape, jnp.int32), jnp.zeros((1, self.window), bool), cond)
        total, params = -(-self.num_tokens // self.block) * self.block, state.sampling_params
        drawn = self.write(params, self.begin(params, keys.shape[0], cond), keys, 0, total)[1][:, : self.num_tokens]
        if (end := self.decoding.end) >= 0:
            over = jnp.cumsum(drawn == end, axis=1) > 0
            drawn = jnp.where(over, end, drawn)
        return joined(cond, drawn, max(0, end))

    # --- text, block after block ---

    @property
    def together(self) -> int:
        return self.block

    def begin(self, params: PyTree, num: int, cond: PyTree, tokens: int = 0, slots: int = 0) -> Page:
        """The page of `num` texts after their prompts. params, tokens and slots are not used."""
        prompt = jnp.asarray(cond["prompt"], jnp.int32)[:, : self.window]
        text = jnp.pad(prompt, ((0, 0), (0, self.window - prompt.shape[1])))
        return Page(text, jnp.asarray(cond["length"], jnp.int32))

    def write(
        self, params: PyTree, writer: Page, keys: jax.Array, first: jax.Array | int, num: int
    ) -> tuple[Page, jax.Array]:
        """The page, and tokens `first` to `first + num - 1` of each text, i32[N, num]. Raises UserError unless they are
        whole blocks."""
        if num % (size := self.block):
            raise UserError(f"{num} tokens were asked for, which are no whole blocks of {size}: ask for a multiple")
        steps = max(1, round(self.steps * size / self.window))
        place = jnp.arange(self.window)[None]

        def block(page: Page, i: jax.Array) -> tuple[Page, jax.Array]:
            # A block that does not fit follows on `keep` tokens, or on as many as the window has beside it.
            kept = min(self.decoding.keep or self.window, self.window - size)
            left_out = jnp.where(page.count + size > self.window, page.count - kept, 0)
            text = jnp.take_along_axis(page.text, jnp.mod(place + left_out[:, None], self.window), axis=1)
            count = page.count - left_out
            hidden = place >= count[:, None]
            drawn = hidden & (place < count[:, None] + size)
            text = self.reveal(params, fold_each(keys, first + i * size), text, hidden, drawn, steps)
            new = jnp.take_along_axis(text, count[:, None] + jnp.arange(size)[None], axis=1)
            return Page(text, count + size), new

        writer, drawn = jax.lax.scan(block, writer, jnp.arange(num // size))
        return writer, jnp.moveaxis(drawn, 0, 1).reshape(keys.shape[0], num)

    def sample_cond(self, num: int, batch: Batch) -> PyTree:
        """Every class equally often; for text, prompts of one token, the first of each held-out example."""
        if not self.given:
            return super().sample_cond(num, batch)
        first = jnp.take(jnp.asarray(batch["x"], jnp.int32)[:, :1], jnp.arange(num), axis=0, mode="wrap")
        return {"prompt": first, "length": jnp.ones(num, jnp.int32)}
