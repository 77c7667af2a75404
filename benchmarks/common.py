"""What the benchmarks share: provenance, timing in turns, peers, memory; rows.py has their tables and JSON.

A time is the median of its calls, with quartiles; two things are compared by the ratio of medians taken in turns, as
a machine's speed drifts more between minutes than between neighbours.
"""

import contextlib
import math
import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from rows import Columns, Row, Rows, placeless, say

from jaxgen.cli import parse
from jaxgen.comparison.families import peak_bytes as peak_bytes
from jaxgen.data import TFDS, BatchPlan, ImageFolder, feed
from jaxgen.errors import UserError, nearest
from jaxgen.experiment import Experiment, presets, scripts
from jaxgen.models.classifier import Classifier
from jaxgen.runs.environment import environment
from jaxgen.runs.folder import RunFolder
from jaxgen.runs.restore import Trained, restore
from jaxgen.runtime import devices
from jaxgen.runtime.reading import user_path

Options = TypeVar("Options")
ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"
QUICK_SECONDS = 20.0
"""Of --quick: rounds begin for so long."""
QUICK_CALL = 2.0
"""Of --quick: seconds that a call should take at most."""

# --- provenance ---------------------------------------------------------------------------------------------------


def provenance(matmul: float | None = None) -> dict[str, Any]:
    """Where and when a number was taken, and with what. matmul: this machine's FLOP/s, measured when not given."""
    facts = environment()
    facts["command"] = " ".join(placeless(facts["command"].split()))
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


# --- presets and runs ---------------------------------------------------------------------------------------------


def with_data_dir(experiment: Experiment, data_dir: str) -> Experiment:
    """The experiment, its data where they lie: in a folder of tensorflow-datasets, if they are of these, or in one of
    pictures."""
    if isinstance(experiment.data, TFDS) and data_dir:
        return replace(experiment, data=replace(experiment.data, data_dir=data_dir))
    if isinstance(experiment.data, ImageFolder) and data_dir:
        return replace(experiment, data=replace(experiment.data, folder=data_dir))
    return experiment


def preset_of(script: str, preset: str, data_dir: str = "") -> Experiment:
    """A preset of experiments/SCRIPT.py. Raises UserError where there is none."""
    known = presets(ROOT / "experiments" / f"{script}.py")
    if preset not in known:
        raise UserError(f"{script}.py has no preset {preset!r}: it has {', '.join(known)}")
    return with_data_dir(known[preset], data_dir)


def runs_asked(args: Sequence[str], options: Options, name: str, doc: str | None) -> tuple[list[Trained], Options]:
    """The runs that stand before the first flag, restored, and the options as flags changed them. name: of the
    benchmark's file. Raises UserError where no run is named."""
    count = next((i for i, arg in enumerate(args) if arg.startswith("--")), len(args))
    if not count:
        raise UserError(f"no run was named: {name} RUN... [flags]")
    options = parse.parse(type(options), options, list(args[count:]), name, doc)
    devices.start_jax()
    return [restore(RunFolder(user_path(run))) for run in args[:count]], options


def out_of(out: str, kind: str, run: Trained) -> Path:
    """Where results go: `out`, or benchmarks/results/KIND-PRESET.json after the preset of a run."""
    preset = run.name.split("-")[1] if "-" in run.name else run.name
    return user_path(out) if out else RESULTS / f"{kind}-{preset}.json"


def class_logits(judge: Trained, x: np.ndarray) -> np.ndarray:
    """What a run of a classifier says of pictures uint8[N, H, W, C]: f32[N, classes]."""
    model: Any = judge.model
    assert isinstance(model, Classifier)
    seen = judge.codec.encode({"x": jnp.asarray(x)}, jax.random.key(0))["x"]
    return np.asarray(model.classify(judge.state.sampling_params, seen)[1])


def recognised(judge: Trained, x: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """bool[N]: whether a run of a classifier sees the class of each picture, uint8[N, H, W, C]."""
    return class_logits(judge, x).argmax(axis=1) == labels


# --- time ---------------------------------------------------------------------------------------------------------


def timed(fn: Callable[[], Any]) -> tuple[Any, float]:
    """fn() and the seconds until its arrays are there."""
    start = time.perf_counter()
    result = jax.block_until_ready(fn())
    return result, time.perf_counter() - start


def in_turns(
    sides: dict[str, Callable[[], Any]], rounds: int, case: str, quick: bool = False, seconds: float = 0.3
) -> dict[str, list[float]]:
    """Seconds of each call, by name, the sides taking turns: A B A B.

    One untimed call begins each turn, as the other side's threads may still be spinning; then calls until `seconds`
    have passed, one at least. case: what progress is told of. quick: no new round begins after QUICK_SECONDS.
    """
    times: dict[str, list[float]] = {name: [] for name in sides}
    last = time.perf_counter() + (QUICK_SECONDS if quick else math.inf)
    for i in range(rounds):
        if i and time.perf_counter() > last:
            break
        for name, fn in sides.items():
            say(case, "jaxgen" if name == "ours" else name, f"measure {i + 1} of {rounds}")
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


def compiled(function, *args, case: str = "") -> tuple[Any, float]:
    """The executable of a jitted function for these arguments, and the seconds it took to build. case: what progress is
    told of."""
    say(case or function.__name__, "jaxgen", "compile")
    start = time.perf_counter()
    executable = function.lower(*args).compile()
    return executable, time.perf_counter() - start


# --- work and memory ----------------------------------------------------------------------------------------------


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


Sides = dict[str, Callable[[], Any]]
LEFT_OUT = "left out by --quick"


def peer_sides(
    experiment: Experiment, params: Any, call: Callable[[Any], Callable[[], Any]], case: str, quick: bool = False
) -> tuple[Sides, str]:
    """`call(peer)` by name for a peer in each memory layout worth trying, as it is (`torch ...`) and compiled
    (`torch.compile ...`), and why no compiled one is there, else "". No sides for an experiment without a peer.

    quick: no peer is compiled, which alone can take minutes.
    """
    import peers  # here, as PyTorch is needed for --peer alone

    if not peers.has_peer(experiment):
        return {}, "no peer"
    peers.use_all_cores()
    layouts = peers.layouts(experiment)
    sides: Sides = {f"torch {layout}": call(peers.Peer(experiment, params, layout)) for layout in layouts}
    if quick:
        return sides, LEFT_OUT
    for layout in layouts:
        peer = peers.Peer(experiment, params, layout)
        reason = tried(case, f"torch.compile {layout}", sides, lambda peer=peer: call(peer.compiled()))
        if reason:
            return sides, reason
    return sides, ""


def tried(case: str, name: str, sides: Sides, build: Callable[[], Callable[[], Any]]) -> str:
    """Adds the side that `build` makes of something compiled by torch.compile, once it has run; returns why it does not
    run here, else ""."""
    import peers

    if reason := peers.cannot_compile():
        return reason
    say(case, name, "compile")
    try:
        side = build()
        side()
    except Exception as error:  # whatever dynamo, inductor or the C++ compiler raise
        return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    sides[name] = side
    return ""


def against_peer(ms: dict[str, dict[str, float]], ours: str, reason: str = "not compiled here") -> dict[str, Any]:
    """The fastest peer of the sides timed, as it is and compiled, and its time divided by ours: above 1 ours is the
    faster. reason: why no compiled peer is there."""
    row: dict[str, Any] = {}
    for field, prefix, none in (("peer", "torch ", "no peer"), ("compiled", "torch.compile ", reason)):
        found = {name: side["median"] for name, side in ms.items() if name.startswith(prefix)}
        best = min(found, key=found.__getitem__, default=none)
        row |= {field: best, f"{field}_ratio": found[best] / ms[ours]["median"] if found else None}
    return row


def time_ratio(ms: dict[str, dict[str, float]], one: str, other: str) -> float | None:
    """The median of one side over that of another, None where one was not timed."""
    return ms[one]["median"] / ms[other]["median"] if one in ms and other in ms else None


def ratio(row: Row, field: str = "peer") -> str:
    """A row's ratio to its peer for the table, or why there is none."""
    value = row[f"{field}_ratio"]
    return (row[field] if field == "peer" else "") if value is None else f"{value:.2f}"


def sampling_rates(
    ms: dict[str, dict[str, float]], num: int, evaluations: int, work: float, matmul: float, reason: str
) -> dict[str, Any]:
    """Of batches of `num` samples, timed as `ms` has them, of `work` operations in so many evaluations of a network.
    reason: why no compiled peer is among the sides."""
    ours = ms["ours"]["median"]
    return {
        "evaluations": evaluations,
        "flops_per_batch": work,
        "ms_per_batch": ms,
        "ms_per_evaluation": ours / evaluations,
        "samples_per_second": 1000 * num / ours,
        "flops_per_second": 1000 * work / ours,
        "matmul_share": 1000 * work / ours / matmul,
        **against_peer(ms, "ours", reason),
    }


# --- output -------------------------------------------------------------------------------------------------------

# Of the rows of `sampling_rates` beside a pipeline whose samples were compared.
BESIDE: Columns = {
    "batch": lambda r: str(r["num_samples"]),
    "evaluations": lambda r: str(r["evaluations"]),
    "difference": lambda r: f"{r['largest_difference']:.1e}",
    "compile s": lambda r: f"{r['compile_seconds']:.1f}",
    "ms/batch": lambda r: ms(r["ms_per_batch"]["ours"]["median"]),
    "theirs": lambda r: ms(r["ms_per_batch"][r["peer"]]["median"]),
    "ms/evaluation": lambda r: ms(r["ms_per_evaluation"]),
    "of matmul": lambda r: f"{r['matmul_share']:.0%}",
    "peer": lambda r: r["peer"],
    "theirs/ours": ratio,
    "compiled/ours": lambda r: ratio(r, "compiled"),
}


def rows(path: Path | str, kind: str, columns: Columns, options: Any) -> Rows:
    """The rows of one benchmark's file, which goes on where it was stopped."""
    say(kind, "this machine", "measure matrix products")
    return Rows(path, kind, columns, options, provenance())


def ms(value: float) -> str:
    return f"{value:.3f}" if value < 10 else f"{value:.1f}"


def megabytes(value: float) -> str:
    return f"{value / 2**20:.0f}"


def jackknife(statistic: Callable[[np.ndarray], float], count: int, groups: int = 20) -> dict[str, float]:
    """`mean`, the statistic of all of `count` examples, and `ci95`, the half-width of its 95 % confidence interval by
    the delete-a-group jackknife: for what is no mean over examples, as a Fréchet distance. statistic: of indices."""
    from scipy.stats import t

    number = min(groups, count)
    every = np.arange(count)
    without = [statistic(every[every % number != group]) for group in range(number)]
    spread = np.sqrt((number - 1) ** 2 / number * np.var(without, ddof=1))
    return {"mean": float(statistic(every)), "ci95": float(t.ppf(0.975, number - 1) * spread)}
