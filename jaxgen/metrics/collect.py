"""The accumulator that keeps every row (features, logits or one number per example), for metrics that need them all."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from jaxgen.errors import UserError


@struct.dataclass
class Rows:
    """values: f32[capacity, dim], filled from the first row on. count: i32[], the number of rows seen."""

    values: jax.Array
    count: jax.Array


@partial(jax.jit, donate_argnums=0)
def _append(state: Rows, rows: jax.Array, mask: jax.Array) -> Rows:
    place = state.count + jnp.cumsum(mask) - 1
    # Rows placed out of range are dropped: padding, and rows beyond the capacity, which `rows` reports.
    place = jnp.where(mask, place, state.values.shape[0])
    values = state.values.at[place].set(rows.astype(jnp.float32), mode="drop")
    return Rows(values, state.count + jnp.sum(mask, dtype=jnp.int32))


@dataclass(frozen=True, kw_only=True, eq=False)
class Collect:
    """Up to `capacity` rows of `dim` numbers, on the device.

    `init()` -> state; `update(state, rows, mask)` -> state, which can be traced and donates `state`; `compute(state)`.
    Rows may be sharded over any mesh. Rows where mask is False, the padding of a last batch, are ignored.
    """

    capacity: int
    dim: int = 1

    def init(self) -> Rows:
        if self.capacity < 1 or self.dim < 1:
            raise UserError(f"capacity is {self.capacity}, dim is {self.dim}: both must be 1 or more")
        return Rows(jnp.zeros((self.capacity, self.dim)), jnp.zeros((), jnp.int32))

    def update(self, state: Rows, rows: jax.Array, mask: jax.Array | None = None) -> Rows:
        """Appends rows f32[B, dim], or f32[B] if dim is 1. mask: bool[B]; None means all True."""
        rows = rows[:, None] if rows.ndim == 1 else rows
        if rows.ndim != 2 or rows.shape[1] != self.dim:
            raise UserError(f"rows have shape {rows.shape}: [B, {self.dim}] is expected")
        mask = jnp.ones(rows.shape[0], bool) if mask is None else jnp.asarray(mask)
        if mask.shape != rows.shape[:1] or mask.dtype != bool:
            raise UserError(f"mask is {mask.dtype}{list(mask.shape)}: bool[{rows.shape[0]}] is expected")
        return _append(state, rows, mask)

    def rows(self, state: Rows) -> np.ndarray:
        """The rows collected, f32[n, dim]. Raises UserError for none, or for more than the capacity."""
        count = int(state.count)
        if not 1 <= count <= self.capacity:
            raise UserError(f"{count} rows were collected, but 1 to {self.capacity} are expected: change the capacity")
        return np.asarray(state.values)[:count]

    def compute(self, state: Rows) -> Any:
        """The metric's value; here the rows themselves."""
        return self.rows(state)


@dataclass(frozen=True, kw_only=True, eq=False)
class Mean(Collect):
    """Mean of one number per example, with its standard error, summed in f64 so that batching does not matter."""

    name: str = "mean"

    def compute(self, state: Rows) -> dict[str, float]:
        """{name, name_stderr, num}."""
        values = self.rows(state)[:, 0].astype(np.float64)
        stderr = float(values.std(ddof=1) / len(values) ** 0.5) if len(values) > 1 else 0.0
        return {self.name: float(values.mean()), f"{self.name}_stderr": stderr, "num": len(values)}
