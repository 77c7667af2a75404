"""Points of the plane under the energies of arXiv:1505.05770, for what is trained on an energy and no data."""

import dataclasses

import numpy as np

from jaxgen.core.ranges import Samples
from jaxgen.core.types import RawBatch
from jaxgen.data.dataset import Dataset
from jaxgen.ops.energies import REACH, SIDE, Energy, energy, grid, log_normalizer


@dataclasses.dataclass(frozen=True, kw_only=True)
class Energy2D(Dataset):
    """x: f32[N, 2] points of exp(-U(z)) / Z, drawn exactly but that the density is constant within squares of 0.02.

    "train" and "test" are `num` points each, drawn with different fixed seeds.
    """

    name: Energy = "u1"
    num: Samples = 10_000
    """Points in each split."""

    def load(self, split: str) -> RawBatch:
        seeds = {"train": (0,), "test": (1,), "all": (0, 1)}[split]
        places = grid().reshape(-1, 2)
        mass = np.cumsum(np.exp(-energy(self.name, places)))
        parts = []
        for seed in seeds:
            rng = np.random.Generator(np.random.Philox(seed))
            chosen = np.searchsorted(mass, rng.random(self.num) * mass[-1], side="right")
            within = (rng.random((self.num, 2)) - 0.5) * (2 * REACH / SIDE)
            parts.append(places[np.minimum(chosen, len(places) - 1)] + within)
        return {"x": np.concatenate(parts).astype(np.float32)}

    def log_density(self, x: np.ndarray) -> np.ndarray:
        """log p(x) in nats, f64[...]; x: [..., 2]."""
        return -energy(self.name, np.asarray(x, np.float64)) - log_normalizer(self.name)
