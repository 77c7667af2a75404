"""Examples encoded once, before training, where the encoder is a network and draws nothing."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from jaxgen.codecs import Identity
from jaxgen.core.codec import Codec
from jaxgen.core.mesh import Layout, divisible

CHUNK = 64
"""Examples encoded at a time."""


def encoded_once(
    data: Mapping[str, Any] | None, codec: Codec, budget: int, layout: Layout | None = None
) -> tuple[Mapping[str, Any] | None, Codec]:
    """What training gathers its batches from, and what encodes these. data: raw examples on the host, or None where
    they are streamed; they come back encoded, still on the host, if `codec.encode_once` and they then take at most
    `budget` bytes.
    """
    if data is None or not codec.encode_once:
        return data, codec
    encoder, rest = codec.apart()
    count, size = len(data["x"]), divisible(CHUNK, layout)
    rows = np.arange(size) if layout is None else layout.rows(size)

    def encode(codec: Codec, batch: Any) -> Any:
        return codec.encode(jax.tree.map(lambda a: a[0], batch), jax.random.key(0))

    shapes = jax.eval_shape(encode, encoder, {name: a[None, :1] for name, a in data.items()})
    if count * sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes)) > budget:
        return data, codec
    program = jax.jit(encode) if layout is None else jax.jit(encode, out_shardings=layout.everywhere)
    parts = []
    for start in range(0, count, size):
        taken = np.minimum(np.arange(start, start + size), count - 1)
        chunk = {name: np.asarray(a)[taken[rows]][None] for name, a in data.items()}
        done = program(encoder, chunk if layout is None else layout.put_rows(chunk, size))
        parts.append(jax.tree.map(lambda a, left=count - start: np.asarray(a)[:left], done))
    return jax.tree.map(lambda *a: np.concatenate(a), *parts), rest or Identity()
