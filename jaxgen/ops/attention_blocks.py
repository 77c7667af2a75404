"""Attention whose memory grows with T + S, not with T S: queries are taken block after block, and the backward pass
computes the scores of a block anew instead of keeping them (arXiv:2112.05682, arXiv:2205.14135).

A block of queries sees all its keys at once, so that its softmax is the plain one: nothing is rescaled while keys pass
by, keys are not padded, and one function serves whole inputs and blocks. Differentiation is JAX's own, through
`jax.checkpoint`, not a hand-written VJP: at 4,096 causal queries of 12 heads of 64 in f32 the compiled forward and
backward pass takes 198 MiB of temporaries instead of 181, where plain attention takes 1,548, and forward mode, second
derivatives, dropout and `vmap` need no code.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

# The score of a masked key. Its exp() is 0, yet it is finite, so a query that sees no key (padding) gives no NaN.
UNSEEN = -1e30

BLOCK = 128
"""Queries in a block."""
BANDS = 2
"""Parts of causal queries. Those of a part get no keys after its end: two save a quarter of the scores, four would save
three eighths and take nearly twice as long to compile."""


class Dropout(NamedTuple):
    """Drops each attention weight with probability `rate` by `key`, and scales up the others."""

    rate: float
    key: jax.Array


class Seen(NamedTuple):
    """Which keys queries see: those that `mask`, bool[B or 1, T or 1, S], has true (all if None) and, if causal, those
    up to the query's own position. The first query is at position `first`."""

    causal: bool = False
    mask: jax.Array | None = None
    first: jax.Array | int = 0

    def hide(self, score: jax.Array) -> jax.Array:
        """Scores f32[B, heads, T, S], UNSEEN where a query does not see a key."""
        if self.causal:
            position = self.first + jnp.arange(score.shape[2])
            score = jnp.where((position[:, None] >= jnp.arange(score.shape[3])[None])[None, None], score, UNSEEN)
        return score if self.mask is None else jnp.where(self.mask[:, None], score, UNSEEN)


def whole(q: jax.Array, k: jax.Array, v: jax.Array, seen: Seen, dropout: Dropout | None = None) -> jax.Array:
    """Attention of all queries at once. q: f32[B, T, heads, d]; k, v: f32[B, S, groups, d]; as q."""
    q, k, v = _by_head(q, k, v)
    return _attend(q, k, v, seen, dropout).swapaxes(1, 2)


def in_blocks(q: jax.Array, k: jax.Array, v: jax.Array, seen: Seen, dropout: Dropout | None = None) -> jax.Array:
    """`whole` for `BLOCK` queries at a time. Batch and heads stay whole: they may lie on several devices, over which no
    loop goes, and they keep a GPU or TPU busy. Dropout draws by block, so that its weights are not those of `whole`."""

    def scan(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        return _scan(*_by_head(q, k, v), seen, dropout).swapaxes(1, 2)

    # Inputs are all that is kept: of the loop, copies of them in its own layout and precision would be.
    return jax.checkpoint(scan)(q, k, v)


def in_blocks_by_head(
    q: jax.Array, k: jax.Array, v: jax.Array, seen: Seen, dropout: Dropout | None = None
) -> jax.Array:
    """`in_blocks` for one head at a time, whose scores stay in the cache of a CPU: of 1,024 queries, forward and
    backward take two thirds of the time of `whole` if causal and no more if not."""

    def scan(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        q, k, v = (jnp.moveaxis(a, 1, 0)[:, :, None] for a in _by_head(q, k, v))
        keys = None if dropout is None else jax.random.split(dropout.key, q.shape[0])

        def head(of: tuple) -> jax.Array:
            q, k, v, key = of
            return _scan(q, k, v, seen, None if dropout is None else Dropout(dropout.rate, key))[:, 0]

        return jnp.moveaxis(jax.lax.map(head, (q, k, v, keys)), 0, 2)

    return jax.checkpoint(scan)(q, k, v)


def _by_head(q: jax.Array, k: jax.Array, v: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Each as f32[B, heads, positions, d], which takes 40 % less time than the products of
    `jax.nn.dot_product_attention` on XLA's CPU."""
    shared = q.shape[2] // k.shape[2]
    if shared > 1:
        k, v = (jnp.repeat(a, shared, axis=2) for a in (k, v))
    return q.swapaxes(1, 2), k.swapaxes(1, 2), v.swapaxes(1, 2)


def _attend(q: jax.Array, k: jax.Array, v: jax.Array, seen: Seen, dropout: Dropout | None) -> jax.Array:
    """q: f32[B, heads, T, d]; k, v: f32[B, heads, S, d]; or in half precision, of which scores are in f32. The product
    with v is divided by the softmax's sum instead of the weights, which are more."""
    score = jnp.einsum("bhtd,bhsd->bhts", q * q.shape[-1] ** -0.5, k, preferred_element_type=jnp.float32)
    score = seen.hide(score)
    weight = jnp.exp(score - jax.lax.stop_gradient(jnp.max(score, axis=-1, keepdims=True)))
    total = jnp.sum(weight, axis=-1, keepdims=True)
    if dropout is not None:
        share = 1 - dropout.rate
        weight = jnp.where(jax.random.bernoulli(dropout.key, share, weight.shape), weight / share, 0.0)
    return jnp.einsum("bhts,bhsd->bhtd", weight.astype(v.dtype), v) / total.astype(v.dtype)


def _scan(q: jax.Array, k: jax.Array, v: jax.Array, seen: Seen, dropout: Dropout | None) -> jax.Array:
    """`_attend` block after block, those of a band in one loop."""
    length, dtype, mask = q.shape[2], k.dtype, seen.mask
    count = -(-length // BLOCK)
    by_query = mask is not None and mask.shape[1] > 1
    if count * BLOCK > length:  # rows of padding, cut off in the end
        rows = (0, count * BLOCK - length)
        q = jnp.pad(q, ((0, 0), (0, 0), rows, (0, 0)))
        mask = jnp.pad(mask, ((0, 0), rows, (0, 0))) if mask is not None and by_query else mask
    blocks = _split(q, 2, count)
    masks = _split(mask, 1, count) if mask is not None and by_query else None
    keys = None if dropout is None else jax.random.split(dropout.key, count)
    # f32: a gradient of keys and values is a sum over blocks, in the type of what the loop reads.
    k, v = k.astype(jnp.float32), v.astype(jnp.float32)
    bands = min(BANDS, count) if seen.causal else 1
    out = []
    for band in range(bands):
        begin, end = count * band // bands, count * (band + 1) // bands
        last = min(end * BLOCK, k.shape[2]) if seen.causal else k.shape[2]
        k_seen, v_seen = k[:, :, :last], v[:, :, :last]
        mask_seen = None if mask is None or by_query else mask[:, :, :last]

        def block(of: tuple, k=k_seen, v=v_seen, mask=mask_seen, last=last) -> jax.Array:
            index, q, own, key = of
            here = Seen(seen.causal, mask if own is None else own[:, :, :last], seen.first + index * BLOCK)
            drops = None if dropout is None else Dropout(dropout.rate, key)
            return _attend(q, k.astype(dtype), v.astype(dtype), here, drops)

        xs = jax.tree.map(lambda a, b=begin, e=end: a[b:e], (jnp.arange(count), blocks, masks, keys))
        # Nothing outside the loop computes the same, so that nothing need keep the compiler from merging it.
        out.append(jax.lax.map(jax.checkpoint(block, prevent_cse=False), xs))
    joined = jnp.moveaxis(jnp.concatenate(out) if bands > 1 else out[0], 0, 2)
    return joined.reshape(*q.shape[:2], -1, v.shape[3])[:, :, :length]


def _split(x: jax.Array, axis: int, count: int) -> jax.Array:
    """An axis of count x BLOCK positions as a leading axis of count blocks."""
    return jnp.moveaxis(x.reshape(*x.shape[:axis], count, -1, *x.shape[axis + 1 :]), axis, 0)
