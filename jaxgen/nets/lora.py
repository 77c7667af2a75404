"""Low-rank adaptation, arXiv:2106.09685: of a network's kernels W stays, and W + s A B computes, A and B being trained.

`adapted` wraps any Linen network. Its parameters are {"base": those of the network itself, "lora": at the path of each
kernel that is adapted, `lora_a`, `lora_b` and `lora_scale`}. They are merged before every pass, so layers of any kind
compute as they are. B starts from zero: the network at step 0 is the one that it adapts.

Shapes, r being the rank:

    kernel                           lora_a               lora_b         lora_scale
    dense        [in, out]           [in, r]              [r, out]       []
    convolution  [h, w, in, out]     [h, w, in, r]        [r, out]       []
    layers that are scanned have an axis [depth] before all of these.
"""

import functools
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxgen.core.ranges import NonNegative, OptionalSize
from jaxgen.core.types import PyTree

Network = TypeVar("Network", bound=nn.Module)

TRAINED = "/lora_[ab]$"
"""The paths of what is trained of an adapted network, as a regular expression."""


@dataclass(frozen=True)
class LoRA:
    """Low-rank adaptation of a model's networks, which --init names: W + scale A B, of which A and B are trained."""

    rank: OptionalSize = 0
    """Of A B; 0 for no adaptation."""
    alpha: NonNegative = 0.0
    """scale is alpha / rank; 1 when alpha is 0."""
    targets: str = ""
    """A regular expression searched in the paths of kernels, as in network/body/blocks/self_attention/qkv/kernel, whose
    first name is the network's flag; those with a match are adapted, all when empty."""
    rslora: bool = False
    """scale is alpha / sqrt(rank), arXiv:2312.03732, with which large ranks learn as fast as small ones."""

    def problem(self) -> str | None:
        try:
            re.compile(self.targets)
        except re.error as error:
            return f"targets is {self.targets!r}, no regular expression: {error}"

    @property
    def scale(self) -> float:
        """s of W + s A B."""
        return (self.alpha or self.rank) / (math.sqrt(self.rank) if self.rslora else self.rank)


def adapted(network: Network, settings: LoRA, name: str = "") -> Network:
    """The network with adapters beside its parameters. It stays an instance of its class, with all fields and methods;
    only `init` and `apply` differ. name: the first one of the paths that `targets` is searched in."""
    own = {f.name: getattr(network, f.name) for f in fields(network) if f.init and f.name not in ("parent", "name")}
    return _adapted_class(type(network))(**own, lora=settings, lora_name=name)


def adapted_like(part: nn.Module, whole: Network) -> Network:
    """`whole`, a network that contains `part`, adapted if that is: adapters lie beside the parameters of the whole."""
    settings = getattr(part, "lora", None)
    return adapted(whole, settings, getattr(part, "lora_name", "")) if isinstance(settings, LoRA) else whole


@functools.cache  # one class for each, so that equal networks stay equal
def _adapted_class(kind: type) -> Any:
    class Adapted(kind):
        lora: LoRA = LoRA()
        lora_name: str = ""

        @nn.nowrap
        def init(self, rngs: Any, *args: Any, **kwargs: Any) -> dict[str, PyTree]:
            variables = dict(kind.init(self, rngs, *args, **kwargs))
            key = jax.random.fold_in(rngs["params"] if isinstance(rngs, Mapping) else rngs, len("lora"))
            base = variables.get("params", {})
            return {**variables, "params": {"base": base, "lora": start(key, base, self.lora, self.lora_name)}}

        @nn.nowrap
        def apply(self, variables: Mapping[str, PyTree], *args: Any, **kwargs: Any) -> Any:
            return kind.apply(self, {**variables, "params": merged(variables["params"])}, *args, **kwargs)

    Adapted.__name__, Adapted.__qualname__ = kind.__name__, kind.__qualname__
    return Adapted


def start(key: jax.Array, base: PyTree, settings: LoRA, name: str = "") -> dict[str, Any]:
    """Adapters at step 0 of the parameters of a network: A from U(-1, 1) / sqrt(fan in) as in PEFT, B from 0."""
    found: dict[str, Any] = {}
    kernels = target_kernels(base, settings.targets, name)
    for i, (path, kernel) in enumerate(kernels.items()):
        stack = stack_of(kernel.shape)
        bound = 1 / math.sqrt(math.prod(kernel.shape[len(stack) : -1]))
        key_a, shape = jax.random.fold_in(key, i), (*kernel.shape[:-1], settings.rank)
        adapter = {
            "lora_a": jax.random.uniform(key_a, shape, minval=-bound, maxval=bound),
            "lora_b": jnp.zeros((*stack, settings.rank, kernel.shape[-1])),
            "lora_scale": jnp.full(stack, settings.scale, jnp.float32),
        }
        put(found, path, adapter)
    return found


def target_kernels(base: PyTree, targets: str, name: str = "") -> dict[tuple[str, ...], Any]:
    """The kernels of a network that `targets` means, by their paths."""
    found = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(base):
        names = tuple(jax.tree_util.keystr((part,), simple=True) for part in path)
        whole = "/".join([name, *names] if name else names)
        if names[-1] == "kernel" and leaf.ndim >= 2 and re.search(targets, whole):
            found[names] = leaf
    return found


def put(tree: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    """Writes a value into nested dicts at a path."""
    for name in path[:-1]:
        tree = tree.setdefault(name, {})
    tree[path[-1]] = value


def stack_of(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The axes of a kernel that count layers: matrices have 2 axes, convolutions of images 4, one more if scanned."""
    return shape[: len(shape) % 2]


def is_adapted(params: PyTree) -> bool:
    """Whether these are the parameters of an adapted network."""
    return isinstance(params, Mapping) and set(params) == {"base", "lora"}


def base_of(params: PyTree) -> PyTree:
    """The network's own parameters, without what adapters add."""
    return params["base"] if is_adapted(params) else params


def merged(params: PyTree, strength: float = 1.0) -> PyTree:
    """The parameters that an adapted network computes with, in the form of its own; those of others as they are.
    strength: a factor of what adapters add, 0 for the network without them."""
    return _merged(params["base"], params["lora"], strength) if is_adapted(params) else params


def _merged(base: PyTree, lora: Mapping[str, Any], strength: float) -> PyTree:
    if "lora_a" in lora:
        return base + (change(lora) * strength).astype(base.dtype)
    return {name: _merged(part, lora[name], strength) if name in lora else part for name, part in base.items()}


def change(adapter: Mapping[str, jax.Array]) -> jax.Array:
    """s A B of one adapter, of the kernel's shape."""
    a, b, scale = adapter["lora_a"], adapter["lora_b"], adapter["lora_scale"]
    b = jnp.expand_dims(b, tuple(range(scale.ndim, a.ndim - 2)))  # height and width of a convolution
    product = jnp.matmul(a, jnp.broadcast_to(b, (*a.shape[:-2], *b.shape[-2:])), precision="highest")
    return product * jnp.expand_dims(scale, tuple(range(scale.ndim, a.ndim)))


def adapters_in(lora: Mapping[str, Any]) -> dict[str, Mapping[str, jax.Array]]:
    """The adapters of a network by the paths of their kernels."""
    if "lora_a" in lora:
        return {"": lora}
    inner = {name: adapters_in(part) for name, part in lora.items()}
    return {f"{name}/{path}".rstrip("/"): found for name, part in inner.items() for path, found in part.items()}


def merged_networks(params: PyTree, strength: float = 1.0) -> PyTree:
    """`merged` of each network of a state's parameters."""
    return {name: merged(tree, strength) for name, tree in params.items()}
