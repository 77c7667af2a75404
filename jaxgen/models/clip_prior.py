"""The diffusion prior of DALL-E 2 (arXiv:2204.06125): from a text to CLIP's embedding of a picture of it.

z_i, z_t: CLIP's embeddings of a picture and of its text, unit vectors times sqrt(D), so that their coordinates have
about unit variance, as a diffusion process expects; y: the text. The network predicts z_i itself: eq. 2,

    L = E |f(z_i^(t), t, y) - z_i|^2,

here a mean over coordinates. Guidance comes from dropping y, z_t included, in training. A sample is the one of two (of
`best_of`) that has the larger product with z_t (section 2.2), scaled to norm sqrt(D), which all embeddings have.
"""

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxgen.core.keys import fold_each
from jaxgen.core.ranges import Depth, Shape
from jaxgen.core.types import Batch, Metrics, PyTree, TrainState
from jaxgen.errors import UserError
from jaxgen.models.conditions import TEXT, Inputs, text_rows
from jaxgen.models.ddpm import DDPM
from jaxgen.nets.prior import PriorTransformer
from jaxgen.ops.diffusion import Kind
from jaxgen.ops.samplers import DDIM, Sampler
from jaxgen.ops.schedules import Cosine, Discrete

CANDIDATE = 1 << 19  # streams of a sample's key, beyond those of a sampler's rows: one for each candidate
SAMPLED = 3  # stream of an evaluation's key, after those of `models.diffusion`
EMBEDDING = "text_embedding"


def check_embedding(cond: PyTree, name: str, size: int) -> None:
    """Raises UserError unless an entry of a condition, or of a batch, is f32[B, size]."""
    given = tuple(cond[name].shape[1:]) if isinstance(cond, dict) and name in cond else None
    if given != (size,):
        raise UserError(
            f"{name} has shape {given}, ({size},) is expected: choose jaxgen.inference.embedded.Embedded as data, of "
            f"a CLIP whose dim is {size}"
        )


def to_norm(z: jax.Array) -> jax.Array:
    """Vectors f32[..., D] scaled to norm sqrt(D)."""
    mean = jnp.mean(z**2, axis=-1, keepdims=True)
    return z * jax.lax.rsqrt(mean + 1e-12)


@dataclass(frozen=True, kw_only=True)
class CLIPPrior(DDPM):
    """x: f32[B, D], z_i. cond: {"text": i32[B, T], "text_mask": bool[B, T], "text_embedding": f32[B, D]}, z_t; with a
    negative text, "negative_embedding" as well."""

    network: nn.Module = field(default_factory=PriorTransformer)
    schedule: Discrete = Cosine()
    sampler: Sampler = DDIM(clip=0.0)
    kind: Kind = "x0"
    shape: Shape = (512,)
    best_of: Depth = 2
    """Candidates of each sample, of which the nearest to the text is kept."""

    # --- checks ---

    def check(self, batch: Batch) -> None:
        if not self.text:
            raise UserError("model.text is None: a prior reads texts, give it a TextTower or a T5Encoder")
        if self.learns_variance:
            raise UserError(f"objective is {self.objective}: a prior predicts the embedding alone, choose simple")
        super().check(batch)
        check_embedding(dict(batch), EMBEDDING, self.shape[0])

    def check_cond(self, cond: PyTree) -> None:
        super().check_cond(cond)
        for name in (EMBEDDING, "negative_embedding"):
            if name == EMBEDDING or name in cond:
                check_embedding(cond, name, self.shape[0])

    # --- the network's inputs ---

    def condition(self, batch: Batch) -> PyTree:
        return {**super().condition(batch), EMBEDDING: batch[EMBEDDING]}

    def inputs(self, params: PyTree, cond: PyTree, dropout: jax.Array | None = None) -> Inputs:
        return {**super().inputs(params, cond, dropout), "embedding": cond[EMBEDDING]}

    def sample_cond(self, num: int, batch: Batch) -> PyTree:
        """The texts of `batch`, from the first on."""
        return super().sample_cond(num, batch) | text_rows(num, batch, (*TEXT, EMBEDDING))

    # --- sampling ---

    def sample(self, state: TrainState, keys: jax.Array, cond: PyTree = None) -> jax.Array:
        """Embeddings f32[len(keys), D] of norm sqrt(D), the best of `best_of` each."""
        some = jnp.concatenate([fold_each(keys, CANDIDATE + i) for i in range(self.best_of)])
        every = jax.tree.map(lambda a: jnp.concatenate([jnp.asarray(a)] * self.best_of), cond)
        z = to_norm(self._sample(state, some, every)).reshape(self.best_of, keys.shape[0], -1)
        return nearest(z, jnp.asarray(cond[EMBEDDING]))

    # --- numbers and pictures ---

    def evaluate(self, state: TrainState, keys: jax.Array, batch: Batch) -> Metrics:
        """The numbers of DDPM, and cosines with z_i: of a sample, `prior_similarity`, and of z_t in its place,
        `text_similarity`, f32[B] each."""
        numbers = super().evaluate(state, keys, batch)
        drawn = self.sample(state, fold_each(keys, self.evaluate_times + SAMPLED), self.condition(batch))
        found = {"prior_similarity": drawn, "text_similarity": batch[EMBEDDING]}
        return numbers | {name: jnp.mean(to_norm(z) * to_norm(batch["x"]), axis=-1) for name, z in found.items()}

    def pictures(self, state: TrainState, keys: jax.Array, batch: Batch) -> dict[str, jax.Array]:
        return {}  # vectors cannot be seen


def nearest(z: jax.Array, target: jax.Array) -> jax.Array:
    """Of candidates f32[K, B, D], those with the largest product with target, f32[B, D]: f32[B, D]."""
    best = jnp.argmax(jnp.sum(z * target[None], axis=-1), axis=0)
    return jnp.take_along_axis(z, best[None, :, None], axis=0)[0]
