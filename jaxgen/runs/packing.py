"""Arrays of a state by name, small ones joined: orbax spends two milliseconds on each array of a checkpoint."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec, Sharding

from jaxgen.core.compiled import QUICK_TO_COMPILE
from jaxgen.core.types import TrainState

SMALL = 1 << 20  # bytes up to which an array is packed with others

Packs = dict[str, list[str]]
"""Names of the arrays in each pack, in order."""


def _name(path: tuple) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".")


@partial(jax.jit, compiler_options=QUICK_TO_COMPILE)
def _joined(leaves: list[jax.Array]) -> jax.Array:
    return jnp.concatenate([leaf.reshape(-1) for leaf in leaves])


def pack(state: TrainState) -> tuple[dict[str, jax.Array], Packs]:
    """The arrays of a state by name, and the contents of the packs. Small arrays that every device holds whole are
    joined, one pack for each field of the state and each dtype."""
    arrays: dict[str, jax.Array] = {}
    groups: dict[str, list[tuple[str, jax.Array]]] = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(state)[0]:
        if leaf.nbytes <= SMALL and leaf.sharding.is_fully_replicated:
            groups.setdefault(f"{_name(path[:1])}-{leaf.dtype}", []).append((_name(path), leaf))
        else:
            arrays[_name(path)] = leaf
    packs = {group: [name for name, _ in members] for group, members in groups.items()}
    return arrays | {group: _joined([leaf for _, leaf in members]) for group, members in groups.items()}, packs


def to_read(like: TrainState, packs: Packs) -> dict[str, jax.ShapeDtypeStruct]:
    """The arrays to read from a checkpoint with these packs for a state like `like`."""
    leaves = {_name(path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(like)[0]}
    wanted = {}
    for group, names in packs.items():
        if names[0] not in leaves:
            continue
        first = leaves[names[0]]
        size = sum(leaves[name].size for name in names)
        sharding = first.sharding
        if isinstance(sharding, NamedSharding):
            sharding = NamedSharding(sharding.mesh, PartitionSpec())
        wanted[group] = jax.ShapeDtypeStruct((size,), first.dtype, sharding=sharding)
    packed = {name for names in packs.values() for name in names}
    alone = {name: leaf for name, leaf in leaves.items() if name not in packed}
    return wanted | {n: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=a.sharding) for n, a in alone.items()}


def unpack(arrays: dict[str, jax.Array], like: TrainState, packs: Packs) -> TrainState:
    """The inverse of `pack`, placed like `like`. Raises ValueError if an array is missing."""
    found: dict[str, jax.Array | np.ndarray] = dict(arrays)
    paths, shape = jax.tree_util.tree_flatten_with_path(like)
    leaves = {_name(path): leaf for path, leaf in paths}
    for group, names in packs.items():
        if group in arrays:
            # On the host: cutting a jax.Array up is a program to compile for every part.
            joined, start = np.asarray(arrays[group]), 0
            for name in names:
                found[name] = joined[start : start + leaves[name].size].reshape(leaves[name].shape)
                start += leaves[name].size
    for name in leaves:
        if not isinstance(found.get(name), jax.Array | np.ndarray):  # partial_restore leaves what it does not find
            raise ValueError(f"there is no {name}")
    return jax.tree.unflatten(shape, [placed(found[name], leaf.sharding) for name, leaf in leaves.items()])


def placed(array: jax.Array | np.ndarray, where: Sharding | None) -> jax.Array:
    """The array on the devices. Orbax gives host arrays if no placement was asked for; they are copied, as a state is
    donated."""
    if isinstance(array, jax.Array):
        return array
    if where is None:
        return jnp.array(array)
    # Not device_put, which asks all processes whether they mean the same array.
    return jax.make_array_from_callback(array.shape, where, lambda index: array[index].copy())
