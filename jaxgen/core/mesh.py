"""One program over a mesh of devices, of one process or many: data parallel, sharded parameters, tensor parallel.

A mesh has the axes data, fsdp and tensor. A batch is split over data and fsdp together; parameters, optimizer state
and averages are split over fsdp, and those of attention and feed-forward layers over tensor too; everything else is
on every device. The compiler derives the communication from where arrays are said to lie (arXiv:2105.04663).
"""

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxgen.errors import UserError, nearest
from jaxgen.ops.placement import AXES, spec

PyTree = Any
BATCH = ("data", "fsdp")


def parse(text: str) -> dict[str, int]:
    """`data=4,fsdp=2` as sizes by axis. Raises UserError for another axis or no number."""
    sizes: dict[str, int] = dict.fromkeys(AXES, 1)
    for part in filter(None, text.split(",")):
        name, _, size = part.partition("=")
        if name not in AXES:
            raise UserError(f"mesh axis {name!r} is unknown{nearest(name, AXES)}: use {', '.join(AXES)}")
        if not size.isdecimal() or len(size) > 9 or int(size) < 1:
            raise UserError(f"mesh axis {name} has size {size!r}: a number from 1 is expected, as in data=4,fsdp=2")
        sizes[name] = int(size)
    return sizes


def size(text: str) -> int:
    """The number of devices of a mesh. Raises UserError as `parse`."""
    return math.prod(parse(text).values())


@dataclass(frozen=True)
class Layout:
    """The placement of arrays on a mesh. Hashable, so that the compiled functions take it as a static argument."""

    mesh: Mesh

    @classmethod
    def make(
        cls, text: str, batch_size: int = 0, parts: int = 1, devices: Sequence[Any] | None = None
    ) -> "Layout | None":
        """The layout of a mesh such as `data=4,fsdp=2`, or None for one device.

        An empty text is one device, or data parallel over all devices if there are several processes. parts: into how
        many parts each batch is cut for its gradient. devices: those that are here if None. Raises UserError if the
        mesh does not fit the devices or batch.
        """
        devices = jax.devices() if devices is None else devices
        sizes = parse(text or (f"data={len(devices)}" if jax.process_count() > 1 else ""))
        count, here = math.prod(sizes.values()), len(devices)
        if count == 1 and jax.process_count() == 1:
            return None
        if count > here or (jax.process_count() > 1 and count != here):
            raise UserError(f"mesh {text} is of {count} devices, {here} are here: choose sizes whose product is {here}")
        groups = sizes["data"] * sizes["fsdp"]
        if batch_size % (groups * parts):
            of = f" in {parts} parts" if parts > 1 else ""
            raise UserError(
                f"batch_size {batch_size}{of} does not split over data x fsdp = {groups}: choose a multiple of "
                f"{groups * parts}"
            )
        shape = tuple(sizes[axis] for axis in AXES)
        # Linen does not support explicit axes, the default.
        return cls(jax.make_mesh(shape, AXES, axis_types=(AxisType.Auto,) * 3, devices=devices[:count]))

    def spec(self, path: str, shape: tuple[int, ...]) -> P:
        """The placement of one array of a state, by its path and shape."""
        return spec(path, shape, self.mesh.shape)

    def state(self, tree: PyTree) -> PyTree:
        """A NamedSharding for each array of a state (or of its ShapeDtypeStructs)."""

        def place(path: tuple, leaf: Any) -> NamedSharding:
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            return NamedSharding(self.mesh, self.spec(name, leaf.shape))

        return jax.tree_util.tree_map_with_path(place, tree)

    def like(self, tree: PyTree) -> PyTree:
        """ShapeDtypeStructs of a state with the placement of its arrays, to restore a checkpoint into."""

        def place(leaf: Any, where: NamedSharding) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where)

        return jax.tree.map(place, tree, self.state(tree))

    def batch(self, leading: int = 0) -> NamedSharding:
        """The sharding of a batch, with `leading` axes before the axis of examples."""
        return NamedSharding(self.mesh, P(*[None] * leading, BATCH))

    @property
    def groups(self) -> int:
        """The number of parts that a batch is split into."""
        return self.mesh.shape["data"] * self.mesh.shape["fsdp"]

    @property
    def everywhere(self) -> NamedSharding:
        """The sharding of an array that every device holds whole."""
        return NamedSharding(self.mesh, P())

    # --- inside the compiled functions ---

    def active(self) -> AbstractContextManager:
        """While a program is traced: networks gather their parameters, see `jaxgen.ops.placement`."""
        return jax.sharding.use_abstract_mesh(self.mesh.abstract_mesh)

    def constrain_state(self, state: PyTree) -> PyTree:
        """Keeps a new state where the old one was: the compiler may otherwise move it, and then compile anew."""
        return jax.lax.with_sharding_constraint(state, self.state(state))

    def constrain_batch(self, batch: PyTree) -> PyTree:
        """Splits a batch over the devices."""
        return jax.lax.with_sharding_constraint(batch, jax.tree.map(lambda _: self.batch(), batch))

    def constrain_everywhere(self, tree: PyTree) -> PyTree:
        """Copies every array to every device, so that any process can read it."""
        return jax.lax.with_sharding_constraint(tree, jax.tree.map(lambda _: self.everywhere, tree))

    # --- from the host ---

    def put(self, value: PyTree, sharding: NamedSharding) -> PyTree:
        """Places arrays that every process holds whole on the mesh."""

        def one(array: Any) -> jax.Array:
            if isinstance(array, jax.Array) and jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
                data = one(np.asarray(jax.random.key_data(array)))
                return jax.random.wrap_key_data(data)
            array = np.asarray(array)
            return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])

        return jax.tree.map(one, value)

    def rows(self, batch_size: int) -> np.ndarray:
        """Indices, in rising order, of the examples that this process must read: those of its devices."""
        places = self.batch().addressable_devices_indices_map((batch_size,)).values()
        return np.unique(np.concatenate([np.arange(batch_size)[place] for place in places]))

    def put_rows(self, value: PyTree, batch_size: int) -> PyTree:
        """Batches [K, rows, ...] of this process, its `rows(batch_size)`, as global arrays [K, batch_size, ...]."""
        rows = self.rows(batch_size)

        def one(array: np.ndarray) -> jax.Array:
            def read(index: tuple[slice, ...] | None) -> np.ndarray:
                assert index is not None
                start, stop, _ = index[1].indices(batch_size)
                first = int(np.searchsorted(rows, start))
                return array[index[0], first : first + stop - start]

            shape = (len(array), batch_size, *array.shape[2:])
            return jax.make_array_from_callback(shape, self.batch(1), read)

        return jax.tree.map(one, value)


# --- processes ------------------------------------------------------------------------------------------------
def divisible(batch: int, layout: Layout | None) -> int:
    """`batch`, rounded up to a multiple that splits over the mesh."""
    groups = 1 if layout is None else layout.groups
    return -(-batch // groups) * groups
