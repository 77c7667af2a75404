"""Starts jax on the devices that a command asks for."""

import os

from jaxgen.errors import UserError
from jaxgen.runtime.cache import use_compilation_cache
from jaxgen.runtime.processes import start_processes

MOST_CPU_DEVICES = 256
"""A larger mesh is refused by the devices that it lacks."""


def start_jax(
    device: str = "auto",
    compilation_cache: bool = True,
    cpu_devices: int = 1,
    processes: tuple[str, int, int] = ("", 1, 0),
    seeds: int = 1,
) -> None:
    """Chooses the device and turns the compilation cache on. Raises UserError when the device is absent.

    cpu_devices: how many devices are made of a CPU's cores: XLA runs most of these networks' layers on one core, so
    that two are nearly twice as fast on two cores. processes: coordinator, number of processes and which of
    them this is, where a run has several. seeds: trained at once; on a CPU each core becomes a device for some of them.
    """
    import jax

    coordinator, num_processes, process_id = processes
    if not 0 <= process_id < num_processes:
        raise UserError(f"process_id is {process_id} of num_processes {num_processes}: count from 0")
    if num_processes > 1 and not coordinator:
        raise UserError("--num-processes needs --coordinator HOST:PORT, the same in every process")
    # Of each process: every one makes its share of the mesh.
    count = min(max(1, cpu_devices // num_processes), MOST_CPU_DEVICES)
    if seeds > 1:
        count = max(n for n in range(1, (os.cpu_count() or 1) + 1) if seeds % n == 0)
    free = jax.config.jax_num_cpu_devices == -1  # pyright: ignore[reportAttributeAccessIssue]: set at run time
    if count > 1 and free and "xla_force_host" not in os.environ.get("XLA_FLAGS", ""):
        jax.config.update("jax_num_cpu_devices", count)
    if device != "auto":
        jax.config.update("jax_platforms", {"gpu": "cuda"}.get(device, device))
    if coordinator:
        start_processes(coordinator, num_processes, process_id)
    try:
        found = jax.default_backend()
    except (RuntimeError, AssertionError):  # jax asserts that a device whose plugin is missing was found
        found = "none"
    if device not in ("auto", found):
        jax.config.update("jax_platforms", "cpu")
        raise UserError(f"no {device} is here, or jax was installed without support for it: use --device cpu")
    if compilation_cache:
        use_compilation_cache()


def memory(count: int = 1) -> int:
    """Bytes of memory of the first `count` devices of this process; a CPU's share that of the machine."""
    import jax

    limits = [(device.memory_stats() or {}).get("bytes_limit") for device in jax.local_devices()[:count]]
    return sum(limit for limit in limits if limit) or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def check_memory(needed: int) -> None:
    """Raises UserError if a state of `needed` bytes cannot fit in the memory of all devices together."""
    import jax

    # Other processes' devices do not say theirs: they are like ours. Those of CPUs may share a machine.
    of_cpus = jax.default_backend() == "cpu"
    have = memory(len(jax.local_devices())) * (1 if of_cpus else jax.process_count())
    if needed > have:
        raise UserError(
            f"the state of this model takes {needed / 2**30:,.1f} GiB, {have / 2**30:,.1f} GiB of memory are here: "
            "choose a smaller model or more devices"
        )
