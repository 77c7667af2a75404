"""The interface of codecs, which convert raw data to model space and back."""

from collections.abc import Iterable
from dataclasses import field
from typing import Any

import jax

from jaxgen.core.types import Batch, RawBatch
from jaxgen.errors import UserError


class Codec:
    """The interface. Both directions are pure and run inside the compiled functions."""

    def load(self, record: dict[str, Any] | None = None) -> "Codec":
        """The codec after it has read its files. record: the `provenance` that a run began with, which the files must
        match. Raises UserError if a file is missing or wrong."""
        return self

    @property
    def provenance(self) -> dict[str, Any]:
        """What was read from files, as JSON; empty if nothing was."""
        return {}

    def measured(self, batches: Iterable[RawBatch]) -> "Codec":
        """The codec after it has measured what it must of training examples; `provenance` then says it. Called once,
        when a run begins: a run that is gone on with has the numbers in its record."""
        return self

    @property
    def draws(self) -> bool:
        """Whether `encode` draws noise."""
        return True

    @property
    def encode_once(self) -> bool:
        """Whether examples are better encoded before training than in every step: the encoder is a network."""
        return False

    def apart(self) -> "tuple[Codec, Codec | None]":
        """What encodes examples, and what batches of encoded ones still go through; None for nothing."""
        return self, None

    def fitted(self, shape: tuple[int, ...]) -> "Codec":
        """The codec, not loaded yet, for raw examples of `shape`."""
        return self

    def shape_of(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape in model space of raw examples of `shape`. Raises UserError if they cannot be encoded."""
        return shape

    def raw_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of raw examples that have `shape` in model space."""
        return shape

    def check_model(self, model: Any) -> None:
        """Raises UserError if the model does not fit the codec's output."""

    def encode(self, batch: Batch, key: jax.Array) -> Batch:
        """A raw batch in model space. `key` is for codecs that draw noise."""
        raise NotImplementedError

    def decode(self, x: jax.Array) -> jax.Array:
        """A model's samples, [N, ...], as raw data [N, ...]."""
        raise NotImplementedError

    def unrounded(self, x: jax.Array) -> jax.Array:
        """`decode` without rounding and clipping, differentiable in x: images f32[N, H, W, C] of which black is 0 and
        white 1. Raises UserError for a codec that has none."""
        raise UserError(f"images of the codec {type(self).__name__} cannot be had unrounded: Pixels is one that can")


def static(default):
    """A configuration field: jit treats it as part of the type, not as an array."""
    return field(default=default, metadata={"pytree_node": False})
