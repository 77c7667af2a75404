"""Masked autoregressive networks, and the flow whose every element is moved as those before it say.

MADE (arXiv:1502.03509) answers for all elements at once; z = transform(x; MADE(x)) is then one pass, MAF's density
(arXiv:1705.07057), while x from z takes as many passes as needed to agree with itself. IAF (arXiv:1606.04934) is the
same map the other way round: one pass for a sample, many for the density of given data.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.linen.dtypes import promote_dtype

from jaxgen.core.types import PyTree
from jaxgen.nets.apply import apply
from jaxgen.nets.flows import ActNorm, Answer, Context, Permutation, compose, sum_each
from jaxgen.ops.bijectors import Affine, Transform, autoregressive_mask, fixed_point, one_by_one


class MaskedDense(nn.Module):
    """Dense with a kernel of which only what `mask`, f32[I, O], lets through counts. `mask` is an argument, as a NumPy
    array is no field of a value."""

    dtype: Any = None
    kernel_init: nn.initializers.Initializer = nn.linear.default_kernel_init

    @nn.compact
    def __call__(self, x: jax.Array, mask: np.ndarray) -> jax.Array:
        kernel = self.param("kernel", self.kernel_init, mask.shape)
        bias = self.param("bias", nn.initializers.zeros, mask.shape[1:])
        x, kernel, bias = promote_dtype(x, kernel * mask, bias, dtype=self.dtype)
        return x @ kernel + bias[None]


class MADE(nn.Module):
    """x: f32[B, D] -> f32[B, D * out]: the `out` numbers of element d see the elements before d, and all of the
    context, alone. Zero at first. ReLU between, whose kinks a density in few dimensions would show: `smooth` takes
    SiLU."""

    hidden: tuple[int, ...] = (512, 512)
    smooth: bool = False
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, out: int, context: Context = None) -> jax.Array:
        size = x.shape[-1]
        degrees, h = np.arange(size), x
        for i, width in enumerate(self.hidden):
            # Evenly over 0 to D - 2: the last element is nobody's input.
            wider = np.arange(width) * max(size - 1, 1) // width
            h = MaskedDense(self.dtype, name=f"masked{i}")(h, autoregressive_mask(degrees, wider))
            if i == 0 and context is not None:
                h += nn.Dense(width, use_bias=False, dtype=self.dtype, name="context")(context)
            h, degrees = (nn.silu if self.smooth else nn.relu)(h), wider
        mask = autoregressive_mask(degrees, np.repeat(np.arange(size), out), strict=True)
        h = MaskedDense(self.dtype, nn.initializers.zeros, name="out")(h, mask)
        return h.astype(jnp.float32)


class Autoregressive(nn.Module):
    """z_d = transform(x_d; net(x_1 ... x_{d-1})), x: f32[B, D].

    The way from z to x repeats x = transform^-1(z; net(x)) until it stands still, D passes at most (`ops.fixed_point`);
    how many each row took is left in the collection `passes` where that is mutable. Its gradient is that of the
    implicit function. inverse: IAF, which goes that way from data to noise.
    """

    net: MADE = MADE()
    transform: Transform = Affine()
    inverse: bool = False
    tolerance: float = 1e-6
    """Change, against 1 + |x|, at which a row stands still: about what rounding leaves."""
    sequential: bool = False
    """Set one element in each of D passes instead, as a sampler by definition does."""

    @nn.compact
    def __call__(self, x: jax.Array, context: Context = None, inverse: bool = False) -> Answer:
        if self.is_initializing():
            self.net(x, self.transform.num_params, context)
        params = self.net.variables["params"]
        rule = Rule(self.net.clone(parent=None), self.transform, self.tolerance, self.sequential)
        if inverse == self.inverse:
            z, log_slope = rule.forward(params, x, context)
            return z, sum_each(log_slope)
        z = x
        found: Any = solve(rule, params, z, context)  # custom_vjp has no types
        x, passes = found
        if self.is_mutable_collection("passes"):
            self.put_variable("passes", "passes", passes)
        return x, -sum_each(rule.forward(params, x, context)[1])


class MAFStep(nn.Module):
    """ActNorm, an autoregressive map, and the elements backwards for the next step, section 3.3 of arXiv:1705.07057
    with ActNorm in the place of batch norm."""

    net: MADE = MADE()
    transform: Transform = Affine()
    inverse: bool = False
    """IAF: see `Autoregressive`, also of the next two."""
    tolerance: float = 1e-6
    sequential: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, context: Context = None, inverse: bool = False) -> Answer:
        net = self.net.clone(parent=None)
        inner = Autoregressive(net, self.transform, self.inverse, self.tolerance, self.sequential, name="map")
        return compose((ActNorm(name="norm"), inner, Permutation(name="backwards")), x, context, inverse)


# --- from z to x -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rule:
    """What `solve` needs beside arrays."""

    net: nn.Module
    transform: Transform
    tolerance: float
    sequential: bool

    def forward(self, params: PyTree, x: jax.Array, context: Context) -> Answer:
        """(z, log dz_d/dx_d), f32[B, D] each."""
        return self.transform(x, apply(self.net, {"params": params}, x, self.transform.num_params, context))

    def update(self, params: PyTree, z: jax.Array, context: Context, x: jax.Array) -> jax.Array:
        """transform^-1(z; net(x)), of which x is the fixed point."""
        answer = apply(self.net, {"params": params}, x, self.transform.num_params, context)
        return self.transform(z, answer, inverse=True)[0]


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def solve(rule: Rule, params: PyTree, z: jax.Array, context: Context) -> tuple[jax.Array, jax.Array]:
    """x: f32[B, D] of which `rule.forward` makes z, and the passes it took, i32[B]."""
    update, start, size = partial(rule.update, params, z, context), jnp.zeros_like(z), z.shape[-1]
    if rule.sequential:
        return one_by_one(update, start), jnp.full(z.shape[:1], size, jnp.int32)
    return fixed_point(update, start, rule.tolerance, size)


def _solve_forward(rule: Rule, params: PyTree, z: jax.Array, context: Context):
    found: Any = solve(rule, params, z, context)
    x, passes = found
    return (x, passes), (params, x, context)


def _solve_backward(rule: Rule, residuals: PyTree, cotangents: tuple[jax.Array, Any]) -> tuple:
    """With z = f(x; params) and A = df/dx, triangular: dx = A^-1 (dz - df/dparams dparams). A^T u = x_bar is solved as
    x was: A^T less its diagonal moves nothing to later elements, so D passes are enough here too."""
    params, x, context = residuals
    (_, log_slope), pull = jax.vjp(rule.forward, params, x, context)
    slope, nothing = jnp.exp(log_slope), jnp.zeros_like(log_slope)

    def update(u: jax.Array) -> jax.Array:
        return u + (cotangents[0] - pull((u, nothing))[1]) / slope

    u, _ = fixed_point(update, cotangents[0] / slope, rule.tolerance, x.shape[-1])
    params_bar, _, context_bar = pull((-u, nothing))
    return params_bar, u, context_bar


solve.defvjp(_solve_forward, _solve_backward)
