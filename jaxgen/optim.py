"""Optimizer settings as values, from which the optax transformation is built.

Two results of `optax.adam(1e-3)` are not equal, so a model that held one would be recompiled each time. Models hold
these dataclasses instead, and build `tx` when they need it.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Annotated, Any, ClassVar, TypeVar

import jax
import jax.numpy as jnp
import optax
from annotated_types import Gt, Lt

from jaxgen.core.ranges import Decay, Fraction, NonNegative, OptionalCount, Positive, Steps
from jaxgen.nets.hidden import hidden_matrices
from jaxgen.nets.magnitude import forced

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    """Settings that all optimizers share: learning-rate schedule, clipping and weight decay."""

    averages: ClassVar[bool] = False
    """Whether what is learnt is not the parameters that gradients are taken at, but an average: `evaluated`."""
    remembers: ClassVar[bool] = False
    """Whether its state holds parameters, so that a start from other parameters needs a new state."""
    kept: ClassVar[tuple[str, ...]] = ()
    """Fields of its own that mean the same in Adam, see `switched`."""

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
        if self.decay_steps and self.warmup > self.decay_steps:
            return f"warmup is {self.warmup}, decay_steps {self.decay_steps}: the rate cannot fall before it has risen"
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

    def descent(self) -> tuple[optax.GradientTransformation, ...]:
        """From clipped gradients to updates: `direction`, weight decay, learning rate."""
        decay = (optax.add_decayed_weights(self.weight_decay, decayed),) if self.weight_decay else ()
        return self.direction(), *decay, optax.scale_by_learning_rate(self.schedule)

    @property
    def tx(self) -> optax.GradientTransformation:
        """The whole chain: clipping, then `descent`."""
        # One flat chain: checkpoints name its entries.
        return optax.chain(*([optax.clip_by_global_norm(self.clip)] if self.clip else []), *self.descent())

    def evaluated(
        self, opt_state: optax.OptState, params: optax.Params, pattern: str | None = None, within: str = ""
    ) -> optax.Params:
        """The parameters that what was learnt is used with, after a step that left `opt_state` and `params`."""
        return params

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

    kept: ClassVar[tuple[str, ...]] = ("b1", "b2", "eps")

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


@dataclass(frozen=True, kw_only=True)
class Lion(Optimizer):
    """Lion, algorithm 2 of arXiv:2302.06675: the sign of b1 m + (1 - b1) g, m being the gradient's mean with decay b2.

    All of an update's entries are as large as the rate, which is to be 3 to 10 times smaller than Adam's, and weight
    decay as much larger.
    """

    lr: NonNegative = 1e-4
    b1: Decay = 0.9
    b2: Decay = 0.99

    def direction(self) -> optax.GradientTransformation:
        return optax.scale_by_lion(self.b1, self.b2)


@dataclass(frozen=True, kw_only=True)
class Muon(Optimizer):
    """Muon (K. Jordan, 2024; arXiv:2502.16982) for what `nets.hidden.hidden_matrices` chooses, Adam for all else.

    The momentum of a matrix, U S V^T, is replaced by nearly U V^T, which Newton-Schulz steps compute, times
    rms sqrt(max(fan in, fan out)), eq. 4 of arXiv:2502.16982. Entries are then as large as Adam's updates are, so that
    rate and weight decay of Adam serve for both.
    """

    kept: ClassVar[tuple[str, ...]] = ("b1", "b2", "eps")

    momentum: Decay = 0.95
    """Decay of the mean gradient of matrices, with Nesterov's look ahead."""
    iterations: Steps = 5
    """Newton-Schulz steps; after five singular values lie between 0.7 and 1.2."""
    rms: Positive = 0.2
    """Root mean square of the entries of an update of a matrix, in learning rates."""
    b1: Decay = 0.9
    """Of Adam, for what is no hidden matrix, as b2 and eps."""
    b2: Decay = 0.999
    eps: Positive = 1e-8

    def direction(self) -> optax.GradientTransformation:
        # Not optax.contrib.muon, whose Adam looks ahead as its momentum does.
        orthogonal = optax.contrib.scale_by_muon(
            ns_steps=self.iterations, beta=self.momentum, eps=self.eps, weight_dimension_numbers=hidden_matrices
        )

        def sized(update: jax.Array, axes: Any) -> jax.Array:
            rows, columns = (math.prod(update.shape[i] for i in part) for part in axes)
            return self.rms * math.sqrt(max(rows, columns)) * update

        def at_rms(updates: optax.Updates, params: Any) -> optax.Updates:
            return jax.tree.map(sized, updates, hidden_matrices(updates))

        def label(params: optax.Params) -> Any:
            return jax.tree.map(lambda _, axes: "rest" if axes is None else "matrix", params, hidden_matrices(params))

        matrix = optax.chain(orthogonal, optax.stateless(at_rms))
        return optax.partition({"matrix": matrix, "rest": optax.scale_by_adam(self.b1, self.b2, self.eps)}, label)


@dataclass(frozen=True, kw_only=True)
class ScheduleFree(Optimizer):
    """Schedule-free AdamW, algorithm 1 of arXiv:2405.15682: no decay of the rate needs to know when training ends.

    Gradients are taken at y = (1 - b1) z + b1 x, which `TrainState.params` is. Adam without momentum moves z, and x is
    its mean, weighted by the squared rate. The state's `ema` is x, or the moving average of x if the model's
    `ema_decay` is set: samples and held-out numbers are of it. Bias correction is not counted in the weights. Batch
    statistics are of y.
    """

    averages: ClassVar[bool] = True
    remembers: ClassVar[bool] = True
    kept: ClassVar[tuple[str, ...]] = ("b2", "eps")

    b1: Annotated[float, Gt(0), Lt(1)] = 0.9
    """How far from z to x gradients are taken."""
    b2: Decay = 0.999
    eps: Positive = 1e-8

    def direction(self) -> optax.GradientTransformation:
        return optax.scale_by_rms(self.b2, self.eps, eps_in_sqrt=False, bias_correction=True)

    def descent(self) -> tuple[optax.GradientTransformation, ...]:
        schedule = self.schedule  # optax counts from one for the weights alone
        plain = optax.chain(*super().descent())
        return (optax.contrib.schedule_free(plain, lambda count: schedule(count - 1), self.b1),)

    def evaluated(
        self, opt_state: optax.OptState, params: optax.Params, pattern: str | None = None, within: str = ""
    ) -> optax.Params:
        part = trained(params, pattern, within)
        averaged = optax.contrib.schedule_free_eval_params(opt_state[-1], part)  # pyright: ignore[reportIndexIssue]
        return with_frozen(averaged, params)


@dataclass(frozen=True, kw_only=True)
class Prodigy(Optimizer):
    """Prodigy, algorithm 4 of arXiv:2306.06101: Adam whose rate is `lr` times d, an estimate of the distance from the
    first parameters to the best ones. `lr` stays 1; warm-up and decay are factors of it.

    Weight decay of the arrays in `DECAYED` is that of the paper's code, in the rate of the step.
    """

    remembers: ClassVar[bool] = True
    kept: ClassVar[tuple[str, ...]] = ("b1", "b2", "eps")

    lr: NonNegative = 1.0
    b1: Decay = 0.9
    b2: Decay = 0.999
    eps: Positive = 1e-8
    d0: Positive = 1e-6
    """The first estimate of the distance, below all that may be right."""
    growth: Positive = 1.0
    """A factor of the estimates, to find larger or smaller rates."""

    def descent(self) -> tuple[optax.GradientTransformation, ...]:
        schedule, decay = self.schedule, self.weight_decay
        inner: Any = optax.contrib.prodigy(
            schedule, (self.b1, self.b2), eps=self.eps, estim_lr0=self.d0, estim_lr_coef=self.growth
        )

        def init(params: optax.Params) -> Any:
            return inner.init(jax.tree.map(jnp.copy, params))  # kept in the state: one buffer cannot be donated twice

        def update(updates: optax.Updates, state: Any, params: Any = None) -> tuple[Any, Any]:
            updates, new = inner.update(updates, state, params)
            total = optax.tree.sum(jax.tree.map(jnp.abs, new.grad_sum))  # 0 before the first gradient: d is then 0 / 0
            new = new._replace(estim_lr=jnp.where(total == 0, state.estim_lr, new.estim_lr))
            updates = jax.tree.map(lambda u: jnp.where(total == 0, 0.0, u), updates)
            if decay:
                count = new.count.astype(jnp.float32)
                corrected = jnp.sqrt(1 - self.b2**count) / (1 - self.b1**count)
                rate = decay * state.estim_lr * schedule(state.count) * corrected
                chosen = decayed(params)
                updates = jax.tree.map(lambda u, p, is_: u - rate * p if is_ else u, updates, params, chosen)
            return updates, new

        return (optax.GradientTransformation(init, update),)


KINDS = {
    "adam": Adam, "rmsprop": RMSprop, "lion": Lion, "muon": Muon, "schedule-free": ScheduleFree, "prodigy": Prodigy,
}  # fmt: skip
"""Optimizers by the names that `--optimizer` knows."""


def switched(optimizer: Optimizer, kind: str) -> Optimizer:
    """The optimizer of another kind with the same schedule, clipping and weight decay. Its rate is the same too, but
    for Lion, a tenth, and Prodigy, 1; betas are those of its kind, unless they mean the same in both."""
    cls = KINDS[kind]
    if type(optimizer) is cls:
        return optimizer
    names = [f.name for f in fields(Optimizer)] + [name for name in cls.kept if name in optimizer.kept]
    values = {name: getattr(optimizer, name) for name in names}
    rates = {Lion: optimizer.lr / 10, Prodigy: 1.0}
    return cls(**{**values, "lr": rates.get(cls, optimizer.lr)})


def optimizers_of(model: Any) -> list[Optimizer]:
    """The optimizers of a model, of one network each."""
    return [part for f in fields(model) if isinstance(part := getattr(model, f.name), Optimizer)]


def with_optimizers(model: T, change: Callable[[Optimizer], Optimizer]) -> T:
    """A copy of a model in which each of its optimizers is change(optimizer)."""
    assert is_dataclass(model) and not isinstance(model, type)
    parts = {f.name: getattr(model, f.name) for f in fields(model)}
    changed = {name: change(part) for name, part in parts.items() if isinstance(part, Optimizer)}
    return replace(model, **changed) if changed else model


# --- which parameters -------------------------------------------------------------------------------------------

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
