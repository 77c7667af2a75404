"""Which parameters are hidden matrices, by the names and shapes that the networks here give them: what Muon moves."""

import re
from collections.abc import Iterator
from typing import Any

import jax
import optax

STACKS = re.compile(r"^(blocks|steps\d*)$")
"""Names of layers whose parameters are stacked, with one more axis in front, and scanned."""
ENDS = re.compile(
    r"(^|/)(conv_in|conv_out|conv_pre|conv_post|patches|label|classes|time_in|head)(/conv)?/kernel$|^([^/]+/)?(in|out)/kernel$"
)
"""Paths of the kernels that see data, labels or times first, and that give the answer."""
NUMBERED = re.compile(r"^Dense_(\d+)$")
NARROW = 4
"""Kernels from or to so few channels at most are of pixels: of the first and the last layer."""


def hidden_matrices(params: optax.Params) -> Any:
    """Which arrays Muon moves, and as which matrices: optax's `MuonDimensionNumbers` of these, None for all others.

    The kernels of hidden layers: of dense ones [in, out], of convolutions [height * width * in, out], each layer of a
    stack for itself. Not embeddings, nor what `ENDS` names, nor kernels of pixels (`NARROW`), nor the first and last of
    the layers Dense_0, Dense_1, ... whose kernels are all of a network's; nor triangles and adapters, factors both.
    """

    def missing(leaf: Any) -> bool:
        return leaf is None or isinstance(leaf, optax.MaskedNode)

    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(params, is_leaf=missing)]
    outer = set(_first_and_last(paths))

    def choose(path: tuple, leaf: Any) -> Any:
        name = _name(path)
        *above, last = name.split("/")
        axes = leaf.ndim - any(map(STACKS.match, above))
        if last != "kernel" or axes < 2 or ENDS.search(name) or name in outer or min(leaf.shape[-2:]) <= NARROW:
            return None
        return optax.contrib.MuonDimensionNumbers(tuple(range(-axes, -1)), (-1,))

    return jax.tree_util.tree_map_with_path(choose, params)


def _first_and_last(paths: list[tuple]) -> Iterator[str]:
    """The paths of the outer kernels of networks that consist of numbered dense layers."""
    layers: dict[str, set[str]] = {}
    for path in paths:
        *scope, layer, name = ("", *_name(path).split("/"))
        if name == "kernel":
            layers.setdefault("/".join(scope[1:]), set()).add(layer)
    for scope, names in layers.items():
        numbers = sorted(int(found[1]) for found in map(NUMBERED.match, names) if found)
        if len(numbers) == len(names):
            for number in (numbers[0], numbers[-1]):
                yield f"{scope}/Dense_{number}/kernel".lstrip("/")


def _name(path: tuple) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")
