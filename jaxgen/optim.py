"""Optimizer settings as values, from which the optax transformation is built.

Two results of `optax.adam(1e-3)` are not equal, so a model that held one would be recompiled each time. Models hold
these dataclasses instead, and build `tx` when they need it.
"""

import re
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxgen.core.ranges import Decay, Fraction, NonNegative, OptionalCount, Positive
from jaxgen.nets.magnitude import forced


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    """Settings that all optimizers share: learning-rate schedule, clipping and weight decay."""

    lr: NonNegative = 1e-3
    """Learning rate after warm-up."""
    warmup: OptionalCount = 0
    """Steps of linear warm-up, from lr / warmup in the first to lr in the last."""
    decay_steps: OptionalCount = 0
    """Step at which the cosine decay from `lr` reaches `lr * final`; 0 for a constant rate."""
    final: Fraction = 0.0
    """The rate at `decay_steps`, as a fraction of `lr`."""
    half_life: OptionalCount = 0
    """Steps in which the rate halves, over and over, where there is no cosine decay; 0 for a constant rate."""
    t_ref: OptionalCount = 0
    """Step from which on the rate is lr / sqrt(step / t_ref), eq. 67 of arXiv:2312.02696; 0 for a constant rate."""
    clip: NonNegative = 0.0
    """Largest global norm of the gradient; 0 for no clipping."""
    weight_decay: NonNegative = 0.0
    """Decoupled weight decay (arXiv:1711.05101) of the arrays named in `DECAYED`, such as kernels and embeddings."""

    def problem(self) -> str | None:
        given = [f"{name} {n}" for name in ("decay_steps", "half_life", "t_ref") if (n := getattr(self, name))]
        if len(given) > 1:
            return f"{' and '.join(given)} were given: choose one, and leave the others 0"
        return None

    @property
    def schedule(self) -> optax.Schedule:
        """The learning rate as a function of the number of steps taken before."""
        if self.decay_steps:
            main = optax.cosine_decay_schedule(self.lr, max(1, self.decay_steps - self.warmup), self.final)
        elif self.half_life:
            main = optax.exponential_decay(self.lr, self.half_life, 0.5)
        elif self.t_ref:
            main = self._inverse_sqrt
        else:
            main = optax.constant_schedule(self.lr)
        if not self.warmup:
            return main
        return optax.join_schedules([lambda count: self.lr * (count + 1) / self.warmup, main], [self.warmup])

    def _inverse_sqrt(self, count: Any) -> jax.Array:
        """The rate so many steps after the warm-up."""
        return self.lr * jnp.minimum(1, self.t_ref / jnp.maximum(count + self.warmup, 1)) ** 0.5

    def direction(self) -> optax.GradientTransformation:
        """The optimizer's own transformation of gradients, before weight decay and learning rate."""
        raise NotImplementedError

    @property
    def tx(self) -> optax.GradientTransformation:
        """The whole chain: clipping, `direction`, weight decay, learning rate."""
        chain = [optax.clip_by_global_norm(self.clip)] if self.clip else []
        chain.append(self.direction())
        if self.weight_decay:
            chain.append(optax.add_decayed_weights(self.weight_decay, decayed))
        chain.append(optax.scale_by_learning_rate(self.schedule))
        return optax.chain(*chain)

    def start(self, params: optax.Params, pattern: str | None = None, within: str = "") -> optax.OptState:
        """The state at step 0, of the arrays that `trained` keeps."""
        return self.tx.init(trained(params, pattern, within))

    def step(
        self,
        grads: optax.Updates,
        opt_state: optax.OptState,
        params: optax.Params,
        pattern: str | None = None,
        within: str = "",
    ) -> tuple[optax.Params, optax.OptState]:
        """Parameters and state after a step along `grads`, the gradient in what `trained` keeps of `params`. Kernels of
        fixed magnitude keep it (`nets.magnitude.forced`)."""
        part = trained(params, pattern, within)
        updates, opt_state = self.tx.update(grads, opt_state, part)
        return with_frozen(forced(optax.apply_updates(part, updates)), params), opt_state


@dataclass(frozen=True, kw_only=True)
class Adam(Optimizer):
    """Adam, arXiv:1412.6980; AdamW if `weight_decay` is set."""

    b1: Decay = 0.9
    b2: Decay = 0.999
    eps: Positive = 1e-8

    def direction(self) -> optax.GradientTransformation:
        return optax.scale_by_adam(self.b1, self.b2, self.eps)


@dataclass(frozen=True, kw_only=True)
class RMSprop(Optimizer):
    """RMSprop, g / (sqrt(mean of g^2) + eps) (Tieleman and Hinton, lecture 6.5, 2012), as in WGAN with clipping."""

    decay: Decay = 0.99
    eps: Positive = 1e-8

    def direction(self) -> optax.GradientTransformation:
        return optax.scale_by_rms(self.decay, self.eps, eps_in_sqrt=False)


# Weights that multiply their inputs, and embeddings; `lu` belongs to Glow's 1x1 convolution. For all others zero is not
# a simpler value: biases, shifts, scales, gains, noise strengths, constant inputs, codebooks, hash tables.
DECAYED = frozenset({"kernel", "embedding", "tokens", "positions", "head", "lu", "lora_a", "lora_b"})


def decayed(params: optax.Params) -> Any:
    """The mask of weight decay, by the name of each array: its rank would not do, as stacked layers add an axis."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: jax.tree_util.keystr(path[-1:], simple=True) in DECAYED, params
    )


# --- parameters that stay ---------------------------------------------------------------------------------------


def trained(params: Any, pattern: str | None, within: str = "") -> Any:
    """`params` with None, a tree without arrays, in place of each array that stays as it is.

    pattern: a regular expression that is searched in the paths of arrays, as in `network/body/blocks/token_mlp`; those
    without a match stay; None for all that are trained. within: the path of `params`, as `gen`.
    """
    if not pattern:
        return params
    start = f"{within}/" if within else ""

    def choose(path: tuple, leaf: Any) -> Any:
        return leaf if re.search(pattern, start + path_name(path)) else None

    return jax.tree_util.tree_map_with_path(choose, params)


def with_frozen(part: Any, params: Any) -> Any:
    """The inverse of `trained`: what it left out of `params` is put back into `part`."""
    return jax.tree.map(lambda new, old: old if new is None else new, part, params, is_leaf=lambda leaf: leaf is None)


def path_name(path: tuple) -> str:
    """The path of an array in a tree, its names joined by `/`."""
    return jax.tree_util.keystr(path, simple=True, separator="/")
