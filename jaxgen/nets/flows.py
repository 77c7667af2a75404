"""Invertible layers and what they are made into: a step, steps repeated over depth, scales.

Every module is called as (x, context, inverse) -> (y, logdet: f32[B]), y of x's shape: one definition for both
directions, forward from data to noise, and logdet is log |det dy/dx| of the direction asked for. context, or None, is
what a conditional flow is told. Steps are stacked and scanned, so that depth costs no compile time.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jaxgen.core.types import PyTree
from jaxgen.errors import UserError
from jaxgen.nets.apply import apply
from jaxgen.nets.conditioners import CouplingMLP, CouplingResNet, GlowNet, PixelDense
from jaxgen.ops import bijectors as ops
from jaxgen.ops.bijectors import Affine, Transform
from jaxgen.ops.patches import depth_to_space, space_to_depth

Answer = tuple[jax.Array, jax.Array]
Context = jax.Array | None
Layer = Callable[[jax.Array, Context, bool], Answer]


def sum_each(x: jax.Array) -> jax.Array:
    """Sum over all but the first axis: f32[B]."""
    return jnp.sum(x, axis=tuple(range(1, x.ndim)))


def compose(layers: Sequence[Layer], x: jax.Array, context: Context, inverse: bool) -> Answer:
    """One layer after another, or back."""
    total = jnp.zeros(x.shape[:1])
    for layer in reversed(layers) if inverse else layers:
        x, logdet = layer(x, context, inverse)
        total += logdet
    return x, total


# --- layers ------------------------------------------------------------------------------------------------------


class Identity(nn.Module):
    """Leaves x as it is."""

    @nn.compact
    def __call__(self, x: jax.Array, context: Context = None, inverse: bool = False) -> Answer:
        return x, jnp.zeros(x.shape[:1])


class ActNorm(nn.Module):
    """(x + shift) e^log_scale by channel: mean 0 and variance 1 on the batch that it is initialised with, section 3.1
    of arXiv:1807.03039."""

    least: float = 1e-3
    """Deviation that a channel is taken to have at least."""

    @nn.compact
    def __call__(self, x: jax.Array, context: Context = None, inverse: bool = False) -> Answer:
        axes = tuple(range(x.ndim - 1))
        shift = self.param("shift", lambda _: -jnp.mean(x, axis=axes))
        log_scale = self.param("log_scale", lambda _: -jnp.log(jnp.maximum(jnp.std(x, axis=axes), self.least)))
        logdet = jnp.full(x.shape[:1], jnp.sum(log_scale) * math.prod(x.shape[1:-1]))
        shift, log_scale = (a.reshape((1,) * (x.ndim - 1) + (-1,)) for a in (shift, log_scale))
        if inverse:
            return x * jnp.exp(-log_scale) - shift, -logdet
        return (x + shift) * jnp.exp(log_scale), logdet


class Linear(nn.Module):
    """x W over channels, the invertible 1x1 convolution of images: W = L U, a rotation at first, section 3.2 of
    arXiv:1807.03039 (see `ops.lu_rotation` for what became of the permutation)."""

    @nn.compact
    def __call__(self, x: jax.Array, context: Context = None, inverse: bool = False) -> Answer:
        channels = x.shape[-1]
        start = self.param("w", lambda key: dict(zip(("lu", "log_s"), ops.lu_rotation(key, channels))))
        log_s = start["log_s"]
        lower, upper = ops.lu_matrix(start["lu"], log_s)
        logdet = jnp.full(x.shape[:1], jnp.sum(log_s) * math.prod(x.shape[1:-1]))
        # Highest: what TPUs and GPUs do by default would not invert to more than three digits.
        product = partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
        if inverse:
            return product(x, ops.lu_inverse(lower, upper)), -logdet
        return product(x, product(lower, upper)), logdet


class Permutation(nn.Module):
    """Channels in another order, a random one of `seed` or, where that is None, backwards."""

    seed: int | None = None

    @nn.compact
    def __call__(self, x: jax.Array, context: Context = None, inverse: bool = False) -> Answer:
        order = np.arange(x.shape[-1])[::-1]
        if self.seed is not None:
            order = np.random.default_rng(self.seed).permutation(x.shape[-1])
        return x[..., np.argsort(order) if inverse else order], jnp.zeros(x.shape[:1])


class Coupling(nn.Module):
    """One part of x stays and tells `net` how `transform` is to move the other, section 3.2 of arXiv:1605.08803.

    mask: `half` of the channels, or the squares of a `checker`board of pixels. flip: the parts change roles.
    """

    net: nn.Module
    transform: Transform = Affine()
    mask: Literal["half", "checker"] = "half"
    flip: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, context: Context = None, inverse: bool = False) -> Answer:
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

    def _checker(self, x: jax.Array, context: Context, inverse: bool) -> Answer:
        _, height, width, channels = x.shape
        keep = jnp.asarray(ops.checkerboard(height, width, self.flip))
        params = self.net(jnp.where(keep, x, 0.0), channels * self.transform.num_params, context)
        y, log_slope = self.transform(x, params, inverse)
        return jnp.where(keep, x, y), sum_each(jnp.where(keep, 0.0, log_slope))


# --- steps -------------------------------------------------------------------------------------------------------


class CouplingStep(nn.Module):
    """ActNorm, then two couplings whose parts change roles, so that every element moves: RealNVP."""

    net: nn.Module = CouplingMLP()
    transform: Transform = Affine()
    mask: Literal["half", "checker"] = "half"

    @nn.compact
    def __call__(self, x: jax.Array, context: Context = None, inverse: bool = False) -> Answer:
        def coupling(flip: bool) -> Coupling:
            return Coupling(self.net.clone(parent=None), self.transform, self.mask, flip, name=f"coupling{int(flip)}")

        layers = (ActNorm(name="norm"), coupling(False), coupling(True))
        return compose(layers, x, context, inverse)


class LinearStep(nn.Module):
    """ActNorm, an invertible linear map of the channels, one coupling: Glow's step of flow, fig. 2 of arXiv:1807.03039,
    and with a spline that of arXiv:1906.04032, section 4."""

    net: nn.Module = GlowNet()
    transform: Transform = Affine()

    @nn.compact
    def __call__(self, x: jax.Array, context: Context = None, inverse: bool = False) -> Answer:
        coupling = Coupling(self.net.clone(parent=None), self.transform, name="coupling")
        return compose((ActNorm(name="norm"), Linear(name="linear"), coupling), x, context, inverse)


# --- depth -------------------------------------------------------------------------------------------------------


class Repeat(nn.Module):
    """`depth` steps with parameters of their own, stacked and scanned."""

    step: nn.Module
    depth: int = 8
    reversible: bool = False
    """On the way back, compute each step's input from its output instead of keeping it: memory does not grow with
    depth, for the price of an inverse. For steps whose inverse costs what they do."""
    remat: bool = False
    """Keep each step's input and compute the rest of it again."""

    @nn.compact
    def __call__(self, x: jax.Array, context: Context = None, inverse: bool = False) -> Answer:
        step = self.step.clone(parent=None)

        def start(key: jax.Array) -> PyTree:
            def one(x: jax.Array, i: jax.Array) -> tuple[jax.Array, PyTree]:
                (x, _), variables = step.init_with_output(jax.random.fold_in(key, i), x, context)
                return x, variables["params"]

            return jax.lax.scan(one, x, jnp.arange(self.depth))[1]

        # Asked for by name where it is there: to check its shape, `param` would trace all of `start` each time.
        there = self.has_variable("params", "steps")
        params = self.get_variable("params", "steps") if there else self.param("steps", start)
        if inverse or not self.reversible:
            watched = self.is_mutable_collection("passes")
            y, logdet, passes = through(step, params, x, context, inverse, self.remat, watched)
            if watched and passes:
                self.put_variable("passes", "steps", passes)
            return y, logdet
        return through_reversibly(step, params, x, context)


def through(
    step: nn.Module,
    params: PyTree,
    x: jax.Array,
    context: Context,
    inverse: bool,
    remat: bool = False,
    watched: bool = False,
) -> tuple[jax.Array, jax.Array, PyTree]:
    """x through steps of stacked parameters: (y, logdet, what they put in the collection `passes` when `watched`)."""

    def one(carry: Answer, params: PyTree) -> tuple[Answer, PyTree]:
        x, total = carry
        kept = ["passes"] if watched else []
        (x, logdet), variables = step.apply({"params": params}, x, context, inverse, mutable=kept)
        return (x, total + logdet), variables.get("passes", {})

    body = jax.checkpoint(one, prevent_cse=False) if remat else one
    (y, logdet), passes = jax.lax.scan(body, (x, jnp.zeros(x.shape[:1])), params, reverse=inverse)
    return y, logdet, passes


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def through_reversibly(step: nn.Module, params: PyTree, x: jax.Array, context: Context) -> Answer:
    """`through` going forward; its gradient holds the activations of one step at a time."""
    return through(step, params, x, context, False)[:2]


def _forward(step: nn.Module, params: PyTree, x: jax.Array, context: Context) -> tuple[Answer, PyTree]:
    answer: Any = through_reversibly(step, params, x, context)  # custom_vjp has no types
    y, logdet = answer
    return (y, logdet), (params, y, context)


def _backward(step: nn.Module, residuals: PyTree, cotangents: Answer) -> tuple[PyTree, jax.Array, PyTree]:
    params, y, context = residuals
    y_bar, logdet_bar = cotangents

    def one(carry: PyTree, params: PyTree) -> tuple[PyTree, PyTree]:
        y, y_bar, context_bar = carry
        x, _ = apply(step, {"params": params}, y, context, True)

        def again(params: PyTree, x: jax.Array, context: Context) -> Answer:
            return apply(step, {"params": params}, x, context)

        params_bar, x_bar, more = jax.vjp(again, params, x, context)[1]((y_bar, logdet_bar))
        return (x, x_bar, jax.tree.map(jnp.add, context_bar, more)), params_bar

    start = (y, y_bar, jax.tree.map(jnp.zeros_like, context))
    (_, x_bar, context_bar), params_bar = jax.lax.scan(one, start, params, reverse=True)
    return params_bar, x_bar, context_bar


through_reversibly.defvjp(_forward, _backward)


# --- scales ------------------------------------------------------------------------------------------------------


class Flat(nn.Module):
    """`flow` of the elements of x in a row: f32[B, D]."""

    flow: nn.Module

    @nn.compact
    def __call__(self, x: jax.Array, context: Context = None, inverse: bool = False) -> Answer:
        y, logdet = self.flow(x.reshape(x.shape[0], -1), context, inverse)
        return y.reshape(x.shape), logdet


class MultiScale(nn.Module):
    """`levels` times: squares of pixels become channels, `depth` steps move them, and half of the channels are done;
    the other half goes on at the next level. Fig. 2(b) of arXiv:1807.03039 and section 3.6 of arXiv:1605.08803.

    What is done is given the mean and scale that the half which goes on suggests (a learned prior, where it is), and
    returned to its place, so that the noise has the shape of the data. context has no pixels of its own: f32[B, K].
    """

    step: nn.Module = LinearStep()
    levels: int = 3
    depth: int = 32
    before: nn.Module = CouplingStep(CouplingResNet(), mask="checker")
    """A step for the pixels before each squeeze and after the last one, as RealNVP has on checkerboards."""
    before_depth: int = 0
    """How many of those; none when 0, and then the last level is moved as a whole."""
    prior: bool = True
    """Whether what is done is given a learned mean and scale."""
    reversible: bool = True
    remat: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, context: Context = None, inverse: bool = False) -> Answer:
        if x.ndim != 4 or any(side % 2**self.levels for side in x.shape[1:3]):
            size = "x".join(map(str, x.shape[1:]))
            raise UserError(f"{self.levels} levels halve height and width as often, {size} does not: choose fewer")
        return self._level(0, x, context, inverse)

    def _steps(self, name: str, step: nn.Module, depth: int) -> Repeat:
        return Repeat(step.clone(parent=None), depth, self.reversible, self.remat, name=name)

    def _level(self, i: int, x: jax.Array, context: Context, inverse: bool) -> Answer:
        layers: list[Callable[..., Answer]] = [partial(self._inner, i)] if i < self.levels else []
        if self.before_depth:
            layers.insert(0, self._steps(f"before{i}", self.before, self.before_depth))
        return compose(layers, x, context, inverse)

    def _inner(self, i: int, x: jax.Array, context: Context, inverse: bool) -> Answer:
        """What happens to pixels as channels."""
        layers = [self._steps(f"steps{i}", self.step, self.depth)]
        if i + 1 < self.levels or self.before_depth:
            layers += [Coupling(PixelDense(), name=f"prior{i}")] if self.prior else []
            layers += [partial(self._first_half, i)]
        y, logdet = compose(layers, space_to_depth(x, 2), context, inverse)
        return depth_to_space(y, 2), logdet

    def _first_half(self, i: int, x: jax.Array, context: Context, inverse: bool) -> Answer:
        on, done = jnp.split(x, 2, axis=-1)
        on, logdet = self._level(i + 1, on, context, inverse)
        return jnp.concatenate([on, done], axis=-1), logdet
