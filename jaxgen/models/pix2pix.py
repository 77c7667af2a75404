"""pix2pix, arXiv:1611.07004: image-to-image translation by a conditional GAN with an L1 term.

Here x is the target (y in the paper), cond the source (x there), z the generator's dropout:

    G* = arg min_G max_D  E log D(s, x) + E log(1 - D(s, G(s, z))) + lambda E |x - G(s, z)|          (eq. 4)

where the generator maximises E log D(s, G(s, z)) instead (section 3.3). A training step makes one fake for each source.
The critic takes a step on these fakes first; the generator then takes its step against the updated critic.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated

import jax
import jax.numpy as jnp
from annotated_types import Ge, Le
from flax import linen as nn

from jaxgen.core.gradients import Seen
from jaxgen.core.keys import one_key, split_each
from jaxgen.core.ranges import NonNegative
from jaxgen.core.types import Batch, Metrics, PyTree, TrainState
from jaxgen.metrics.image import SSIM_SMALLEST, psnr, ssim
from jaxgen.models.shared import to_8_bit, to_signed
from jaxgen.models.translator import Translator
from jaxgen.nets.apply import apply, apply_mutable
from jaxgen.nets.pix2pix import PatchCritic, UNetGenerator
from jaxgen.ops.jitter import jitter


@dataclass(frozen=True, kw_only=True)
class Pix2Pix(Translator):
    """x: f32[B, H, W, C] in [-1, 1]; cond: [B, H, W, C'], uint8 or f32 in [-1, 1]. A sample has the size of its source,
    which may be any. `loss` is the generator's; it need not fall while both networks improve.
    """

    generator: nn.Module = field(default_factory=UNetGenerator)
    """(source, channels, train, noise) -> x."""
    critic: nn.Module = field(default_factory=PatchCritic)
    """(source, x, train) -> logits."""
    l1_weight: NonNegative = 100.0
    """lambda; 0 for the adversarial loss alone."""
    gan_weight: NonNegative = 1.0
    """Weight of the adversarial loss of the generator; 0 for L1 alone."""
    jitter: Annotated[float, Ge(1), Le(4)] = 1.0
    """In training, pairs are enlarged by this factor and cropped back at random; 286 / 256 in the paper, 1 for none."""
    mirror: bool = False
    """Mirror pairs at random in training."""
    noise: bool = True
    """Keep dropout in sampling, the only source of randomness, as in the paper. Without it a source has one output."""

    def check(self, batch: Batch) -> None:
        self.check_sizes(batch, "pairs of images of one size are expected, as `pix2pix folder --data.folder DIR`")
        self.generator.check(batch["x"].shape[1:])
        self.critic.check(batch["x"].shape[1:])

    # --- training ---

    def init(self, key: jax.Array, batch: Batch) -> TrainState:
        key_gen, key_critic = jax.random.split(key)
        source = to_signed(batch["cond"])
        gen = self.generator.init(key_gen, source, self.channels)
        return self._start(gen, self.critic.init(key_critic, source, batch["x"]))

    def _pairs(self, keys: jax.Array, batch: Batch) -> tuple[jax.Array, jax.Array]:
        """Sources and targets in model space, with the same jitter for both."""
        source, x = to_signed(batch["cond"]), batch["x"]
        if self.jitter > 1 or self.mirror:
            source, x = jitter(keys, (source, x), self.jitter, self.mirror)
        return source, x

    def _fakes(self, params: PyTree, state: TrainState, keys: jax.Array, batch: Batch) -> tuple[jax.Array, tuple]:
        """Fakes, and as a tuple their sources, targets and the generator's new running averages."""
        keys_jitter, keys_noise = split_each(keys, 2)
        source, x = self._pairs(keys_jitter, batch)
        fake, gen = apply_mutable(
            self.generator, {"params": params, **state.extra["gen"]}, source, self.channels, True, True,
            mutable=["batch_stats"], rngs={"dropout": one_key(keys_noise)},
        )  # fmt: skip
        return fake, (source, x, gen)

    def critic_loss(
        self, state: TrainState, fakes: Callable, params: PyTree, keys: jax.Array, batch: Batch
    ) -> tuple[jax.Array, Seen]:
        """The critic's loss, halved to slow the critic down (section 3.3). fakes: `_fakes` as a function of the
        generator's parameters, keys and batch. `Seen.extra` is the critic's extra."""
        fake, (source, x, _) = fakes(state.params["gen"], keys, batch)
        on_real, extra = self._critic_logits(params, state.extra["critic"], "real", source, x)
        on_fake, extra = self._critic_logits(params, extra, "fake", source, fake)
        metrics = {"real_logit": jnp.mean(on_real), "fake_logit": jnp.mean(on_fake)}
        return 0.5 * self.objective.critic(on_real, on_fake), Seen(metrics, extra=extra)

    def generator_loss(
        self, state: TrainState, fakes: Callable, params: PyTree, keys: jax.Array, batch: Batch
    ) -> tuple[jax.Array, Seen]:
        """The generator's loss on the same fakes by the state's critic. `Seen.extra` has both networks' extra."""
        fake, (source, x, gen) = fakes(params, keys, batch)
        logits, critic = self._critic_logits(state.params["critic"], state.extra["critic"], "generator", source, fake)
        metrics = {"gan": self.objective.generator(logits), "l1": jnp.mean(jnp.abs(x - fake))}
        value = self.gan_weight * metrics["gan"] + self.l1_weight * metrics["l1"]
        return value, Seen(metrics, extra={"gen": gen, "critic": critic})

    def train_step(self, state: TrainState, key: jax.Array, batch: Batch) -> tuple[TrainState, Metrics]:
        """One step of the critic, then one of the generator against the updated critic, on the same fakes."""
        return self._take_turns(state, key, batch, self._fakes, self.critic_loss, self.generator_loss)

    # --- use ---

    def translate(self, state: TrainState, keys: jax.Array, source: jax.Array) -> jax.Array:
        """G(s, z): f32[len(keys), H, W, channels] for sources [len(keys), H, W, C']."""
        variables = {"params": state.sampling_params["gen"], **state.extra["gen"]}
        source = to_signed(source)
        if not self.noise:
            return apply(self.generator, variables, source, self.channels)

        def one(key: jax.Array, source: jax.Array) -> jax.Array:
            rngs = {"dropout": key}
            return apply(self.generator, variables, source[None], self.channels, noise=True, rngs=rngs)[0]

        return jax.vmap(one)(keys, source)

    def evaluate(self, state: TrainState, keys: jax.Array, batch: Batch) -> Metrics:
        """Compares a sample for each source with its target, f32[B] each: `l1`, the mean absolute difference in model
        space; of 8-bit images `psnr` in dB and, where they are large enough, `ssim`."""
        x, fake = batch["x"], self.sample(state, keys, batch["cond"])
        numbers = {"l1": jnp.mean(jnp.abs(x - fake), axis=(1, 2, 3))}
        pair = to_8_bit(fake), to_8_bit(x)
        numbers["psnr"] = psnr(*pair)
        return numbers | ({"ssim": ssim(*pair)} if min(x.shape[1:3]) >= SSIM_SMALLEST else {})

    def pictures(self, state: TrainState, keys: jax.Array, batch: Batch) -> dict[str, jax.Array]:
        """Rows of sources, of their translations and of the targets."""
        keys = keys[:10]
        x, cond = (batch[name][: keys.shape[0]] for name in ("x", "cond"))
        source = to_signed(cond)
        if source.shape[-1] != self.channels:
            grey = jnp.mean(source, axis=-1, keepdims=True)
            source = jnp.broadcast_to(grey, x.shape)
        return {"translation.png": jnp.stack([source, self.sample(state, keys, cond), x])}
