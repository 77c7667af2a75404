"""The encoder of T5 (arXiv:1910.10683), whose features of a text Imagen (arXiv:2205.11487) draws by.

Blocks are pre-norm with root mean square norms and no biases. Logits of attention are not scaled (kernels start smaller
instead); a learned bias for each head and each bucket of distances, shared by all blocks, stands for positions.
"""

import math
from dataclasses import dataclass
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from annotated_types import Ge, Le
from flax import linen as nn

from jaxgen.core.ranges import Depth, Size, Vocabulary
from jaxgen.errors import UserError
from jaxgen.nets.dense import Dense

NEVER = -1e9
"""The logit of what is not attended to."""


@dataclass(frozen=True)
class Widths:
    heads: int
    each: int
    hidden: int
    gated: bool
    dtype: Any


def bucket_of(distance: np.ndarray, buckets: int, most: int) -> np.ndarray:
    """The bucket of a key's place less the query's, int[...]: half of the buckets for each sign; of a sign, half for
    one distance each and the rest for ranges that grow by a factor, the last from `most` on."""
    half = buckets // 2
    exact = half // 2
    size = np.abs(distance)
    # f32, as in the published code: at borders of a range the last bit decides.
    scale = np.float32(math.log(most / exact))
    log = np.log(np.maximum(size, 1).astype(np.float32) / np.float32(exact)) / scale
    far = np.minimum(exact + (log * np.float32(half - exact)).astype(np.int64), half - 1)
    return np.where(distance > 0, half, 0) + np.where(size < exact, size, far)


class T5Block(nn.Module):
    widths: Widths

    @nn.compact
    def __call__(self, x: jax.Array, bias: jax.Array) -> tuple[jax.Array, None]:
        """x: f32[B, T, C]; bias: f32[1 or B, heads, T, T], added to the logits of attention."""
        w = self.widths

        def dense(features: int, name: str, fan: int) -> Dense:
            init = nn.initializers.normal(fan**-0.5)
            return Dense(features, use_bias=False, dtype=w.dtype, kernel_init=init, name=name)

        width, inner = x.shape[-1], w.heads * w.each
        h = nn.RMSNorm(1e-6, dtype=w.dtype, name="norm_self")(x)
        fans = {"query": width * w.each, "key": width, "value": width}
        q, k, v = (dense(inner, n, fan)(h).reshape(*h.shape[:2], w.heads, w.each) for n, fan in fans.items())
        logits = jnp.einsum("bqhd,bkhd->bhqk", q, k, preferred_element_type=jnp.float32) + bias
        seen = jnp.einsum("bhqk,bkhd->bqhd", nn.softmax(logits).astype(v.dtype), v)
        x = x + dense(width, "out", inner)(seen.reshape(*h.shape[:2], inner))
        h = nn.RMSNorm(1e-6, dtype=w.dtype, name="norm_mlp")(x)
        if w.gated:
            h = nn.gelu(dense(w.hidden, "gate_up", width)(h)) * dense(w.hidden, "up", width)(h)
        else:
            h = nn.relu(dense(w.hidden, "up", width)(h))
        return x + dense(width, "down", w.hidden)(h), None


class T5Encoder(nn.Module):
    """Tokens i32[B, T] to f32[B, T, width]. The default is T5-small; version 1.1 is `gated` with 1,024 `hidden`."""

    vocab: Vocabulary = 32_128
    window: Size = 128
    """Tokens of a text at most. No parameter depends on it."""
    width: Size = 512
    depth: Depth = 6
    heads: Size = 8
    each: Size = 64
    """Channels of a head; heads times as many need not be the width."""
    hidden: Size = 2048
    """Channels inside the MLPs."""
    gated: bool = False
    """MLPs with gelu(gate) * up, arXiv:2002.05202, for those with a ReLU: version 1.1, as Imagen's T5-XXL."""
    buckets: Annotated[int, Ge(4), Le(1_024)] = 32
    """Of distances between tokens."""
    most: Annotated[int, Ge(4), Le(65_536)] = 128
    """The distance from which on all are alike."""
    dtype: Any = None

    @property
    def dropout(self) -> float:
        """None: the weights are published ones, and stay."""
        return 0.0

    def check(self) -> None:
        """Raises UserError for buckets that cannot be shared between signs and ranges."""
        if self.buckets % 4 or self.most <= self.buckets // 4:
            raise UserError(
                f"buckets is {self.buckets} and most {self.most}: a multiple of 4, and more than a quarter of it, are "
                "expected"
            )

    def __call__(self, text: jax.Array, mask: jax.Array | None = None, train: bool = False) -> jax.Array:
        return self.features(text, mask, train)

    @nn.compact
    def features(self, text: jax.Array, mask: jax.Array | None = None, train: bool = False) -> jax.Array:
        """f32[B, T, width]. mask: bool[B, T], false for padding; all True if None. train: no dropout is used."""
        self.check()
        table = self.param("tokens", nn.initializers.normal(1.0), (self.vocab, self.width))
        distances = self.param("distances", nn.initializers.normal(self.width**-0.5), (self.buckets, self.heads))
        place = np.arange(text.shape[1])
        bucket = bucket_of(place[None] - place[:, None], self.buckets, self.most)
        bias = distances[bucket].transpose(2, 0, 1)[None].astype(jnp.float32)
        if mask is not None:
            bias = jnp.where(mask[:, None, None], bias, NEVER)
        h = table[jnp.clip(text, 0, self.vocab - 1)]
        h = h if self.dtype is None else h.astype(self.dtype)
        widths = Widths(self.heads, self.each, self.hidden, self.gated, self.dtype)
        stack = nn.scan(
            T5Block, length=self.depth, in_axes=nn.broadcast,  # pyright: ignore[reportArgumentType]  # typed as int
            variable_axes={"params": 0}, split_rngs={"params": True},
        )  # fmt: skip
        h, _ = stack(widths, name="blocks")(h, bias)
        return nn.RMSNorm(1e-6, dtype=self.dtype, name="norm")(h)
