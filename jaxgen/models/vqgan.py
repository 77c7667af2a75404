"""VQGAN, arXiv:2012.09841, and ViT-VQGAN, arXiv:2110.04627: an autoencoder of codes that also plays against a critic of
patches. Which of the two is its network's matter: `nets.vqvae`, `nets.vit`.

G the network, x data, x' = G(x) what its codes make of it, D(x) the critic's logits:

    loss of G = w2 |x - x'|^2 - wp log p(x) + wl LPIPS(x, x') + codes + wg lambda E[-D(x')]
    lambda = |grad_L of the first three| / (|grad_L E[-D(x')]| + 1e-4)                            (eq. 7 of VQGAN)

grad_L is of G's last layer, so that the game pulls as hard as the pixels do; it begins at step `gan_start`.
"""

from dataclasses import dataclass, field
from functools import lru_cache, reduce
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from jaxgen.core import Batch, Metrics, PyTree, TrainState
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

    def train_step(self, state: TrainState, key: jax.Array, batch: Batch) -> tuple[TrainState, Metrics]:
        x, running = batch["x"], state.extra["codes"]
        source = x[..., :0]  # the critic of pix2pix, shown no source
        started = state.step >= self.gan_start
        playing = started.astype(jnp.float32)

        def rebuild(weights: Weights):
            out, found = self._rebuild(weights, running, x)
            return (out, self._code_loss(found)), found

        # Made once for both networks, and led back through once the new critic has judged.
        (out, code_loss), back, found = jax.vjp(rebuild, state.params["gen"], has_aux=True)

        def critic_loss(params: PyTree, extra: PyTree):
            on_real, extra = self._judge(params, extra, "real", source, x)
            on_fake, extra = self._judge(params, extra, "fake", source, self.image(out))
            metrics = {"real_logit": jnp.mean(on_real), "fake_logit": jnp.mean(on_fake)}
            return playing * self.objective.critic(on_real, on_fake), (extra, metrics)

        extra, judged = state.extra["critic"], jax.value_and_grad(critic_loss, has_aux=True)
        (critic_value, (extra, logits)), critic_grads = judged(state.params["critic"], extra)
        # A critic that waits has no optimizer either: after many gradients of zero its first steps would be huge.
        before = state.params["critic"], state.opt_state["critic"]
        after = self._critic_descent(state, critic_grads)
        critic, critic_opt = jax.tree.map(lambda new, old: jnp.where(started, new, old), after, before)

        def game(out: jax.Array):
            logits, new = self._judge(critic, extra, "generator", source, self.image(out))
            return self.objective.generator(logits), new

        (pixels, metrics), by_pixels = jax.value_and_grad(self.pixel_loss, has_aux=True)(out, x)
        (gan, extra), by_game = jax.value_and_grad(game, has_aux=True)(out)
        weight = playing * self.gan_weight
        if self.adaptive and self.gan_weight:
            metrics["lambda"] = self._balance(back, by_pixels, by_game, code_loss)
            weight *= metrics["lambda"]
        (grads,) = back((by_pixels + weight * by_game, jnp.ones_like(code_loss)))

        state = self._generator_descent(state, grads)
        averaged = state.ema and state.ema["gen"]
        weights, averaged, running, used = self._use(key, state.params["gen"], averaged, running, found)
        state = state.replace(
            step=state.step + 1,
            params={"gen": weights, "critic": critic},
            ema=averaged and {"gen": averaged},
            opt_state={**state.opt_state, "critic": critic_opt},
            extra={**state.extra, "critic": extra, "codes": running},
        )
        norms = {"generator_grad_norm": optax.tree.norm(grads), "critic_grad_norm": optax.tree.norm(critic_grads)}
        loss = {"loss": pixels + code_loss + weight * gan, "code_loss": code_loss, "gan": gan}
        return state, {**loss, "critic_loss": critic_value, **metrics, **logits, **used, **norms}

    def _balance(self, back: Any, by_pixels: jax.Array, by_game: jax.Array, code_loss: jax.Array) -> jax.Array:
        """lambda, f32[]: at most 1e4, and 0 where it is no number."""

        def last_layer(by_out: jax.Array) -> jax.Array:
            # A whole pass back, of which one layer is read: the compiler leaves out the rest.
            (grads,) = back((by_out, jnp.zeros_like(code_loss)))
            kernel = reduce(lambda tree, name: tree[name], self.coder.last, grads["network"])
            return jnp.sqrt(jnp.sum(kernel.astype(jnp.float32) ** 2))

        ratio = last_layer(by_pixels) / (last_layer(by_game) + 1e-4)
        return jnp.where(jnp.isfinite(ratio), jnp.minimum(ratio, LARGEST), 0.0)


@lru_cache(maxsize=1)
def _lpips(trunk: str, heads: str) -> tuple[Any, Any]:
    from jaxgen.weights import load

    return load("vgg16", trunk).params, load("lpips_vgg", heads).params
