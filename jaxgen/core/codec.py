"""The interface between raw data and a model's space."""

from dataclasses import field
from typing import Any

import jax

from jaxgen.core.types import Batch


class Codec:
    """The interface. Both directions are pure and run inside the compiled functions."""

    def load(self, record: dict[str, Any] | None = None) -> "Codec":
        """The codec with what it reads from files in place. record: the `provenance` that a run began with, which is to
        be had again. Raises UserError when a file is missing or wrong."""
        return self

    @property
    def provenance(self) -> dict[str, Any]:
        """What was read from files, as JSON; empty where nothing is."""
        return {}

    def check_model(self, model: Any) -> None:
        """Raises UserError for a model that does not fit what this codec gives."""

    def encode(self, batch: Batch, key: jax.Array) -> Batch:
        """A raw batch with its fields in model space. `key` is for codecs that draw noise."""
        raise NotImplementedError

    def decode(self, x: jax.Array) -> jax.Array:
        """What a model samples, [N, ...], as raw data [N, ...]."""
        raise NotImplementedError


def static(default):
    """A configuration field: part of the type as jit sees it, not an array."""
    return field(default=default, metadata={"pytree_node": False})
