"""Planar and radial flows against float64: log-determinants, inverses, and densities that integrate to one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.ops.variational import Diagonal, Planar, Radial, planar_direction

KINDS = {"planar": Planar, "radial": Radial}


def given(kind, length: int, size: int, rows: int = 6, scale: float = 1.0):
    """z and parameters for flows, f32[rows, ...]."""
    rng = np.random.default_rng(size)
    flow = kind(length)
    shapes = ((rows, size), (rows, flow.outputs(size)))
    z, params = (jnp.asarray(scale * rng.normal(size=shape), jnp.float32) for shape in shapes)
    return flow, z, params


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize(("size", "scale"), [(1, 1.0), (2, 1.0), (5, 1.0), (5, 3.0)])
def test_log_determinants_are_those_of_the_jacobian_and_inverses_undo(name, size, scale):
    flow, z, params = given(KINDS[name], 3, size, scale=scale)

    @jax.jit
    def everything(z, params):
        moved, logdet = flow(z, params)
        jacobian = jax.vmap(jax.jacfwd(lambda z, p: flow(z[None], p[None])[0][0]))(z, params)
        return moved, logdet, jacobian, flow.inverse(moved, params)

    moved, logdet, jacobian, back = (np.asarray(a, np.float64) for a in everything(z, params))
    sign, truth = np.linalg.slogdet(jacobian)
    np.testing.assert_array_equal(sign, 1)
    np.testing.assert_allclose(logdet, truth, atol=2e-3)
    assert np.abs(moved - np.asarray(z)).max() > 0.1
    # A step may contract by much: the error of z is that of f32 over the smallest singular value.
    least = np.linalg.svd(jacobian, compute_uv=False).min(axis=1, keepdims=True)
    assert np.all(np.abs(back - np.asarray(z)) < 1e-5 * np.abs(moved).max() / np.minimum(least, 1))


def test_planar_steps_are_as_the_paper_writes_them():
    """Eq. 10 with the direction of appendix A.1, in float64; w . u_hat stays above -1 whatever u is. Regression: as the
    appendix has it, u_hat grew as 1 / |w| for small w."""
    rng = np.random.default_rng(0)
    u, w, z = (rng.normal(size=(50, 3)) for _ in range(3))
    b = rng.normal(size=50)
    u[:10] = -10 * w[:10]
    along = np.sum(w * u, axis=1, keepdims=True)
    truth = u + (np.log1p((np.e - 1) * np.exp(along)) - 1 - along) * w / np.sum(w**2, axis=1, keepdims=True)
    found = np.asarray(planar_direction(jnp.float32(u), jnp.float32(w))[0], np.float64)
    np.testing.assert_allclose(found, truth, rtol=1e-4, atol=1e-4)
    assert np.all(np.sum(w * truth, axis=1) > -1) and np.all(np.sum(w * found, axis=1) > -1 - 1e-4)
    for shrink in (1e-2, 1e-4, 0.0):
        small = np.asarray(planar_direction(jnp.float32(u[10:]), jnp.float32(shrink * w[10:]))[0])
        off = np.linalg.norm(small - u[10:], axis=1)
        np.testing.assert_array_less(off, 0.5 * np.linalg.norm(u[10:], axis=1) + 1e-3)
    params = jnp.float32(np.concatenate([u, w, b[:, None]], axis=1))
    moved, _ = Planar(1)(jnp.float32(z), params)
    expected = z + truth * np.tanh(np.sum(w * z, axis=1) + b)[:, None]
    np.testing.assert_allclose(moved, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("along", [-12.0, -16.0, -20.0, -200.0])
def test_planar_determinants_are_positive_however_much_a_step_contracts(along):
    """On the plane, where tanh is 0. Regression: w . u_hat was rounded below -1, and half of the logarithms NaN."""
    rng = np.random.default_rng(0)
    w = rng.normal(size=(200, 20))
    u = along * w / np.sum(w**2, axis=1, keepdims=True) + 0.0
    _, logdet = Planar(1)(jnp.zeros((200, 20)), jnp.float32(np.concatenate([u, w, np.zeros((200, 1))], axis=1)))
    truth = max(np.log(np.log1p((np.e - 1) * np.exp(along))), np.log(1e-30))
    np.testing.assert_allclose(logdet, truth, rtol=1e-5)


def test_radial_steps_are_as_the_paper_writes_them():
    rng = np.random.default_rng(0)
    centre, z = rng.normal(size=(50, 3)), rng.normal(size=(50, 3))
    raw_alpha, raw_beta = rng.normal(size=50), 3 * rng.normal(size=50)
    alpha = np.log1p(np.exp(raw_alpha))
    beta = np.log1p(np.exp(raw_beta)) - alpha
    h = 1 / (alpha + np.linalg.norm(z - centre, axis=1))
    moved, _ = Radial(1)(jnp.float32(z), jnp.float32(np.column_stack([centre, raw_alpha, raw_beta])))
    np.testing.assert_allclose(moved, z + (beta * h)[:, None] * (z - centre), rtol=1e-4, atol=1e-5)
    still, logdet = Radial(4)(jnp.float32(z), jnp.zeros((50, 4 * 5)))
    np.testing.assert_allclose(still, z, atol=1e-6)
    np.testing.assert_allclose(logdet, 0, atol=1e-6)


@pytest.mark.parametrize("name", KINDS)
def test_densities_integrate_to_one(name):
    flow, _, params = given(KINDS[name], 4, 2, rows=1, scale=0.6)
    side = (np.arange(400) + 0.5) / 400 * 24 - 12
    z = jnp.asarray(np.stack(np.meshgrid(side, side), -1).reshape(-1, 2), jnp.float32)
    rows = jnp.broadcast_to(params, (len(z), params.shape[1]))
    log_q = jax.jit(lambda z: flow.log_prob(z, 0.3 * jnp.ones_like(z), -0.5 * jnp.ones_like(z), rows))(z)
    np.testing.assert_allclose(np.exp(np.asarray(log_q, np.float64)).sum() * (24 / 400) ** 2, 1, atol=0.01)


def test_gradients_are_finite_where_lengths_are_zero():
    for flow in (Planar(2), Radial(2)):
        params = jnp.zeros((1, flow.outputs(2)))
        zero = jnp.zeros((1, 2))

        def total(params, flow=flow, zero=zero):
            z, logdet = flow(zero, params)
            return jnp.sum(z) + jnp.sum(logdet)

        slopes = jax.grad(total)(params)
        assert np.all(np.isfinite(slopes))
    z = jnp.ones((2, 3))
    still, logdet = Diagonal()(z, jnp.zeros((2, 0)))
    np.testing.assert_array_equal(still, z)
    assert Diagonal().outputs(3) == 0 and not np.any(logdet) and not Diagonal().moves
