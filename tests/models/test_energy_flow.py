"""A flow fitted to an energy: KL divergences against sums over a grid in float64, and points of the energies."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen import core
from jaxgen.core import TrainState
from jaxgen.data import Energy2D
from jaxgen.models.energy_flow import EnergyFlow
from jaxgen.ops.energies import energy, grid, log_normalizer
from jaxgen.ops.variational import Planar, Radial

NAMES = ("u1", "u2", "u3", "u4")
CELL = 0.02**2 * (13 / 13.04) ** 2


def truth(name: str, z: np.ndarray) -> float:
    """U of one point, as table 1 has it."""
    a, b = z
    w1 = np.sin(2 * np.pi * a / 4)
    wall = 0.5 * (max(abs(a) - 4, 0) / 0.4) ** 2
    if name == "u1":
        both = np.exp(-0.5 * ((a - 2) / 0.6) ** 2) + np.exp(-0.5 * ((a + 2) / 0.6) ** 2)
        return wall + 0.5 * ((np.hypot(a, b) - 2) / 0.4) ** 2 - np.log(both)
    if name == "u2":
        return wall + 0.5 * ((b - w1) / 0.4) ** 2
    if name == "u3":
        w2 = 3 * np.exp(-0.5 * ((a - 1) / 0.6) ** 2)
        return wall - np.log(np.exp(-0.5 * ((b - w1) / 0.35) ** 2) + np.exp(-0.5 * ((b - w1 + w2) / 0.35) ** 2))
    w3 = 3 / (1 + np.exp(-(a - 1) / 0.3))
    return wall - np.log(np.exp(-0.5 * ((b - w1) / 0.4) ** 2) + np.exp(-0.5 * ((b - w1 + w3) / 0.35) ** 2))


@pytest.mark.parametrize("name", NAMES)
def test_energies_are_those_of_the_table(name):
    points = np.random.default_rng(0).uniform(-3, 3, size=(20, 2))
    expected = [truth(name, z) for z in points]
    np.testing.assert_allclose(energy(name, points), expected, rtol=1e-9)
    np.testing.assert_allclose(energy(name, jnp.float32(points)), expected, rtol=1e-3, atol=1e-3)
    far = np.array([6.0, 0.3])
    np.testing.assert_allclose(energy(name, far), truth(name, far), rtol=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_points_have_the_moments_of_the_normalized_density(name):
    data, places = Energy2D(name=name, num=20_000), grid().reshape(-1, 2)
    p = np.exp(data.log_density(places)) * CELL
    np.testing.assert_allclose(p.sum(), 1, rtol=1e-6)
    x = data.arrays("test")["x"].astype(np.float64)
    assert x.shape == (20_000, 2)
    for power in (1, 2):
        mean, square = p @ places**power, p @ places ** (2 * power)
        assert np.all(np.abs((x**power).mean(axis=0) - mean) < 5 * np.sqrt((square - mean**2) / len(x)))
    assert not np.array_equal(x, data.arrays("train")["x"])


@pytest.mark.parametrize("posterior", [Planar(3), Radial(3)], ids=["planar", "radial"])
def test_divergences_are_those_of_sums_over_the_grid(posterior):
    """KL(q || p) by draws of q, and KL(p || q) by points of p."""
    model, num = EnergyFlow(energy="u1", posterior=posterior), 20_000
    params = model.init_params(jax.random.key(1), {"x": jnp.zeros((1, 2))})
    q = params["posterior"]
    params = {"posterior": {**q, "mu": jnp.array([0.3, -0.2]), "flows": 0.5 * q["flows"]}}
    state = TrainState(step=jnp.zeros((), jnp.int32), params=params, opt_state={})
    x = jnp.asarray(Energy2D(num=num).arrays("test")["x"])
    found = core.evaluate(model, state, core.sample_keys(0, num), {"x": x})
    places = grid()[::4, ::4].reshape(-1, 2)
    log_q = np.asarray(jax.jit(model.log_prob)(params, jnp.float32(places)), np.float64)
    log_p = -energy("u1", places) - log_normalizer("u1")
    inside = np.exp(log_q) * 16 * CELL
    np.testing.assert_allclose(inside.sum(), 1, atol=5e-3)
    for name, expected in (
        ("kl", inside @ (log_q - log_p)),
        ("kl_reverse", np.exp(log_p) * 16 * CELL @ (log_p - log_q)),
    ):
        values = np.asarray(found[name], np.float64)
        np.testing.assert_allclose(values.mean(), expected, atol=5 * values.std() / np.sqrt(num) + 0.03)
    loss, metrics = jax.jit(model.loss)(params, state, core.sample_keys(0, num), {"x": x})
    np.testing.assert_allclose(metrics["kl"], found["kl"].mean(), rtol=1e-3)
    np.testing.assert_allclose(loss + log_normalizer("u1"), metrics["kl"], rtol=1e-3)
