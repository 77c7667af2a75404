"""VQGAN, arXiv:2012.09841, and ViT-VQGAN, arXiv:2110.04627: an autoencoder of codes trained against a patch critic. The
network decides which of the two it is: `nets.vqvae`, `nets.vit`.

G the network, x data, x' = G(x) its reconstruction from codes, D(x) the critic's logits:

    loss of G = w2 |x - x'|^2 - wp log p(x) + wl LPIPS(x, x') + codes + wg lambda E[-D(x')]
    lambda = |grad_L of the first three| / (|grad_L E[-D(x')]| + 1e-4)                            (eq. 7 of VQGAN)

grad_L is the gradient at G's last layer; lambda balances it between both parts. D takes part from step `gan_start`.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial, reduce
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from jaxgen.core.gradients import Seen, once
from jaxgen.core.ranges import NonNegative, OptionalCount, PathName
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
from jaxgen.weights import KINDS, load, store

LPIPS_KINDS = ("vgg16", "lpips_vgg")
LARGEST = 1e4  # bound of lambda, as in the published code


@dataclass(frozen=True, kw_only=True)
class VQGAN(Quantized, AdversarialModel):
    """x: f32[B, *shape] in [-1, 1]. `loss` is the generator's; it need not fall while both networks improve, but `mse`
    falls as the codes improve."""

    generator: nn.Module = field(default_factory=ViTCoder)
    """Encoder and decoder: `nets.vit`, `nets.vqvae`."""
    critic: nn.Module = field(default_factory=PatchCritic)
    """(no source, x, train) -> logits."""
    codebook: Codebook = Codebook(size=8192, dim=32, cosine=True, decay=0.0)
    objective: Objective = Hinge()
    l2_weight: NonNegative = 1.0
    """w2, weight of the mean squared error."""
    likelihood: Likelihood = Gaussian(learned=False)
    """p(x | the network's output), whose mean is x'; the paper's is LogitLaplace."""
    likelihood_weight: NonNegative = 0.0
    """wp, weight of -log p(x) in nats per element."""
    perceptual_weight: NonNegative = 0.0
    """wl, weight of LPIPS; 0 for none. Else `perceptual` must name both files."""
    perceptual: tuple[PathName, PathName] = ("", "")
    """Files of a VGG-16 and of its LPIPS heads, as `jaxgen weights convert vgg16` and `lpips_vgg` write them. `init`
    reads them into the state; nothing reads them later."""
    gan_weight: NonNegative = 0.1
    """wg, weight of the adversarial loss; 0 for none."""
    gan_start: OptionalCount = 0
    """First step at which the critic learns and the network is trained against it."""
    adaptive: bool = True
    """Compute lambda by eq. 7; else it is 1."""

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
            self._check_perceptual()
            if min(self.shape[:2]) < lpips.TRUNKS["lpips_vgg"][2] or self.shape[2] not in (1, 3):
                raise UserError(f"images of shape {self.shape} are too small for LPIPS, or neither grey nor RGB")

    def _check_perceptual(self) -> None:
        """Raises UserError unless the weights of LPIPS can be loaded."""
        if not all(self.perceptual):
            raise UserError(
                "model.perceptual-weight needs weights: name files with --model.perceptual VGG16 HEADS, as jaxgen "
                "weights convert writes them"
            )
        for kind, file in zip(LPIPS_KINDS, self.perceptual):
            load(kind, file)

    # --- training ---

    def init(self, key: jax.Array, batch: Batch) -> TrainState:
        key_gen, key_critic = jax.random.split(key)
        x = batch["x"]
        weights, running = self._begin(key_gen, x)
        state = self._start({"params": weights}, self.critic.init(key_critic, x[..., :0], x))
        extra: dict[str, PyTree] = {"codes": running}
        if self.perceptual_weight:
            extra["lpips"] = lpips_weights(*self.perceptual)
        return state.replace(extra={**state.extra, **extra})

    def pixel_loss(self, extra: PyTree, out: jax.Array, x: jax.Array) -> tuple[jax.Array, Metrics]:
        """The first three terms, of the network's output f32[B, *out_shape]. extra: the state's, which holds LPIPS."""
        rebuilt = self.image(out)
        metrics = {"mse": jnp.mean((x - rebuilt) ** 2)}
        loss = self.l2_weight * metrics["mse"]
        if self.likelihood_weight:
            metrics["nll"] = -jnp.mean(self.likelihood.log_prob(out, x))
            loss += self.likelihood_weight * metrics["nll"]
        if self.perceptual_weight:
            colour = [jnp.broadcast_to(a, (*a.shape[:3], 3)) for a in (x, rebuilt)]
            _, trunk, _ = lpips.TRUNKS["lpips_vgg"]
            metrics["lpips"] = jnp.mean(lpips.distance(trunk, *extra["lpips"], *colour))
            loss += self.perceptual_weight * metrics["lpips"]
        return loss, metrics

    def _game(self, state: TrainState, out: jax.Array) -> tuple[jax.Array, PyTree]:
        """E[-D(x')] by the state's critic, and the critic's new extra."""
        image = self.image(out)
        logits, extra = self._critic_logits(
            state.params["critic"], state.extra["critic"], "generator", image[..., :0], image
        )  # fmt: skip
        return self.objective.generator(logits), extra

    def _answer(self, weights: Weights, state: TrainState, x: jax.Array) -> tuple[tuple[jax.Array, jax.Array], Any]:
        """((the network's output, the codebook loss), the codes found)."""
        out, found = self._rebuild(weights, state.extra["codes"], x)
        return (out, self._code_loss(found)), found

    def critic_loss(
        self, state: TrainState, answer: Callable, params: PyTree, keys: jax.Array, batch: Batch
    ) -> tuple[jax.Array, Seen]:
        """The critic's loss, 0 before `gan_start`. answer: `_answer` as a function of weights and batch. `Seen.extra`
        is the critic's extra."""
        x, source = batch["x"], batch["x"][..., :0]  # pix2pix's critic with a source of no channels
        (out, _), _ = answer(state.params["gen"], batch)
        on_real, extra = self._critic_logits(params, state.extra["critic"], "real", source, x)
        on_fake, extra = self._critic_logits(params, extra, "fake", source, self.image(out))
        metrics = {"real_logit": jnp.mean(on_real), "fake_logit": jnp.mean(on_fake)}
        return self._playing(state) * self.objective.critic(on_real, on_fake), Seen(metrics, extra=extra)

    def generator_loss(
        self, state: TrainState, answer: Callable, weight: jax.Array, params: Weights, keys: jax.Array, batch: Batch
    ) -> tuple[jax.Array, Seen]:
        """The network's loss, its adversarial part times `weight`. `Seen.rows` are the codes found, `Seen.extra` is the
        critic's extra."""
        (out, codes), found = answer(params, batch)
        pixels, metrics = self.pixel_loss(state.extra, out, batch["x"])
        gan, extra = self._game(state, out)
        metrics = {**metrics, "code_loss": codes, "gan": gan}
        return pixels + codes + weight * gan, Seen(metrics, rows=found, extra=extra)

    def _playing(self, state: TrainState) -> jax.Array:
        """f32[]: 1 from step `gan_start` on, else 0."""
        return (state.step >= self.gan_start).astype(jnp.float32)

    def train_step(self, state: TrainState, key: jax.Array, batch: Batch) -> tuple[TrainState, Metrics]:
        """One step of the critic, then one of the network against the updated critic, on the same images."""
        key_loss, key_codes = jax.random.split(key)
        batch, num, playing = dict(batch), len(batch["x"]), self._playing(state)
        before, start = (state.params["critic"], state.opt_state["critic"]), state
        if self.accumulate == 1:
            shared = once(lambda weights: self._answer(weights, start, batch["x"]), state.params["gen"])

        def answer(weights: Weights, batch: Batch):
            return shared(weights) if self.accumulate == 1 else self._answer(weights, start, batch["x"])

        loss = partial(self.critic_loss, state, answer)
        (critic_loss, judged), critic_grads = self._gradient(loss, before[0], key_loss, num, batch)
        # Until then its optimizer stands still too: after many gradients of zero its first steps would be huge.
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
        weights, averaged, running, used = self._update_codebooks(
            key_codes, state.params["gen"], averaged, running, made.rows
        )  # fmt: skip
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
        """lambda of eq. 7, f32[]. answer: `_answer` as a function of weights and batch."""
        weights, last = state.params["gen"], ("network", *self.coder.last)
        key = jax.random.key(0)  # these losses draw nothing

        def norm(term: Callable[[jax.Array, jax.Array], jax.Array]) -> jax.Array:
            def loss(kernel: jax.Array, keys: jax.Array, batch: Batch) -> tuple[jax.Array, Seen]:
                # A whole backward pass of which one layer's gradient is used: the compiler drops the rest.
                (out, _), _ = answer(_with_leaf(weights, last, kernel), batch)
                return term(out, batch["x"]), Seen({})

            kernel = reduce(lambda tree, name: tree[name], last, weights)
            _, grads = self._gradient(loss, kernel, key, len(batch["x"]), batch)
            return jnp.sqrt(jnp.sum(grads.astype(jnp.float32) ** 2))

        pixels = norm(lambda out, x: self.pixel_loss(state.extra, out, x)[0])
        return bounded_ratio(pixels, norm(lambda out, x: self._game(state, out)[0]))


def bounded_ratio(pixels: jax.Array, game: jax.Array) -> jax.Array:
    """lambda of two gradient norms, f32[]: at most 1e4, and 0 where the ratio is not finite."""
    ratio = pixels / (game + 1e-4)
    return jnp.where(jnp.isfinite(ratio), jnp.minimum(ratio, LARGEST), 0.0)


def _with_leaf(tree: PyTree, path: tuple[str, ...], leaf: jax.Array) -> PyTree:
    """The nested dicts `tree` with `leaf` at `path`."""
    first, *rest = path
    return {**tree, first: _with_leaf(tree[first], tuple(rest), leaf) if rest else leaf}


def lpips_weights(*files: str) -> tuple[PyTree, PyTree]:
    """The parameters of a VGG-16 and of its LPIPS heads.

    A callback reads the files when this runs, not when it is traced, so that the shapes of a state need no files: a run
    is restored, and samples, without them. A bad file fails in the callback; `VQGAN.check` reports it first.
    """
    shapes = tuple(KINDS[kind].template() for kind in LPIPS_KINDS)
    expected = [store.flatten_shapes(tree) for tree in shapes]

    def read() -> tuple[PyTree, PyTree]:
        # With NumPy alone: a callback that computes with JAX may deadlock.
        trunk, heads = (store.load(file, kind, e).params for file, kind, e in zip(files, LPIPS_KINDS, expected))
        return trunk, heads

    return jax.pure_callback(read, shapes)
