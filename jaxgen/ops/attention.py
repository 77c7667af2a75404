"""Scaled dot-product attention and rotary position embeddings."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

# The score of a masked key. Its exp() is 0, yet it is finite, so a query that sees no key (padding) gives no NaN.
UNSEEN = -1e30


BLOCK, LONG = 128, 512
"""Queries in a block, and keys from which on blocks are faster."""


class Dropout(NamedTuple):
    """Drops each attention weight with probability `rate` by `key`, and scales up the others."""

    rate: float
    key: jax.Array


def attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    causal: bool = False,
    mask: jax.Array | None = None,
    dropout: Dropout | None = None,
) -> jax.Array:
    """softmax(q k' / sqrt(d)) v, eq. 1 of arXiv:1706.03762. q: f32[B, T, heads, d]; k, v: f32[B, S, groups, d], where
    heads / groups neighbouring heads share a group (arXiv:2305.13245). The result has the shape of q.

    causal: query t sees keys up to t. mask: bool[B or 1, T or 1, S], true where a query sees a key.

    The softmax is computed in f32 for any input type. The heads axis is moved before the positions, and the product
    with v is divided by the softmax's sum instead of the weights: this takes 40 % less time than
    `jax.nn.dot_product_attention` on XLA's CPU. There, many queries of many keys are taken block after block, so that
    their scores stay in the cache: half the time for 1,024 of each.
    """
    ways = {}
    if mask is None and dropout is None and _takes_cudnn(q):
        ways["cuda"] = functools.partial(jax.nn.dot_product_attention, is_causal=causal, implementation="cudnn")
    if mask is None and dropout is None and not causal and q.shape[1] % BLOCK == 0 and k.shape[1] >= LONG:
        ways["cpu"] = _in_blocks
    if ways:
        plain = functools.partial(_attention, causal=causal, mask=None, dropout=None)
        return jax.lax.platform_dependent(q, k, v, **ways, default=plain)
    return _attention(q, k, v, causal, mask, dropout)


def _in_blocks(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    """`_attention` for one head and `BLOCK` queries at a time. The batch stays whole, as it may lie on several devices,
    over which no loop goes."""
    batch, length, heads, dim = q.shape
    shared = heads // k.shape[2]
    k, v = (jnp.repeat(a, shared, axis=2) if shared > 1 else a for a in (k, v))
    q, k, v = (jnp.moveaxis(a, 2, 0) for a in (q * dim**-0.5, k, v))

    def head(of: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
        q, k, v = of

        def block(q: jax.Array) -> jax.Array:
            score = jnp.einsum("btd,bsd->bts", q, k).astype(jnp.float32)
            weight = jnp.exp(score - jax.lax.stop_gradient(jnp.max(score, axis=-1, keepdims=True)))
            total = jnp.sum(weight, axis=-1, keepdims=True)
            return jnp.einsum("bts,bsd->btd", weight.astype(v.dtype), v) / total.astype(v.dtype)

        blocks = jnp.moveaxis(q.reshape(batch, length // BLOCK, BLOCK, dim), 1, 0)
        return jnp.moveaxis(jax.lax.map(block, blocks), 0, 1).reshape(batch, length, dim)

    return jnp.moveaxis(jax.lax.map(head, (q, k, v)), 0, 2)


def _attention(
    q: jax.Array, k: jax.Array, v: jax.Array, causal: bool, mask: jax.Array | None, dropout: Dropout | None
) -> jax.Array:
    shared = q.shape[2] // k.shape[2]
    if shared > 1:
        k, v = (jnp.repeat(a, shared, axis=2) for a in (k, v))
    q, k, v = (a.swapaxes(1, 2) for a in (q, k, v))
    score = jnp.einsum("bhtd,bhsd->bhts", q * q.shape[-1] ** -0.5, k).astype(jnp.float32)
    if causal:
        score = jnp.where(jnp.tri(*score.shape[2:], dtype=bool)[None, None], score, UNSEEN)
    if mask is not None:
        score = jnp.where(mask[:, None], score, UNSEEN)
    weight = jnp.exp(score - jax.lax.stop_gradient(jnp.max(score, axis=-1, keepdims=True)))
    total = jnp.sum(weight, axis=-1, keepdims=True)
    if dropout is not None:
        share = 1 - dropout.rate
        weight = jnp.where(jax.random.bernoulli(dropout.key, share, weight.shape), weight / share, 0.0)
    return (jnp.einsum("bhts,bhsd->bhtd", weight.astype(v.dtype), v) / total.astype(v.dtype)).swapaxes(1, 2)


def cached_attention(q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array) -> jax.Array:
    """`attention` of a few queries to a cache of keys and values.

    q: f32[B, T, heads, d]; k, v: f32[B * groups, S, d]; mask: bool[B, T, S]. The result has the shape of q. The cache
    is stored in the layout of the matrix products, so no step has to transpose it.
    """
    batch, length, heads, dim = q.shape
    # [B x groups, heads of the group x T, d]: one product for all heads that share keys.
    q = (q * dim**-0.5).swapaxes(1, 2).reshape(k.shape[0], -1, dim)
    score = jnp.einsum("btd,bsd->bts", q, k).astype(jnp.float32)
    seen = jnp.broadcast_to(mask[:, None], (batch, heads, length, mask.shape[-1])).reshape(score.shape)
    score = jnp.where(seen, score, UNSEEN)
    weight = jnp.exp(score - jnp.max(score, axis=-1, keepdims=True))
    total = jnp.sum(weight, axis=-1, keepdims=True)
    out = jnp.einsum("bts,bsd->btd", weight.astype(v.dtype), v) / total.astype(v.dtype)
    return out.reshape(batch, heads, length, dim).swapaxes(1, 2)


def rotate(x: jax.Array, positions: jax.Array, base: float = 10_000.0) -> jax.Array:
    """Rotary position embedding, eq. 34 of arXiv:2104.09864: at position p, the pair of channels i and i + d/2 is
    rotated by the angle p base^(-2 i / d).

    x: f32[B, T, heads, d], d even; positions: i32[B or 1, T]. The dot product of two rotated vectors depends on their
    positions only through the difference.
    """
    half = x.shape[-1] // 2
    frequency = base ** (-jnp.arange(half, dtype=jnp.float32) / half)
    angle = positions[..., None, None].astype(jnp.float32) * frequency.reshape(1, 1, 1, -1)
    cos, sin = jnp.cos(angle).astype(x.dtype), jnp.sin(angle).astype(x.dtype)
    first, second = x[..., :half], x[..., half:]
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


def _takes_cudnn(q: jax.Array) -> bool:
    """Whether cuDNN's fused attention is available and supports queries of this type and size."""
    half = q.dtype in (jnp.bfloat16, jnp.float16)
    return half and q.shape[-1] % 8 == 0 and q.shape[-1] <= 128 and q.shape[1] > 1 and _has_cuda()


@functools.cache
def _has_cuda() -> bool:
    # Called when the first program is traced: calling it at import would initialise the devices.
    try:
        return jax.default_backend() == "gpu" and bool(jax.devices("cuda"))
    except RuntimeError:  # a GPU of another vendor
        return False
