"""`Module.apply` as two functions, since Flax types its answer as a union of both cases."""

from collections.abc import Mapping, Sequence
from typing import Any

from flax import linen as nn

from jaxgen.core.types import PyTree
from jaxgen.ops.placement import gathered, keeps_all_but_gathered, splits_parameters


def apply(network: nn.Module, variables: Mapping[str, PyTree], *args: Any, **kwargs: Any) -> Any:
    """The network's output. The pass may change no variables: raises TypeError when given `mutable`."""
    if "mutable" in kwargs:
        raise TypeError("a pass with mutable collections returns them too: use apply_mutable")
    return network.apply(_gathered(network, variables), *args, **kwargs)


def apply_mutable(
    network: nn.Module, variables: Mapping[str, PyTree], *args: Any, mutable: Sequence[str], **kwargs: Any
) -> tuple[Any, dict[str, PyTree]]:
    """The network's output, and the collections named in `mutable` as the pass left them."""
    output, changed = network.apply(_gathered(network, variables), *args, mutable=list(mutable), **kwargs)
    return output, dict(changed)


def _gathered(network: nn.Module, variables: Mapping[str, PyTree]) -> Mapping[str, PyTree]:
    """The variables with whole parameters, if a mesh splits them."""
    if not splits_parameters():
        return variables
    return {**variables, "params": gathered(variables["params"], getattr(network, "dtype", None))}


SHALLOW = 6
"""Blocks of a stack that is written out whole: the backward pass then copies no residuals into arrays of all blocks
and out again, without which a GPT of four takes four fifths of the time on a CPU, and compiles no longer."""


def blocks_in_turn(depth: int) -> int:
    """How many blocks one turn of the scan over a stack of `depth` computes; two of a deep one, which halves the
    copies and leaves the time to compile as it is for any depth."""
    return depth if depth <= SHALLOW else 2


def scanned_block(kind: Any, remat: bool, dtype: Any = None) -> Any:
    """`kind`, a Linen module whose instances are scanned as `placement.STACK`: it recomputes its activations with
    `remat`, and on a mesh that splits parameters it gathers its own, in `dtype`, and again in the backward pass."""
    if not splits_parameters():
        return nn.remat(kind, prevent_cse=False) if remat else kind
    whole = nn.map_variables(kind, "params", lambda params: gathered(params, dtype))
    return nn.remat(whole, prevent_cse=False, policy=None if remat else keeps_all_but_gathered)
