"""`Module.apply` as two functions, since Flax types its answer as a union of both cases."""

from collections.abc import Mapping, Sequence
from typing import Any

from flax import linen as nn

from jaxgen.core.types import PyTree


def apply(network: nn.Module, variables: Mapping[str, PyTree], *args: Any, **kwargs: Any) -> Any:
    """The network's output. The pass may change no variables: raises TypeError when given `mutable`."""
    if "mutable" in kwargs:
        raise TypeError("a pass with mutable collections returns them too: use apply_mutable")
    return network.apply(variables, *args, **kwargs)


def apply_mutable(
    network: nn.Module, variables: Mapping[str, PyTree], *args: Any, mutable: Sequence[str], **kwargs: Any
) -> tuple[Any, dict[str, PyTree]]:
    """The network's output, and the collections named in `mutable` as the pass left them."""
    output, changed = network.apply(variables, *args, mutable=list(mutable), **kwargs)
    return output, dict(changed)
