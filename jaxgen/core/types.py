"""The train state, and what a batch and metrics are."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from flax import struct

PyTree = Any
Batch = Mapping[str, jax.Array]
"""Examples on the devices, by field: `x`, and `cond` where the data has it."""
RawBatch = Mapping[str, np.ndarray]
"""Examples on the host, as a data set gives them."""
Metrics = dict[str, jax.Array]


class TrainState(struct.PyTreeNode):
    """Everything a run changes, and nothing else.

    step: i32[], optimizer steps taken. params, opt_state: one entry per network; opt_state also has running averages
    that no samples are drawn by. ema: the averaged copy of params, or None when the model keeps none. extra: state that
    no gradient moves (batch statistics, codebooks, buffers).
    """

    step: jax.Array
    params: dict[str, PyTree]
    opt_state: dict[str, PyTree]
    ema: dict[str, PyTree] | None = None
    extra: dict[str, PyTree] = struct.field(default_factory=dict)

    @property
    def sampling_field(self) -> str:
        """Which parameters samples are drawn with: `ema` where the model keeps averaged ones, else `params`."""
        return "params" if self.ema is None else "ema"

    @property
    def sampling_params(self) -> dict[str, PyTree]:
        """The parameters of `sampling_field`."""
        return getattr(self, self.sampling_field)
