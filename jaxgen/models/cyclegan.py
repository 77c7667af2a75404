"""CycleGAN, arXiv:1703.10593: translation between two sets of images without pairs.

s are sources and x targets, G translates sources to targets and F targets to sources; a critic of each kind tells real
images from translated ones:

    L_GAN(G, D_x) + L_GAN(F, D_s) + lambda (E |F(G(s)) - s| + E |G(F(x)) - x|)          (eq. 3)

with least squares for L_GAN (section 4). Critics see translations from a history of earlier ones in half of the cases.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxgen.core.gradients import Seen
from jaxgen.core.keys import coin_each, fold_each, one_key, split_each
from jaxgen.core.ranges import NonNegative, OptionalSize
from jaxgen.core.types import Batch, Metrics, PyTree, TrainState
from jaxgen.errors import UserError
from jaxgen.models.shared import to_signed
from jaxgen.models.translator import Translator
from jaxgen.nets.apply import apply
from jaxgen.nets.cyclegan import BothWays, TwoCritics
from jaxgen.ops.gan import LeastSquares, Objective
from jaxgen.ops.jitter import jitter
from jaxgen.optim import Adam, Optimizer

HISTORY = 2  # stream of a training key: `_fakes` splits it in two
Pair = tuple[jax.Array, jax.Array]
"""Sources (or their logits), and targets."""


@dataclass(frozen=True, kw_only=True)
class CycleGAN(Translator):
    """x: f32[B, H, W, C] in [-1, 1]; cond: [B, H, W, C'], uint8 or f32 in [-1, 1], of other images. A sample is a
    translated source. `loss` is the generators'; it need not fall while all networks improve.
    """

    generator: nn.Module = field(default_factory=BothWays)
    critic: nn.Module = field(default_factory=TwoCritics)
    objective: Objective = LeastSquares()
    optimizer: Optimizer = Adam(lr=2e-4, b1=0.5)
    critic_optimizer: Optimizer = Adam(lr=2e-4, b1=0.5)
    cycle_weight: NonNegative = 10.0
    """lambda."""
    identity_weight: NonNegative = 0.0
    """Weight of |G(x) - x| and |F(s) - s|, which keeps colours (section 5.2: 5), where both kinds have as many
    channels."""
    history: OptionalSize = 50
    """Translations of each kind that critics are shown again later (section 4); 0 for none."""
    mirror: bool = False
    """Mirror images at random in training."""

    def check(self, batch: Batch) -> None:
        self.check_sizes(batch, "two sets of images of one size are expected, as Unpaired gives them")
        x, cond = batch["x"].shape, batch["cond"].shape
        if self.identity_weight and cond[3] != x[3]:
            raise UserError(
                f"model.identity_weight is {self.identity_weight}, but sources have {cond[3]} channels and targets "
                f"{x[3]}: it needs as many of both"
            )
        if self.accumulate > 1:
            raise UserError(f"model.accumulate is {self.accumulate}: CycleGAN keeps a history of whole batches, use 1")
        if 0 < self.history < x[0]:
            raise UserError(f"model.history is {self.history}, less than a batch of {x[0]}: choose as many, or 0")
        for part, shape in (("there", cond), ("back", x)):
            if (check := getattr(getattr(self.generator, part), "check", None)) is not None:
                check(shape[1:])
        self.critic.of_source.check(cond[1:])
        self.critic.of_target.check(x[1:])

    # --- training ---

    def init(self, key: jax.Array, batch: Batch) -> TrainState:
        key_gen, key_critic = jax.random.split(key)
        source, x = to_signed(batch["cond"]), batch["x"]
        gen = self.generator.init(key_gen, source, x)
        state = self._start(gen, self.critic.init(key_critic, source, x))
        if not self.history:
            return state
        empty = [jnp.zeros((self.history, *a.shape[1:])) for a in (source, x)]
        past = {"source": empty[0], "x": empty[1], "seen": jnp.zeros((), jnp.int32)}
        return state.replace(extra={**state.extra, "critic": {**state.extra["critic"], "history": past}})

    def _to_target(self, params: PyTree, source: jax.Array, train: bool = False) -> jax.Array:
        return apply(self.generator, {"params": params}, source, self.channels, train, method="to_target")

    def _to_source(self, params: PyTree, x: jax.Array, channels: int, train: bool = False) -> jax.Array:
        return apply(self.generator, {"params": params}, x, channels, train, method="to_source")

    def _fakes(self, params: PyTree, state: TrainState, keys: jax.Array, batch: Batch) -> tuple[Pair, Pair]:
        """Translations, F(x) and G(s), and the s and x that they are of."""
        source, x = to_signed(batch["cond"]), batch["x"]
        if self.mirror:
            keys_source, keys_x = split_each(keys, 2)
            (source,), (x,) = jitter(keys_source, (source,), 1.0, True), jitter(keys_x, (x,), 1.0, True)
        fakes = self._to_source(params, x, source.shape[-1], True), self._to_target(params, source, True)
        return fakes, (source, x)

    def _remembered(self, past: PyTree, keys: jax.Array, fakes: Pair) -> tuple[Pair, PyTree]:
        """What critics are shown for `fakes`, and the history with these. It first fills up, with whole batches; from
        then on each fake takes the place of an earlier one, which is shown instead in half of the cases, or else is not
        kept."""
        size, (keys_place, keys_swap) = len(fakes[0]), split_each(fold_each(keys, HISTORY), 2)
        held = self.history - self.history % size
        full = past["seen"] == held
        chance = jax.random.randint(one_key(keys_place), (), 0, held)
        place = (jnp.where(full, chance, past["seen"]) + jnp.arange(size)) % held
        swap = coin_each(keys_swap, 0.5)
        shown, new = [], {}
        for name, fake in zip(("source", "x"), fakes):
            old, wide = past[name][place], swap[:, None, None, None]
            shown.append(jnp.where(full & wide, old, fake))
            new[name] = past[name].at[place].set(jnp.where(~full | wide, fake, old))
        return (shown[0], shown[1]), {**new, "seen": jnp.where(full, past["seen"], past["seen"] + size)}

    def critic_loss(
        self, state: TrainState, fakes: Callable, params: PyTree, keys: jax.Array, batch: Batch
    ) -> tuple[jax.Array, Seen]:
        """The critics' loss, halved as in section 4. `Seen.extra` is the critic's extra."""
        shown, real = fakes(state.params["gen"], keys, batch)
        extra = state.extra["critic"]
        if self.history:
            shown, past = self._remembered(extra["history"], keys, jax.lax.stop_gradient(shown))
            extra = {**extra, "history": past}
        on_real, extra = self._critic_logits(params, extra, "real", *real)
        on_fake, extra = self._critic_logits(params, extra, "fake", *shown)
        value = sum(self.objective.critic(a, b) for a, b in zip(on_real, on_fake))
        metrics = {"real_logit": jnp.mean(on_real[1]), "fake_logit": jnp.mean(on_fake[1])}
        return 0.5 * jnp.asarray(value), Seen(metrics, extra=extra)

    def generator_loss(
        self, state: TrainState, fakes: Callable, params: PyTree, keys: jax.Array, batch: Batch
    ) -> tuple[jax.Array, Seen]:
        """Both generators' loss by the state's critics. `Seen.extra` has the critic's extra."""
        (fake_source, fake_x), (source, x) = fakes(params, keys, batch)
        logits, critic = self._critic_logits(
            state.params["critic"], state.extra["critic"], "generator", fake_source, fake_x
        )
        cycle = jnp.mean(jnp.abs(self._to_source(params, fake_x, source.shape[-1], True) - source))
        cycle += jnp.mean(jnp.abs(self._to_target(params, fake_source, True) - x))
        metrics = {"gan": sum(self.objective.generator(one) for one in logits), "cycle": cycle}
        # Section 4 minimises (D(G(s)) - 1)^2, of which `LeastSquares` takes half: lambda is relative to it.
        value = (2 if isinstance(self.objective, LeastSquares) else 1) * metrics["gan"] + self.cycle_weight * cycle
        if self.identity_weight:
            same = jnp.mean(jnp.abs(self._to_target(params, x, True) - x))
            same += jnp.mean(jnp.abs(self._to_source(params, source, source.shape[-1], True) - source))
            metrics["identity"] = same
            value += self.identity_weight * same
        return jnp.asarray(value), Seen(metrics, extra={"critic": critic})

    def train_step(self, state: TrainState, key: jax.Array, batch: Batch) -> tuple[TrainState, Metrics]:
        """One step of the critics, then one of the generators against the updated critics, on the same fakes."""
        return self._take_turns(state, key, batch, self._fakes, self.critic_loss, self.generator_loss)

    # --- use ---

    noise: ClassVar[bool] = False
    """A source has one translation."""

    def translate(self, state: TrainState, keys: jax.Array, source: jax.Array) -> jax.Array:
        """G(s): f32[len(keys), H, W, channels]."""
        return self._to_target(state.sampling_params["gen"], to_signed(source))

    def evaluate(self, state: TrainState, keys: jax.Array, batch: Batch) -> Metrics:
        """How far images are from themselves after both translations, f32[B] each, in model space: `cycle_source`,
        mean |F(G(s)) - s|, and `cycle_target`, mean |G(F(x)) - x|."""
        params, source, x = state.sampling_params["gen"], to_signed(batch["cond"]), batch["x"]
        there = self._to_source(params, self._to_target(params, source), source.shape[-1])
        back = self._to_target(params, self._to_source(params, x, source.shape[-1]))
        axes = (1, 2, 3)
        return {
            "cycle_source": jnp.mean(jnp.abs(there - source), axis=axes),
            "cycle_target": jnp.mean(jnp.abs(back - x), axis=axes),
        }

    def pictures(self, state: TrainState, keys: jax.Array, batch: Batch) -> dict[str, jax.Array]:
        """Rows of sources, of their translations and of these translated back; and the other way round."""
        params, count = state.sampling_params["gen"], 10
        source, x = to_signed(batch["cond"])[:count], batch["x"][:count]

        def coloured(a: jax.Array) -> jax.Array:
            grey = jnp.mean(a, axis=-1, keepdims=True)
            return a if a.shape[-1] == self.channels else jnp.broadcast_to(grey, (*a.shape[:3], self.channels))

        fake_x, fake_source = self._to_target(params, source), self._to_source(params, x, source.shape[-1])
        there = source, fake_x, self._to_source(params, fake_x, source.shape[-1])
        back = x, fake_source, self._to_target(params, fake_source)
        return {
            "there_and_back.png": jnp.stack([coloured(a) for a in there]),
            "back_and_there.png": jnp.stack([coloured(a) for a in back]),
        }
