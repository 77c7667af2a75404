"""`python experiments/SCRIPT.py PRESET [flags]`: trains a preset of a script."""

import math
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from jaxgen.cli import parse
from jaxgen.core.mesh import parse as parse_mesh
from jaxgen.errors import UserError, nearest
from jaxgen.experiment import Experiment
from jaxgen.runtime.devices import start_jax
from jaxgen.runtime.processes import is_main
from jaxgen.train.loop import train
from jaxgen.train.seeds import train_seeds


@dataclass(frozen=True)
class Options:
    """What a script takes beside its experiment."""

    out: str = ""
    """Run folder; runs/SCRIPT-PRESET-SEED when empty. An existing run of the same experiment goes on."""
    seeds: int = 1
    """Train this many seeds from `seed` on in one program, each in a folder of its own within the run folder."""
    device: Literal["auto", "cpu", "gpu", "tpu"] = "auto"
    compilation_cache: bool = True
    """Keep compiled programs in the user's cache folder, so that the next start is faster."""
    max_hours: float = 0.0
    """Save and stop once this much time has passed; 0 for no limit."""
    profile: int = 0
    """Calls to trace with jax.profiler, from the second on."""
    coordinator: str = ""
    """For a run of several processes: HOST:PORT of process 0, or `auto` where the cluster tells all three."""
    num_processes: int = 1
    process_id: int = 0


def main(presets: dict[str, Experiment], doc: str | None = None, argv: list[str] | None = None) -> None:
    """`python experiments/SCRIPT.py PRESET [flags]`: trains a preset, its every field a flag."""
    script = Path(sys.argv[0])
    parse.run(lambda: _main(presets, doc, sys.argv[1:] if argv is None else argv, script))


def _main(presets: dict[str, Experiment], doc: str | None, argv: list[str], script: Path) -> None:
    import tyro

    if not argv or argv[0] in ("-h", "--help"):
        print(f"{(doc or '').strip()}\n\nusage: {script.name} PRESET [flags]\npresets: {', '.join(presets)}")
        print(f"flags: {script.name} PRESET --help")
        return
    name, *flags = argv
    if name not in presets:
        raise UserError(f"preset {name!r} is unknown{nearest(name, presets)}: choose one of {', '.join(presets)}")

    @dataclass(frozen=True)
    class Args:
        experiment: Annotated[Experiment, tyro.conf.arg(name="")]
        options: Annotated[Options, tyro.conf.arg(name="")]

    args = parse.parse(Args, Args(presets[name], Options()), flags, f"{script.name} {name}", doc)
    experiment, options = args.experiment, args.options
    processes = (options.coordinator, options.num_processes, options.process_id)
    count = math.prod(parse_mesh(experiment.mesh).values())
    start_jax(options.device, options.compilation_cache, count, processes, options.seeds)
    out = Path(options.out or f"runs/{script.stem}-{name}-{experiment.seed}")
    began = time.monotonic()
    facts = {"experiment": script.stem, "preset": name}
    if options.seeds != 1:
        stopped = train_seeds(experiment, options.seeds, out, facts, options.max_hours)
    else:
        stopped = train(experiment, out, facts, options.max_hours, options.profile)
    if is_main():
        print(f"{time.monotonic() - began:.0f} s in all")
    if stopped:
        print(f"stopped by {stopped}, saved in {out}: the same command goes on from there")
        if stopped in ("SIGINT", "SIGTERM"):
            sys.exit(130 if stopped == "SIGINT" else 143)
