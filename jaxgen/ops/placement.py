"""Where parameters lie on a mesh with the axes data, fsdp and tensor, and where they are gathered.

Between steps each device holds a share of each parameter, split over fsdp. A layer computes with whole kernels and its
share of the batch (ZeRO, arXiv:1910.02054): without being told so the compiler takes fsdp for a split of channels, and
sends activations instead, which are larger.
"""

import re
from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import PartitionSpec as P

AXES = ("data", "fsdp", "tensor")
TENSOR_RULES = (
    # The first layer of a pair splits its outputs, the second its inputs: one sum over devices for each pair
    # (section 3 of arXiv:1909.08053).
    (re.compile(r"(qkv|query|key|value|up)/kernel$"), -1),
    (re.compile(r"(qkv|query|key|value|up)/bias$"), -1),
    # Inputs are counted from the end: blocks that are scanned stack their kernels as [depth, in, out].
    (re.compile(r"(attention|Attention|mlp|MLP)\w*/(.*/)?(out|down)/kernel$"), -2),
)
STACK = "blocks"
"""The name of layers whose parameters are stacked and scanned: each is gathered in its turn."""
GATHERED = "gathered"
"""What gathered kernels are called in the policy of a `jax.checkpoint`: they are not kept for the backward pass."""


def spec(path: str, shape: tuple[int, ...], sizes: Mapping[str, int]) -> P:
    """The placement of one array of a state by its path and shape. sizes: of the mesh's axes."""
    axes: list[str | None] = [None] * len(shape)
    tensor, fsdp = sizes["tensor"], sizes["fsdp"]
    for rule, axis in TENSOR_RULES:
        if tensor > 1 and rule.search(path) and shape[axis] % tensor == 0:
            axes[axis] = "tensor"
            break
    free = [i for i, size in enumerate(shape) if axes[i] is None and size % fsdp == 0 and size > 0]
    if fsdp > 1 and free:
        axes[max(free, key=lambda i: shape[i])] = "fsdp"
    # Trailing Nones have no meaning, but jit compiles anew for specs that differ in them.
    while axes and axes[-1] is None:
        axes.pop()
    return P(*axes)


def splits_parameters() -> bool:
    """Whether the program that is being traced is for a mesh with an axis fsdp, see `Layout.active`."""
    mesh = jax.sharding.get_abstract_mesh()
    return not mesh.empty and dict(mesh.shape).get("fsdp", 1) > 1


def gathered(params: Any, dtype: Any = None) -> Any:
    """Parameters of a network or a layer, whole along fsdp; as they are without such a mesh, and where they are a
    stack of layers. Their gradients are split as the parameters are.

    dtype: that kernels are computed in, and so are sent in.
    """
    if not splits_parameters():
        return params
    sizes = dict(jax.sharding.get_abstract_mesh().shape)

    def gather(path: tuple, leaf: Any) -> Any:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if STACK in name.split("/")[:-1]:
            return leaf
        where = spec(name, leaf.shape, sizes)
        if "fsdp" not in where:
            return leaf
        if dtype is not None and name.endswith("kernel"):
            leaf = leaf.astype(dtype)
        return _whole(leaf, where)

    return jax.tree_util.tree_map_with_path(gather, params)


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def _whole(leaf: jax.Array, where: P) -> jax.Array:
    gathered = P(*(None if axis == "fsdp" else axis for axis in where))
    return checkpoint_name(jax.lax.with_sharding_constraint(leaf, gathered), GATHERED)


@_whole.defjvp
def _whole_jvp(where: P, primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    """The tangent stays split, and with it the gradient: each device sums up its share alone, which takes half of the
    traffic of a sum that all have."""
    return _whole(primals[0], where), jax.lax.with_sharding_constraint(tangents[0], where)


keeps_all_but_gathered = jax.checkpoint_policies.save_anything_except_these_names(GATHERED)
"""A policy of `jax.checkpoint`: kernels are gathered again for the backward pass, all else is kept."""
