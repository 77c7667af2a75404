"""HiFi-GAN, arXiv:2010.05646: a mel to its waveform, by a generator G and critics of periods and of scales.

x is a waveform, s its mel, D_k a critic and D_k^i its layer i, phi the log mel of all frequencies:

    L_D = sum_k E[(D_k(x) - 1)^2 + D_k(G(s))^2]                                                            (eq. 1)
    L_G = sum_k (E (D_k(G(s)) - 1)^2 + 2 sum_i E |D_k^i(x) - D_k^i(G(s))|) + 45 E |phi(x) - phi(G(s))|     (eqs. 2 to 6)

where each E | | is a mean over the values. A training step draws a segment of each example by its key and makes one
fake of it. The critics take a step first; the generator then takes its step against the updated critics.

Mels and the condition: `models.waveforms`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from annotated_types import Ge, Le

from jaxgen.core.gradients import Seen
from jaxgen.core.ranges import NonNegative
from jaxgen.core.types import Batch, Metrics, PyTree, RawBatch, TrainState
from jaxgen.models.adversarial import AdversarialModel
from jaxgen.models.waveforms import MelConditioned
from jaxgen.nets.apply import apply
from jaxgen.nets.hifigan import Generator, Judged, WaveCritic
from jaxgen.ops.audio import Mel
from jaxgen.ops.gan import LeastSquares, Objective
from jaxgen.optim import Adam, Optimizer

HALF_LIFE = 561_000
"""Steps in which the published rate halves: it is multiplied by 0.999 after each epoch of 809 steps."""
PUBLISHED = Adam(lr=2e-4, b1=0.8, b2=0.99, weight_decay=0.01, half_life=HALF_LIFE)


@dataclass(frozen=True, kw_only=True)
class HiFiGAN(MelConditioned, AdversarialModel):
    """x: f32[B, N] in [-1, 1]. `loss` is the generator's; it need not fall while both networks improve, but `mel_l1`
    falls. Samples are deterministic: a mel has one waveform."""

    generator: Generator = Generator()
    critic: WaveCritic = WaveCritic()
    objective: Objective = LeastSquares()
    optimizer: Optimizer = PUBLISHED
    critic_optimizer: Optimizer = PUBLISHED
    mel: Mel = Mel()
    """s: the spectrogram that the generator reads."""
    segment: Annotated[int, Ge(1), Le(1 << 20)] = 8192
    """Samples of each example that a step trains on."""
    feature_weight: NonNegative = 2.0
    """Of the distance of the critics' layers."""
    mel_weight: NonNegative = 45.0
    """Of the distance of phi."""

    # --- checks ---

    def problem(self) -> str | None:
        return self.mel_problem(self.generator.hop, self.generator.bands)

    def check(self, batch: Batch | RawBatch) -> None:
        self.check_lengths(batch)

    # --- training ---

    def init(self, key: jax.Array, batch: Batch) -> TrainState:
        key_gen, key_critic = jax.random.split(key)
        x = batch["x"][:1, : self.segment]
        gen = self.generator.init(key_gen, self.mels(x))
        return self._start(gen, self.critic.init(key_critic, x))

    def _fakes(self, params: PyTree, state: TrainState, keys: jax.Array, batch: Batch) -> tuple[jax.Array, jax.Array]:
        """Fakes and true segments."""
        mel, x = self.pairs(keys, batch)
        return apply(self.generator, {"params": params}, mel), x

    def critic_loss(
        self, state: TrainState, fakes: Callable, params: PyTree, keys: jax.Array, batch: Batch
    ) -> tuple[jax.Array, Seen]:
        """Eq. 1. fakes: fakes and true segments, as a function of the generator's parameters, keys and batch.
        `Seen.extra` is the critics' extra."""
        fake, x = fakes(state.params["gen"], keys, batch)
        # One pass over both: no layer mixes the examples of a batch.
        judge: Any = self._critic_logits
        judged, extra = judge(params, state.extra["critic"], "real", jnp.concatenate([x, fake]))
        pairs = [(logits[: len(x)], logits[len(x) :]) for logits in judged.logits]
        # Twice: `LeastSquares` is half of eq. 1.
        value = 2 * _sum([self.objective.critic(real, fake) for real, fake in pairs])
        metrics = {"real_logit": _mean([real for real, _ in pairs]), "fake_logit": _mean([fake for _, fake in pairs])}
        return value, Seen(metrics, extra=extra)

    def generator_loss(
        self, state: TrainState, fakes: Callable, params: PyTree, keys: jax.Array, batch: Batch
    ) -> tuple[jax.Array, Seen]:
        """Eqs. 2 to 6 on the same fakes by the state's critics."""
        fake, x = fakes(params, keys, batch)
        judge: Any = partial(self._critic_logits, state.params["critic"])
        # What is learnt of the spectral norms is learnt in the critics' step, and there are no other statistics.
        on_fake: Judged = judge(state.extra["critic"], "generator", fake)[0]
        on_real: Judged = judge(state.extra["critic"], "generator", x)[0]
        layers = zip(on_real.features, on_fake.features)
        mel = jnp.mean(jnp.abs(self.mels(x, True) - self.mels(fake, True)))
        metrics = {
            "gan": 2 * _sum([self.objective.generator(logits) for logits in on_fake.logits]),
            "features": _sum([jnp.mean(jnp.abs(a.astype(jnp.float32) - b.astype(jnp.float32))) for a, b in layers]),
            "mel_l1": mel,
        }
        value = metrics["gan"] + self.feature_weight * metrics["features"] + self.mel_weight * mel
        return value, Seen(metrics, extra={})

    def train_step(self, state: TrainState, key: jax.Array, batch: Batch) -> tuple[TrainState, Metrics]:
        """One step of the critics, then one of the generator against the updated critics, on the same fakes."""
        return self._take_turns(state, key, batch, self._fakes, self.critic_loss, self.generator_loss)

    # --- use ---

    def vocode(self, state: TrainState, keys: jax.Array, mel: jax.Array, length: jax.Array) -> jax.Array:
        """Waveforms f32[N, F hop] in [-1, 1] of mels f32[N, F, bands], of which length[i] frames are real; zeros after
        them. What is beyond them has no influence. keys: for other vocoders; this one draws nothing."""
        return apply(self.generator, {"params": state.sampling_params["gen"]}, mel, length)

    def sample(self, state: TrainState, keys: jax.Array, cond: PyTree = None) -> jax.Array:
        """`vocode` of the condition's mel and length."""
        return self.vocode(state, keys, cond["mel"], cond["length"])

    def evaluate(self, state: TrainState, keys: jax.Array, batch: Batch) -> Metrics:
        """f32[B]: `mel_l1`, the mean distance of the log mels of all frequencies of x and of what is made of its s."""
        x = batch["x"]
        fake = apply(self.generator, {"params": state.sampling_params["gen"]}, self.mels(x))
        return {"mel_l1": jnp.mean(jnp.abs(self.mels(x, True) - self.mels(fake, True)), axis=(1, 2))}


def _sum(values: list[jax.Array]) -> jax.Array:
    return jnp.sum(jnp.stack(values))


def _mean(logits: list[jax.Array]) -> jax.Array:
    """The mean over critics of their mean logits."""
    return jnp.mean(jnp.stack([jnp.mean(one) for one in logits]))
