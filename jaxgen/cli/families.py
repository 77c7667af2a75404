"""The command `experiments/compare.py DATA`."""

import json
import re
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import tyro

from jaxgen.cli import parse
from jaxgen.core.configuration import check_fields
from jaxgen.core.ranges import Samples, Seed, Size
from jaxgen.errors import UserError


@dataclass(frozen=True)
class Options:
    data: Annotated[str, tyro.conf.Positional]
    """digits, mnist or emoji: the preset that each family trains."""
    budget: str = "60s"
    """CPU time of each training, compiling aside: 90s, 20min, 1.5h."""
    seeds: Size = 3
    first_seed: Seed = 0
    families: tuple[str, ...] = ()
    """Scripts to compare; all that have the preset when none is named."""
    num: Samples = 2000
    """Samples that are scored."""
    data_dir: str = ""
    """Folder of tensorflow-datasets, for mnist."""
    out: str = ""
    """Folder of runs and page; runs/compare-DATA when empty."""
    device: str = "auto"


def seconds(text: str) -> float:
    """`90s`, `20min` or `1.5h` in seconds. Raises UserError for anything else."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(s|min|h)", text)
    if not found or float(found[1]) == 0:
        raise UserError(f"budget is {text!r}: a number with its unit is expected, as 90s, 20min or 1.5h")
    return float(found[1]) * {"s": 1, "min": 60, "h": 3600}[found[2]]


def main(doc: str | None, folder: Path) -> None:
    """folder: of the experiment scripts."""
    parse.run(lambda: compare(sys.argv[1:], doc, folder))


def compare(args: list[str], doc: str | None, folder: Path) -> None:
    """Raises UserError for what cannot be compared, before anything is trained."""
    options = parse.parse(Options, None, args, "compare.py", doc)
    check_fields(options)
    budget = seconds(options.budget)
    from jaxgen.runtime.devices import start_jax

    start_jax(options.device)
    from jaxgen.comparison import families, measure
    from jaxgen.comparison.page import write_page_of
    from jaxgen.data import TFDS
    from jaxgen.experiment import Experiment, presets, scripts
    from jaxgen.runtime.reading import user_path
    from jaxgen.scoring.scores import check_metrics

    check_metrics(measure.METRICS, options.num)
    chosen = families.chosen(folder, options.data, options.families)
    out = user_path(options.out or f"runs/compare-{options.data}")

    def here(experiment: Experiment) -> Experiment:
        if not options.data_dir:
            return experiment
        if not isinstance(experiment.data, TFDS):
            raise UserError(f"data_dir was given, but {options.data} is not of tensorflow-datasets: leave it out")
        return replace(experiment, data=replace(experiment.data, data_dir=options.data_dir))

    known = {name: presets(path) for name, path in scripts(folder).items()}
    judged_by = measure.judges(here(known["classifier"][options.data]), out)
    measure.reference(out, judged_by, options.num)
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        for family, preset in chosen.items():
            experiment = replace(here(preset), seed=seed)
            if family.first:
                first = replace(here(known[family.first][options.data]), seed=seed)
                cost = measure.steps_within(first, budget / 2, out / f"{family.first}.json")
                stage = out / f"{family.first}-{seed}"
                measure.trained(families.of_length(first, cost["steps"]), stage)
                experiment = families.after(experiment, stage)
            row = measure.row(family, experiment, out, judged_by, budget, options.num)
            print(f"{family.name}, seed {seed}: {json.dumps(row['scores']['cnn'])}", flush=True)
            write_page_of(out, options.data)
    print(f"page: {write_page_of(out, options.data)}")
