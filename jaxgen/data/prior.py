"""Prior preservation, arXiv:2208.12242: new pictures beside those that a model draws already, to keep these."""

import math
from collections.abc import Mapping

import numpy as np

from jaxgen.core.types import RawBatch
from jaxgen.data.dataset import Dataset, RandomAccess, take
from jaxgen.errors import UserError


class WithPrior:
    """RandomAccess to the train split of `data`, then of `prior`, each repeated so often that the prior makes up
    `share` of all and no example is left out; and the captions of these, in order."""

    def __init__(self, data: Dataset, prior: Dataset, share: float):
        self.parts = [data.arrays("train"), prior.arrays("train")]
        sizes = [data.count("train"), prior.count("train")]
        shapes = [take(part, np.arange(1))["x"].shape[1:] for part in self.parts]
        if shapes[0] != shapes[1]:
            raise UserError(f"pictures have shape {shapes[0]}, those of the prior {shapes[1]}: draw these by the base")
        odds = share / (1 - share)
        self.counts = (max(sizes[0], math.ceil(sizes[1] / odds)), max(sizes[1], math.ceil(sizes[0] * odds)))
        self.sizes = sizes
        self.nbytes = sum(_bytes(part) for part in self.parts)
        each = (data.captions("train"), prior.captions("train"))
        self.captions = tuple(own[i % len(own)] for own, count in zip(each, self.counts) for i in range(count))

    def __len__(self) -> int:
        return sum(self.counts)

    def take(self, indices: np.ndarray) -> RawBatch:
        """x alone: classes of the two need not be the same."""
        of_prior = indices >= self.counts[0]
        places = (indices % self.sizes[0], (indices - self.counts[0]) % self.sizes[1])
        rows = [take(part, place)["x"] for part, place in zip(self.parts, places)]
        return {"x": np.where(of_prior.reshape(-1, 1, 1, 1), rows[1], rows[0])}


def _bytes(part: RawBatch | RandomAccess) -> int:
    return sum(array.nbytes for array in part.values()) if isinstance(part, Mapping) else part.nbytes
