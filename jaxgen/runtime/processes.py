"""The processes of one run: which of them writes, and what all of them agree on."""

import math
import socket
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxgen.core.types import PyTree
from jaxgen.errors import UserError

T = TypeVar("T")


def is_main() -> bool:
    """Whether this process is the one that writes and prints."""
    return jax.process_index() == 0


def whole(tree: PyTree) -> PyTree:
    """Arrays as NumPy, whole in every process, wherever on the mesh they lie."""

    def one(leaf: Any) -> np.ndarray:
        if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
            return multihost_utils.process_allgather(leaf, tiled=True)
        return np.asarray(leaf)

    return jax.tree.map(one, tree)


def any_process(flag: bool) -> bool:
    """Whether `flag` is set in any process; every process is to ask at the same point."""
    return flag if jax.process_count() == 1 else bool(multihost_utils.process_allgather(np.asarray(flag)).any())


class Poll:
    """The highest of all processes' numbers, without waiting: each question is answered when the next one is asked.

    Every process is to ask at the same points, and all get the same answers.
    """

    def __init__(self):
        self._asked: jax.Array | None = None
        if jax.process_count() > 1:
            mesh = jax.make_mesh((len(jax.devices()),), ("all",), axis_types=(AxisType.Auto,))
            self._each = NamedSharding(mesh, P("all"))
            self._most = jax.jit(jnp.max, out_shardings=NamedSharding(mesh, P()))

    def ask(self, number: int) -> int:
        """The answer to the question before, 0 to none; of a single process `number` itself."""
        if jax.process_count() == 1:
            return number
        before, count = self._asked, len(jax.devices())
        mine = np.array([number], np.int32)
        self._asked = self._most(jax.make_array_from_callback((count,), self._each, lambda _: mine))
        return 0 if before is None else int(np.asarray(before))


def in_each(work: Callable[[], T]) -> T:
    """Runs `work` in every process. An error in one is raised in all: the others would wait for it for ever."""
    if jax.process_count() == 1:
        return work()
    error = None
    results: list[T] = []
    try:
        results.append(work())
    except Exception as failed:
        error = failed
    if any_process(error is not None):
        raise error or UserError("another process refused; its output says why")
    return results[0]


def on_main(work: Callable[[], T]) -> T | None:
    """Runs `work` in the main process while the others wait; None there. An error ends them all."""
    return in_each(lambda: work() if is_main() else None)


def from_main(value: float | None) -> float:
    """The main process's number, in every process; None elsewhere is no number."""
    if jax.process_count() == 1:
        return math.nan if value is None else value
    return float(multihost_utils.broadcast_one_to_all(np.float32(value or 0.0)))


def start_processes(coordinator: str, num_processes: int, process_id: int) -> None:
    """Joins the processes of one run, each on its own devices; before anything else of jax.

    coordinator: HOST:PORT of process 0, or `auto` where the cluster (TPU pod, Slurm, Open MPI) tells. Raises UserError
    when they cannot meet.
    """
    host, _, port = coordinator.rpartition(":")
    if coordinator != "auto":
        if not host or not port.isdecimal() or not 0 < int(port[:6]) < 65_536:
            raise UserError(f"coordinator is {coordinator!r}: HOST:PORT of process 0 or auto is expected")
        try:
            socket.getaddrinfo(host.strip("[]"), int(port))
        except (OSError, UnicodeError) as error:
            raise UserError(f"coordinator {coordinator} cannot be found ({error}): check the host's name") from error
    try:
        if coordinator == "auto":
            jax.distributed.initialize()
        else:
            jax.distributed.initialize(coordinator, num_processes, process_id)
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"process {process_id} of {num_processes} cannot join {coordinator}: {reason}") from error
