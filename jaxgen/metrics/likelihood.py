"""Likelihoods in the units that papers report."""

import math
from dataclasses import dataclass
from typing import TypeVar

import jax

from jaxgen.errors import UserError
from jaxgen.metrics.collect import Mean, Rows

Number = TypeVar("Number", float, jax.Array)


def bits_per_dim(nats: Number, dims: int, bits: int = 0) -> Number:
    """-log2 p per dimension, from -log p in nats of an example with `dims` dimensions (H * W * C).

    bits: the change of variables per dimension. For a density over `bits`-bit integers rescaled to unit width it is
    `bits`, such as 8 for dequantized pixels divided by 256; for a probability of the integers themselves it is 0.
    """
    if dims < 1:
        raise UserError(f"dims is {dims}: it must be the number of values in one example")
    return nats / (dims * math.log(2)) + bits


def nats(bits_per_dimension: Number, dims: int, bits: int = 0) -> Number:
    """The inverse of `bits_per_dim`."""
    return (bits_per_dimension - bits) * (dims * math.log(2))


@dataclass(frozen=True, kw_only=True, eq=False)
class Likelihood(Mean):
    """Mean negative log-likelihood, from nats per example f32[B]: {nats, bits_per_dim} with standard errors."""

    dims: int
    bits: int = 0
    name: str = "nats"

    def compute(self, state: Rows) -> dict[str, float]:
        found = super().compute(state)
        spread = bits_per_dim(found["nats_stderr"], self.dims)
        return {**found, "bits_per_dim": bits_per_dim(found["nats"], self.dims, self.bits),
                "bits_per_dim_stderr": spread}  # fmt: skip
