"""What averages of other lengths than those that were kept are used for: a run folder of one, numbers of several."""

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from jaxgen.core.ema import AVERAGES
from jaxgen.errors import UserError
from jaxgen.report import write_report
from jaxgen.report.lengths import Row
from jaxgen.runs.checkpoint import Checkpoints
from jaxgen.runs.folder import HELD, RunFolder
from jaxgen.runs.restore import Trained, check_chosen, check_new, loaded_codec, run_facts, saved_state
from jaxgen.runs.snapshots import Rebuilt, lengths_of, rebuild
from jaxgen.weights.store import tree_hash

OWN = (
    "experiment.json", "environment.json", "checkpoints.json", "evaluation.json", "held_out.jsonl", "scores.json",
    "ema.json",
)  # fmt: skip
"""Files of a run that do not hold for the same run with another average."""
ROUGH = 0.05
"""Distance of a profile from the wanted one, relative to its norm, from which on it is said."""


def parse_lengths(text: str) -> tuple[float, ...]:
    """`0.05,0.1` as numbers. Raises UserError for anything else."""
    try:
        return tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise UserError(f"lengths is {text!r}: numbers joined by commas are expected, as 0.05,0.1") from None


def name_of(length: float) -> str:
    """A length in names of folders: 0.100, or all of its digits where it has more."""
    text = f"{length:.3f}"
    return text if float(text) == length else f"{length:g}"


def whole_run(run: RunFolder, step: int | None, best: bool = False) -> Trained:
    """A run with all of its state, at the newest checkpoint or that of `step`, its adapters apart."""
    check_chosen(step, best)
    experiment = run.experiment()
    lengths_of(experiment)
    codec = loaded_codec(run, experiment)
    if not run.checkpoints.is_dir():
        raise UserError(f"{run.path} has no checkpoints: train it first")
    with Checkpoints(run.checkpoints) as checkpoints:
        step = checkpoints.best() if best else step
        state = saved_state(experiment, run.examples(), codec, checkpoints, step)
    return Trained(experiment, codec, state, run)


def write_run(trained: Trained, rebuilt: Rebuilt, out: Path) -> dict[str, Any]:
    """Makes `out` the run as it would be had it been trained with --model.ema-lengths of this one length, to use, or go
    on with, as any other. Returns what its ema.json says of where the average comes from.

    trained: as `whole_run` gives it. Raises UserError unless `out` is a new or an empty folder.
    """
    check_new(out)
    source, new = trained.run, RunFolder(out)
    model: Any = replace(trained.experiment.model, ema_lengths=(rebuilt.length,))  # pyright: ignore[reportCallIssue]
    experiment = replace(trained.experiment, model=model, best="")  # its checkpoint has no held-out number yet
    opt_state = {name: tree for name, tree in trained.state.opt_state.items() if name != AVERAGES}
    state = trained.state.replace(ema=rebuilt.params, opt_state=opt_state)
    record = {
        "run": str(source.path.absolute()), "step": trained.step, "length": rebuilt.length,
        "lengths_kept": list(lengths_of(trained.experiment)), "snapshots": list(rebuilt.used),
        "profile_missed": rebuilt.missed, "sha256": tree_hash(rebuilt.params),
        "source_sha256": tree_hash(trained.state.ema),
    }  # fmt: skip
    out.mkdir(parents=True, exist_ok=True)
    for file in sorted(source.path.iterdir()):
        if file.suffix in (".json", ".jsonl", ".safetensors") and file.name not in OWN:
            shutil.copyfile(file, out / file.name)
        elif file.name in HELD and file.is_dir():
            shutil.copytree(file, out / file.name)
    new.forget_after(trained.step)
    with Checkpoints(new.checkpoints) as checkpoints:
        checkpoints.save(state)
    new.write_json("ema.json", record)
    facts = run_facts(experiment, source.examples(), trained.codec)
    new.record(experiment, {**facts, "ema": record})
    new.note(trained.step, "averaged", f"length {rebuilt.length:g}, of {len(rebuilt.used)} snapshots of {source.path}")
    write_report(out)
    return record


class Measured(NamedTuple):
    """A number of a run; stderr: its standard error, 0 where it has none."""

    name: str
    value: float
    stderr: float


Measure = Callable[[Trained], Measured]


def sweep(trained: Trained, lengths: Sequence[float], measure: Measure) -> Iterator[tuple[str, Row]]:
    """A number of the run with each length of its average, and last, as length 0, with its latest parameters.

    trained: as `whole_run` gives it.
    """
    averages = [(one.length, one.params, one.missed) for one in rebuild(trained.run, trained.state, lengths)]
    latest = {name: trained.state.params[name] for name in trained.state.ema or ()}
    for length, params, missed in (*averages, (0.0, latest, 0.0)):
        name, value, stderr = measure(_with_ema(trained, params))
        yield name, Row(length, value, stderr, missed)


def _with_ema(trained: Trained, ema: Any) -> Trained:
    return replace(trained, state=trained.state.replace(ema=ema, opt_state=None)).merged()
