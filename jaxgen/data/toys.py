"""Two-dimensional toy densities: a scatter plot of samples shows what a model gets wrong."""

import dataclasses
from typing import Literal

import numpy as np

from jaxgen.core.ranges import Samples
from jaxgen.core.types import RawBatch
from jaxgen.data.dataset import Dataset
from jaxgen.errors import UserError, nearest

# The number of components, which are the classes; 0 for a density without natural components.
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
# (mean, scale) of the raw densities, where scale is the root of half the trace of the covariance. In closed form or,
# where there is none, from four million samples. Constants, so that the points do not depend on `num`.
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
STD = 0.1  # of each Gaussian, before standardisation
MOON_STD = 0.05  # of the noise around each arc, before standardisation
MOON_NODES = 192  # of the quadrature along each arc


@dataclasses.dataclass(frozen=True, kw_only=True)
class Toy2D(Dataset):
    """x: f32[N, 2] points with mean 0 and variance 1, averaged over the axes; cond: int32[N], the component, if any.

    "train" and "test" are `num` points each, drawn with different fixed seeds.

    Raises:
      UserError: on use, if `name` is unknown.
    """

    name: Literal[
        "moons", "circles", "gaussians8", "gaussians25", "swissroll", "pinwheel", "checkerboard", "spirals"
    ] = "moons"
    num: Samples = 10_000
    """Points in each split."""

    def load(self, split: str) -> RawBatch:
        self._check()
        seeds = {"train": (0,), "test": (1,), "all": (0, 1)}[split]
        parts = [_draw(self.name, self.num, np.random.Generator(np.random.Philox(seed))) for seed in seeds]
        raw = np.concatenate([points for points, _ in parts])
        mean, scale = STANDARD[self.name]
        batch: dict[str, np.ndarray] = {"x": ((raw - mean) / scale).astype(np.float32)}
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
        """log p(x) in nats, f64[...], of the Gaussian mixtures and the half-moons. x: [..., 2] like the data.

        A moon is a half circle plus Gaussian noise, so its density is an integral along the arc. It is computed by
        Gauss-Legendre quadrature, exact up to rounding: nodes are at most half a standard deviation apart.

        Raises:
          UserError: the density has no such formula.
        """
        self._check()
        if not self.name.startswith("gaussians") and self.name != "moons":
            raise UserError(f"Toy2D {self.name!r} has no known density: choose moons, gaussians8 or gaussians25")
        mean, scale = STANDARD[self.name]
        if self.name == "moons":
            nodes, weights = np.polynomial.legendre.leggauss(MOON_NODES)
            centres = np.concatenate([_moon((nodes + 1) / 2, k) for k in (0, 1)])
            log_weight, std = np.log(np.tile(weights, 2) / 4), MOON_STD
        else:
            centres, std = _centres(self.name), STD
            log_weight = np.full(len(centres), -np.log(len(centres)))
        raw = np.asarray(x, np.float64) * scale + np.asarray(mean)
        square = sum((raw[..., None, i] - centres[:, i]) ** 2 for i in (0, 1))
        log_each = log_weight - square / (2 * std**2) - np.log(2 * np.pi * std**2)
        return np.logaddexp.reduce(log_each, axis=-1) + 2 * np.log(scale)

    def _check(self) -> None:
        if self.name not in CLASSES:
            raise UserError(
                f"Toy2D name is {self.name!r}{nearest(self.name, CLASSES)}: choose from {', '.join(CLASSES)}"
            )


def _centres(name: str) -> np.ndarray:
    """f64[K, 2]: eight points on the unit circle, or a 5 x 5 grid with unit spacing."""
    if name == "gaussians8":
        angle = np.arange(8) * np.pi / 4
        return np.stack([np.cos(angle), np.sin(angle)], -1)
    side = np.arange(-2.0, 3.0)
    return np.stack(np.meshgrid(side, side, indexing="ij"), -1).reshape(-1, 2)


def _moon(u: np.ndarray, k: int | np.ndarray) -> np.ndarray:
    """f64[N, 2]: the points at fraction u, f64[N], along the arc of the upper (k = 0) or the lower moon (k = 1)."""
    angle = np.pi * u
    upper = np.stack([np.cos(angle), np.sin(angle)], -1)
    return np.where(np.reshape(k, (-1, 1)) == 0, upper, (1, 0.5) - upper)


def _draw(name: str, n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """(raw points f64[N, 2], components int[N])."""
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
            # Radially stretched Gaussians, rotated by an angle that grows with the radius.
            radius, across = 1 + 0.3 * noise[:, 0], 0.1 * noise[:, 1]
            angle = 2 * np.pi * k / CLASSES[name] + 0.25 * np.exp(radius)
            cos, sin = np.cos(angle), np.sin(angle)
            points = np.stack([radius * cos - across * sin, radius * sin + across * cos], -1)
        case "checkerboard":
            # Eight of the sixteen unit cells of [-2, 2]^2: those whose row and column have equal parity.
            column, row = rng.integers(4, size=n), rng.integers(2, size=n)
            points = np.stack([column - 2 + u, 2 * row + column % 2 - 2 + rng.random(n)], -1)
        case "spirals":
            angle = 3 * np.pi * np.sqrt(u)
            sign = np.where(k == 0, 1.0, -1.0)
            points = (sign * angle)[:, None] * np.stack([np.cos(angle), np.sin(angle)], -1) / 5 + 0.05 * noise
    return points, k
