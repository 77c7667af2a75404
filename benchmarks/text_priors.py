"""GPT and masked diffusion on the same characters: the bound of one beside the likelihood of the other, and what a GPT
makes of texts that diffusion draws in few steps and in many.

    python benchmarks/text_priors.py tinyshakespeare.txt            # 50 CPU minutes of one core
    python benchmarks/text_priors.py tinyshakespeare.txt --priors gpt mdlm         # 35

gpt and mdlm are the presets `shakespeare_char_cpu` of both scripts, of one size; gpt_longer is the GPT on as many
windows as mdlm sees. Nats a character are of the last tenth of the text, of the 64 characters after the first of each
window: -log p of GPT, and a bound on it of MDLM. Drawn texts continue the first characters of held-out windows, at
temperature 1; their nats are by gpt, or gpt_longer where it was trained, and those of real text stand beside them.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import common
import jax.numpy as jnp
import numpy as np
import tyro
from rows import Row, placeless

from jaxgen import core
from jaxgen.api.run import Run
from jaxgen.cli import parse
from jaxgen.comparison import measure
from jaxgen.core.configuration import to_json
from jaxgen.errors import UserError
from jaxgen.experiment import Experiment
from jaxgen.models.gpt import GPT
from jaxgen.models.mdlm import MDLM
from jaxgen.ops.decoding import Decoding
from jaxgen.runtime import devices
from jaxgen.scoring.features import digest

PRESET = "shakespeare_char_cpu"
PRIORS = ("gpt", "gpt_longer", "mdlm")
MASKS = 64
"""By which the bound of a window is estimated."""
SHOWN = 3
"""Texts in the file."""


@dataclass(frozen=True)
class Options:
    source: Annotated[str, tyro.conf.Positional]
    priors: tuple[str, ...] = PRIORS
    steps: tuple[int, ...] = (8, 16, 32, 64, 256)
    """Of MDLM for a window."""
    num: int = 256
    """Texts that are drawn."""
    shorter: int = 1
    """Divides every training's steps: for a test."""
    folder: str = "runs/text-priors"
    out: str = str(common.RESULTS / "text-priors.json")


def experiment_of(name: str, options: Options) -> Experiment:
    """A preset, on the text of the user's; gpt_longer sees the windows of mdlm."""
    found = common.preset_of(name.partition("_")[0], PRESET)
    model: Any = found.model
    if name == "gpt_longer":
        other = common.preset_of("mdlm", PRESET)
        steps = {name: getattr(other, name) for name in ("steps", "save_every", "sample_every", "batch_size")}
        model = replace(model, optimizer=replace(model.optimizer, decay_steps=other.steps))
        found = replace(found, model=model, **steps)
    data: Any = found.data
    call = found.steps_per_call
    steps = max(call, found.steps // options.shorter // call * call)
    every = {"save_every": min(steps, found.save_every), "sample_every": steps}
    return replace(found, data=replace(data, source=options.source), steps=steps, **every)


def windows(run: Run, num: int) -> np.ndarray:
    """Held-out windows i32[num, block + 1]."""
    held_out: Any = run.experiment.data.arrays("test")
    return np.asarray(held_out.take(np.arange(num))["x"])


def drawn(run: Run, num: int) -> np.ndarray:
    """Texts i32[num, block + 1] of the data's windows, each after the first character of a held-out one."""
    real = windows(run, num)
    model: Any = replace(run.model, decoding=Decoding(tokens=real.shape[1] - 1))  # pyright: ignore[reportCallIssue]
    cond = {"prompt": real[:, :1], "length": np.ones(num, np.int32)}
    return np.asarray(core.sample(model, run.state, core.sample_keys(0, num), cond))


def nats_by(judge: Run, texts: np.ndarray) -> float:
    """The mean nats a character of texts i32[N, block + 1] by a GPT."""
    assert isinstance(judge.model, GPT)
    return float(jnp.mean(judge.model.nats(judge.state.sampling_params, {"x": jnp.asarray(texts)})))


def measured(run: Run) -> Row:
    model: Any = run.model
    if isinstance(model, MDLM):
        run = run.to(replace(run.experiment, model=replace(model, evaluate_masks=MASKS)))  # pyright: ignore[reportAssignmentType]
    numbers = run.evaluate("test")
    timing = [json.loads(line) for line in run.run.timing.read_text().splitlines()]
    return {
        "parameters": core.count_params(run.state.params), "steps": run.step,
        "windows": run.step * run.experiment.batch_size, "bound": isinstance(model, MDLM),
        "held_out": numbers, "training_seconds": timing[-1]["time"], "experiment": placeless(to_json(run.experiment)),
    }  # fmt: skip


def texts_of(run: Run, judge: Run, options: Options, **fields: Any) -> Row:
    """Texts drawn with these fields of the model set, and their nats by the judge."""
    model: Any = run.model
    texts = drawn(run.to(replace(run.experiment, model=replace(model, **fields))), options.num)  # pyright: ignore[reportArgumentType]
    return {"nats_by_gpt": nats_by(judge, texts), "texts": run.experiment.data.texts(texts[:SHOWN])}


COLUMNS = {
    "prior": lambda r: r["case"],
    "nats a character": lambda r: f"{r['held_out']['nats_per_token']['mean']:.3f}" if "held_out" in r else "",
    "nats of its texts by GPT": lambda r: f"{r['nats_by_gpt']:.3f}" if "nats_by_gpt" in r else "",
}


def main(args: Sequence[str] | None = None) -> None:
    options = parse.parse(Options, None, sys.argv[1:] if args is None else args, "text_priors.py", __doc__)
    for name in options.priors:
        if name not in PRIORS:
            raise UserError(f"{name!r} is no prior: choose of {', '.join(PRIORS)}")
    if "gpt" not in options.priors:
        raise UserError("priors are without gpt, which texts are judged by: add it")
    devices.start_jax()
    table, runs = common.rows(options.out, "text_priors", COLUMNS, options), {}
    for name in options.priors:
        experiment = experiment_of(name, options)
        runs[name] = measure.trained(experiment, Path(options.folder) / f"{name}-{digest(to_json(experiment))}")
        table.add(name, lambda name=name: measured(runs[name]))
    judge = runs.get("gpt_longer", runs["gpt"])
    table.add("real text", lambda: {"nats_by_gpt": nats_by(judge, windows(judge, options.num))})
    table.add("texts of gpt", lambda: texts_of(runs["gpt"], judge, options))
    for steps in options.steps if "mdlm" in runs else ():
        table.add(f"texts of mdlm, {steps} steps", lambda steps=steps: texts_of(
            runs["mdlm"], judge, options, steps=steps, block=runs["mdlm"].model.window - 1
        ))  # fmt: skip
    table.finish("GPT and masked diffusion on characters", unfinished=set(options.priors) != set(PRIORS))


if __name__ == "__main__":
    parse.run(main)
