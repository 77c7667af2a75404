"""Generation guided by CLIP: the pictures of a trained generator that are near to texts or to other pictures.

u(x) the embedding of a picture, t_m a target (a text or a picture) with weight w_m, s CLIP's scale of logits, theta the
angle between two embeddings. The loss is s times the mean over random cutouts c of x, as in VQGAN-CLIP
(arXiv:2204.08583), of

    sum_m w_m d_m(u(c), t_m) / sum_m |w_m|,    d = theta^2 / 2 if w > 0, else 1 - cos theta.

Both are the same where theta is small. Far away theta^2 / 2 keeps its slope, so that it attracts from everywhere; what
repels by it would win over all that attracts.

Both kinds of generators start from the nearest of a few samples, drawn under each condition in turn. One with latents
(GAN, StyleGAN's W+, VAE, codes) descends strength * loss + prior * cost of the latents, by Adam. A diffusion model
draws that sample anew, and the loss of its predictions draws the sampling aside (arXiv:2105.05233, arXiv:2209.14687).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxgen.core.capabilities import HasLatents, LatentSpace, ScoresText, Steers
from jaxgen.core.codec import Codec
from jaxgen.core.keys import fold_each
from jaxgen.core.ranges import NonNegative, OptionalDepth, Positive, Steps
from jaxgen.core.types import PyTree, TrainState
from jaxgen.ops.cutouts import Cutouts, spherical

START, CUT = 1, 2  # streams of a sample's key; candidates fold further
CANDIDATES = 32


class Targets(NamedTuple):
    """What each picture is to show: embeddings f32[B, M, D], and weights f32[B, M], 0 for those that fill a row."""

    vectors: jax.Array
    weights: jax.Array


class Guided(NamedTuple):
    """x: raw pictures [B, ...]. start: what guidance started from, raw: the nearest candidate. similarity:
    f32[steps, B], `Judge.similarity` before each step; f32[0, B] of a diffusion model. film: raw pictures on the way,
    [frames, B, ...]. cond: the conditions that pictures were drawn under."""

    x: jax.Array
    start: jax.Array
    similarity: jax.Array
    film: jax.Array
    cond: PyTree


@dataclass(frozen=True, kw_only=True)
class CLIPGuidance:
    """Settings of guidance."""

    strength: NonNegative = 1.0
    """1 weighs CLIP's probability of the targets as its training does; more follows them more closely."""
    prior: NonNegative = 1.0
    """Weight of the latents' cost; less lets pictures leave what the generator has learnt."""
    cutouts: Cutouts = Cutouts()
    steps: Steps = 150
    """Of Adam; a diffusion model takes those of its sampler."""
    lr: Positive = 0.05
    """Adam's rate, which falls to 0 by a cosine. Latents have about unit variance."""
    candidates: OptionalDepth = 0
    """Samples, the nearest of which to the targets guidance starts from. 0: one of each class, but of a generator with
    latents, whose samples take a single pass, 32 at least."""
    frames: OptionalDepth = 0
    """Pictures of the way to keep."""


@dataclass(frozen=True)
class Judge:
    """A model of pictures and texts with its parameters traced: what guidance and its scores ask of CLIP."""

    model: ScoresText
    params: PyTree

    def _embed(self, images: jax.Array) -> jax.Array:
        """Unit vectors f32[B, D] of images f32[B, H, W, 1 or C]; grey ones have the same in all C channels."""
        return self.model.embed_images(
            self.params, jnp.broadcast_to(images, (*images.shape[:3], self.model.shape[2]))
        )  # fmt: skip

    def similarity(self, images: jax.Array, targets: Targets) -> jax.Array:
        """sum_m w_m cos(u, t_m) / sum_m |w_m|, f32[B], of images f32[B, H, W, C] in [-1, 1]."""
        u = self._embed(images)
        return weighted(jnp.einsum("bd,bmd->bm", u, targets.vectors), targets)

    def far(self, cutouts: Cutouts, keys: jax.Array, images: jax.Array, targets: Targets) -> jax.Array:
        """The loss of images, f32[B], by cutouts that keys [B] draw."""
        cut = cutouts(keys, images, self.model.shape[0])
        u = self._embed(cut.reshape(-1, *cut.shape[2:])).reshape(*cut.shape[:2], 1, -1)
        vectors = targets.vectors[:, None]
        attracts = targets.weights[:, None] > 0
        away = jnp.where(attracts, spherical(u, vectors), 1 - jnp.sum(u * vectors, axis=-1))
        return self.model.logit_scale(self.params) * weighted(jnp.mean(away, axis=1), targets)


def weighted(values: jax.Array, targets: Targets) -> jax.Array:
    """sum_m w_m values_m / sum_m |w_m| of f32[B, M], f32[B]."""
    weights = targets.weights
    return jnp.sum(weights * values, axis=1) / jnp.sum(jnp.abs(weights), axis=1)


@partial(jax.jit, static_argnums=(0, 1, 2))
def guide(
    settings: CLIPGuidance,
    model: Any,
    clip: Any,
    codec: Codec,
    state: TrainState,
    params: PyTree,
    keys: jax.Array,
    targets: Targets,
    cond: PyTree = None,
) -> Guided:
    """Pictures by a generator `model` (`HasLatents` or `Steers`), one for each of keys [B] and targets, that CLIP
    (`ScoresText`, with params) finds near to its targets. Row i depends on keys[i], targets[i] and cond alone.

    cond: conditions to draw candidates under, leading axis K, in turn; the nearest candidate's is kept. None for an
    unconditional generator.
    """
    judge = Judge(clip, params)
    classes = 1 if cond is None else len(jax.tree.leaves(cond)[0])
    count = settings.candidates or max(classes, CANDIDATES if isinstance(model, HasLatents) else 1)

    def near(keys: jax.Array, cond: PyTree) -> jax.Array:
        if isinstance(model, HasLatents):
            space = model.latent_space(state, cond)
            x = space.decode(space.draw(keys))
        else:
            x = model.sample(state, keys, cond)
        return judge.similarity(pictures(codec, x), targets)

    keys_start, cond = _nearest(count, near, fold_each(keys, START), cond)
    if isinstance(model, HasLatents):
        space = model.latent_space(state, cond)
        return _optimized(settings, space, judge, codec, space.draw(keys_start), keys, targets, cond)
    assert isinstance(model, Steers)

    def loss(x: jax.Array, keys: jax.Array) -> jax.Array:
        return settings.strength * judge.far(settings.cutouts, keys, pictures(codec, x), targets)

    film = jax.lax.map(codec.decode, model.steer(state, keys_start, loss, cond, max(1, settings.frames)))
    start = codec.decode(model.sample(state, keys_start, cond))
    return Guided(film[-1], start, jnp.zeros((0, len(keys))), film[: settings.frames], cond)


def _optimized(
    settings: CLIPGuidance,
    space: LatentSpace,
    judge: Judge,
    codec: Codec,
    latents: PyTree,
    keys: jax.Array,
    targets: Targets,
    cond: PyTree,
) -> Guided:
    """`guide` for a generator with latents, from these on."""

    def similarity(x: jax.Array) -> jax.Array:
        return judge.similarity(pictures(codec, x), targets)

    def loss(latents: PyTree, keys: jax.Array) -> tuple[jax.Array, jax.Array]:
        x = space.decode(latents)
        far = judge.far(settings.cutouts, keys, pictures(codec, x), targets)
        return jnp.sum(settings.strength * far + settings.prior * space.cost(latents)), x

    frames = min(settings.frames, settings.steps)
    tx = optax.adam(optax.cosine_decay_schedule(settings.lr, settings.steps))

    def step(carry: PyTree, i: jax.Array) -> tuple[PyTree, jax.Array]:
        latents, opt_state, film = carry
        grads, x = jax.grad(loss, has_aux=True)(latents, fold_each(fold_each(keys, CUT), i))
        if frames:
            # Each frame is overwritten up to the last step before its time; the first is the start alone.
            film = film.at[-(-i * frames // settings.steps)].set(codec.decode(x), mode="drop")
        updates, opt_state = tx.update(grads, opt_state)
        return (jax.tree.map(jnp.add, latents, updates), opt_state, film), similarity(x)

    start = codec.decode(space.decode(latents))
    film = jnp.zeros((frames, *start.shape), start.dtype)
    carry, similarities = jax.lax.scan(step, (latents, tx.init(latents), film), jnp.arange(settings.steps))
    latents, _, film = carry
    x = codec.decode(space.decode(latents))
    return Guided(x, start, similarities, film.at[-1].set(x) if frames else film, cond)


def _nearest(
    candidates: int, similarity: Callable[[jax.Array, PyTree], jax.Array], keys: jax.Array, cond: PyTree
) -> tuple[jax.Array, PyTree]:
    """The key [B], and the condition, of the most similar of so many candidates for each of keys [B]. Row i does not
    know how many rows there are. similarity: (keys [B], conditions) -> f32[B]."""

    def own(k: jax.Array) -> tuple[jax.Array, PyTree]:
        """The keys of candidates k, i32[B], and their conditions: every one in turn."""
        return jax.vmap(jax.random.fold_in)(keys, k), jax.tree.map(lambda c: c[k % len(c)], cond)

    def keep(best: tuple[jax.Array, jax.Array], k: jax.Array) -> tuple[tuple[jax.Array, jax.Array], None]:
        near, which = best
        new = similarity(*own(jnp.full(len(keys), k)))
        return (jnp.maximum(new, near), jnp.where(new > near, k, which)), None

    none = jnp.full(len(keys), -jnp.inf), jnp.zeros(len(keys), jnp.int32)
    # One candidate needs no search.
    (_, which), _ = jax.lax.scan(keep, none, jnp.arange(candidates)) if candidates > 1 else (none, None)
    return own(which)


def pictures(codec: Codec, x: jax.Array) -> jax.Array:
    """Pictures f32[B, H, W, C] in [-1, 1] of x in model space, differentiable where they are within."""
    return 2 * jnp.clip(codec.unrounded(x), 0, 1) - 1
