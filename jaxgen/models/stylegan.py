"""StyleGAN and StyleGAN2 (arXiv:1812.04948, arXiv:1912.04958): GANs whose generator works from styles.

w = f(z) the style, ws one for each layer, x = g(ws, noise) the image. What they add to a GAN: training mixes the styles
of two latents and regularizes |dx/dw| towards its running mean; sampling truncates w towards its mean; the critic's
inputs are augmented with a probability that adapts to its overfitting (arXiv:2006.06676).
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxgen.core.capabilities import LatentSpace
from jaxgen.core.gradients import Seen
from jaxgen.core.keys import coin_each, fold_each, integer_each, normal_each, split_each
from jaxgen.core.ranges import Count, Decay, Fraction, NonNegative, OptionalDepth, Shape, Size
from jaxgen.core.types import Batch, Metrics, PyTree, TrainState
from jaxgen.errors import UserError
from jaxgen.metrics.ppl import Interpolate, lerp
from jaxgen.models.gan import GAN
from jaxgen.models.projector import Noise, Projection, Projector, StyleSpace, pixel_distance, project
from jaxgen.models.shared import in_pairs
from jaxgen.nets.apply import apply, apply_mutable
from jaxgen.nets.stylegan import doublings
from jaxgen.nets.stylegan2 import StyleGAN2Critic, StyleGAN2Generator
from jaxgen.ops.augment import Augment, adjusted
from jaxgen.ops.gaussian import off_shell
from jaxgen.optim import Adam, Optimizer

# Streams of a sample's key. Several draws share 2, as no method makes two of them.
LATENT, NOISE = range(2)
PATH_ENDS = (2, 3)
PROJECTION = 2
OWN_PICTURES, GAN_PICTURES = range(2)


@dataclass(frozen=True, kw_only=True)
class Truncated:
    """Settings of sampling."""

    psi: float = 1.0
    """w becomes mean + psi (w - mean), section 3.1 of arXiv:1812.04948: psi < 1 trades diversity for quality."""
    layers: OptionalDepth = 0
    """How many layers, from the smallest map up, are truncated; all when 0."""
    noise: bool = True
    """Draw noise maps; without, the image is a function of z alone."""


@dataclass(frozen=True, kw_only=True)
class StyleGAN(GAN):
    """x: f32[B, height, width, C] in [-1, 1], sides 4 to 7 times a power of two; cond: i32[B] when num_classes > 0.

    The generator is a `StyleGenerator`; the running mean of w is one of its batch statistics. Penalties enter the loss
    at every `penalty_every`-th and `path_every`-th step, so Adam's rates need no correction for lazy regularization.
    """

    generator: nn.Module = field(default_factory=StyleGAN2Generator)
    critic: nn.Module = field(default_factory=StyleGAN2Critic)
    shape: Shape = (32, 32, 3)
    latent: Size = 512
    optimizer: Optimizer = Adam(lr=0.0025, b1=0.0, b2=0.99)
    critic_optimizer: Optimizer = Adam(lr=0.0025, b1=0.0, b2=0.99)
    r1: NonNegative = 1.0
    """gamma of the gradient penalty on real examples; arXiv:2006.06676 starts from 0.0002 pixels / batch size."""
    penalty_every: Count = 16
    ema_decay: Decay = 0.998
    mixing: Fraction = 0.9
    """Probability in training that, from a random layer on, an example takes the style of a second latent."""
    path_length: NonNegative = 2.0
    """Weight of the path-length penalty, eq. 4 of arXiv:1912.04958; 0 for none."""
    path_every: Count = 4
    """That penalty is computed at every such step, with its weight multiplied by as much."""
    path_share: Size = 2
    """That penalty is computed on the batch's first 1 / path_share."""
    path_decay: Decay = 0.99
    """Decay of the running mean of path lengths."""
    augment: Augment = Augment()
    augment_p: Fraction = 0.0
    """Probability of each augmentation at the first step; it is constant when augment_target is 0."""
    augment_target: Fraction = 0.0
    """Target of the mean sign of real logits, which the probability adapts to: 0.6 in arXiv:2006.06676; 0 for none."""
    augment_every: Count = 4
    """Critic steps between two adjustments of the probability."""
    augment_images: Count = 500_000
    """Real examples over which the probability can rise from 0 to 1."""
    sampler: Truncated = Truncated()
    latent_ways: ClassVar[tuple[str, ...]] = ("w",)
    projector: Projector = Projector()

    def check(self, batch: Batch) -> None:
        super().check(batch)
        if len(self.shape) != 3:
            raise UserError(f"model.shape is {self.shape}: images, (height, width, channels), are expected")
        doublings(self.shape)
        # The first examples of each part must be the first of the batch.
        share = batch["x"].shape[0] / (self.n_critic * self.accumulate * self.path_share)
        if self.path_length and self.accumulate > 1 and share % self.neighbours:
            size = self.neighbours * self.path_share * self.accumulate * self.n_critic
            raise UserError(
                f"path lengths are of {share:g} examples of each part, the critic's groups of {self.neighbours}: "
                f"choose a batch_size that is a multiple of {size}"
            )

    def init(self, key: jax.Array, batch: Batch) -> TrainState:
        state, extra = super().init(key, batch), {}
        if self.path_length:
            extra["path"] = {"mean": jnp.zeros(())}
        if self._augments:
            start = {"p": jnp.float32(self.augment_p), "signs": jnp.zeros(()), "passes": jnp.zeros((), jnp.int32)}
            extra["critic"] = {**state.extra["critic"], "augment": start}
        return state.replace(extra={**state.extra, **extra})

    @property
    def _augments(self) -> bool:
        return bool(self.augment_p or self.augment_target)

    # --- the generator's two parts ---

    def _styles(self, params: PyTree, stats: PyTree, z: jax.Array, y: jax.Array | None) -> tuple[jax.Array, PyTree]:
        """w: f32[B, style], and the batch statistics with the running mean of w updated."""
        variables = {"params": params, **stats}
        return apply_mutable(self.generator, variables, z, y, True, mutable=["batch_stats"], method="styles")

    def _repeated(self, w: jax.Array) -> jax.Array:
        """ws: f32[B, layers, style], w for each layer."""
        return jnp.repeat(w[:, None], self.generator.layers(self.shape), axis=1)

    def _mixed(
        self, params: PyTree, stats: PyTree, z: jax.Array, y: jax.Array | None, keys: jax.Array
    ) -> tuple[jax.Array, PyTree]:
        """ws with styles mixed as `mixing` says (section 3.1 of arXiv:1812.04948), and the batch statistics."""
        w, new = self._styles(params, stats, z, y)
        ws = self._repeated(w)
        if not self.mixing:
            return ws, new
        keys_z, keys_mix, keys_from = split_each(keys, 3)
        other, _ = self._styles(params, stats, normal_each(keys_z, (self.latent,)), y)
        layers = ws.shape[1]
        start = jnp.where(coin_each(keys_mix, self.mixing), integer_each(keys_from, 1, layers), layers)
        return jnp.where((jnp.arange(layers)[None] < start[:, None])[..., None], ws, other[:, None]), new

    def _noise(self, keys: jax.Array) -> Noise:
        """The noise maps of all layers, those of example i drawn from keys[i]."""
        sizes = self.generator.noise_sizes(self.shape)
        return tuple(normal_each(fold_each(keys, i), (*size, 1)) for i, size in enumerate(sizes))

    def synthesize(self, params: PyTree, ws: jax.Array, noise: Noise | None = None) -> jax.Array:
        """g(ws, noise): f32[B, *shape]."""
        return apply(self.generator, {"params": params}, ws, self.shape, noise, method="synthesize")

    def _generate(
        self, params: PyTree, stats: PyTree, z: jax.Array, y: jax.Array | None, keys: jax.Array
    ) -> tuple[jax.Array, PyTree]:
        keys_mix, keys_noise = split_each(keys, 2)
        ws, new = self._mixed(params, stats, z, y, keys_mix)
        return self.synthesize(params, ws, self._noise(keys_noise)), new

    # --- training ---

    def _critic_logits(
        self, params: PyTree, extra: PyTree, which: str, x: jax.Array, y: jax.Array | None, *, keys: jax.Array
    ) -> tuple[jax.Array, PyTree]:
        """Logits of augmented images. R1 penalizes the gradient with respect to the images before augmentation."""
        if not self._augments:
            return super()._critic_logits(params, extra, which, x, y, keys=keys)
        keys_augment, keys = split_each(keys, 2)
        x = self.augment(keys_augment, x, extra["augment"]["p"])
        logits, extra = super()._critic_logits(params, extra, which, x, y, keys=keys)
        if which == "real":
            seen = extra["augment"]
            signs = seen["signs"] + jnp.mean(jnp.sign(jax.lax.stop_gradient(logits)))
            extra = {**extra, "augment": {**seen, "signs": signs, "passes": seen["passes"] + 1}}
        return logits, extra

    def _critic_step(self, state: TrainState, key: jax.Array, i: jax.Array, part: Batch) -> tuple[PyTree, Metrics]:
        (params, opt_state, extra), metrics = super()._critic_step(state, key, i, part)
        if not self._augments:
            return (params, opt_state, extra), metrics
        seen = extra["augment"]
        metrics["augment_p"], metrics["real_sign"] = seen["p"], seen["signs"] / seen["passes"]
        due = seen["passes"] >= self.augment_every
        p = seen["p"]
        if self.augment_target:
            share = part["x"].shape[0] * self.augment_every / self.augment_images
            p = jnp.where(due, adjusted(p, metrics["real_sign"], self.augment_target, share), p)
        again = {"signs": jnp.where(due, 0.0, seen["signs"]), "passes": jnp.where(due, 0, seen["passes"])}
        return (params, opt_state, {**extra, "augment": {"p": p, **again}}), metrics

    def _generator_loss(
        self, params: PyTree, state: TrainState, keys: jax.Array, cond: jax.Array | None
    ) -> tuple[jax.Array, Seen]:
        if not self.path_length:
            return super()._generator_loss(params, state, keys, cond)
        keys_loss, keys_path = split_each(keys, 2)
        value, seen = super()._generator_loss(params, state, keys_loss, cond)
        num, mean = max(1, len(keys) // self.path_share), state.extra["path"]["mean"]

        def penalized() -> tuple[jax.Array, jax.Array]:
            lengths = self.path_lengths(params, state, keys_path[:num], None if cond is None else cond[:num])
            new = mean + (1 - self.path_decay) * (jax.lax.stop_gradient(jnp.mean(lengths)) - mean)
            # The mean before this batch: an updated mean would differ between the batch's parts.
            return self.path_every * self.path_length * jnp.mean((lengths - mean) ** 2), new

        due = state.step % self.path_every == 0
        penalty, mean = jax.lax.cond(due, penalized, lambda: (jnp.zeros(()), mean))
        metrics = {**seen.metrics, "path_penalty": penalty, "path_length": mean}
        return value + penalty, seen._replace(metrics=metrics, extra={**seen.extra, "path": {"mean": mean}})

    def path_lengths(self, params: PyTree, state: TrainState, keys: jax.Array, cond: jax.Array | None) -> jax.Array:
        """|J^T y| at a random style for each key, f32[B], as a root mean square over layers. J = dx/dws; y ~ N(0, 1)
        has the image's shape and is divided by the root of its pixels (section 3.2 of arXiv:1912.04958)."""
        keys_z, keys_mix, keys_noise, keys_y = split_each(keys, 4)
        z = normal_each(keys_z, (self.latent,))
        ws, _ = self._mixed(params, state.extra["gen"], z, self._one_hot(cond), keys_mix)
        noise = self._noise(keys_noise)
        y = normal_each(keys_y, self.shape) / (self.shape[0] * self.shape[1]) ** 0.5
        grads = jax.grad(lambda ws: jnp.sum(self.synthesize(params, ws, noise) * y))(ws)
        # The root's gradient is infinite at zero.
        return jnp.sqrt(jnp.mean(jnp.sum(grads**2, axis=2), axis=1) + 1e-12)

    # --- use ---

    def style_of(self, state: TrainState, z: jax.Array, y: jax.Array | None = None) -> jax.Array:
        """w: f32[B, style] of z: f32[B, latent], untruncated."""
        variables = {"params": state.sampling_params["gen"], **state.extra["gen"]}
        return apply(self.generator, variables, z, y, method="styles")

    def mean_style(self, state: TrainState) -> jax.Array:
        """w_avg: f32[style]."""
        return state.extra["gen"]["batch_stats"]["running"]["w_avg"]

    def truncated(self, state: TrainState, w: jax.Array, psi: jax.Array | float, layers: int = 0) -> jax.Array:
        """ws of w, with the first `layers` (all when 0) truncated to mean + psi (w - mean). psi: f32[B, 1] or a
        number."""
        mean, ws = self.mean_style(state)[None], self._repeated(w)
        first = jnp.arange(ws.shape[1]) < (layers or ws.shape[1])
        # In this form psi 1 leaves w bitwise unchanged.
        return jnp.where(first[None, :, None], (w + (1 - psi) * (mean - w))[:, None], ws)

    def _truncated_image(self, state: TrainState, w: jax.Array, noise: Noise | None = None) -> jax.Array:
        ws = self.truncated(state, w, self.sampler.psi, self.sampler.layers)
        return self.synthesize(state.sampling_params["gen"], ws, noise)

    def _sampled_noise(self, keys: jax.Array) -> Noise | None:
        """The noise maps of samples; None where `sampler` leaves them out."""
        return self._noise(fold_each(keys, NOISE)) if self.sampler.noise else None

    def _latents(self, keys: jax.Array) -> jax.Array:
        return normal_each(fold_each(keys, LATENT), (self.latent,))

    def decode(self, state: TrainState, z: jax.Array, y: jax.Array | None = None) -> jax.Array:
        """Images of z without noise, truncated as `sampler` says."""
        return self._truncated_image(state, self.style_of(state, z, y))

    def sample(self, state: TrainState, keys: jax.Array, cond: PyTree = None) -> jax.Array:
        """f32[len(keys), *shape] as `sampler` says. cond: i32[len(keys)] for a conditional model."""
        w = self.style_of(state, self._latents(keys), self._one_hot(cond))
        return self._truncated_image(state, w, self._sampled_noise(keys))

    def interpolate(
        self, state: TrainState, keys: jax.Array, others: jax.Array, weight: jax.Array, cond: PyTree = None
    ) -> jax.Array:
        """Images between the samples of `keys` (weight 0) and `others` (weight 1), on a line between their styles, with
        the noise of `keys`; weight: f32[len(keys)]."""
        y = self._one_hot(cond)
        w, end = (self.style_of(state, self._latents(k), y) for k in (keys, others))
        noise = self._sampled_noise(keys)
        return self._truncated_image(state, w + weight[:, None] * (end - w), noise)

    def latent_space(self, state: TrainState, cond: PyTree = None) -> LatentSpace:
        """W+, a style for each layer: f32[B, layers, style], less the mean of w and divided by the deviation of each of
        its numbers. Truncated samples as `sampler` says; without noise."""
        y, mean = self._one_hot(cond), self.mean_style(state)
        deviation = self._spread(state) / mean.shape[0] ** 0.5

        def draw(keys: jax.Array) -> jax.Array:
            w = self.style_of(state, self._latents(keys), y)
            ws = self.truncated(state, w, self.sampler.psi, self.sampler.layers)
            return (ws - mean[None, None]) / deviation

        def decode(v: jax.Array) -> jax.Array:
            return self.synthesize(state.sampling_params["gen"], mean[None, None] + deviation * v)

        def cost(v: jax.Array) -> jax.Array:
            """Of the styles' mean distance from samples', and of their differences: with one style for all layers the
            picture is a sample."""
            apart = v - jnp.mean(v, axis=1, keepdims=True)
            return jnp.mean(jax.vmap(off_shell, 1, 1)(v), axis=1) + jnp.mean(jnp.sum(apart**2, axis=2), axis=1) / 2

        return LatentSpace(draw, decode, cost)

    def _spread(self, state: TrainState) -> jax.Array:
        """Root mean square of |w - mean| over samples of all classes, as the mean is, f32[]."""
        num = 1000
        y = self._one_hot(jnp.arange(num) % max(1, self.num_classes))
        w = self.style_of(state, jax.random.normal(jax.random.key(0), (num, self.latent)), y)
        return jnp.sqrt(jnp.mean(jnp.sum((w - self.mean_style(state)[None]) ** 2, axis=1)))

    def latent_path(
        self, state: TrainState, keys: jax.Array, cond: PyTree = None, way: str = "w"
    ) -> tuple[Callable[[jax.Array], jax.Array], jax.Array, jax.Array, Interpolate]:
        """As `GAN.latent_path`, but between styles w."""
        y = self._one_hot(cond)
        first, second = (self.style_of(state, self._latents(fold_each(keys, end)), y) for end in PATH_ENDS)
        noise = self._sampled_noise(keys)
        twice = None if noise is None else tuple(jnp.concatenate([level, level]) for level in noise)
        return lambda w: self._truncated_image(state, w, twice), first, second, lerp

    def project(
        self,
        state: TrainState,
        keys: jax.Array,
        x: jax.Array,
        distance: Callable[[jax.Array, jax.Array], jax.Array] = pixel_distance,
    ) -> Projection:
        """The styles and noise whose images are nearest to x: f32[len(keys), *shape], found by `projector`."""
        params, mean = state.sampling_params["gen"], self.mean_style(state)
        deviation = self._spread(state)
        sizes = self.generator.noise_sizes(self.shape)

        def generate(w: jax.Array, noise: Noise) -> jax.Array:
            return self.synthesize(params, self._repeated(w), noise)

        return project(StyleSpace(generate, mean, deviation, sizes), keys, x, self.projector, distance)

    def vary(self, state: TrainState, keys: jax.Array, x: jax.Array, strength: float, cond: PyTree = None) -> jax.Array:
        """Images between the projection of x: f32[len(keys), *shape] (strength 0), and samples (strength 1), with the
        projection's noise."""
        found = self.project(state, fold_each(keys, PROJECTION), x)
        w = self.style_of(state, self._latents(keys), self._one_hot(cond))
        ws = self._repeated(found.w + strength * (w - found.w))
        return self.synthesize(state.sampling_params["gen"], ws, found.noise)

    def pictures(self, state: TrainState, keys: jax.Array, batch: Batch) -> dict[str, jax.Array]:
        """Those of a GAN and, all without noise: truncation from psi -0.5 to 1 in each row; coarse styles by row mixed
        with fine styles by column; a closed walk through the latents as a film."""
        shown = super().pictures(state, fold_each(keys, GAN_PICTURES), batch)
        params = state.sampling_params["gen"]
        z = normal_each(fold_each(keys[:12], OWN_PICTURES), (self.latent,))
        num = z.shape[0]
        y = self._one_hot(jnp.arange(num) % max(1, self.num_classes))
        w = self.style_of(state, z, y)
        psi, (first, second) = jnp.linspace(-0.5, 1.0, 7), in_pairs(num)

        def show(ws: jax.Array) -> jax.Array:
            """Images of ws [rows, cols, layers, style], one row at a time to save memory."""
            return jax.lax.map(lambda row: self.synthesize(params, row), ws)

        def column(w: jax.Array) -> jax.Array:
            return jax.vmap(lambda psi: self.truncated(state, w[None], psi)[0])(psi)

        shown["truncation.png"] = show(jax.vmap(column)(w[first]))
        # The usual division: maps of up to 8 pixels determine pose and shape, the others detail and colour.
        styles, coarse = self._repeated(w), jnp.arange(self.generator.layers(self.shape)) < 4
        mixed = jnp.where(coarse[None, None, :, None], styles[first, None], styles[None, second])
        shown["mixing.png"] = show(mixed)
        # Each row walks around the circle through two latents.
        angle = jnp.linspace(0, 2 * jnp.pi, 48, endpoint=False)[:, None, None]
        z = jnp.cos(angle) * z[None, first] + jnp.sin(angle) * z[None, second]
        labels = None if y is None else y[first]
        shown["walk.gif"] = jax.lax.map(lambda z: self.decode(state, z, labels), z)
        return shown
