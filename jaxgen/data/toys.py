"""Two-dimensional toy densities, whose samples show at a glance what a model gets wrong."""

import dataclasses
from typing import Literal

import numpy as np

from jaxgen.data.dataset import Dataset, RawBatch
from jaxgen.errors import UserError, nearest

# Classes of each; 0 where no component is natural.
CLASSES = {
    "moons": 2,
    "circles": 2,
    "gaussians8": 8,
    "gaussians25": 25,
    "swissroll": 0,
    "pinwheel": 5,
    "checkerboard": 0,
    "spirals": 2,
}
# (centre, scale) of the raw densities: means, and the root of half the trace of the covariance. In closed
# form where there is one, else from four million samples, so that the points do not depend on `num`.
STANDARD = {
    "moons": ((0.5, 0.25), 0.7068),
    "circles": ((0.0, 0.0), 0.5603),
    "gaussians8": ((0.0, 0.0), float(np.sqrt(0.5 + 0.1**2))),
    "gaussians25": ((0.0, 0.0), float(np.sqrt(2 + 0.1**2))),
    "swissroll": ((0.2862, 0.0312), 0.9726),
    "pinwheel": ((0.0, 0.0), 0.7415),
    "checkerboard": ((0.0, 0.0), float(np.sqrt(4 / 3))),
    "spirals": ((0.0, 0.0), 0.9438),
}
STD = 0.1  # of each Gaussian, before standardising
MOON_STD, MOON_NODES = 0.05, 192  # likewise, around the arc; nodes of the integral along it


@dataclasses.dataclass(frozen=True, kw_only=True)
class Toy2D(Dataset):
    """f32[N, 2] points, mean 0, variance 1 averaged over the axes; cond int32[N] is the component, if any.

    "train" and "test" are `num` points each from fixed seeds of their own.

    Raises:
      UserError: on use, when `name` is unknown.
    """

    name: Literal[
        "moons", "circles", "gaussians8", "gaussians25", "swissroll", "pinwheel", "checkerboard", "spirals"
    ] = "moons"
    num: int = 10_000
    """Points in each split."""

    def load(self, split: str) -> RawBatch:
        self._check()
        seeds = {"train": (0,), "test": (1,), "all": (0, 1)}[split]
        parts = [_draw(self.name, self.num, np.random.Generator(np.random.Philox(seed))) for seed in seeds]
        raw = np.concatenate([points for points, _ in parts])
        centre, scale = STANDARD[self.name]
        batch = {"x": ((raw - centre) / scale).astype(np.float32)}
        if self.num_classes:
            batch["cond"] = np.concatenate([component for _, component in parts]).astype(np.int32)
        return batch

    @property
    def class_names(self) -> tuple[str, ...]:
        self._check()
        return tuple(str(i) for i in range(CLASSES[self.name]))

    @property
    def modes(self) -> tuple[np.ndarray, float] | None:
        self._check()
        if not self.name.startswith("gaussians"):
            return None
        _, scale = STANDARD[self.name]
        return _centres(self.name) / scale, STD / scale

    def log_density(self, x: np.ndarray) -> np.ndarray:
        """log p(x) in nats of the two Gaussian mixtures, exactly, and of the half-moons. x: [..., 2] as in the data;
        returns f64[...].

        A moon is a half circle with Gaussian noise: its density is an integral along the arc, by Gauss-Legendre
        quadrature with nodes half the noise apart at most, which leaves no error beside rounding.

        Raises:
          UserError: the density is not known.
        """
        self._check()
        if not self.name.startswith("gaussians") and self.name != "moons":
            raise UserError(f"Toy2D {self.name!r} has no known density: choose moons, gaussians8 or gaussians25")
        middle, scale = STANDARD[self.name]
        if self.name == "moons":
            nodes, weights = np.polynomial.legendre.leggauss(MOON_NODES)
            centres = np.concatenate([_moon((nodes + 1) / 2, k) for k in (0, 1)])
            log_weight, std = np.log(np.tile(weights, 2) / 4), MOON_STD
        else:
            centres, std = _centres(self.name), STD
            log_weight = np.full(len(centres), -np.log(len(centres)))
        raw = np.asarray(x, np.float64) * scale + np.asarray(middle)
        square = sum((raw[..., None, i] - centres[:, i]) ** 2 for i in (0, 1))
        log_each = log_weight - square / (2 * std**2) - np.log(2 * np.pi * std**2)
        return np.logaddexp.reduce(log_each, axis=-1) + 2 * np.log(scale)

    def _check(self) -> None:
        if self.name not in CLASSES:
            raise UserError(
                f"Toy2D name is {self.name!r}{nearest(self.name, CLASSES)}: choose from {', '.join(CLASSES)}"
            )


def _centres(name: str) -> np.ndarray:
    """f64[K, 2]: eight on the unit circle, or a grid of five by five a unit apart."""
    if name == "gaussians8":
        angle = np.arange(8) * np.pi / 4
        return np.stack([np.cos(angle), np.sin(angle)], -1)
    side = np.arange(-2.0, 3.0)
    return np.stack(np.meshgrid(side, side, indexing="ij"), -1).reshape(-1, 2)


def _moon(u: np.ndarray, k: int | np.ndarray) -> np.ndarray:
    """f64[N, 2]: the point at part u: f64[N] of the upper moon's half circle (k = 0), or of the lower one's."""
    angle = np.pi * u
    upper = np.stack([np.cos(angle), np.sin(angle)], -1)
    return np.where(np.reshape(k, (-1, 1)) == 0, upper, (1, 0.5) - upper)


def _draw(name: str, n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """(f64[N, 2] raw points, int[N] components)."""
    k = rng.integers(max(CLASSES[name], 1), size=n)
    u, noise = rng.random(n), rng.standard_normal((n, 2))
    match name:
        case "moons":
            points = _moon(u, k) + MOON_STD * noise
        case "circles":
            angle, radius = 2 * np.pi * u, np.where(k == 0, 1.0, 0.5)
            points = radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], -1) + 0.04 * noise
        case "gaussians8" | "gaussians25":
            points = _centres(name)[k] + STD * noise
        case "swissroll":
            angle = 1.5 * np.pi * (1 + 2 * u)
            points = (angle[:, None] * np.stack([np.cos(angle), np.sin(angle)], -1) + 0.5 * noise) / 7
        case "pinwheel":
            # Radially stretched Gaussians, each turned the more the farther out.
            radius, across = 1 + 0.3 * noise[:, 0], 0.1 * noise[:, 1]
            angle = 2 * np.pi * k / CLASSES[name] + 0.25 * np.exp(radius)
            cos, sin = np.cos(angle), np.sin(angle)
            points = np.stack([radius * cos - across * sin, radius * sin + across * cos], -1)
        case "checkerboard":
            # Eight of the sixteen unit cells of [-2, 2]^2: those whose row and column have one parity.
            column, row = rng.integers(4, size=n), rng.integers(2, size=n)
            points = np.stack([column - 2 + u, 2 * row + column % 2 - 2 + rng.random(n)], -1)
        case "spirals":
            angle = 3 * np.pi * np.sqrt(u)
            sign = np.where(k == 0, 1.0, -1.0)
            points = (sign * angle)[:, None] * np.stack([np.cos(angle), np.sin(angle)], -1) / 5 + 0.05 * noise
    return points, k
