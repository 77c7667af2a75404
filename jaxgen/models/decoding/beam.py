"""Beam search: a likely continuation of a prompt, found by keeping the best few partial texts at each token."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxgen.core.types import PyTree, TrainState
from jaxgen.errors import UserError
from jaxgen.models.gpt import GPT, Writer, fitting, joined
from jaxgen.nets.lora import merged


def beam_search(
    model: GPT, state: TrainState, cond: PyTree, beams: int = 4, length_penalty: float = 0.0
) -> tuple[jax.Array, jax.Array]:
    """(tokens i32[N, beams, P + num_tokens], log-probabilities f32[N, beams]), the best first.

    Beams are ranked by log p of the continuation, including the end token, over its length to the power
    `length_penalty`, which favours long texts above 0 (section 7 of arXiv:1609.08144 without its constant). A beam that
    has ended stays as it is. Nothing is drawn, and the model's temperature and filters are not used. Raises UserError
    for a model of codes, too many beams, or a text longer than the window.
    """
    model.check_cond(cond)
    if model.from_start:
        raise UserError("beam search continues a prompt: a model of codes begins without one")
    if not 1 <= beams <= model.vocab:
        raise UserError(f"beams is {beams}: from 1 to the vocabulary's {model.vocab} are expected")
    read = fitting(cond, model.num_tokens, model.network.window)
    drawn, score = _search(model, state.sampling_params, read, beams, length_penalty)
    each = {name: jnp.repeat(jnp.asarray(a), beams, axis=0) for name, a in cond.items()}
    text = joined(each, drawn.reshape(-1, drawn.shape[-1]), max(0, model.decoding.end))
    return text.reshape(*drawn.shape[:2], -1), score


@partial(jax.jit, static_argnums=(0, 3, 4))
def _search(model: GPT, params: PyTree, cond: PyTree, beams: int, length_penalty: float) -> tuple[Any, Any]:
    total, end, vocab = model.num_tokens, model.decoding.end, model.vocab
    num = cond["prompt"].shape[0]
    writer = model.begin(params, num, cond)
    layers = model.network.body.decode_params(merged(params["network"])["body"], num * beams)

    def rows(tree: Writer, index: jax.Array) -> Writer:
        """The rows `index` of the writer's arrays; the groups of keys and values of a row move along."""

        def of(a: jax.Array) -> jax.Array:
            if a.ndim == 0:
                return a
            each = a.reshape(tree.count.shape[0], -1, *a.shape[1:])[index]
            return each.reshape(-1, *a.shape[1:])

        return jax.tree.map(of, tree)

    # Beams of one prompt are neighbours.
    writer = rows(writer, jnp.repeat(jnp.arange(num), beams))

    def step(carry: tuple, i: jax.Array) -> tuple:
        writer, score, length, out = carry
        writer, logits = model.advance(params, layers, writer)
        log_p = jax.nn.log_softmax(logits)
        if end >= 0:
            # A beam that has ended continues in one way, at no cost.
            only = jnp.where(jnp.arange(vocab) == end, 0.0, -jnp.inf)[None]
            log_p = jnp.where(writer.ended[:, None], only, log_p)
        sums = score.reshape(num, beams, 1) + log_p.reshape(num, beams, vocab)
        lengths = jnp.where(writer.ended, length, length + 1).reshape(num, beams, 1)
        ranked = (sums / lengths.astype(jnp.float32) ** length_penalty).reshape(num, -1)
        _, best = jax.lax.top_k(ranked, beams)
        index = (jnp.arange(num)[:, None] * beams + best // vocab).reshape(-1)
        token = (best % vocab).astype(jnp.int32).reshape(-1)
        score = jnp.take_along_axis(sums.reshape(num, -1), best, axis=1).reshape(-1)
        length = lengths.reshape(-1)[index]
        writer, out = rows(writer, index), out[index].at[:, i].set(token)
        ended = writer.ended | (token == end) if end >= 0 else writer.ended
        return (writer._replace(token=token, ended=ended), score, length, out), None

    # At first all beams of a prompt are equal: only one of them may be extended.
    score = jnp.where(jnp.arange(num * beams) % beams == 0, 0.0, -jnp.inf)
    start = (writer, score, jnp.zeros(num * beams, jnp.int32), jnp.zeros((num * beams, total), jnp.int32))
    (_, score, _, out), _ = jax.lax.scan(step, start, jnp.arange(total))
    return out.reshape(num, beams, total), score.reshape(num, beams)
