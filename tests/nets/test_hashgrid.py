"""The hash grid against a naive lookup, and its gradient against finite differences."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.core.configuration import check_fields
from jaxgen.errors import UserError
from jaxgen.nets.hashgrid import HashField, HashGrid

GRID = HashGrid(levels=3, features=2, log2_table=7, coarsest=3, finest=11)


@pytest.fixture(scope="module")
def table():
    return jax.random.normal(jax.random.key(0), (int(GRID.sizes.sum()), 2))


def naive(table: np.ndarray, x: np.ndarray) -> np.ndarray:
    """The features at one point, f64[6]: eq. 4 in Python integers, and trilinear weights."""
    out, first = [], 0
    for n, size in zip(GRID.resolutions.tolist(), GRID.sizes.tolist()):
        place = (np.float64(x) + 1) / 2 * n
        cell = np.minimum(np.floor(place), n - 1).astype(int)
        part, total = place - cell, np.zeros(2)
        for corner in itertools.product((0, 1), repeat=3):
            i, j, k = (int(c + o) for c, o in zip(cell, corner))
            if (n + 1) ** 3 <= 2**7:
                row = (i * (n + 1) + j) * (n + 1) + k
            else:
                row = (i ^ (j * 2654435761 % 2**32) ^ (k * 805459861 % 2**32)) % 2**7
            assert row < size
            weight = np.prod([p if o else 1 - p for p, o in zip(part, corner)])
            total += weight * table[first + row]
        out.append(total)
        first += size
    return np.concatenate(out)


def test_resolutions_grow_to_the_finest():
    assert GRID.resolutions.tolist() == [3, 5, 11]
    assert GRID.sizes.tolist() == [64, 128, 128]
    paper = HashGrid()
    assert (paper.resolutions[0], paper.resolutions[-1], len(paper.resolutions)) == (16, 2048, 16)


def test_features_equal_a_naive_lookup(table):
    rng = np.random.default_rng(1)
    x = np.concatenate([rng.uniform(-1, 1, (20, 3)), [[1, 1, 1], [-1, -1, -1], [1, -1, 0]]]).astype(np.float32)
    apply = jax.jit(GRID.apply)
    found = apply({"params": {"table": table}}, jnp.array(x))
    assert found.shape == (23, 6)
    for features, point in zip(found, x):
        np.testing.assert_allclose(features, naive(np.asarray(table), point), atol=1e-5)
    # Points of another rank.
    again = apply({"params": {"table": table}}, jnp.array(x[:20].reshape(4, 5, 3)))
    np.testing.assert_allclose(again.reshape(20, 6), found[:20], atol=1e-6)


def test_gradients_equal_finite_differences(table):
    """With respect to the table, where corners of several points and levels collide, and to the position."""
    rng = np.random.default_rng(2)
    x = jnp.array(rng.uniform(-1, 1, (30, 3)), jnp.float32)
    pull = jnp.array(rng.standard_normal((30, 6)), jnp.float32)

    @jax.jit
    def value(table, x):
        return jnp.sum(GRID.apply({"params": {"table": table}}, x) * pull)

    by_table, by_x = jax.jit(jax.grad(value, (0, 1)))(table, x)
    # The value is linear in the table, so a step of one is exact up to rounding.
    for row, column in zip(rng.integers(0, len(table), 25), rng.integers(0, 2, 25)):
        one = np.zeros(table.shape, np.float32)
        one[row, column] = 1
        moved = value(table + one, x) - value(table, x)
        np.testing.assert_allclose(by_table[row, column], moved, atol=2e-4)
    direction = jnp.array(rng.standard_normal((30, 3)), jnp.float32)
    slope = (value(table, x + 1e-4 * direction) - value(table, x - 1e-4 * direction)) / 2e-4
    np.testing.assert_allclose(jnp.sum(by_x * direction), slope, rtol=0.02, atol=0.05)


def test_the_field_is_a_density_and_a_colour():
    field = HashField(GRID, width=8, hidden=4)
    x = jax.random.uniform(jax.random.key(0), (10, 3), minval=-1)
    d = jnp.broadcast_to(jnp.array([[0.0, 0.6, 0.8]]), (10, 3))
    (sigma, rgb), variables = jax.jit(field.init_with_output)(jax.random.key(1), x, d)
    assert sigma.shape == (10,) and np.all(sigma > 0)
    assert rgb.shape == (10, 3) and np.all((rgb > 0) & (rgb < 1))
    # The colour depends on the direction, the density does not.
    other_sigma, other = jax.jit(field.apply)(variables, x, -d)
    np.testing.assert_allclose(other_sigma, sigma, rtol=1e-6)
    assert not np.allclose(other, rgb)


def test_settings_are_checked():
    with pytest.raises(UserError, match="2 levels or more"):
        check_fields(HashGrid(levels=1))
    with pytest.raises(UserError, match="from 8 to 4"):
        check_fields(HashGrid(coarsest=8, finest=4))
