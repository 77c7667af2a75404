"""Two-dimensional densities: standardised points, and known log-densities."""

import numpy as np
import pytest

from jaxgen import data
from jaxgen.errors import UserError

TOYS = ("moons", "circles", "gaussians8", "gaussians25", "swissroll", "pinwheel", "checkerboard", "spirals")


@pytest.mark.parametrize("name", TOYS)
def test_toys_are_standardised(name):
    d = data.Toy2D(name=name, num=50_000)
    train, test = d.arrays("train"), d.arrays("test")
    assert train["x"].shape == (50_000, 2) and train["x"].dtype == np.float32
    np.testing.assert_allclose(train["x"].mean(0), 0, atol=0.02)
    np.testing.assert_allclose(train["x"].var(0).mean(), 1, atol=0.02)
    assert not np.isin(train["x"][:, 0], test["x"][:, 0]).all()
    assert d.count("all") == 100_000
    assert d.num_classes == (train["cond"].max() + 1 if "cond" in train else 0)


def test_density_of_the_moons():
    """It sums to one, is that of very many Gaussians along the arcs, and minus its mean over draws is near the entropy
    by the sum."""
    d = data.Toy2D(name="moons")
    side = np.linspace(-3, 3, 161)
    grid = np.stack(np.meshgrid(side, side), -1)
    log_p = d.log_density(grid)
    cell = (side[1] - side[0]) ** 2
    np.testing.assert_allclose(np.exp(log_p).sum() * cell, 1, atol=1e-6)
    entropy = -(np.exp(log_p) * log_p).sum() * cell
    np.testing.assert_allclose(-d.log_density(d.arrays("test")["x"]).mean(), entropy, atol=0.03)

    centre, scale = data.toys.STANDARD["moons"]
    angle = np.pi * (np.arange(20_000) + 0.5) / 20_000
    arc = np.stack([np.cos(angle), np.sin(angle)], -1)
    arcs = np.concatenate([arc, (1, 0.5) - arc])
    points = np.array([[0.0, 0.0], [-1.4, -0.4], [0.1, 1.05], [2.2, 0.3]])
    square = (((points * scale + centre)[:, None] - arcs) ** 2).sum(-1)
    slow = np.logaddexp.reduce(-square / (2 * 0.05**2), axis=1) - np.log(len(arcs) * 2 * np.pi * 0.05**2 / scale**2)
    np.testing.assert_allclose(d.log_density(points), slow, rtol=1e-5)


@pytest.mark.parametrize("name", ["gaussians8", "gaussians25"])
def test_toy_density(name):
    d = data.Toy2D(name=name)
    side = np.linspace(-4, 4, 321)
    density = np.exp(d.log_density(np.stack(np.meshgrid(side, side), -1)))
    np.testing.assert_allclose(density.sum() * (side[1] - side[0]) ** 2, 1, atol=1e-6)
    # -mean log p estimates the entropy: that of one component plus log K, as they hardly overlap.
    std = 0.1 / data.toys.STANDARD[name][1]
    entropy = np.log(d.num_classes) + np.log(2 * np.pi * np.e * std**2)
    np.testing.assert_allclose(-d.log_density(d.arrays()["x"]).mean(), entropy, atol=0.05)


def test_toy_errors():
    with pytest.raises(UserError, match=r"did you mean moons\?"):
        data.Toy2D(name="moon").count()
    with pytest.raises(UserError, match="moons, gaussians8 or gaussians25"):
        data.Toy2D(name="spirals").log_density(np.zeros((1, 2)))
