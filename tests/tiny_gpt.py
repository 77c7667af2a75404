"""A GPT of 11 tokens and a window of 8, its parameters large enough that each of them matters."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen import core
from jaxgen.core import TrainState
from jaxgen.models.gpt import GPT
from jaxgen.nets.gpt import TokenTransformer
from jaxgen.nets.transformer import Transformer


def tiny(vocab: int = 11, window: int = 8, pre_norm: bool = True, dropout: float = 0.0, **fields) -> GPT:
    body = Transformer(width=16, depth=2, heads=2, causal=True, pre_norm=pre_norm, dropout=dropout)
    return GPT(network=TokenTransformer(vocab=vocab, window=window, body=body), **fields)


def randomised(model: GPT, scale: float = 0.3, seed: int = 0) -> dict:
    batch = {"x": jnp.zeros((1, 2), jnp.int32), "cond": jnp.zeros(1, jnp.int32)}
    leaves, tree = jax.tree.flatten(core.abstract_state(model, batch).params)
    rng = np.random.default_rng(seed)
    return jax.tree.unflatten(tree, [jnp.float32(scale * rng.normal(size=p.shape)) for p in leaves])


def state_of(model: GPT, params: dict) -> TrainState:
    return TrainState(step=jnp.int32(0), params=params, opt_state={})
