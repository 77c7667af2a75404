"""Presets run to their ends and scored, a row and a picture each: what a user gets who types the command as it stands.

    python benchmarks/presets.py digits                                 # that preset of every script which has it
    python benchmarks/presets.py mnist --scripts glow nsf --data-dir DIR
    python benchmarks/presets.py moons toy --scripts maf gan

Runs lie in runs/SCRIPT-PRESET-0, as the scripts leave them; one that is there is not trained again. Scores are by the
features of the classifier trained on the same data, where there is one; of points, Wasserstein's distance of order two
to training points, beside that of held-out ones, and the modes that training counted. A preset that fails is said, and
the next one taken.
"""

import json
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import common
import jax
import numpy as np
import tyro
from rows import Row, Rows

from jaxgen import core
from jaxgen.api.run import Run, load
from jaxgen.cli import parse
from jaxgen.comparison import measure
from jaxgen.core.capabilities import CodeStage, LatentStage
from jaxgen.core.ranges import OptionalCount
from jaxgen.data import Mirrored
from jaxgen.errors import UserError, nearest
from jaxgen.experiment import Experiment, presets, scripts
from jaxgen.inference.held_out import held_out_numbers
from jaxgen.metrics.wasserstein import wasserstein
from jaxgen.models.classifier import Classifier
from jaxgen.report import save_picture
from jaxgen.runs.pretrained import NamesRun
from jaxgen.runtime import devices

SCRIPTS = common.ROOT / "experiments"
SHOWN = 40
"""Samples in a picture."""


@dataclass(frozen=True)
class Options:
    presets: Annotated[tuple[str, ...], tyro.conf.Positional]
    scripts: tuple[str, ...] = ()
    """All that have such a preset when none is named."""
    data_dir: str = ""
    """Folder of tensorflow-datasets, for mnist; of pictures, for sprites."""
    num: int = 2000
    """Samples that are scored."""
    limit: OptionalCount = 0
    """Held-out examples, the first, that numbers are of; all when 0. A bound of 10,000 digits takes half an hour."""
    folder: str = "runs"
    out: str = str(common.RESULTS / "presets.json")


def chosen(options: Options) -> list[tuple[str, str, Experiment]]:
    """(script, preset, experiment) of all that are asked for, first stages before what needs them. Raises UserError for
    a script or preset that there is none of."""
    there = scripts(SCRIPTS)
    for script in options.scripts:
        if script not in there:
            raise UserError(f"experiments has no {script}.py{nearest(script, there)}")
    found = []
    for script in options.scripts or there:
        known = presets(there[script])
        found += [(script, name, known[name]) for name in options.presets if name in known]
    if missing := set(options.presets) - {name for _, name, _ in found}:
        raise UserError(f"no script has a preset {' or '.join(sorted(missing))}")
    return sorted(found, key=lambda item: isinstance(item[2].codec, NamesRun))


def judge(preset: str, experiment: Experiment, options: Options) -> Run | None:
    """The classifier of the same data, if the model's samples are such images, of any size: the preset of that name, or
    of its first word (of `digits` for `digits_repa`)."""
    classifiers = presets(SCRIPTS / "classifier.py")
    known = classifiers.get(preset) or classifiers.get(preset := preset.split("_")[0])
    data = experiment.data.data if isinstance(experiment.data, Mirrored) else experiment.data
    if known is None or type(known.data) is not type(data):
        return None
    known = common.with_data_dir(known, options.data_dir)
    raw = [e.data.batch_at(0, 0, 1)["x"].shape for e in (known, experiment)]
    alike = len(raw[0]) == len(raw[1]) and raw[0][-1] == raw[1][-1]
    return measure.trained(known, Path(options.folder) / f"classifier-{preset}-0") if alike else None


def of_points(run: Run, options: Options) -> Row:
    """`w2` of samples to training points, `w2_real` of held-out points to these, and what training counted of modes."""
    data = run.experiment.data
    train, test = (np.asarray(data.load(split)["x"])[: options.num] for split in ("train", "test"))
    found: Row = {"w2": wasserstein(run.sample(len(train), seed=0), train), "w2_real": wasserstein(test, train)}
    counted = run.run.held_out
    last = json.loads(counted.read_text().splitlines()[-1]) if counted.is_file() else {}
    return found | {name.removeprefix("samples/"): value for name, value in last.items() if name.startswith("samples/")}


def confusions(run: Run, num: int) -> np.ndarray:
    """Held-out pictures, of the first `num`, by class (down) and by what a classifier takes them for (across): uint8[K,
    K, H, W, C], the first of each kind, white where there is none."""
    test: Any = run.experiment.data.arrays("test")
    x, labels = np.asarray(test["x"])[:num], np.asarray(test["cond"])[:num]
    taken_for = common.class_logits(run, x).argmax(axis=1)
    size = run.model.num_classes  # pyright: ignore[reportAttributeAccessIssue]
    shown = np.full((size, size, *x.shape[1:]), 255, np.uint8)
    for i in reversed(range(len(x))):
        shown[labels[i], taken_for[i]] = x[i]
    return shown


def measured(script: str, preset: str, experiment: Experiment, options: Options) -> Row:
    began = time.process_time()
    folder = Path(options.folder) / f"{script}-{preset}-{experiment.seed}"
    fresh = not folder.exists()
    run = measure.trained(experiment, folder)
    if experiment.best:  # the checkpoint that the preset is trained to find
        run = load(folder, best=True)
    seconds = time.process_time() - began
    timing = json.loads((folder / "timing.jsonl").read_text().splitlines()[-1])
    # Under a condition of its own, as a small picture is, there are no samples of all that a model may draw.
    told = run.model.sample_cond(1, run.examples)
    # What a first stage draws without a second one is no picture of anything, nor is what a classifier answers to.
    first_stage, is_classifier = isinstance(run.model, (CodeStage, LatentStage)), isinstance(run.model, Classifier)
    of_data = not (first_stage or is_classifier) and (told is None or np.shape(told) == (1,))
    by = judge(preset, experiment, options) if of_data else None
    scored = measure.scored(run, by, options.num) if by else {}
    samples = None if first_stage or is_classifier else run.sample(SHOWN if by else experiment.num_samples, seed=1)
    are_points = isinstance(samples, np.ndarray) and samples.ndim == 2 and samples.shape[1] == 2
    if are_points:
        scored = of_points(run, options)
    is_picture = isinstance(samples, np.ndarray) and samples.dtype == np.uint8 and samples.ndim == 4
    picture = Path(options.out).parent / "presets" / f"{script}-{preset}.png"
    picture.parent.mkdir(parents=True, exist_ok=True)
    if first_stage:
        shutil.copy(max(folder.glob("pictures/*/reconstruction.png")), picture)
    elif is_classifier:
        save_picture(picture, confusions(run, options.num))
    elif is_picture or are_points:
        save_picture(picture, samples)
    return {
        "script": script, "preset": preset, "parameters": core.count_params(run.state.params),
        "steps": experiment.steps, "best_step": run.step if experiment.best else None,
        "seconds": timing["time"], "cpu_seconds": seconds if fresh and jax.default_backend() == "cpu" else None,
        "held_out": held_out_numbers(run, limit=options.limit or None)[0], "held_out_limit": options.limit,
        "num": options.num, "scores": scored,
    }  # fmt: skip


def said(row: Row) -> str:
    """The numbers of a row on one line."""
    numbers: dict[str, Any] = {name: value["mean"] for name, value in row["held_out"].items()}
    numbers |= {name: row["scores"][name] for name in ("fd", "recall") if name in row["scores"]}
    return ", ".join(f"{name} {value:.4g}" for name, value in numbers.items())


def main(args: list[str]) -> None:
    options = parse.parse(Options, None, args, "presets.py", __doc__)
    wanted = chosen(options)
    devices.start_jax()
    columns = {"preset": lambda r: r["case"], "minutes": lambda r: f"{r['seconds'] / 60:.1f}", "numbers": said}
    # The file stays open to further presets, in any order.
    table = Rows(options.out, "presets", columns, OneFile(options.out), common.provenance())
    for script, preset, experiment in wanted:
        try:
            one = common.with_data_dir(experiment, options.data_dir)
            table.add(f"{script} {preset}", lambda s=script, p=preset, e=one: measured(s, p, e, options))
        except UserError as error:
            print(f"{script} {preset}: {error}", flush=True)
    table.finish("presets", unfinished=True)


@dataclass(frozen=True)
class OneFile:
    """Rows of every call go together, whatever it asks for, and on whatever machine: each says what it was taken by."""

    out: str
    any_machine: ClassVar[bool] = True


if __name__ == "__main__":
    parse.run(lambda: main(sys.argv[1:]))
