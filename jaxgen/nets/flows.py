"""Invertible layers and their compositions: steps, steps repeated over depth, several scales.

Every module is called as (x, context, inverse) -> (y, logdet: f32[B]) and defines both directions at once. Forward is
from data to noise; y has the shape of x, and logdet is log |det dy/dx| of the chosen direction. context is the input of
a conditional flow, or None. Repeated steps are scanned with stacked parameters, so depth costs no compile time.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jaxgen.core.ranges import Depth, OptionalDepth
from jaxgen.core.types import PyTree
from jaxgen.errors import UserError
from jaxgen.nets.apply import apply, apply_mutable
from jaxgen.nets.conditioners import CouplingMLP, CouplingResNet, GlowNet, PixelDense
from jaxgen.ops import bijectors as ops
from jaxgen.ops.bijectors import Affine, Transform
from jaxgen.ops.patches import depth_to_space, space_to_depth

Mapped = tuple[jax.Array, jax.Array]
"""(y, logdet), the output of a layer in either direction."""
Context = jax.Array | None
Layer = Callable[[jax.Array, Context, bool], Mapped]


def sum_each(x: jax.Array) -> jax.Array:
    """The sum over all axes but the first: f32[B]."""
    return jnp.sum(x, axis=tuple(range(1, x.ndim)))


def compose(layers: Sequence[Layer], x: jax.Array, context: Context, inverse: bool) -> Mapped:
    """The layers in order, or their inverses in reverse order."""
    total = jnp.zeros(x.shape[:1])
    for layer in reversed(layers) if inverse else layers:
        x, logdet = layer(x, context, inverse)
        total += logdet
    return x, total


# --- layers ------------------------------------------------------------------------------------------------------


class Identity(nn.Module):
    """Leaves x as it is."""

    @nn.compact
    def __call__(self, x: jax.Array, context: Context = None, inverse: bool = False) -> Mapped:
        return x, jnp.zeros(x.shape[:1])


class ActNorm(nn.Module):
    """(x + shift) e^log_scale per channel, with mean 0 and variance 1 on the batch of initialization: section 3.1 of
    arXiv:1807.03039."""

    least: float = 1e-3
    """Lower bound of a channel's standard deviation at initialization."""

    @nn.compact
    def __call__(self, x: jax.Array, context: Context = None, inverse: bool = False) -> Mapped:
        axes = tuple(range(x.ndim - 1))
        shift = self.param("shift", lambda _: -jnp.mean(x, axis=axes))
        log_scale = self.param("log_scale", lambda _: -jnp.log(jnp.maximum(jnp.std(x, axis=axes), self.least)))
        logdet = jnp.full(x.shape[:1], jnp.sum(log_scale) * math.prod(x.shape[1:-1]))
        shift, log_scale = (a.reshape((1,) * (x.ndim - 1) + (-1,)) for a in (shift, log_scale))
        if inverse:
            return x * jnp.exp(-log_scale) - shift, -logdet
        return (x + shift) * jnp.exp(log_scale), logdet


class Linear(nn.Module):
    """x W over channels, for images an invertible 1x1 convolution: section 3.2 of arXiv:1807.03039.

    W = L U starts as a rotation; `ops.bijectors.lu_rotation` explains why the paper's permutation is not needed.
    """

    @nn.compact
    def __call__(self, x: jax.Array, context: Context = None, inverse: bool = False) -> Mapped:
        channels = x.shape[-1]
        start = self.param("w", lambda key: dict(zip(("lu", "log_s"), ops.lu_rotation(key, channels))))
        log_s = start["log_s"]
        lower, upper = ops.lu_matrix(start["lu"], log_s)
        logdet = jnp.full(x.shape[:1], jnp.sum(log_s) * math.prod(x.shape[1:-1]))
        # At the default precision of TPUs and GPUs, the inverse would hold to three digits only.
        product = partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
        if inverse:
            return product(x, ops.lu_inverse(lower, upper)), -logdet
        return product(x, product(lower, upper)), logdet


class Permutation(nn.Module):
    """Channels in a random order drawn from `seed`, or reversed if that is None."""

    seed: int | None = None

    @nn.compact
    def __call__(self, x: jax.Array, context: Context = None, inverse: bool = False) -> Mapped:
        order = np.arange(x.shape[-1])[::-1]
        if self.seed is not None:
            order = np.random.default_rng(self.seed).permutation(x.shape[-1])
        return x[..., np.argsort(order) if inverse else order], jnp.zeros(x.shape[:1])


class Coupling(nn.Module):
    """Keeps one part of x, and transforms the other with parameters that `net` computes from the kept part: section
    3.2 of arXiv:1605.08803.

    mask: the parts are each `half` of the channels, or the squares of a `checker`board of pixels. flip: swap the parts.
    """

    net: nn.Module
    transform: Transform = Affine()
    mask: Literal["half", "checker"] = "half"
    flip: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, context: Context = None, inverse: bool = False) -> Mapped:
        if self.mask == "checker":
            return self._checker(x, context, inverse)
        channels = x.shape[-1]
        if channels < 2:
            raise UserError(f"a coupling of halves was given {channels} channel: squeeze first, or choose mask checker")
        first, second = jnp.split(x, [(channels + 1) // 2], axis=-1)
        kept, moved = (second, first) if self.flip else (first, second)
        params = self.net(kept, moved.shape[-1] * self.transform.num_params, context)
        moved, log_slope = self.transform(moved, params, inverse)
        parts = (moved, kept) if self.flip else (kept, moved)
        return jnp.concatenate(parts, axis=-1), sum_each(log_slope)

    def _checker(self, x: jax.Array, context: Context, inverse: bool) -> Mapped:
        _, height, width, channels = x.shape
        keep = jnp.asarray(ops.checkerboard(height, width, self.flip))
        params = self.net(jnp.where(keep, x, 0.0), channels * self.transform.num_params, context)
        y, log_slope = self.transform(x, params, inverse)
        return jnp.where(keep, x, y), sum_each(jnp.where(keep, 0.0, log_slope))


# --- steps -------------------------------------------------------------------------------------------------------


class CouplingStep(nn.Module):
    """RealNVP's step: ActNorm, then two couplings with swapped parts, so that every element is transformed."""

    net: nn.Module = CouplingMLP()
    transform: Transform = Affine()
    mask: Literal["half", "checker"] = "half"

    @nn.compact
    def __call__(self, x: jax.Array, context: Context = None, inverse: bool = False) -> Mapped:
        def coupling(flip: bool) -> Coupling:
            return Coupling(self.net.clone(parent=None), self.transform, self.mask, flip, name=f"coupling{int(flip)}")

        layers = (ActNorm(name="norm"), coupling(False), coupling(True))
        return compose(layers, x, context, inverse)


class LinearStep(nn.Module):
    """Glow's step (fig. 2 of arXiv:1807.03039): ActNorm, an invertible linear map of the channels, one coupling.

    With a spline as the transform, it is the step of neural spline flows (section 4 of arXiv:1906.04032).
    """

    net: nn.Module = GlowNet()
    transform: Transform = Affine()

    @nn.compact
    def __call__(self, x: jax.Array, context: Context = None, inverse: bool = False) -> Mapped:
        coupling = Coupling(self.net.clone(parent=None), self.transform, name="coupling")
        return compose((ActNorm(name="norm"), Linear(name="linear"), coupling), x, context, inverse)


# --- depth -------------------------------------------------------------------------------------------------------


class Repeat(nn.Module):
    """`depth` steps with separate parameters, which are stacked and scanned."""

    step: nn.Module
    depth: Depth = 8
    reversible: bool = False
    """In the backward pass, recompute each step's input from its output by the inverse, so that memory does not grow
    with depth. For steps whose inverse is as cheap as the step."""
    remat: bool = False
    """Keep only each step's input, and recompute the rest in the backward pass."""

    @nn.compact
    def __call__(self, x: jax.Array, context: Context = None, inverse: bool = False) -> Mapped:
        step = self.step.clone(parent=None)

        def start(key: jax.Array) -> PyTree:
            def one(x: jax.Array, i: jax.Array) -> tuple[jax.Array, PyTree]:
                (x, _), variables = step.init_with_output(jax.random.fold_in(key, i), x, context)
                return x, variables["params"]

            return jax.lax.scan(one, x, jnp.arange(self.depth))[1]

        # Read directly if it exists, since `param` would trace all of `start` to check the shape.
        exists = self.has_variable("params", "steps")
        params = self.get_variable("params", "steps") if exists else self.param("steps", start)
        if self.reversible and not inverse:
            return scan_reversibly(step, params, x, context)
        recorded = self.is_mutable_collection("passes")
        mapped, passes = StepScan(step, self.remat, recorded)(params, x, context, inverse)
        if recorded and passes:
            self.put_variable("passes", "steps", passes)
        return mapped


@dataclass(frozen=True)
class StepScan:
    """Applies `step` once for each of its stacked parameters. remat: see `Repeat`; recorded: return the steps'
    collections `passes`, stacked, which are empty otherwise."""

    step: nn.Module
    remat: bool = False
    recorded: bool = False

    def __call__(self, params: PyTree, x: jax.Array, context: Context, inverse: bool) -> tuple[Mapped, PyTree]:
        def one(carry: Mapped, params: PyTree) -> tuple[Mapped, PyTree]:
            x, total = carry
            mutable = ["passes"] if self.recorded else []
            (x, logdet), changed = apply_mutable(self.step, {"params": params}, x, context, inverse, mutable=mutable)
            return (x, total + logdet), changed.get("passes", {})

        body = jax.checkpoint(one, prevent_cse=False) if self.remat else one
        return jax.lax.scan(body, (x, jnp.zeros(x.shape[:1])), params, reverse=inverse)


def _scan_reversibly(step: nn.Module, params: PyTree, x: jax.Array, context: Context) -> Mapped:
    """`StepScan` forward, with a gradient that holds the activations of one step at a time."""
    return StepScan(step)(params, x, context, inverse=False)[0]


scan_reversibly = jax.custom_vjp(_scan_reversibly, nondiff_argnums=(0,))


def _scan_forward(step: nn.Module, params: PyTree, x: jax.Array, context: Context) -> tuple[Mapped, PyTree]:
    y, logdet = scan_reversibly(step, params, x, context)
    return (y, logdet), (params, y, context)


def _scan_backward(step: nn.Module, residuals: PyTree, cotangents: Mapped) -> tuple[PyTree, jax.Array, PyTree]:
    params, y, context = residuals
    y_bar, logdet_bar = cotangents

    def one(carry: PyTree, params: PyTree) -> tuple[PyTree, PyTree]:
        y, y_bar, context_bar = carry
        x, _ = apply(step, {"params": params}, y, context, True)

        def again(params: PyTree, x: jax.Array, context: Context) -> Mapped:
            return apply(step, {"params": params}, x, context)

        params_bar, x_bar, more = jax.vjp(again, params, x, context)[1]((y_bar, logdet_bar))
        return (x, x_bar, jax.tree.map(jnp.add, context_bar, more)), params_bar

    start = (y, y_bar, jax.tree.map(jnp.zeros_like, context))
    (_, x_bar, context_bar), params_bar = jax.lax.scan(one, start, params, reverse=True)
    return params_bar, x_bar, context_bar


scan_reversibly.defvjp(_scan_forward, _scan_backward)


# --- scales ------------------------------------------------------------------------------------------------------


class Flat(nn.Module):
    """`flow` applied to x as vectors: f32[B, D]."""

    flow: nn.Module

    @nn.compact
    def __call__(self, x: jax.Array, context: Context = None, inverse: bool = False) -> Mapped:
        y, logdet = self.flow(x.reshape(x.shape[0], -1), context, inverse)
        return y.reshape(x.shape), logdet


class MultiScale(nn.Module):
    """The multi-scale architecture: fig. 2(b) of arXiv:1807.03039 and section 3.6 of arXiv:1605.08803.

    Each of `levels` levels squeezes 2 x 2 pixels into channels, applies `depth` steps and factors out half of the
    channels; the other half continues at the next level. With `prior`, the factored half is normalized by a mean and
    scale that are computed from the other half. It returns to its pixels, so that the noise has the shape of the data.
    context: f32[B, K] or None.
    """

    step: nn.Module = LinearStep()
    levels: Depth = 3
    depth: Depth = 32
    before: nn.Module = CouplingStep(CouplingResNet(), mask="checker")
    """A step on pixels, before each squeeze and after the last one, such as RealNVP's couplings on checkerboards."""
    before_depth: OptionalDepth = 0
    """Number of those steps. If 0, no channels are factored out of the last level."""
    prior: bool = True
    """Normalize factored channels by a learned mean and scale."""
    reversible: bool = True
    remat: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, context: Context = None, inverse: bool = False) -> Mapped:
        if x.ndim != 4 or any(side % 2**self.levels for side in x.shape[1:3]):
            size = "x".join(map(str, x.shape[1:]))
            raise UserError(f"{self.levels} levels halve height and width as often, {size} does not: choose fewer")
        return self._level(0, x, context, inverse)

    def _steps(self, name: str, step: nn.Module, depth: int) -> Repeat:
        return Repeat(step.clone(parent=None), depth, self.reversible, self.remat, name=name)

    def _level(self, i: int, x: jax.Array, context: Context, inverse: bool) -> Mapped:
        layers: list[Callable[..., Mapped]] = [partial(self._squeezed, i)] if i < self.levels else []
        if self.before_depth:
            layers.insert(0, self._steps(f"before{i}", self.before, self.before_depth))
        return compose(layers, x, context, inverse)

    def _squeezed(self, i: int, x: jax.Array, context: Context, inverse: bool) -> Mapped:
        """One level's work on squeezed pixels, and the levels after it."""
        layers = [self._steps(f"steps{i}", self.step, self.depth)]
        if i + 1 < self.levels or self.before_depth:
            layers += [Coupling(PixelDense(), name=f"prior{i}")] if self.prior else []
            layers += [partial(self._next_level, i)]
        y, logdet = compose(layers, space_to_depth(x, 2), context, inverse)
        return depth_to_space(y, 2), logdet

    def _next_level(self, i: int, x: jax.Array, context: Context, inverse: bool) -> Mapped:
        rest, factored = jnp.split(x, 2, axis=-1)
        rest, logdet = self._level(i + 1, rest, context, inverse)
        return jnp.concatenate([rest, factored], axis=-1), logdet
