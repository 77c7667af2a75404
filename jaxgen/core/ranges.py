"""Ranges of configuration values, as types of fields: `width: Size = 64`.

`core.configuration.check_fields` holds all values of an experiment and of a command's options to them, and --help shows
them. Floats are finite. A field with a range of its own says it in place: `Annotated[int, Ge(1), Le(8)]`.
"""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Gt, Le, Lt, MinLen

# The upper ends are far above what a machine can do, and low enough to be refused at once.
Size = Annotated[int, Ge(1), Le(65_536)]
"""Widths, channels, heads, sides of pictures."""
OptionalSize = Annotated[int, Ge(0), Le(65_536)]
"""0 for none, or for a size that follows from others."""
Depth = Annotated[int, Ge(1), Le(1_000)]
"""Layers, blocks, levels."""
OptionalDepth = Annotated[int, Ge(0), Le(1_000)]
Steps = Annotated[int, Ge(1), Le(100_000)]
"""Steps of a schedule, a sampler or an inner loop."""
OptionalSteps = Annotated[int, Ge(0), Le(100_000)]
Samples = Annotated[int, Ge(1), Le(10_000_000)]
"""Samples or examples that are held in memory at once."""
Vocabulary = Annotated[int, Ge(1), Le(1 << 24)]
Count = Annotated[int, Ge(1), Le(1_000_000_000)]
"""Whatever else is counted and takes no memory."""
OptionalCount = Annotated[int, Ge(0), Le(1_000_000_000)]
Bits = Annotated[int, Ge(1), Le(8)]
"""Bits of each channel of a pixel."""
Seed = Annotated[int, Ge(0), Le((1 << 32) - 1)]
"""jax.random.key keeps 32 bits: a larger seed would repeat a smaller one."""
CheckpointStep = Annotated[int, Ge(-1), Le(1_000_000_000)]
"""-1 for the newest."""


@dataclass(frozen=True)
class Place:
    """Marks text that names a file or folder; `besides` are texts that name none."""

    besides: tuple[str, ...] = ()


PathName = Annotated[str, Place()]
"""A file or folder. A run keeps it absolute, so that it means the same from any working directory."""

Shape = Annotated[tuple[Size, ...], MinLen(1)]
Sizes = Annotated[tuple[Size, ...], MinLen(1)]
"""Widths of one layer after another."""

Positive = Annotated[float, Gt(0)]
NonNegative = Annotated[float, Ge(0)]
Fraction = Annotated[float, Ge(0), Le(1)]
"""Probabilities and shares."""
PositiveFraction = Annotated[float, Gt(0), Le(1)]
Decay = Annotated[float, Ge(0), Lt(1)]
"""Decay of a running mean; rates of dropout."""
