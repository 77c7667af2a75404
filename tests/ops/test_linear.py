"""Functions linear in each argument, with transposes of their own: both modes, to second order, mapped or not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxgen.ops.conv import DIMS, conv, narrow_conv, upconv
from jaxgen.ops.sums import channel_sums, scale_shift

PADS = ((1, 2), (0, 1))
OPERATIONS = {
    "conv": (lambda x, k: conv(x, k, (2, 1), PADS), [(2, 5, 6, 3), (3, 2, 3, 4)]),
    "conv of a point": (lambda x, k: conv(x, k, (1, 1), ((1, 1), (1, 1))), [(2, 1, 2, 3), (3, 3, 3, 4)]),
    "narrow_conv": (lambda x, k: narrow_conv(x, k, PADS), [(2, 5, 6, 3), (2, 3, 3, 4)]),
    "upconv": (upconv, [(2, 3, 2, 3), (4, 4, 3, 2)]),
    "channel_sums": (channel_sums, [(2, 3, 4, 5)]),
    "scale_shift": (scale_shift, [(2, 3, 4, 5), (2, 5), (1, 5)]),
}


def upsampled(x, kernel):
    """`upconv` in XLA's own terms."""
    pads = ((2, 2), (2, 2))
    return lax.conv_transpose(x, kernel[::-1, ::-1], (2, 2), pads, dimension_numbers=DIMS)


# The same in terms of which JAX knows all derivatives.
PLAIN = {
    "conv": lambda x, k: lax.conv_general_dilated(x, k, (2, 1), PADS, dimension_numbers=DIMS),
    "conv of a point": lambda x, k: lax.conv_general_dilated(x, k, (1, 1), "SAME", dimension_numbers=DIMS),
    "narrow_conv": lambda x, k: lax.conv_general_dilated(x, k, (1, 1), PADS, dimension_numbers=DIMS),
    "upconv": upsampled,
    "channel_sums": lambda x: jnp.sum(x, axis=(1, 2)),
    "scale_shift": lambda x, a, b: x * a[:, None, None] + b[:, None, None],
}


@pytest.fixture
def double():
    with jax.enable_x64(True):
        yield


def drawn(shapes, seed=0):
    rng = np.random.default_rng(seed)
    return tuple(jnp.asarray(rng.normal(size=shape)) for shape in shapes)


def close(got, expected, tol=1e-10):
    got, expected = jax.tree.leaves(got), jax.tree.leaves(expected)
    assert len(got) == len(expected)
    for a, b in zip(got, expected):
        np.testing.assert_allclose(a, b, rtol=tol, atol=tol)


def shifted(args, direction, h):
    return tuple(a + h * d for a, d in zip(args, direction))


def compositions(op, args, d, e):
    """Values and all ways to a first and a second derivative of a loss of op along d and e."""

    def loss(*args):
        return jnp.sum(jnp.sin(op(*args)))

    everything = tuple(range(len(args)))
    grad = jax.grad(loss, everything)

    def along(*args):
        return jax.jvp(loss, args, d)[1]

    return {
        "jvp": jax.jvp(op, args, d)[1],
        "grad": grad(*args),
        "jacfwd": jax.jacfwd(op, everything)(*args),
        "jacrev": jax.jacrev(op, everything)(*args),
        "grad of jvp": jax.grad(along, everything)(*args),
        "jvp of grad": jax.jvp(grad, args, e)[1],
        "jvp of jvp": jax.jvp(along, args, e)[1],
        "grad of a penalty": jax.grad(lambda *a: sum(jnp.sum(g**2) for g in grad(*a)), everything)(*args),
        "linearize": jax.linearize(op, *args)[1](*d),
    }


@pytest.mark.parametrize("name", OPERATIONS)
def test_both_modes_and_their_compositions(double, name):
    op, shapes = OPERATIONS[name]
    args, d, e = drawn(shapes), drawn(shapes, 1), drawn(shapes, 2)
    ours, plain = (jax.jit(compositions, static_argnums=0)(f, args, d, e) for f in (op, PLAIN[name]))
    for way, value in ours.items():
        close(value, plain[way])
    h = 1e-5
    difference = (op(*shifted(args, d, h)) - op(*shifted(args, d, -h))) / (2 * h)
    close(ours["jvp"], difference, 1e-8)


@pytest.mark.parametrize("name", ["conv", "scale_shift"])
@pytest.mark.parametrize("mapped", ["all", "the first", "the last", "twice"])
def test_derivatives_of_a_mapped_function(double, name, mapped):
    """Also those of arguments that all share, whose cotangents are sums."""
    op, shapes = OPERATIONS[name]
    last = len(shapes) - 1
    axes = tuple({"all": 0, "the first": 0 if i == 0 else None}.get(mapped, 1 if i == last else None)
                 for i in range(len(shapes)))  # fmt: skip
    outer = tuple(0 if i == 0 else None for i in range(len(shapes)))

    def lift(f):
        f = jax.vmap(f, axes)
        return jax.vmap(f, outer) if mapped == "twice" else f

    def lifted(shape, axis, i):
        shape = shape if axis is None else (*shape[:axis], 2, *shape[axis:])
        return (3, *shape) if mapped == "twice" and i == 0 else shape

    shapes = [lifted(shape, axis, i) for i, (shape, axis) in enumerate(zip(shapes, axes))]
    args, d = drawn(shapes), drawn(shapes, 1)

    def results(f):
        def loss(*args):
            return jnp.sum(jnp.sin(lift(f)(*args)))

        grad = jax.grad(loss, tuple(range(len(args))))
        return jax.jvp(lift(f), args, d), grad(*args), jax.jvp(grad, args, d)[1]

    close(jax.jit(lambda: results(op))(), jax.jit(lambda: results(PLAIN[name]))())


def test_what_is_mapped_over_a_gradient_is_too(double):
    op, shapes = OPERATIONS["conv"]
    x, kernel = drawn([(3, *shapes[0]), (3, *shapes[1])])

    def gradients(f):
        return jax.vmap(jax.grad(lambda x, k: jnp.sum(f(x, k) ** 2), (0, 1)))(x, kernel)

    close(gradients(op), gradients(PLAIN["conv"]))


def test_equal_calls_share_a_program_that_can_be_read():
    """Operations are counted in it."""
    x, kernel = (jnp.float32(a) for a in drawn([(2, 5, 6, 3), (3, 2, 3, 3)]))
    jaxpr = jax.make_jaxpr(lambda x, k: conv(x, k) + conv(2 * x, k) + conv(x, k, (1, 1), PADS)[:, :3, :5])(x, kernel)
    inner = [eqn.params["jaxpr"] for eqn in jaxpr.eqns if eqn.primitive.name == "multilinear"]
    assert len(inner) == 3 and inner[0] is inner[1] and inner[0] is not inner[2]
    assert [eqn.primitive.name for eqn in inner[0].eqns] == ["conv_general_dilated"]


def test_precision_is_that_of_the_call():
    x, kernel = (jnp.float32(a) for a in drawn([(2, 5, 6, 3), (3, 2, 3, 3)]))

    def precision():
        (eqn,) = jax.make_jaxpr(conv)(x, kernel).eqns
        return eqn.params["jaxpr"].eqns[0].params["precision"]

    before = precision()
    with jax.default_matmul_precision("highest"):
        assert precision() == (jax.lax.Precision.HIGHEST,) * 2 != before
    assert precision() == before
