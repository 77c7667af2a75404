"""Scaled dot-product attention and rotary position embeddings."""

import contextlib
import contextvars
import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp

from jaxgen.ops.attention_blocks import UNSEEN, Dropout, Seen, in_blocks, in_blocks_by_head, whole

FEW, FEW_ON_CPU = 256, 512
"""Fewer queries or keys are taken whole: their scores are few, and a loop over them takes longer than it saves."""


_FORWARD = contextvars.ContextVar("forward_mode", default=False)


@contextlib.contextmanager
def forward_mode() -> Iterator[None]:
    """While a program is traced within, attention has derivatives in forward mode, which cuDNN's kernel has not."""
    before = _FORWARD.set(True)
    try:
        yield
    finally:
        _FORWARD.reset(before)


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

    causal: query t sees keys up to t. mask: bool[B or 1, T or 1, S], true where a query sees a key. What a query that
    sees no key gets is finite, and nothing else is promised of it.

    The softmax is computed in f32 for any input type. Many queries of many keys are taken in blocks, whose scores are
    not kept for the backward pass (`jaxgen.ops.attention_blocks`); which way is taken is chosen for the platform that
    the program is compiled for, by shapes alone. cuDNN's kernel is asked for only where a GPU is present, as without
    one it cannot tell what it takes.
    """
    fewest = min(q.shape[1], k.shape[1])
    seen = Seen(causal, mask)
    plain = functools.partial(whole, seen=seen, dropout=dropout)
    default = functools.partial(in_blocks, seen=seen, dropout=dropout) if fewest >= FEW else plain
    ways = {}
    if mask is None and dropout is None and _takes_cudnn(q):
        ways["cuda"] = functools.partial(jax.nn.dot_product_attention, is_causal=causal, implementation="cudnn")
    if fewest >= FEW:
        by_head = functools.partial(in_blocks_by_head, seen=seen, dropout=dropout)
        ways["cpu"] = by_head if fewest >= FEW_ON_CPU else plain
    if ways:
        return jax.lax.platform_dependent(q, k, v, **ways, default=default)
    return plain(q, k, v)


def cached_attention(q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array) -> jax.Array:
    """`attention` of a few queries to a cache of keys and values.

    q: f32[B, T, heads, d]; k, v: f32[B * groups, S, d]; mask: bool[B, T, S]. The result has the shape of q. The cache
    is stored in the layout of the matrix products, so no step has to transpose it.
    """
    batch, length, heads, dim = q.shape
    # [B x groups, heads of the group x T, d]: one product for all heads that share keys.
    q = (q * dim**-0.5).swapaxes(1, 2).reshape(k.shape[0], -1, dim)
    score = jnp.einsum("btd,bsd->bts", q, k, preferred_element_type=jnp.float32)
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
    """Whether cuDNN's fused attention is available, supports queries of this type and size, and is not differentiated
    in forward mode."""
    half = q.dtype in (jnp.bfloat16, jnp.float16) and not _FORWARD.get()
    return half and q.shape[-1] % 8 == 0 and q.shape[-1] <= 128 and q.shape[1] > 1 and _has_cuda()


@functools.cache
def _has_cuda() -> bool:
    # Called when the first program is traced: calling it at import would initialise the devices.
    try:
        return jax.default_backend() == "gpu" and bool(jax.devices("cuda"))
    except RuntimeError:  # a GPU of another vendor
        return False
