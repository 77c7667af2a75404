"""A small autoregressive model whose probabilities are known."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.core import LossModel
from jaxgen.models.shared import check_labels


@dataclasses.dataclass(frozen=True, kw_only=True)
class Markov(LossModel):
    """Each symbol by the one before it, from a table for each class: p(k | j, y) = softmax(table[y, j])_k."""

    shape: tuple[int, ...] = (8, 8, 1)
    code_levels: int = 256
    num_classes: int = 1

    def init_params(self, key, batch):
        levels = self.code_levels
        return {"table": 2 * jax.random.normal(key, (self.num_classes, levels, levels))}

    def loss(self, params, state, keys, batch):
        symbols = jnp.round((batch["x"].reshape(batch["x"].shape[0], -1) + 1) / 2 * (self.code_levels - 1)).astype(int)
        logp = jax.nn.log_softmax(params["table"][0])[symbols[:, :-1], symbols[:, 1:]]
        return -jnp.mean(logp), {}

    def sample(self, state, keys, cond=None):
        return jax.vmap(lambda key: jax.random.uniform(key, self.shape))(keys)

    def check_cond(self, cond):
        check_labels(self.num_classes if self.num_classes > 1 else 0, cond)

    def code_init(self, state, num, cond):
        return jnp.zeros(num, jnp.int32), jnp.zeros(num, jnp.int32) if cond is None else cond

    def code_next(self, state, cache, position):
        before, label = cache
        return cache, jax.nn.softmax(state.sampling_params["table"][label, before])

    def code_push(self, state, cache, position, symbols):
        return symbols, cache[1]


def drawn(model, state, num, cond=None):
    """Images that the model gives, and minus their log probabilities in bits."""
    rng, size = np.random.default_rng(0), int(np.prod(model.shape))
    table = np.asarray(jax.nn.softmax(state.params["table"]), np.float64)
    label = np.zeros(num, int) if cond is None else np.asarray(cond)
    last, rows, bits = np.zeros(num, int), [], 0.0
    for _ in range(size):
        p = table[label, last]
        last = (p.cumsum(-1) < rng.random((num, 1)) * p.sum(-1, keepdims=True)).sum(-1)
        bits -= np.log2(p[np.arange(num), last]).sum()
        rows.append(last)
    levels = np.stack(rows, -1).reshape(num, *model.shape)
    return np.rint(levels * (255 / (model.code_levels - 1))).astype(np.uint8), bits


def started(model):
    return jax.jit(model.init)(jax.random.key(0), {"x": jnp.zeros((1, *model.shape))})
