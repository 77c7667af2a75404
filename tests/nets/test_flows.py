"""Invertible layers and their compositions: inverses, log-determinants against the Jacobian's, dependence of outputs on
inputs, memory of the reversible scan, the autoregressive sampler."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_flow import start

from jaxgen.core import with_field
from jaxgen.errors import UserError
from jaxgen.nets.conditioners import CouplingMLP, CouplingResNet, GlowNet
from jaxgen.nets.flows import ActNorm, Coupling, CouplingStep, LinearStep, MultiScale, Repeat
from jaxgen.nets.made import MADE, Autoregressive, MAFStep
from jaxgen.ops.bijectors import Affine, Spline

NET, CONV, MASKED = CouplingMLP((8,)), GlowNet(6), MADE((12,), smooth=True)
SPLINE = Spline(bins=4, reach=3.0)
# Two steps each: with fewer, some outputs would not depend on some inputs.
VECTORS = {
    "realnvp": Repeat(CouplingStep(NET), 2),
    "nsf": Repeat(LinearStep(NET, SPLINE), 2),
    "maf": Repeat(MAFStep(MASKED), 2),
    "spline maf": Repeat(MAFStep(MASKED, SPLINE), 2),
    "iaf": Repeat(MAFStep(MASKED, inverse=True), 2),
}
CHECKERS = CouplingStep(CouplingResNet(4, 1), mask="checker")
IMAGES = {
    "glow": (MultiScale(LinearStep(CONV), levels=2, depth=2), (4, 4, 1)),
    "realnvp": (MultiScale(CouplingStep(CouplingResNet(4, 1)), 1, 1, CHECKERS, 1, prior=False), (4, 2, 1)),
}


def check(flow, shape, jacobian, seed=0, context=None):
    """Asserts that the inverse inverts and that the log-determinants are the Jacobian's; returns the Jacobian."""

    @jax.jit
    def everything(seed):
        x, variables = start(flow, shape, seed=seed, context=context, scale=0.1)
        y, logdet = flow.apply(variables, x, context)
        back, logdet_back = flow.apply(variables, y, context, inverse=True)

        def one(x, context):
            return flow.apply(variables, x[None], context if context is None else context[None])[0][0]

        return x, y, logdet, back, logdet_back, jax.vmap(jacobian(one))(x, context)

    x, y, logdet, back, logdet_back, dy = (np.asarray(a, np.float64) for a in everything(seed))
    assert y.shape == x.shape and logdet.shape == x.shape[:1]
    np.testing.assert_allclose(back, x, atol=1e-5 * max(1, np.abs(x).max()))
    size = x[0].size
    dy = dy.reshape(-1, size, size)
    np.testing.assert_allclose(logdet, np.linalg.slogdet(dy)[1], atol=1e-4 * max(1, size / 4))
    np.testing.assert_allclose(logdet_back, -logdet, atol=1e-4 * max(1, size / 4))
    return dy


@pytest.mark.parametrize("name", VECTORS)
@given(size=st.integers(2, 6), seed=st.integers(0, 10**6))
@settings(max_examples=2, deadline=None)
def test_flows_of_vectors(name, size, seed):
    """Also, every output depends on every input. Regression: a version never swapped the halves, and left one of them
    unchanged."""
    # The fixed point has a custom gradient, in reverse mode only.
    jacobian = jax.jacrev if name == "iaf" else jax.jacfwd
    context = jnp.linspace(-1, 1, 10).reshape(5, 2) if name in ("realnvp", "iaf") else None
    dy = check(VECTORS[name], (size,), jacobian, seed, context)
    assert np.abs(dy).max(axis=0).min() > 1e-5


@pytest.mark.parametrize("name", ["glow", pytest.param("realnvp", marks=pytest.mark.slow)])
def test_flows_of_images(name):
    flow, shape = IMAGES[name]
    context = jnp.linspace(-1, 1, 10).reshape(5, 2) if name == "glow" else None
    check(flow, shape, jax.jacrev, context=context)  # as scan_reversibly has no forward derivative


@pytest.mark.parametrize("name", ["realnvp", "iaf"])
def test_outputs_depend_on_the_context(name):
    context = jnp.linspace(-1, 1, 10).reshape(5, 2)
    x, variables = start(VECTORS[name], (3,), context=context)
    apply = jax.jit(VECTORS[name].apply)
    assert np.all(np.any(~np.isclose(apply(variables, x, context)[0], apply(variables, x, -context)[0]), axis=1))


def test_the_first_batch_is_mapped_to_mean_0_and_variance_1():
    """In the scan, each ActNorm is initialized from the output of the steps before it; couplings keep the scale."""
    flow = Repeat(CouplingStep(NET), 3)
    x = 7 + 3 * jax.random.normal(jax.random.key(0), (200, 4)) @ jnp.triu(jnp.ones((4, 4)))
    z, _ = flow.apply(flow.init(jax.random.key(1), x), x)
    np.testing.assert_allclose(jnp.mean(z, axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(jnp.std(z, axis=0), 1, atol=1e-4)
    norm = ActNorm()
    constant = jnp.ones((10, 2))
    assert np.all(np.isfinite(norm.apply(norm.init(jax.random.key(2), constant), constant)[0]))


# --- reversible --------------------------------------------------------------------------------------------------


def scanned(**settings):
    return Repeat(LinearStep(CONV), **settings)


def loss(flow, params, x, context):
    z, logdet = flow.apply({"params": params}, x, context)
    return jnp.mean(jnp.sum(z**2, axis=(1, 2, 3)) - logdet)


def test_gradients_of_the_reversible_scan_are_those_of_the_plain_one():
    context = jax.random.normal(jax.random.key(9), (5, 2))
    x, variables = start(scanned(depth=4), (4, 4, 2), context=context, scale=0.1)
    plain, rebuilt, remat = (
        jax.jit(jax.value_and_grad(partial(loss, scanned(depth=4, **settings)), (0, 1, 2)))(
            variables["params"], x, context
        )
        for settings in ({}, {"reversible": True}, {"remat": True})
    )
    for other in (rebuilt, remat):
        for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(other)):
            np.testing.assert_allclose(b, a, rtol=1e-3, atol=1e-4 * float(1 + jnp.abs(a).max()))


def test_memory_of_the_reversible_scan_does_not_grow_with_depth():
    """Temporary memory, which excludes parameters and their gradients. That of the plain scan grows with depth."""

    def peak(depth, reversible):
        flow = scanned(depth=depth, reversible=reversible)
        x = jax.ShapeDtypeStruct((16, 16, 16, 4), jnp.float32)
        params = jax.eval_shape(flow.init, jax.random.key(0), x)["params"]
        gradient = jax.jit(jax.grad(partial(loss, flow)))
        return gradient.lower(params, x, None).compile().memory_analysis().temp_size_in_bytes

    shallow, deep = peak(8, True), peak(32, True)
    assert deep < 1.2 * shallow
    assert peak(32, False) > 2 * deep


# --- autoregressive ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hidden", [(), (7,), (16, 9, 16)])
def test_made_depends_on_exactly_the_elements_before(hidden):
    """Layers must be wide enough to carry all of them."""
    made, size, out = MADE(hidden, smooth=True), 5, 2
    x = jax.random.normal(jax.random.key(0), (1, size))
    variables = jax.tree.map(lambda a: a + 0.5, made.init(jax.random.key(1), x, out))
    jacobian = jax.jacfwd(lambda x: made.apply(variables, x[None], out)[0])(x[0]).reshape(size, out, size)
    for d in range(size):
        np.testing.assert_array_equal(jacobian[d, :, d:], 0)
        assert np.all(jacobian[d, :, :d] != 0)


@pytest.mark.parametrize("hidden", [(), (16,)])
def test_all_of_made_depends_on_the_context(hidden):
    """Regression: the first element did not, so that a conditional flow of one number was none."""
    made, size, out = MADE(hidden, smooth=True), 4, 2
    x, context = jnp.zeros((1, size)), jnp.float32([[1.0, -0.5]])
    variables = made.init(jax.random.key(1), x, out, context)
    assert not np.any(made.apply(variables, x, out, context))
    moved = jax.tree.map(lambda a: a + 0.5, variables)
    assert np.all(jax.jacfwd(lambda c: made.apply(moved, x, out, c)[0])(context).reshape(size * out, 2) != 0)


def test_fixed_point_sampling_equals_the_d_pass_inverse():
    flow = Repeat(MAFStep(MADE((32,))), 3)
    z, variables = start(flow, (12,), num=40, scale=0.2)
    (x, logdet), found = jax.jit(partial(flow.apply, inverse=True, mutable=["passes"]))(variables, z)
    exact, exact_logdet = jax.jit(partial(with_field(flow, "sequential", True).apply, inverse=True))(variables, z)
    np.testing.assert_allclose(x, exact, atol=1e-5 * float(jnp.abs(exact).max()))
    np.testing.assert_allclose(logdet, exact_logdet, atol=1e-4)
    (passes,) = jax.tree.leaves(found["passes"])
    assert passes.shape == (3, 40) and passes.min() > 1 and passes.max() <= 12
    alone, _ = flow.apply(variables, z[7:8], inverse=True)
    np.testing.assert_allclose(alone[0], x[7], atol=1e-5)


def test_implicit_gradients_of_iaf_are_those_of_the_unrolled_passes():
    """dx/dz and dx/dparams through `solve`, against differentiating D unrolled passes of the update."""
    net, size = MADE((8,), smooth=True), 4
    flow, transform = Autoregressive(net, inverse=True), Affine()
    z, variables = start(flow, (size,), scale=0.5)

    def by_solving(variables, z):
        x, logdet = flow.apply(variables, z)
        return jnp.sum(jnp.sin(x)) + jnp.sum(logdet)

    def by_unrolling(variables, z):
        inner, x = {"params": variables["params"]["net"]}, jnp.zeros_like(z)
        for _ in range(size):
            x = transform(z, net.apply(inner, x, 2), inverse=True)[0]
        log_slope = transform(x, net.apply(inner, x, 2))[1]
        return jnp.sum(jnp.sin(x)) - jnp.sum(log_slope)

    ours, theirs = (jax.jit(jax.grad(f, (0, 1)))(variables, z) for f in (by_solving, by_unrolling))
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs)):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


# --- refusals ----------------------------------------------------------------------------------------------------


def test_sizes_that_do_not_halve_are_refused():
    with pytest.raises(UserError, match="6x4x1 does not"):
        MultiScale(levels=2).init(jax.random.key(0), jnp.ones((2, 6, 4, 1)))
    with pytest.raises(UserError, match="1 channel"):
        Coupling(NET).init(jax.random.key(0), jnp.ones((2, 1)))
