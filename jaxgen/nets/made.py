"""Masked autoregressive networks, and the flows that transform each element given those before it.

MADE (arXiv:1502.03509) computes the parameters of all elements at once. z = transform(x; MADE(x)) is then one pass, the
density of MAF (arXiv:1705.07057), while x from z is a fixed point that takes several. IAF (arXiv:1606.04934) is the
inverse map: one pass for a sample, several for the density of given data.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.linen.dtypes import promote_dtype

from jaxgen.core.ranges import Positive, Size
from jaxgen.core.types import PyTree
from jaxgen.nets.apply import apply
from jaxgen.nets.flows import ActNorm, Context, Mapped, Permutation, compose, sum_each
from jaxgen.ops.bijectors import Affine, Transform, autoregressive_mask, fixed_point, one_by_one


class MaskedDense(nn.Module):
    """A dense layer whose kernel is multiplied by `mask`: f32[I, O].

    The mask is an argument, not a field, since modules are compared and hashed and NumPy arrays cannot be.
    """

    dtype: Any = None
    kernel_init: nn.initializers.Initializer = nn.linear.default_kernel_init

    @nn.compact
    def __call__(self, x: jax.Array, mask: np.ndarray) -> jax.Array:
        kernel = self.param("kernel", self.kernel_init, mask.shape)
        bias = self.param("bias", nn.initializers.zeros, mask.shape[1:])
        x, kernel, bias = promote_dtype(x, kernel * mask, bias, dtype=self.dtype)
        return x @ kernel + bias[None]


class MADE(nn.Module):
    """x: f32[B, D] -> f32[B, D * out], zero at initialization. The `out` numbers of element d depend on the elements
    before d and on the context.

    smooth: use SiLU instead of ReLU, whose kinks are visible in densities of few dimensions.
    """

    hidden: tuple[Size, ...] = (512, 512)
    smooth: bool = False
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, out: int, context: Context = None) -> jax.Array:
        size = x.shape[-1]
        degrees, h = np.arange(size), x
        for i, width in enumerate(self.hidden):
            # Degrees are spread evenly over 0 to D - 2: nothing depends on the last element.
            wider = np.arange(width) * max(size - 1, 1) // width
            h = MaskedDense(self.dtype, name=f"masked{i}")(h, autoregressive_mask(degrees, wider))
            if i == 0 and context is not None:
                h += nn.Dense(width, use_bias=False, dtype=self.dtype, name="context")(context)
            h, degrees = (nn.silu if self.smooth else nn.relu)(h), wider
        mask = autoregressive_mask(degrees, np.repeat(np.arange(size), out), strict=True)
        h = MaskedDense(self.dtype, nn.initializers.zeros, name="out")(h, mask)
        if context is not None:  # no hidden unit leads to the first element
            zero = nn.initializers.zeros
            h += nn.Dense(size * out, use_bias=False, kernel_init=zero, dtype=self.dtype, name="context_out")(context)
        return h.astype(jnp.float32)


class Autoregressive(nn.Module):
    """z_d = transform(x_d; net(x_1 ... x_{d-1})), x: f32[B, D].

    The map from z to x iterates x = transform^-1(z; net(x)) until it converges, in at most D passes
    (`ops.bijectors.fixed_point`), and is differentiated as an implicit function. The passes that each row took are
    stored in the collection `passes` if that is mutable. inverse: use that map from data to noise, which is IAF.
    """

    net: MADE = MADE()
    transform: Transform = Affine()
    inverse: bool = False
    tolerance: Positive = 1e-6
    """Change relative to 1 + |x| at which a row has converged; about the size of rounding errors."""
    sequential: bool = False
    """Compute one element in each of D passes instead."""

    @nn.compact
    def __call__(self, x: jax.Array, context: Context = None, inverse: bool = False) -> Mapped:
        if self.is_initializing():
            self.net(x, self.transform.num_params, context)
        params = self.net.variables["params"]
        element_map = ElementMap(self.net.clone(parent=None), self.transform, self.tolerance, self.sequential)
        if inverse == self.inverse:
            z, log_slope = element_map.forward(params, x, context)
            return z, sum_each(log_slope)
        x, passes = solve(element_map, params, x, context)
        if self.is_mutable_collection("passes"):
            self.put_variable("passes", "passes", passes)
        return x, -sum_each(element_map.forward(params, x, context)[1])


class MAFStep(nn.Module):
    """ActNorm, an autoregressive map, and a reversal of the elements: section 3.3 of arXiv:1705.07057, with ActNorm
    instead of batch normalization."""

    net: MADE = MADE()
    transform: Transform = Affine()
    inverse: bool = False
    """This and the next two: see `Autoregressive`."""
    tolerance: Positive = 1e-6
    sequential: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, context: Context = None, inverse: bool = False) -> Mapped:
        net = self.net.clone(parent=None)
        inner = Autoregressive(net, self.transform, self.inverse, self.tolerance, self.sequential, name="map")
        return compose((ActNorm(name="norm"), inner, Permutation(name="backwards")), x, context, inverse)


# --- from z to x -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ElementMap:
    """The map between x and z, and how `solve` inverts it; the fields are those of `Autoregressive`."""

    net: nn.Module
    transform: Transform
    tolerance: float
    sequential: bool

    def forward(self, params: PyTree, x: jax.Array, context: Context) -> tuple[jax.Array, jax.Array]:
        """(z, log dz_d/dx_d), f32[B, D] each."""
        return self.transform(x, apply(self.net, {"params": params}, x, self.transform.num_params, context))

    def update(self, params: PyTree, z: jax.Array, context: Context, x: jax.Array) -> jax.Array:
        """transform^-1(z; net(x)), of which x is the fixed point."""
        outputs = apply(self.net, {"params": params}, x, self.transform.num_params, context)
        return self.transform(z, outputs, inverse=True)[0]


def _solve(element_map: ElementMap, params: PyTree, z: jax.Array, context: Context) -> tuple[jax.Array, jax.Array]:
    """x: f32[B, D] with `element_map.forward` of x equal to z, and the passes that each row took, i32[B]."""
    update, start, size = partial(element_map.update, params, z, context), jnp.zeros_like(z), z.shape[-1]
    if element_map.sequential:
        return one_by_one(update, start), jnp.full(z.shape[:1], size, jnp.int32)
    return fixed_point(update, start, element_map.tolerance, size)


solve = jax.custom_vjp(_solve, nondiff_argnums=(0,))


def _solve_forward(
    element_map: ElementMap, params: PyTree, z: jax.Array, context: Context
) -> tuple[tuple[jax.Array, jax.Array], PyTree]:
    x, passes = solve(element_map, params, z, context)
    return (x, passes), (params, x, context)


def _solve_backward(element_map: ElementMap, residuals: PyTree, cotangents: tuple[jax.Array, Any]) -> tuple:
    """With z = f(x; params) and the triangular A = df/dx, dx = A^-1 (dz - df/dparams dparams).

    A^T u = x_bar is solved by the same iteration: the off-diagonal part of A^T is strictly triangular, so D passes
    are again enough.
    """
    params, x, context = residuals
    (_, log_slope), pull = jax.vjp(element_map.forward, params, x, context)
    slope, nothing = jnp.exp(log_slope), jnp.zeros_like(log_slope)

    def update(u: jax.Array) -> jax.Array:
        return u + (cotangents[0] - pull((u, nothing))[1]) / slope

    u, _ = fixed_point(update, cotangents[0] / slope, element_map.tolerance, x.shape[-1])
    params_bar, _, context_bar = pull((-u, nothing))
    return params_bar, u, context_bar


solve.defvjp(_solve_forward, _solve_backward)
