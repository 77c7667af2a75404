"""What a model needs for compression without loss, as protocols."""

from typing import Protocol, runtime_checkable

import jax

from jaxgen.core.types import PyTree, TrainState


@runtime_checkable
class EntropyModel(Protocol):
    """Gives one symbol after another its probabilities, to compress by. Its methods run compiled. position: i32[],
    counts the symbols of an image row by row, in each column by column, in each channel by channel."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of images, (H, W, C)."""
        ...

    @property
    def code_levels(self) -> int:
        """Values K of a symbol; level k stands for the raw value 255 k / (K - 1)."""
        ...

    def code_init(self, state: TrainState, num: int, cond: PyTree) -> PyTree:
        """What is carried from symbol to symbol of `num` images; cond: i32[num] or None."""
        ...

    def code_next(self, state: TrainState, cache: PyTree, position: jax.Array) -> tuple[PyTree, jax.Array]:
        """The cache, and the probabilities of the symbol at `position` given those before it, f32[num, K], up to a
        factor. Called once for each position in turn."""
        ...

    def code_push(self, state: TrainState, cache: PyTree, position: jax.Array, symbols: jax.Array) -> PyTree:
        """`cache` once `symbols`, i32[num], stand at `position`."""
        ...


@runtime_checkable
class MapsSymbols(Protocol):
    """An `EntropyModel` whose symbols are no pixels, but what a permutation of all images makes of them."""

    def map_symbols(self, state: TrainState, symbols: jax.Array, cond: PyTree, inverse: jax.Array) -> jax.Array:
        """Symbols, i32[num, D] in the order of their positions, of the levels i32[num, D] of pixels in raster order;
        or, where `inverse`, bool[], is true, the levels of symbols. One compiled program computes both, so that no
        rounding differs between them."""
        ...


# --- scenes ---------------------------------------------------------------------------------------------------
