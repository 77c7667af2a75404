"""Speculative decoding, arXiv:2211.17192: a small model drafts, the large one reads the draft in one pass, and what is
kept is distributed exactly as the large one's own text.

Of drafted tokens x_1 ... x_gamma with probabilities q_i, each is kept with probability min(1, p_i(x_i) / q_i(x_i))
until one is not; that one is drawn from max(0, p - q), normalised (algorithm 1 there), or where all are kept one more
from p.
p and q are what `Decoding.filtered` leaves of each model's logits.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxgen.core.keys import check_keys, fold_each
from jaxgen.core.types import PyTree, TrainState
from jaxgen.errors import UserError
from jaxgen.models.gpt import GPT, fitting, joined
from jaxgen.nets.transformer import KeysValues


class Reader(NamedTuple):
    """One model's cache of one row; slots before `slot` are read."""

    cache: list[KeysValues]  # [groups, S, d] of each block
    slot: jax.Array  # i32[]


def speculate(
    model: GPT, state: TrainState, draft: GPT, draft_state: TrainState, keys: jax.Array, cond: PyTree,
    gamma: int = 4,
) -> tuple[jax.Array, jax.Array]:
    """(tokens, passes): what `GPT.sample` gives, i32[N, P + num_tokens], by other random numbers but of the same
    distribution; and how many passes of the large model each row took, i32[N].

    gamma: tokens drafted at a time. Rows are written one after the other, as this is for when there are few of them.
    Raises UserError for models that do not fit each other, or a text longer than their windows.
    """  # fmt: skip
    check_keys(keys)
    model.check_cond(cond)
    check(model, draft, gamma)
    read = fitting(cond, model.num_tokens, min(model.network.window, draft.network.window))
    drawn, passes = _speculate(
        model, state.sampling_params, draft, draft_state.sampling_params, keys, read, gamma
    )  # fmt: skip
    return joined(cond, drawn, max(0, model.decoding.end)), passes


def check(model: GPT, draft: GPT, gamma: int) -> None:
    """Raises UserError for models that cannot write together."""
    if model.from_start or draft.from_start:
        raise UserError("speculative decoding goes on from a prompt: models of codes begin without one")
    if model.vocab != draft.vocab:
        raise UserError(f"the draft knows {draft.vocab} tokens, the model {model.vocab}: both must be of one tokenizer")
    if model.decoding.repetition_penalty != 1:
        raise UserError("a repetition_penalty changes what is likely with each token of a draft: leave it at 1")
    if gamma < 1:
        raise UserError(f"gamma is {gamma}: 1 drafted token at least is expected")


@partial(jax.jit, static_argnums=(0, 2, 6))
def _speculate(model: GPT, params: PyTree, draft: GPT, draft_params: PyTree, keys, cond, gamma: int):
    """Tokens i32[N, num_tokens] and passes i32[N]."""
    total, end = model.num_tokens, model.decoding.end
    both = ((model, params), (draft, draft_params))
    layers = [m.network.body.layers(p["network"]["body"], rows) for (m, p), rows in zip(both, (gamma + 1, 1))]

    def read(which: int, reader: Reader, tokens: jax.Array, skipped: jax.Array) -> tuple[Reader, jax.Array]:
        """After `tokens`, i32[T], probabilities f32[T, V] of what follows each. The row begins at slot `skipped`."""
        (m, p), count = both[which], tokens.shape[0]
        variables, slots = {"params": p["network"]}, reader.cache[0][0].shape[1]
        at = reader.slot + jnp.arange(count)
        # A draft may end beyond the window: what is read there is never kept.
        position = jnp.minimum(at - skipped, m.network.window - 1)[None]
        x = m.network.apply(variables, tokens[None], position, method="embed")
        slot = jnp.arange(slots)[None]
        seen = ((slot >= skipped) & (slot <= at[:, None]))[None]
        h, cache = m.network.body.decode(
            p["network"]["body"], layers[which], reader.cache, x, reader.slot, seen, position
        )  # fmt: skip
        logits = m.network.apply(variables, h[0], method="logits")
        return Reader(cache, reader.slot + count), jax.nn.softmax(model.decoding.filtered(logits))

    def row(given: tuple[jax.Array, PyTree]) -> tuple[jax.Array, jax.Array]:
        key, cond = given
        one = jax.tree.map(lambda a: a[None], cond)
        # One more slot for each token of a last draft that goes too far.
        begun = [m.begin(p, 1, one, total, slots=one["prompt"].shape[1] + total + gamma) for m, p in both]
        skipped = begun[0].slot - begun[0].count[0]
        readers = [Reader(writer.cache, writer.slot) for writer in begun]

        def round_of(carry: tuple) -> tuple:
            number, readers, last, done, out, ended = carry
            large, small = readers
            key_draft, key_keep, key_new = jax.random.split(jax.random.fold_in(key, number), 3)

            def propose(carry, i):
                small, token = carry
                small, q = read(1, small, token[None], skipped)
                drawn = jax.random.categorical(jax.random.fold_in(key_draft, i), jnp.log(q[0])).astype(jnp.int32)
                return (small, drawn), (drawn, q[0])

            # One more than is drafted, so that the draft has read all that may be kept.
            (small, _), (drafted, q) = jax.lax.scan(propose, (small, last), jnp.arange(gamma + 1))
            drafted, q = drafted[:gamma], q[:gamma]
            large, p = read(0, large, jnp.concatenate([last[None], drafted]), skipped)
            index = jnp.arange(gamma)
            ratio = p[index, drafted] / q[index, drafted]
            kept = jnp.sum(jnp.cumprod(jax.random.uniform(key_keep, (gamma,)) < ratio))
            # q of the place after the last draft is zero: there all of p is left.
            left = jnp.maximum(p[kept] - jnp.concatenate([q, jnp.zeros_like(q[:1])])[kept], 0.0)
            # Where rounding leaves nothing p and q are alike.
            left = jnp.where(jnp.sum(left) > 0, left, p[kept])
            new = jax.random.categorical(key_new, jnp.log(left)).astype(jnp.int32)
            place = jnp.arange(gamma + 1)
            tokens = jnp.where(place == kept, new, jnp.concatenate([drafted, new[None]]))
            out = jax.lax.dynamic_update_slice_in_dim(out, tokens, done, axis=0)
            ended = ended | ((end >= 0) & jnp.any((tokens == end) & (place <= kept)))
            # What was read of the draft and not kept is written over.
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
    return jax.lax.map(row, (fold_each(keys, 0), cond))
