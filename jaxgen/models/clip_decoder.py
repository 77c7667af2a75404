"""The decoder of DALL-E 2 (arXiv:2204.06125, section 2.1): a diffusion model of pictures of a CLIP embedding.

z: the embedding, of norm sqrt(D) (`inference.embedded`). It is projected and added to the embedding of the time, and
projected to `tokens` vectors of a context that the network attends to. Guidance comes from zeros in the place of z in a
fraction of training. From the embedding of a picture the decoder draws variations of it; from what `models.clip_prior`
draws for a text, pictures of the text.
"""

from dataclasses import dataclass, replace

import jax
import numpy as np
from flax import linen as nn

from jaxgen.core.ranges import OptionalSize, Size
from jaxgen.core.types import Batch, PyTree
from jaxgen.models.clip_prior import check_embedding
from jaxgen.models.conditions import Inputs
from jaxgen.models.ddpm import DDPM
from jaxgen.nets.apply import apply
from jaxgen.nets.dense import Dense


class EmbeddingTokens(nn.Module):
    """`count` tokens f32[B, count, D] of embeddings f32[B, D]."""

    count: int

    @nn.compact
    def __call__(self, z: jax.Array) -> jax.Array:
        return Dense(self.count * z.shape[-1], name="tokens")(z).reshape(z.shape[0], self.count, -1)


@dataclass(frozen=True, kw_only=True)
class CLIPDecoder(DDPM):
    """x: f32[B, H, W, C] in [-1, 1]. cond: {"embedding": f32[B, D]}."""

    dim: Size = 512
    """D."""
    tokens: OptionalSize = 4
    """Of the context; 0 for networks without attention to one."""

    def problem(self) -> str | None:
        if self.text or self.num_classes:
            return "a decoder is told an embedding alone: leave text out and num_classes 0"

    def fitted(self, shape: tuple[int, ...], num_classes: int) -> "CLIPDecoder":
        """Classes are told by nothing but embeddings."""
        return replace(self, shape=shape)

    @property
    def guidable(self) -> bool:
        return bool(self.class_dropout)

    @property
    def drawn_from(self) -> tuple[int, ...]:
        """Of embeddings that a prior draws."""
        return (self.dim,)

    def from_drawn(self, raw: np.ndarray) -> dict[str, np.ndarray]:
        return {"embedding": raw}

    # --- checks ---

    def check(self, batch: Batch) -> None:
        super().check(batch)
        check_embedding(dict(batch), "embedding", self.dim)

    def check_cond(self, cond: PyTree) -> None:
        check_embedding(cond, "embedding", self.dim)
        super().check_cond(cond)

    # --- the network's inputs ---

    def condition(self, batch: Batch) -> PyTree:
        return {"embedding": batch["embedding"]}

    def init_told(self, key: jax.Array, cond: PyTree) -> tuple[dict[str, PyTree], jax.Array]:
        if not self.tokens:
            return {}, key
        key, key_tokens = jax.random.split(key)
        return {"tokens": EmbeddingTokens(self.tokens).init(key_tokens, cond["embedding"])["params"]}, key

    def inputs(self, params: PyTree, cond: PyTree, dropout: jax.Array | None = None) -> Inputs:
        z = cond["embedding"]
        if not self.tokens:
            return {"y": z}
        return {"y": z, "context": apply(EmbeddingTokens(self.tokens), {"params": params["tokens"]}, z)}

    def sample_cond(self, num: int, batch: Batch) -> PyTree:
        """The embeddings of `batch`, from the first on, over again where they are too few."""
        return {"embedding": batch["embedding"][np.arange(num) % len(batch["embedding"])]}
