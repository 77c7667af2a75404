"""What the benchmarks share: provenance, timing in turns, operations counted in a jaxpr, memory, tables and JSON.

A time is the median of its calls, with quartiles; two things are compared by the ratio of medians taken in turns, as
a machine's speed drifts more between minutes than between neighbours.
"""

import contextlib
import json
import resource
import statistics
import sys
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from rich.console import Console
from rich.table import Table

from jaxgen.data import BatchPlan, feed
from jaxgen.errors import UserError, nearest
from jaxgen.experiment import Experiment, presets, scripts
from jaxgen.runs.environment import environment

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"

# --- provenance ---------------------------------------------------------------------------------------------------


def provenance(matmul: float | None = None) -> dict[str, Any]:
    """Where and when a number was taken, and with what. matmul: this machine's FLOP/s, measured when not given."""
    facts = environment()
    with contextlib.suppress(PackageNotFoundError):
        facts["versions"]["torch"] = version("torch")
    return {**facts, "platform": jax.devices()[0].platform, "matmul_flops": matmul or measure_matmul_flops()}


def measure_matmul_flops(sizes: tuple[int, ...] = (1024, 2048), calls: int = 3) -> float:
    """FLOP/s of the best of a few f32 squares: what this machine can do, to set the rest in proportion to."""
    best = 0.0
    multiply = jax.jit(jnp.matmul)
    for size in sizes:
        a = jax.random.normal(jax.random.key(size), (size, size))
        jax.block_until_ready(multiply(a, a))
        for _ in range(calls):
            start = time.perf_counter()
            jax.block_until_ready(multiply(a, a))
            best = max(best, 2 * size**3 / (time.perf_counter() - start))
    return best


# --- time ---------------------------------------------------------------------------------------------------------


def timed(fn: Callable[[], Any]) -> tuple[Any, float]:
    """fn() and the seconds until its arrays are there."""
    start = time.perf_counter()
    result = jax.block_until_ready(fn())
    return result, time.perf_counter() - start


def in_turns(sides: dict[str, Callable[[], Any]], rounds: int, seconds: float = 0.3) -> dict[str, list[float]]:
    """Seconds of each call, by name, the sides taking turns: A B A B.

    One untimed call begins each turn, as the other side's threads may still be spinning; then calls until `seconds`
    have passed, one at least.
    """
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, fn in sides.items():
            timed(fn)
            stop = time.perf_counter() + seconds
            while True:
                times[name].append(timed(fn)[1])
                if time.perf_counter() > stop:
                    break
    return times


def summary(times: list[float], per: int = 1) -> dict[str, float]:
    """Median and quartiles in ms of one of `per` equal parts of a call."""
    ms = [1000 * t / per for t in times]
    low, _, high = statistics.quantiles(ms, n=4, method="inclusive") if len(ms) > 1 else ms * 3
    return {"median": statistics.median(ms), "low": low, "high": high, "calls": len(ms)}


def compiled(function, *args) -> tuple[Any, float]:
    """The executable of a jitted function for these arguments, and the seconds it took to build."""
    start = time.perf_counter()
    executable = function.lower(*args).compile()
    return executable, time.perf_counter() - start


# --- work and memory ----------------------------------------------------------------------------------------------


def peak_bytes(executable) -> int:
    """Bytes of the arguments, results and temporaries that an executable holds at once, donated ones counted once."""
    memory = executable.memory_analysis()
    return int(
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        + memory.temp_size_in_bytes
        - memory.alias_size_in_bytes
    )


def process_peak_bytes() -> int:
    """Most memory this process ever held: the device's own count where it keeps one, else resident memory."""
    stats = jax.local_devices()[0].memory_stats() or {}
    # Linux counts kilobytes, macOS bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    return int(stats.get("peak_bytes_in_use", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit))


# --- experiments --------------------------------------------------------------------------------------------------


def chosen(folder: Path, names: tuple[str, ...], preset: str) -> dict[str, Experiment]:
    """The preset of each named script of a folder, of all that have it when none is named."""
    found = scripts(folder)
    for name in names:
        if name not in found:
            raise UserError(f"{folder} has no script {name!r}{nearest(name, found)}: it has {', '.join(found)}")
    experiments = {}
    for name in names or found:
        known = presets(found[name])
        if preset in known:
            experiments[name] = known[preset]
        elif names:
            raise UserError(f"{name} has no preset {preset!r}{nearest(preset, known)}: it has {', '.join(known)}")
    if not experiments:
        raise UserError(f"no script in {folder} has a preset {preset!r}: choose another")
    return experiments


def use_devices(count: int) -> None:
    """At least `count` devices, of the CPU where there are no others: XLA runs a convolution of up to 64 channels on
    one core of each device. To be called before jax starts its devices."""
    if count > 1:
        # Raised when jax has started already; then there may be enough.
        with contextlib.suppress(RuntimeError):
            jax.config.update("jax_num_cpu_devices", count)
    if count > len(jax.devices()):
        raise UserError(f"devices is {count}, {len(jax.devices())} are here: ask for as many at most")


def spread(count: int, whole: Any, *split: tuple[Any, int]) -> tuple[Any, ...]:
    """`whole` copied to the first `count` devices and each of `split`, (tree, axis), cut along its axis among them."""
    if count == 1:
        return whole, *(tree for tree, _ in split)
    for tree, axis in split:
        if any(leaf.shape[axis] % count for leaf in jax.tree.leaves(tree)):
            raise UserError(f"batches cannot be cut among {count} devices: choose a divisor of the batch size")
    mesh = jax.make_mesh((count,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:count])

    def put(tree: Any, *spec: str | None) -> Any:
        return jax.device_put(tree, NamedSharding(mesh, PartitionSpec(*spec)))

    return put(whole), *(put(tree, *(None,) * axis, "data") for tree, axis in split)


def fed(experiment: Experiment, steps: int) -> tuple[Any, Any]:
    """(data, batches) as `core.train_steps` takes them for the first `steps` steps."""
    plan = BatchPlan(seed=experiment.seed, batch_size=experiment.batch_size, steps_per_call=steps, stop=steps)
    data, batches = feed(experiment.data, plan, experiment.preload)
    return data, jax.device_put(next(iter(batches)))


# --- peers --------------------------------------------------------------------------------------------------------


def peer_sides(
    experiment: Experiment, params: Any, call: Callable[[Any], Callable[[], Any]]
) -> dict[str, Callable[[], Any]]:
    """`call(peer)` for a peer in each memory layout worth trying, by name; empty for an experiment without a peer."""
    import peers  # here, as PyTorch is needed for --peer alone

    if not peers.has_peer(experiment):
        return {}
    peers.use_all_cores()
    return {f"torch {layout}": call(peers.Peer(experiment, params, layout)) for layout in peers.layouts(experiment)}


def against_peer(ms: dict[str, dict[str, float]], ours: str) -> dict[str, Any]:
    """The fastest peer of the sides timed, and its time divided by ours: above 1 ours is the faster."""
    peers = {name: side["median"] for name, side in ms.items() if name.startswith("torch ")}
    if not peers:
        return {"peer": "no peer", "peer_ratio": None}
    best = min(peers, key=peers.get)
    return {"peer": best, "peer_ratio": peers[best] / ms[ours]["median"]}


def sampling_rates(
    ms: dict[str, dict[str, float]], num: int, evaluations: int, work: float, matmul: float
) -> dict[str, Any]:
    """Of batches of `num` samples, timed as `ms` has them, of `work` operations in so many evaluations of a network."""
    ours = ms["ours"]["median"]
    return {
        "evaluations": evaluations,
        "flops_per_batch": work,
        "ms_per_batch": ms,
        "ms_per_evaluation": ours / evaluations,
        "samples_per_second": 1000 * num / ours,
        "flops_per_second": 1000 * work / ours,
        "matmul_share": 1000 * work / ours / matmul,
        **against_peer(ms, "ours"),
    }


# --- output -------------------------------------------------------------------------------------------------------

Row = dict[str, Any]


# Of the rows of `sampling_rates` beside a pipeline whose samples were compared.
BESIDE: dict[str, Callable[[Row], str]] = {
    "batch": lambda r: str(r["num_samples"]),
    "evaluations": lambda r: str(r["evaluations"]),
    "difference": lambda r: f"{r['largest_difference']:.1e}",
    "compile s": lambda r: f"{r['compile_seconds']:.1f}",
    "ms/batch": lambda r: ms(r["ms_per_batch"]["ours"]["median"]),
    "theirs": lambda r: ms(r["ms_per_batch"][r["peer"]]["median"]),
    "ms/evaluation": lambda r: ms(r["ms_per_evaluation"]),
    "of matmul": lambda r: f"{r['matmul_share']:.0%}",
    "peer": lambda r: r["peer"],
    "theirs/ours": lambda r: f"{r['peer_ratio']:.2f}",
}


def show(title: str, rows: list[Row], columns: dict[str, Callable[[Row], str]]) -> None:
    """A table with one line for each row; a column is its heading and what it says of a row."""
    table = Table(title=title)
    for heading in columns:
        table.add_column(heading, justify="left" if heading == "experiment" else "right")
    for row in rows:
        table.add_row(*(value(row) for value in columns.values()))
    Console(width=None if sys.stdout.isatty() else 160).print(table)


def write(path: Path | str, kind: str, rows: list[Row], matmul: float) -> None:
    """The rows and their provenance as JSON."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"benchmark": kind, "provenance": provenance(matmul), "results": rows}, indent=2) + "\n")
    Console().print(f"written to {path}")


def ms(value: float) -> str:
    return f"{value:.3f}" if value < 10 else f"{value:.1f}"


def megabytes(value: float) -> str:
    return f"{value / 2**20:.0f}"
