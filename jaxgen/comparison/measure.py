"""One family and seed: trained for its budget, scored, timed. Everything is written as soon as it is known."""

import json
import math
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import jax

from jaxgen import core
from jaxgen.api.run import Run, load
from jaxgen.comparison import families
from jaxgen.comparison.families import Family
from jaxgen.core.capabilities import WalksLatents
from jaxgen.core.compiled import sample_program
from jaxgen.errors import UserError
from jaxgen.experiment import Experiment
from jaxgen.inference.held_out import held_out_numbers
from jaxgen.models.diffusion import Diffusion
from jaxgen.models.ebm import EBM
from jaxgen.models.gpt import GPT
from jaxgen.nets.mlp import MLP
from jaxgen.report import save_picture
from jaxgen.runs.checkpoint import Checkpoints
from jaxgen.runs.environment import environment
from jaxgen.runs.folder import RunFolder
from jaxgen.runtime.files import write_text
from jaxgen.runtime.interrupt import leave_after
from jaxgen.runtime.reading import read_json
from jaxgen.scoring import features, scores
from jaxgen.scoring.records import Draw, Scoring, drawn_once, score_run
from jaxgen.train.loop import train

Row = dict[str, Any]
METRICS = "fid,kid,prdc,memorization,classes"
REFERENCE = "reference.json"
DRAWN = 256
"""Samples of the call that is timed."""
HELD_OUT = 1000
"""Held-out examples, at most, whose likelihood is measured."""
SHOWN = 10
"""Samples on the page, the first of a seed."""


def kept(file: Path, make: Any) -> Any:
    """The JSON in a file, or what `make` returns, written there."""
    if not file.is_file():
        write_text(file, json.dumps(make(), indent=1) + "\n")
    return read_json(file)


def trained(experiment: Experiment, folder: Path) -> Run:
    """The run in `folder`, trained to its end; its state as training left it. A signal meanwhile ends the command.

    Raises UserError when the folder holds another experiment, or one that was trained for more steps.
    """
    steps = 0
    if (folder / "checkpoints").is_dir():
        RunFolder(folder).check(experiment)
        with Checkpoints(folder / "checkpoints") as checkpoints:
            steps = max(checkpoints.steps(), default=0)
        if steps > experiment.steps:
            raise UserError(f"{folder} was trained for {steps:,} steps, not {experiment.steps:,}: move it away")
    if steps < experiment.steps:
        leave_after(train(experiment, folder), folder)
    return load(folder)


def judges(classifier: Experiment, out: Path) -> dict[str, Run]:
    """Two classifiers of the data: the preset, and a fully connected one of another seed."""
    model: Any = classifier.model
    other = replace(model, trunk=MLP(hidden=(256, 256)))
    return {
        "cnn": trained(classifier, out / "judge-cnn"),
        "mlp": trained(replace(classifier, model=other, seed=classifier.seed + 1), out / "judge-mlp"),
    }


def steps_within(experiment: Experiment, budget: float, file: Path) -> Row:
    """How many steps the budget buys, with what that was worked out from; as it was the first time. Raises UserError
    where that was for another budget."""

    def measured() -> Row:
        seconds, compiling, held = families.seconds_per_step(experiment)
        return {
            "steps": budget / seconds, "seconds_per_step": seconds, "compile_seconds": compiling, "held_bytes": held,
            "budget": budget,
        }  # fmt: skip

    found = kept(file, measured)
    if found["budget"] != budget:
        raise UserError(
            f"{file} has the steps of {found['budget']:g} s, {budget:g} s are asked for: give the same --budget, or "
            "another --out"
        )
    return found


def check_num(found: Row, num: int, file: Path) -> None:
    """Raises UserError where numbers were taken of another number of samples."""
    if found.get("num", num) != num:
        raise UserError(f"{file} is of {found['num']:,} samples, {num:,} are asked for: give the same --num, or --out")


def row(family: Family, experiment: Experiment, out: Path, judged_by: dict[str, Run], budget: float, num: int) -> Row:
    """The numbers of one family and seed, from the file in which an earlier command left them where it did.

    experiment: with its seed, and its first stage in place. num: samples that are scored.
    """
    folder = out / f"{family.script}-{experiment.seed}"
    share = budget / 2 if family.first else budget
    cost = steps_within(experiment, share, out / f"{family.script}.json")

    def measured() -> Row:
        run, draw = trained(families.of_length(experiment, cost["steps"]), folder), drawn_once()
        return {
            "family": family.name, "kind": family.kind, "script": family.script, "seed": experiment.seed,
            "parameters": core.count_params(run.state.params), "steps": run.step,
            "told_classes": run.model.sample_cond(1, run.examples) is not None, "training": cost,
            "num": num,
            "scores": {name: scored(run, judge, num, draw=draw) for name, judge in judged_by.items()},
            "held_out": held_out_numbers(run, limit=HELD_OUT)[0], "sampling": _sampling(family, run),
            "environment": environment(),
        }  # fmt: skip

    found = kept(folder.with_suffix(".json"), measured)
    check_num(found, num, folder.with_suffix(".json"))
    pictures = folder.with_suffix(".png")
    if not pictures.is_file():
        save_picture(pictures, load(folder).sample(4 * SHOWN, seed=1))
    return found


def reference(out: Path, judged_by: dict[str, Run], num: int) -> dict[str, dict[str, float]]:
    """The scores of held-out pictures, which no family need be better than."""

    def measured() -> dict[str, dict[str, float]]:
        return {name: scored(judge, judge, num, of="test") for name, judge in judged_by.items()}

    return kept(out / REFERENCE, measured)


def scored(
    run: Run, judge: Run, num: int, of: Literal["samples", "test"] = "samples", draw: Draw | None = None
) -> dict[str, float]:
    """The scores of `num` samples, or held-out pictures, in the features of a classifier, by plain names: fd, kd,
    precision, recall, ..."""
    network = features.of_run(judge)
    asked = METRICS + (",ppl" if isinstance(run.model, WalksLatents) and of == "samples" else "")
    metrics = scores.check_metrics(asked, num)
    records = score_run(run, network, metrics, Scoring(num=num, of=of), draw=draw)
    values = {name: value for record in records for name, value in record["values"].items()}
    return {name.replace(f"_{network.name}", ""): value for name, value in values.items()}


def _sampling(family: Family, run: Run) -> Row:
    """The compiled sampler by itself: samples a second, DRAWN at once, what it holds, and evaluations of the network
    that a sample takes."""
    keys, cond = core.sample_keys(1, DRAWN), run.model.sample_cond(DRAWN, run.examples)
    began = time.perf_counter()
    program = sample_program.lower(run.model, run.state, keys, cond, run.codec).compile()
    compiling, times = time.perf_counter() - began, []
    for _ in range(3):
        began = time.perf_counter()
        jax.block_until_ready(program(run.state, keys, cond, run.codec))
        times.append(time.perf_counter() - began)
    return {
        "samples_per_second": DRAWN / min(times), "compile_seconds": compiling,
        "held_bytes": families.peak_bytes(program), "evaluations": _evaluations(family, run.model),
    }  # fmt: skip


def _evaluations(family: Family, model: Any) -> int:
    if isinstance(model, Diffusion):
        return model.sampler.evaluations(model.schedule)
    if isinstance(model, EBM):
        return model.sampler.steps
    if isinstance(model, GPT):
        return model.num_tokens
    if family.by_element:
        return math.prod(model.shape[:2])
    return 1
