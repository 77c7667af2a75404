"""VQGAN, arXiv:2012.09841, and ViT-VQGAN, arXiv:2110.04627: an autoencoder of codes that also plays against a critic of
patches. Which of the two is its network's matter: `nets.vqvae`, `nets.vit`.

G the network, x data, x' = G(x) what its codes make of it, D(x) the critic's logits:

    loss of G = w2 |x - x'|^2 - wp log p(x) + wl LPIPS(x, x') + codes + wg lambda E[-D(x')]
    lambda = |grad_L of the first three| / (|grad_L E[-D(x')]| + 1e-4)                            (eq. 7 of VQGAN)

grad_L is of G's last layer, so that the game pulls as hard as the pixels do; it begins at step `gan_start`.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache, partial, reduce
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from jaxgen.core.gradients import Seen, once
from jaxgen.core.types import Batch, Metrics, PyTree, TrainState
from jaxgen.errors import UserError
from jaxgen.metrics import lpips
from jaxgen.models.adversarial import AdversarialModel
from jaxgen.models.quantized import Quantized, Weights
from jaxgen.nets.pix2pix import PatchCritic
from jaxgen.nets.vit import ViTCoder
from jaxgen.ops.gan import Hinge, Objective
from jaxgen.ops.likelihood import Gaussian, Likelihood
from jaxgen.ops.quantize import Codebook

LARGEST = 1e4  # lambda at most, as in the published code


@dataclass(frozen=True, kw_only=True)
class VQGAN(Quantized, AdversarialModel):
    """x: f32[B, *shape] in [-1, 1]. `loss` is the generator's: no number here falls for as long as both networks get
    better, but `mse` does while the codes get better."""

    generator: nn.Module = field(default_factory=ViTCoder)
    """Encoder and decoder: `nets.vit`, `nets.vqvae`."""
    critic: nn.Module = field(default_factory=PatchCritic)
    """(no source, x, train) -> logits."""
    codebook: Codebook = Codebook(size=8192, dim=32, cosine=True, decay=0.0)
    objective: Objective = Hinge()
    l2_weight: float = 1.0
    """w2, of the mean squared error."""
    likelihood: Likelihood = Gaussian(learned=False)
    """What the network's outputs say of x, whose mean is x'; LogitLaplace for the paper's."""
    likelihood_weight: float = 0.0
    """wp, of -log p in nats per element."""
    perceptual_weight: float = 0.0
    """wl; 0 for none, else both of `perceptual` are needed."""
    perceptual: tuple[str, str] = ("", "")
    """Files of a VGG-16 and of its LPIPS heads, as `jaxgen weights convert vgg16` and `lpips_vgg` write them. Training
    reads them; sampling does not."""
    gan_weight: float = 0.1
    """wg, of the game; 0 for none."""
    gan_start: int = 0
    """Step from which on the critic learns and the network plays against it."""
    adaptive: bool = True
    """Whether lambda is that of eq. 7; else it is 1."""

    @property
    def coder(self) -> nn.Module:
        return self.generator

    def weights(self, state: TrainState) -> Weights:
        return state.sampling_params["gen"]

    @property
    def out_shape(self) -> tuple[int, ...]:
        return (*self.shape[:2], self.shape[2] * self.likelihood.num_params)

    def image(self, out: jax.Array) -> jax.Array:
        return self.likelihood.mean(out)

    def check(self, batch: Batch) -> None:
        super().check(batch)
        self.critic.check(self.shape)
        if self.perceptual_weight:
            self._lpips_params()
            if min(self.shape[:2]) < lpips.TRUNKS["lpips_vgg"][2] or self.shape[2] not in (1, 3):
                raise UserError(f"images of shape {self.shape} are too small for LPIPS, or not grey or RGB")

    def _lpips_params(self) -> tuple[Any, Any]:
        if not all(self.perceptual):
            raise UserError(
                "model.perceptual-weight needs weights: name files with --model.perceptual VGG16 HEADS, as jaxgen "
                "weights convert writes them"
            )
        return _lpips(*self.perceptual)

    # --- training ---

    def init(self, key: jax.Array, batch: Batch) -> TrainState:
        key_gen, key_critic = jax.random.split(key)
        x = batch["x"]
        weights, running = self._begin(key_gen, x)
        state = self._start({"params": weights}, self.critic.init(key_critic, x[..., :0], x))
        return state.replace(extra={**state.extra, "codes": running})

    def pixel_loss(self, out: jax.Array, x: jax.Array) -> tuple[jax.Array, Metrics]:
        """The first three terms, of the network's output f32[B, *out_shape]."""
        rebuilt = self.image(out)
        metrics = {"mse": jnp.mean((x - rebuilt) ** 2)}
        loss = self.l2_weight * metrics["mse"]
        if self.likelihood_weight:
            metrics["nll"] = -jnp.mean(self.likelihood.log_prob(out, x))
            loss += self.likelihood_weight * metrics["nll"]
        if self.perceptual_weight:
            colour = [jnp.broadcast_to(a, (*a.shape[:3], 3)) for a in (x, rebuilt)]
            trunk = lpips.TRUNKS["lpips_vgg"][1]
            metrics["lpips"] = jnp.mean(lpips.distance(trunk, *self._lpips_params(), *colour))
            loss += self.perceptual_weight * metrics["lpips"]
        return loss, metrics

    def _game(self, state: TrainState, out: jax.Array) -> tuple[jax.Array, PyTree]:
        """E[-D(x')] by the state's critic, and what that changes of its `extra`."""
        image = self.image(out)
        logits, extra = self._critic_logits(
            state.params["critic"], state.extra["critic"], "generator", image[..., :0], image
        )  # fmt: skip
        return self.objective.generator(logits), extra

    def _answer(self, weights: Weights, state: TrainState, x: jax.Array) -> tuple[tuple[jax.Array, jax.Array], Any]:
        """The network's output and the loss of its codes, and beside these the codes found."""
        out, found = self._rebuild(weights, state.extra["codes"], x)
        return (out, self._code_loss(found)), found

    def critic_loss(
        self, state: TrainState, answer: Callable, params: PyTree, keys: jax.Array, batch: Batch
    ) -> tuple[jax.Array, Seen]:
        """What the critic minimises, 0 before `gan_start`. answer: of weights and batch, as `_answer`. Its extra is the
        critic's."""
        x, source = batch["x"], batch["x"][..., :0]  # the critic of pix2pix, shown no source
        (out, _), _ = answer(state.params["gen"], batch)
        on_real, extra = self._critic_logits(params, state.extra["critic"], "real", source, x)
        on_fake, extra = self._critic_logits(params, extra, "fake", source, self.image(out))
        metrics = {"real_logit": jnp.mean(on_real), "fake_logit": jnp.mean(on_fake)}
        return self._playing(state) * self.objective.critic(on_real, on_fake), Seen(metrics, extra=extra)

    def generator_loss(
        self, state: TrainState, answer: Callable, weight: jax.Array, params: Weights, keys: jax.Array, batch: Batch
    ) -> tuple[jax.Array, Seen]:
        """The network's loss, with `weight` on the game. Its rows are the codes found, its extra is the critic's."""
        (out, codes), found = answer(params, batch)
        pixels, metrics = self.pixel_loss(out, batch["x"])
        gan, extra = self._game(state, out)
        metrics = {**metrics, "code_loss": codes, "gan": gan}
        return pixels + codes + weight * gan, Seen(metrics, rows=found, extra=extra)

    def _playing(self, state: TrainState) -> jax.Array:
        """f32[]: 1 once the game has begun, else 0."""
        return (state.step >= self.gan_start).astype(jnp.float32)

    def train_step(self, state: TrainState, key: jax.Array, batch: Batch) -> tuple[TrainState, Metrics]:
        """One step of the critic, then one of the network, which the new critic judges on the same images."""
        key_loss, key_codes = jax.random.split(key)
        batch, num, playing = dict(batch), len(batch["x"]), self._playing(state)
        before, start = (state.params["critic"], state.opt_state["critic"]), state
        if self.accumulate == 1:
            shared = once(lambda weights: self._answer(weights, start, batch["x"]), state.params["gen"])

        def answer(weights: Weights, batch: Batch):
            return shared(weights) if self.accumulate == 1 else self._answer(weights, start, batch["x"])

        loss = partial(self.critic_loss, state, answer)
        (critic_loss, judged), critic_grads = self._gradient(loss, before[0], key_loss, num, batch)
        # A critic that waits has no optimizer either: after many gradients of zero its first steps would be huge.
        after = self._critic_descent(state, critic_grads)
        critic, critic_opt = jax.tree.map(lambda new, old: jnp.where(playing > 0, new, old), after, before)
        state = state.replace(
            params={**state.params, "critic": critic},
            opt_state={**state.opt_state, "critic": critic_opt},
            extra={**state.extra, "critic": judged.extra},
        )

        weight, metrics = playing * self.gan_weight, {}
        if self.adaptive and self.gan_weight:
            metrics["lambda"] = self.balance(state, answer, batch)
            weight *= metrics["lambda"]
        loss = partial(self.generator_loss, state, answer, weight)
        (value, made), grads = self._gradient(loss, state.params["gen"], key_loss, num, batch)
        running = state.extra["codes"]
        state = self._generator_descent(state.replace(extra={**state.extra, "critic": made.extra}), grads)
        averaged = state.ema and state.ema["gen"]
        weights, averaged, running, used = self._use(key_codes, state.params["gen"], averaged, running, made.rows)
        state = state.replace(
            step=state.step + 1,
            params={**state.params, "gen": weights},
            ema=averaged and {"gen": averaged},
            extra={**state.extra, "codes": running},
        )
        norms = {"generator_grad_norm": optax.tree.norm(grads), "critic_grad_norm": optax.tree.norm(critic_grads)}
        metrics |= {"loss": value, "critic_loss": critic_loss, **judged.metrics, **made.metrics, **used, **norms}
        return state, metrics

    def balance(self, state: TrainState, answer: Callable, batch: Batch) -> jax.Array:
        """lambda of eq. 7, f32[]. answer: of weights and batch, as `_answer`."""
        weights, last = state.params["gen"], ("network", *self.coder.last)
        key = jax.random.key(0)  # nothing is drawn

        def norm(term: Callable[[jax.Array, jax.Array], jax.Array]) -> jax.Array:
            def loss(kernel: jax.Array, keys: jax.Array, batch: Batch) -> tuple[jax.Array, Seen]:
                # A whole pass back, of which one layer is read: the compiler leaves out the rest.
                (out, _), _ = answer(_with_leaf(weights, last, kernel), batch)
                return term(out, batch["x"]), Seen({})

            kernel = reduce(lambda tree, name: tree[name], last, weights)
            _, grads = self._gradient(loss, kernel, key, len(batch["x"]), batch)
            return jnp.sqrt(jnp.sum(grads.astype(jnp.float32) ** 2))

        pixels = norm(lambda out, x: self.pixel_loss(out, x)[0])
        return bounded_ratio(pixels, norm(lambda out, x: self._game(state, out)[0]))


def bounded_ratio(pixels: jax.Array, game: jax.Array) -> jax.Array:
    """lambda of the two gradients' norms, f32[]: at most 1e4, and 0 where it is no number."""
    ratio = pixels / (game + 1e-4)
    return jnp.where(jnp.isfinite(ratio), jnp.minimum(ratio, LARGEST), 0.0)


def _with_leaf(tree: PyTree, path: tuple[str, ...], leaf: jax.Array) -> PyTree:
    """Nested dicts with another array at `path`."""
    first, *rest = path
    return {**tree, first: _with_leaf(tree[first], tuple(rest), leaf) if rest else leaf}


@lru_cache(maxsize=1)
def _lpips(trunk: str, heads: str) -> tuple[Any, Any]:
    from jaxgen.weights import load

    return load("vgg16", trunk).params, load("lpips_vgg", heads).params
