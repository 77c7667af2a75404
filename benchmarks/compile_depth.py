"""Times how long GPT's training step takes to compile, by the number of its layers.

    python benchmarks/compile_depth.py               # 4 layers and 24, of nanoGPT's CPU setting

Layers are scanned, so the program is the same but for a number. Each time is of tracing, lowering and compiling anew,
by turns; CPU seconds heed other load less. The sampler's, whose steps are written out layer by layer, is told beside.
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import common
import jax
import numpy as np

from jaxgen import core
from jaxgen.cli import parse
from jaxgen.experiment import Experiment, presets, scripts
from jaxgen.models.gpt import prompts
from jaxgen.ops.decoding import Decoding


@dataclass(frozen=True)
class Options:
    depths: tuple[int, ...] = (4, 24)
    """Layers; the first is what the others are compared with."""
    preset: str = "shakespeare_char_cpu"
    calls: int = 3
    """Turns of each depth."""
    sampler: bool = True
    """Compile the sampler too."""
    out: str = ""
    """JSON file; benchmarks/results/compile-depth.json when empty."""


def of_depth(experiment: Experiment, depth: int) -> Experiment:
    network = experiment.model.network
    model = replace(
        experiment.model, network=network.clone(body=network.body.clone(depth=depth)), decoding=Decoding(tokens=16)
    )
    return replace(experiment, model=model)


def seconds(experiment: Experiment, what: str) -> tuple[float, float]:
    """To compile one program from nothing, by the clock and of all cores; no data is read."""
    jax.clear_caches()
    model, block = experiment.compute_model, experiment.data.block
    batch = {"x": np.zeros((experiment.batch_size, block + 1), np.int32)}
    state = core.abstract_state(model, batch)
    began = time.perf_counter(), time.process_time()
    if what == "train":
        batches = jax.tree.map(lambda a: np.zeros((experiment.steps_per_call, *a.shape), a.dtype), batch)
        core.train_steps.lower(model, state, core.run_key(0, core.TRAIN), batches).compile()
    else:
        cond = prompts([[0]], block)
        core.sample_program.lower(model, state, core.sample_keys(0, 1), cond, None).compile()
    return time.perf_counter() - began[0], time.process_time() - began[1]


def measure(options: Options, rows: common.Rows) -> None:
    script = scripts(common.ROOT / "experiments")["gpt"]
    experiment = presets(script)[options.preset]
    experiments = {depth: of_depth(experiment, depth) for depth in options.depths}
    for what in ("train", "sample") if options.sampler else ("train",):
        if all(rows.has(f"{what}, {depth} layers") for depth in options.depths):
            continue
        seconds(experiments[options.depths[0]], what)  # the first of all is slower
        times = {depth: [] for depth in options.depths}
        for turn in range(options.calls):
            for depth, one in experiments.items():
                common.say(f"{what}, {depth} layers", "jaxgen", f"compile {turn + 1} of {options.calls}")
                times[depth].append(seconds(one, what))
        medians = {depth: np.median(np.array(times[depth]), axis=0) for depth in options.depths}
        for depth, (wall, cpu) in medians.items():
            base_wall, base_cpu = medians[options.depths[0]]
            row = {"program": what, "depth": depth, "calls": options.calls, "seconds": wall, "cpu_seconds": cpu}
            row |= {"ratio": wall / base_wall, "cpu_ratio": cpu / base_cpu}
            rows.add(f"{what}, {depth} layers", lambda row=row: row)


COLUMNS = {
    "program": lambda r: r["program"],
    "layers": lambda r: str(r["depth"]),
    "compile s": lambda r: f"{r['seconds']:.2f}",
    "of the first": lambda r: f"{r['ratio']:.2f}",
    "CPU s": lambda r: f"{r['cpu_seconds']:.2f}",
    "of the first ": lambda r: f"{r['cpu_ratio']:.2f}",
}


def main(args: Sequence[str] | None = None) -> None:
    options = parse.parse(Options, Options(), sys.argv[1:] if args is None else args, "compile_depth.py", __doc__)
    # What is kept on disk would be found there.
    jax.config.update("jax_enable_compilation_cache", False)
    out = options.out or common.RESULTS / "compile-depth.json"
    rows = common.rows(out, "compile time by depth", COLUMNS, options)
    measure(options, rows)
    rows.finish("compile time by depth")


if __name__ == "__main__":
    parse.run(main)
