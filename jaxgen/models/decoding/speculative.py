"""Speculative decoding, arXiv:2211.17192: a small model drafts tokens, and the large one checks the draft in one pass.
The text has exactly the large model's distribution.

Drafted tokens x_1 ... x_gamma with probabilities q_i are accepted in turn, each with probability
min(1, p_i(x_i) / q_i(x_i)), until one is rejected. That one is drawn anew from max(0, p - q), normalised; if all are
accepted, one more is drawn from p (algorithm 1). p and q come from each model's logits after `Decoding.filtered`.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxgen.core.keys import check_keys, fold_each
from jaxgen.core.types import PyTree, TrainState
from jaxgen.errors import UserError
from jaxgen.models.gpt import GPT, fitting, joined
from jaxgen.nets.apply import apply
from jaxgen.nets.lora import merged
from jaxgen.nets.transformer import KeysValues, Placement

LARGE, DRAFT = range(2)
WRITING = 0  # stream of a sample's key


class Reader(NamedTuple):
    """One model's cache of one row, filled before `slot`."""

    cache: list[KeysValues]  # [groups, S, d] of each block
    slot: jax.Array  # i32[]


def speculate(
    model: GPT, state: TrainState, draft: GPT, draft_state: TrainState, keys: jax.Array, cond: PyTree,
    gamma: int = 4,
) -> tuple[jax.Array, jax.Array]:
    """(tokens i32[N, P + num_tokens], passes of the large model for each row, i32[N]). The tokens have the distribution
    of `GPT.sample`, but come from other random numbers.

    gamma: tokens drafted at a time. Rows are written one after the other, as this is for few of them. Raises UserError
    for models that do not fit each other, or a text longer than their windows.
    """  # fmt: skip
    check_keys(keys)
    model.check_cond(cond)
    check(model, draft, gamma)
    read = fitting(cond, model.num_tokens, min(model.network.window, draft.network.window))
    params = (state.sampling_params, draft_state.sampling_params)
    drawn, passes = _speculate((model, draft), params, keys, read, gamma)
    return joined(cond, drawn, max(0, model.decoding.end)), passes


def check(model: GPT, draft: GPT, gamma: int) -> None:
    """Raises UserError for models that cannot write together."""
    if model.from_start or draft.from_start:
        raise UserError("speculative decoding continues a prompt: models of codes begin without one")
    if model.vocab != draft.vocab:
        raise UserError(f"the draft knows {draft.vocab} tokens, the model {model.vocab}: both must be of one tokenizer")
    if model.decoding.repetition_penalty != 1:
        raise UserError("a repetition_penalty changes what is likely with each token of a draft: leave it at 1")
    if gamma < 1:
        raise UserError(f"gamma is {gamma}: at least 1 drafted token is expected")


@partial(jax.jit, static_argnums=(0, 4))
def _speculate(
    models: tuple[GPT, GPT], params: tuple[PyTree, PyTree], keys: jax.Array, cond: PyTree, gamma: int
) -> tuple[jax.Array, jax.Array]:
    """Tokens i32[N, num_tokens] and passes i32[N]. models, params: the large one's and the draft's."""
    model = models[LARGE]
    total, end = model.num_tokens, model.decoding.end
    both = tuple(zip(models, params))
    pairs = zip(both, (gamma + 1, 1))
    layers = [m.network.body.decode_params(merged(p["network"])["body"], rows) for (m, p), rows in pairs]

    def read(which: int, reader: Reader, tokens: jax.Array, skipped: jax.Array) -> tuple[Reader, jax.Array]:
        """The reader after `tokens`, i32[T], and probabilities f32[T, V] of what follows each. The row begins at slot
        `skipped`."""
        (m, p), count = both[which], tokens.shape[0]
        variables, slots = {"params": p["network"]}, reader.cache[0][0].shape[1]
        at = reader.slot + jnp.arange(count)
        # A draft may end beyond the window; tokens there are never accepted.
        position = jnp.minimum(at - skipped, m.network.window - 1)[None]
        x = apply(m.network, variables, tokens[None], position, method="embed")
        slot = jnp.arange(slots)[None]
        seen = ((slot >= skipped) & (slot <= at[:, None]))[None]
        place = Placement(position, seen, slot=reader.slot)
        h, cache = m.network.body.decode(layers[which], reader.cache, x, place)
        logits = apply(m.network, variables, h[0], method="logits")
        return Reader(cache, reader.slot + count), jax.nn.softmax(model.decoding.filtered(logits))

    def row(given: tuple[jax.Array, PyTree]) -> tuple[jax.Array, jax.Array]:
        key, cond = given
        one = jax.tree.map(lambda a: a[None], cond)
        # gamma more slots, as the last draft may go beyond the last token.
        begun = [m.begin(p, 1, one, total, slots=one["prompt"].shape[1] + total + gamma) for m, p in both]
        skipped = begun[0].slot - begun[0].count[0]
        readers = [Reader(writer.cache, writer.slot) for writer in begun]

        def round_of(carry: tuple) -> tuple:
            number, readers, last, done, out, ended = carry
            large, small = readers
            key_draft, key_keep, key_new = jax.random.split(jax.random.fold_in(key, number), 3)

            def propose(carry, i):
                small, token = carry
                small, q = read(DRAFT, small, token[None], skipped)
                drawn = jax.random.categorical(jax.random.fold_in(key_draft, i), jnp.log(q[0])).astype(jnp.int32)
                return (small, drawn), (drawn, q[0])

            # One more than gamma, so that the draft has read all tokens that may be accepted.
            (small, _), (drafted, q) = jax.lax.scan(propose, (small, last), jnp.arange(gamma + 1))
            drafted, q = drafted[:gamma], q[:gamma]
            large, p = read(LARGE, large, jnp.concatenate([last[None], drafted]), skipped)
            index = jnp.arange(gamma)
            ratio = p[index, drafted] / q[index, drafted]
            kept = jnp.sum(jnp.cumprod(jax.random.uniform(key_keep, (gamma,)) < ratio))
            # After the last drafted token q is zero: there all of p is left.
            left = jnp.maximum(p[kept] - jnp.concatenate([q, jnp.zeros_like(q[:1])])[kept], 0.0)
            # p and q are equal where rounding leaves nothing.
            left = jnp.where(jnp.sum(left) > 0, left, p[kept])
            new = jax.random.categorical(key_new, jnp.log(left)).astype(jnp.int32)
            place = jnp.arange(gamma + 1)
            tokens = jnp.where(place == kept, new, jnp.concatenate([drafted, new[None]]))
            out = jax.lax.dynamic_update_slice_in_dim(out, tokens, done, axis=0)
            ended = ended | ((end >= 0) & jnp.any((tokens == end) & (place <= kept)))
            # Slots of rejected tokens are overwritten later.
            readers = [r._replace(slot=old.slot + kept + 1) for r, old in zip((large, small), readers)]
            return number + 1, readers, new, done + kept + 1, out, ended

        zero = jnp.int32(0)
        start = (zero, readers, begun[0].token[0], zero, jnp.zeros(total + gamma + 1, jnp.int32), jnp.bool_(False))
        passes, *_, out, _ = jax.lax.while_loop(lambda c: (c[3] < total) & ~c[5], round_of, start)
        out = out[:total]
        if end >= 0:
            over = jnp.cumsum(out == end) - (out == end) > 0
            out = jnp.where(over, end, out)
        return out, passes

    cond = {name: jnp.asarray(array, jnp.int32) for name, array in cond.items()}
    return jax.lax.map(row, (fold_each(keys, WRITING), cond))
