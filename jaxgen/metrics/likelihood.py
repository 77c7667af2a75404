"""Likelihoods of held-out data in the units that papers report."""

import math
from dataclasses import dataclass

import jax

from jaxgen.errors import UserError
from jaxgen.metrics.collect import Mean, Rows


def bits_per_dim(nats: jax.Array, dims: int, bits: int = 0) -> jax.Array:
    """-log2 p per dimension from -log p in nats of an example with `dims` dimensions (H * W * C).

    bits: for a density over data scaled from `bits`-bit integers to unit width, what the change of variables adds for
    each dimension: 8 for pixels dequantized and divided by 256; 0 for a probability of the integers themselves.
    """
    if dims < 1:
        raise UserError(f"dims is {dims}: the number of values in one example is expected")
    return nats / (dims * math.log(2)) + bits


def nats(bits_per_dimension: jax.Array, dims: int, bits: int = 0) -> jax.Array:
    """The inverse of `bits_per_dim`."""
    return (bits_per_dimension - bits) * (dims * math.log(2))


@dataclass(frozen=True, kw_only=True, eq=False)
class Likelihood(Mean):
    """Mean negative log-likelihood from nats per example f32[B]: {nats, bits_per_dim} with standard errors."""

    dims: int
    bits: int = 0
    name: str = "nats"

    def compute(self, state: Rows) -> dict[str, float]:
        found = super().compute(state)
        spread = bits_per_dim(found["nats_stderr"], self.dims)
        return {**found, "bits_per_dim": bits_per_dim(found["nats"], self.dims, self.bits),
                "bits_per_dim_stderr": spread}  # fmt: skip
