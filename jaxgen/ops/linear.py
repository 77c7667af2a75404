"""Functions that are linear in each of their arguments and have transposes of their own.

`jax.custom_vjp` gives up forward mode; `jax.custom_jvp` keeps both modes, but leaves the transpose to JAX. What is
linear needs neither: its derivative is the function itself, and only its transpose has to be said. So a `Multilinear`
is a primitive of JAX: it works in jvp, vjp, vmap and their compositions, to whatever order its transposes do.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial, reduce
from operator import add
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Primitive, jaxpr_as_fun
from jax.interpreters import ad, batching, mlir

Axes = tuple[int | None, ...]
Transposed = Callable[..., jax.Array]


class Multilinear:
    """`function(*arrays, **static)`, an array, linear in each of the arrays; the settings are hashable.

    transposes[i](dy, *arrays, **static) is the cotangent of arrays[i], which is given as a ShapeDtypeStruct. They may
    call this function and others like it, so that `transpose_by` sets them after all of them are defined.
    """

    def __init__(self, function: Callable[..., jax.Array]) -> None:
        self.function = function
        self.transposes: tuple[Transposed, ...] = ()

    def transpose_by(self, *transposes: Transposed) -> None:
        """Sets the transposes, one for each array."""
        self.transposes = transposes

    def __call__(self, *arrays: jax.Array, **static: Any) -> jax.Array:
        return _bind(_Call(self, tuple(sorted(static.items()))), arrays)


@dataclass(frozen=True)
class _Call:
    """A function with its settings, mapped over leading axes: `axes` are those of each vmap, from the inside out."""

    of: Multilinear
    static: tuple[tuple[str, Any], ...]
    axes: tuple[Axes, ...] = ()

    def __call__(self, *arrays: jax.Array) -> jax.Array:
        function: Callable = partial(self.of.function, **dict(self.static))
        for axes in self.axes:
            function = jax.vmap(function, axes)
        return function(*arrays)

    def transpose(self, i: int, dy: jax.Array, arrays: list[Any]) -> jax.Array:
        """The cotangent of arrays[i], which is a ShapeDtypeStruct."""
        mapped = sum(axes[i] is not None for axes in self.axes)
        hidden = jax.ShapeDtypeStruct(arrays[i].shape[mapped:], arrays[i].dtype)

        def plain(dy: jax.Array, *others: jax.Array) -> jax.Array:
            return self.of.transposes[i](dy, *others[:i], hidden, *others[i:], **dict(self.static))

        function: Callable = plain
        for axes in self.axes:
            function = jax.vmap(function, (0, *axes[:i], *axes[i + 1 :]))
            function = function if axes[i] is not None else lambda *args, f=function: jnp.sum(f(*args), axis=0)
        return function(dy, *arrays[:i], *arrays[i + 1 :])


_primitive = Primitive("multilinear")


def _bind(call: _Call, arrays: Any) -> jax.Array:
    shapes = tuple(jax.ShapeDtypeStruct(a.shape, a.dtype) for a in arrays)
    # What a program depends on beside its arguments.
    precision = jax.config.jax_default_matmul_precision  # pyright: ignore[reportAttributeAccessIssue]  # set by JAX
    around = jax.sharding.get_abstract_mesh(), precision
    return _primitive.bind(*arrays, call=call, jaxpr=_traced(call, shapes, around))


@lru_cache(maxsize=4096)
def _traced(call: _Call, shapes: tuple[jax.ShapeDtypeStruct, ...], around: Any) -> ClosedJaxpr:
    """The program of a call, where those who count operations find it."""
    return jax.make_jaxpr(call)(*shapes)


@lru_cache(maxsize=1024)
def _compiled(jaxpr: ClosedJaxpr) -> Callable:
    return jax.jit(jaxpr_as_fun(jaxpr))


def _jvp(primals: Any, tangents: Any, call: _Call, jaxpr: ClosedJaxpr) -> tuple[jax.Array, jax.Array]:
    y = _primitive.bind(*primals, call=call, jaxpr=jaxpr)
    parts = [
        _primitive.bind(*primals[:i], tangent, *primals[i + 1 :], call=call, jaxpr=jaxpr)
        for i, tangent in enumerate(tangents) if type(tangent) is not ad.Zero
    ]  # fmt: skip
    return y, reduce(add, parts) if parts else jnp.zeros_like(y)


def _transpose(dy: Any, *arrays: Any, call: _Call, jaxpr: ClosedJaxpr) -> list[Any]:
    (i,) = (i for i, a in enumerate(arrays) if ad.is_undefined_primal(a))
    given = [a.aval if j == i else a for j, a in enumerate(arrays)]
    dx = ad.Zero(given[i]) if type(dy) is ad.Zero else call.transpose(i, dy, given)
    return [dx if j == i else None for j in range(len(arrays))]


def _batch(arrays: Any, dims: Any, call: _Call, jaxpr: ClosedJaxpr) -> tuple[jax.Array, int]:
    arrays = [a if d is None else jnp.moveaxis(a, d, 0) for a, d in zip(arrays, dims, strict=True)]
    axes = tuple(None if d is None else 0 for d in dims)
    return _bind(_Call(call.of, call.static, (*call.axes, axes)), arrays), 0


_primitive.def_impl(lambda *arrays, call, jaxpr: _compiled(jaxpr)(*arrays)[0])
_primitive.def_abstract_eval(lambda *arrays, call, jaxpr: jaxpr.out_avals[0])
ad.primitive_jvps[_primitive] = _jvp
ad.primitive_transposes[_primitive] = _transpose
batching.primitive_batchers[_primitive] = _batch
mlir.register_lowering(_primitive, mlir.lower_fun(lambda *arrays, call, jaxpr: jaxpr_as_fun(jaxpr)(*arrays)))
