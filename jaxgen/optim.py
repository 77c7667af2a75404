"""Optimizer settings as values, and the optax transformation they stand for.

Two `optax.adam(1e-3)` are unequal objects, so a model that held one would compile anew each time: models hold these
dataclasses and build `tx` when they need it.
"""

from dataclasses import dataclass

import jax
import optax


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    """What every optimizer shares: the learning-rate schedule, clipping, accumulation and decay."""

    lr: float = 1e-3
    """Learning rate after warm-up."""
    warmup: int = 0
    """Steps of linear warm-up from 0."""
    decay_steps: int = 0
    """Step at which a cosine from `lr` reaches `lr * final`; 0 keeps `lr` constant."""
    final: float = 0.0
    """Fraction of `lr` left at `decay_steps`."""
    clip: float = 0.0
    """Largest global gradient norm; 0 does not clip."""
    weight_decay: float = 0.0
    """Decoupled decay (arXiv:1711.05101) of kernels and embeddings; biases and norm scales are left alone."""
    accumulate: int = 1
    """Steps whose gradients are averaged into one update."""

    @property
    def schedule(self) -> optax.Schedule:
        """Learning rate by update count."""
        if self.decay_steps:
            main = optax.cosine_decay_schedule(self.lr, max(1, self.decay_steps - self.warmup), self.final)
        else:
            main = optax.constant_schedule(self.lr)
        if not self.warmup:
            return main
        return optax.join_schedules([optax.linear_schedule(0.0, self.lr, self.warmup), main], [self.warmup])

    def direction(self) -> optax.GradientTransformation:
        """The optimizer's own scaling of gradients, before decay and learning rate."""
        raise NotImplementedError

    @property
    def tx(self) -> optax.GradientTransformation:
        """The whole chain: clip, scale, decay, learning rate, accumulate."""
        chain = [optax.clip_by_global_norm(self.clip)] if self.clip else []
        chain.append(self.direction())
        if self.weight_decay:
            chain.append(optax.add_decayed_weights(self.weight_decay, is_matrix))
        chain.append(optax.scale_by_learning_rate(self.schedule))
        tx = optax.chain(*chain)
        return optax.MultiSteps(tx, self.accumulate).gradient_transformation() if self.accumulate > 1 else tx


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


def is_matrix(params):
    """Mask for weight decay: True for arrays of two or more axes, but for biases and scales, which have two where the
    layers they are of are stacked."""

    def matrix(path, p) -> bool:
        return p.ndim > 1 and jax.tree_util.keystr(path[-1:], simple=True) not in ("bias", "scale")

    return jax.tree_util.tree_map_with_path(matrix, params)
