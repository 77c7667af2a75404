"""What autoencoders trained against a critic of patches share: VQGAN, arXiv:2012.09841, and that of latent diffusion.

G the network, x data, x' = G(x) its reconstruction, D(x) the critic's logits:

    loss of G = pixels(x, x') + wl LPIPS(x, x') + own + wg lambda E[-D(x')]
    lambda = |grad_L pixels + wl LPIPS| / (|grad_L E[-D(x')]| + 1e-4)                 (eq. 7 of VQGAN, its delta larger)

grad_L is the gradient at G's last layer; lambda balances it between both parts. `own` is of the model: the loss of its
codes, or of its latents. D takes part from step `gan_start`.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial, reduce
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from jaxgen.core.gradients import Seen
from jaxgen.core.ranges import NonNegative, OptionalCount, PathName, Shape
from jaxgen.core.types import Batch, Metrics, PyTree, TrainState
from jaxgen.errors import UserError
from jaxgen.metrics import lpips
from jaxgen.models.adversarial import AdversarialModel
from jaxgen.nets.lora import is_adapted
from jaxgen.nets.pix2pix import PatchCritic
from jaxgen.ops.gan import Hinge, Objective
from jaxgen.weights import KINDS, load, store

LPIPS_KINDS = ("vgg16", "lpips_vgg")
LARGEST = 1e4  # bound of lambda, as in the published code

Answer = Callable[[PyTree, jax.Array, Batch], tuple[tuple[jax.Array, jax.Array], Any]]
"""(weights, keys, batch) -> ((the network's output, own), whatever `finish` takes, its rows by example)."""


@dataclass(frozen=True, kw_only=True)
class PatchAutoencoder(AdversarialModel):
    """x: f32[B, *shape] in [-1, 1]. `loss` is the generator's; it need not fall while both networks improve, but `mse`
    falls. A subclass writes `last`, `answer`, `pixel_loss`, `init`, and `finish` where a step ends with more."""

    critic: nn.Module = field(default_factory=PatchCritic)
    """(no source, x, train) -> logits."""
    objective: Objective = Hinge()
    shape: Shape = (32, 32, 3)
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
    def last(self) -> tuple[str, ...]:
        """Path of the last layer's kernel in the generator's weights."""
        raise NotImplementedError

    def image(self, out: jax.Array) -> jax.Array:
        """Images f32[B, *shape] from the network's output."""
        return out

    def answer(self, weights: PyTree, state: TrainState, keys: jax.Array, batch: Batch) -> Any:
        """`Answer`, by what else the state holds."""
        raise NotImplementedError

    def pixel_loss(self, extra: PyTree, out: jax.Array, x: jax.Array) -> tuple[jax.Array, Metrics]:
        """The first two terms, of the network's output. extra: the state's, which holds LPIPS."""
        raise NotImplementedError

    def own_metrics(self, own: jax.Array) -> Metrics:
        """Numbers of the model's own loss."""
        return {}

    def finish(self, state: TrainState, key: jax.Array, rows: PyTree) -> tuple[TrainState, Metrics]:
        """The state after a step's descent, with what else changes, and metrics. rows: as `answer` gave them."""
        return state, {}

    def check_game(self) -> None:
        """Raises UserError unless images are large enough for the critic, and the weights of LPIPS can be loaded."""
        self.critic.check(self.shape)
        if not self.perceptual_weight:
            return
        if not all(self.perceptual):
            raise UserError(
                "model.perceptual-weight needs weights: name files with --model.perceptual VGG16 HEADS, as jaxgen "
                "weights convert writes them"
            )
        for kind, file in zip(LPIPS_KINDS, self.perceptual):
            load(kind, file)
        if min(self.shape[:2]) < lpips.TRUNKS["lpips_vgg"][2] or self.shape[2] not in (1, 3):
            raise UserError(f"images of shape {self.shape} are too small for LPIPS, or neither grey nor RGB")

    def _begin_game(self, key: jax.Array, weights: PyTree, x: jax.Array) -> TrainState:
        """The state at step 0 of the generator's weights and a new critic, with LPIPS where the loss has it."""
        state = self._start({"params": weights}, self.critic.init(key, x[..., :0], x))
        extra = {"lpips": lpips_weights(*self.perceptual)} if self.perceptual_weight else {}
        return state.replace(extra={**state.extra, **extra})

    # --- the losses ---

    def perceptual_loss(self, extra: PyTree, x: jax.Array, rebuilt: jax.Array) -> tuple[jax.Array | float, Metrics]:
        """wl LPIPS, and its metric; 0 and none without."""
        if not self.perceptual_weight:
            return 0.0, {}
        colour = [jnp.broadcast_to(a, (*a.shape[:3], 3)) for a in (x, rebuilt)]
        _, trunk, _ = lpips.TRUNKS["lpips_vgg"]
        distance = jnp.mean(lpips.distance(trunk, *extra["lpips"], *colour))
        return self.perceptual_weight * distance, {"lpips": distance}

    def _game(self, state: TrainState, out: jax.Array) -> tuple[jax.Array, PyTree]:
        """E[-D(x')] by the state's critic, and the critic's new extra."""
        image = self.image(out)
        logits, extra = self._critic_logits(
            state.params["critic"], state.extra["critic"], "generator", image[..., :0], image
        )  # fmt: skip
        return self.objective.generator(logits), extra

    def critic_loss(
        self, state: TrainState, answer: Answer, params: PyTree, keys: jax.Array, batch: Batch
    ) -> tuple[jax.Array, Seen]:
        """The critic's loss, 0 before `gan_start`. `Seen.extra` is the critic's extra."""
        x, source = batch["x"], batch["x"][..., :0]  # pix2pix's critic with a source of no channels
        (out, _), _ = answer(state.params["gen"], keys, batch)
        on_real, extra = self._critic_logits(params, state.extra["critic"], "real", source, x)
        on_fake, extra = self._critic_logits(params, extra, "fake", source, self.image(out))
        metrics = {"real_logit": jnp.mean(on_real), "fake_logit": jnp.mean(on_fake)}
        return self._playing(state) * self.objective.critic(on_real, on_fake), Seen(metrics, extra=extra)

    def generator_loss(
        self, state: TrainState, answer: Answer, weight: jax.Array, params: PyTree, keys: jax.Array, batch: Batch
    ) -> tuple[jax.Array, Seen]:
        """The network's loss, its adversarial part times `weight`. `Seen.rows` are for `finish`, `Seen.extra` is the
        critic's extra."""
        (out, own), rows = answer(params, keys, batch)
        pixels, metrics = self.pixel_loss(state.extra, out, batch["x"])
        gan, extra = self._game(state, out)
        metrics = {**metrics, **self.own_metrics(own), "gan": gan}
        return pixels + own + weight * gan, Seen(metrics, rows=rows, extra=extra)

    def _playing(self, state: TrainState) -> jax.Array:
        """f32[]: 1 from step `gan_start` on, else 0."""
        return (state.step >= self.gan_start).astype(jnp.float32)

    # --- a step ---

    def train_step(self, state: TrainState, key: jax.Array, batch: Batch) -> tuple[TrainState, Metrics]:
        """One step of the critic, then one of the network against the updated critic, on the same images."""
        key_loss, key_finish = jax.random.split(key)
        batch, num, playing = dict(batch), len(batch["x"]), self._playing(state)
        before = (state.params["critic"], state.opt_state["critic"])
        answer = self._shared(self.answer, state, key_loss, batch)

        loss = partial(self.critic_loss, state, answer)
        (critic_loss, judged), critic_grads = self._gradient(loss, before[0], key_loss, num, batch, "critic")
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
            metrics["lambda"] = self.balance(state, answer, key_loss, batch)
            weight *= metrics["lambda"]
        loss = partial(self.generator_loss, state, answer, weight)
        (value, made), grads = self._gradient(loss, state.params["gen"], key_loss, num, batch, "gen")
        state = self._generator_descent(state.replace(extra={**state.extra, "critic": made.extra}), grads)
        state, finished = self.finish(state, key_finish, made.rows)
        norms = {"generator_grad_norm": optax.tree.norm(grads), "critic_grad_norm": optax.tree.norm(critic_grads)}
        metrics |= {"loss": value, "critic_loss": critic_loss, **judged.metrics, **made.metrics, **finished, **norms}
        return state.replace(step=state.step + 1), metrics

    def balance(self, state: TrainState, answer: Answer, key: jax.Array, batch: Batch) -> jax.Array:
        """lambda of eq. 7, f32[]. key: that of the losses."""
        weights, (network, *layer) = state.params["gen"], self.last
        last = (network, *(("base",) if is_adapted(weights[network]) else ()), *layer)

        def norm(term: Callable[[jax.Array, jax.Array], jax.Array]) -> jax.Array:
            def loss(kernel: jax.Array, keys: jax.Array, batch: Batch) -> tuple[jax.Array, Seen]:
                # A whole backward pass of which one layer's gradient is used: the compiler drops the rest.
                (out, _), _ = answer(_with_leaf(weights, last, kernel), keys, batch)
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
    is restored, and samples, without them. A bad file fails in the callback; `check_game` reports it before.
    """
    shapes = tuple(KINDS[kind].template() for kind in LPIPS_KINDS)
    expected = [store.flatten_shapes(tree) for tree in shapes]

    def read() -> tuple[PyTree, PyTree]:
        # With NumPy alone: a callback that computes with JAX may deadlock.
        trunk, heads = (store.load(file, kind, e).params for file, kind, e in zip(files, LPIPS_KINDS, expected))
        return trunk, heads

    return jax.pure_callback(read, shapes)
