"""Optimizer settings as values, and the optax transformation they stand for.

Two `optax.adam(1e-3)` are unequal objects, so a model that held one would compile anew each time: models hold these
dataclasses and build `tx` when they need it.
"""

from dataclasses import dataclass

import jax
import optax


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    """What every optimizer shares: the learning-rate schedule, clipping and decay."""

    lr: float = 1e-3
    """Learning rate after warm-up."""
    warmup: int = 0
    """Steps of linear warm-up, whose first has the rate lr / warmup and whose last has lr."""
    decay_steps: int = 0
    """Step at which a cosine from `lr` reaches `lr * final`; 0 keeps `lr` constant."""
    final: float = 0.0
    """Fraction of `lr` left at `decay_steps`."""
    clip: float = 0.0
    """Largest global gradient norm; 0 does not clip."""
    weight_decay: float = 0.0
    """Decoupled decay (arXiv:1711.05101) of kernels and embeddings, `DECAYED`."""

    @property
    def schedule(self) -> optax.Schedule:
        """Learning rate by the number of steps taken before."""
        if self.decay_steps:
            main = optax.cosine_decay_schedule(self.lr, max(1, self.decay_steps - self.warmup), self.final)
        else:
            main = optax.constant_schedule(self.lr)
        if not self.warmup:
            return main
        return optax.join_schedules([lambda count: self.lr * (count + 1) / self.warmup, main], [self.warmup])

    def direction(self) -> optax.GradientTransformation:
        """The optimizer's own scaling of gradients, before decay and learning rate."""
        raise NotImplementedError

    @property
    def tx(self) -> optax.GradientTransformation:
        """The whole chain: clip, scale, decay, learning rate."""
        chain = [optax.clip_by_global_norm(self.clip)] if self.clip else []
        chain.append(self.direction())
        if self.weight_decay:
            chain.append(optax.add_decayed_weights(self.weight_decay, decayed))
        chain.append(optax.scale_by_learning_rate(self.schedule))
        return optax.chain(*chain)


@dataclass(frozen=True, kw_only=True)
class Adam(Optimizer):
    """Adam, arXiv:1412.6980; AdamW when `weight_decay` is set."""

    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8

    def direction(self) -> optax.GradientTransformation:
        return optax.scale_by_adam(self.b1, self.b2, self.eps)


@dataclass(frozen=True, kw_only=True)
class RMSprop(Optimizer):
    """g / (sqrt(mean of g^2) + eps) (Tieleman and Hinton, lecture 6.5, 2012), which WGAN with clipping asks for."""

    decay: float = 0.99
    eps: float = 1e-8

    def direction(self) -> optax.GradientTransformation:
        return optax.scale_by_rms(self.decay, self.eps, eps_in_sqrt=False)


# Weights that multiply their inputs or are looked up; `lu` is of 1x1 convolutions. For the rest zero is no simpler than
# another value: biases, shifts, scales, gains, noise strengths, constant inputs, codebooks, hash tables.
DECAYED = frozenset({"kernel", "embedding", "tokens", "positions", "head", "lu"})


def decayed(params):
    """The mask of weight decay by the meaning of each array, which its name says: its rank changes where layers are
    stacked."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: jax.tree_util.keystr(path[-1:], simple=True) in DECAYED, params
    )
