"""The score by which the best checkpoint is chosen."""

import math

from jaxgen.experiment import HELD_OUT
from jaxgen.inference.held_out import held_out_numbers
from jaxgen.runs.restore import Trained
from jaxgen.runtime.processes import from_main, on_main


def best_score(trained: Trained) -> float | None:
    """The number that `best` of the experiment names, lower being better; None where it names none. A number of
    held-out data also goes to RUN/held_out.jsonl."""
    experiment, run, step = trained.experiment, trained.run, trained.step
    name = experiment.best.removeprefix("-")
    if not name:
        return None
    sign = -1 if experiment.best.startswith("-") else 1
    if not name.startswith("test/"):
        since = (step - 1) // experiment.save_every * experiment.save_every
        # From the file, not from memory, so that a resumed run finds what a straight one does.
        return sign * from_main(on_main(lambda: run.mean(name, since)))
    # Of pixels the first picture at least: its first rows may show nothing.
    limit = max(HELD_OUT, math.prod(experiment.data.picture_size or (0,)))
    numbers, _ = held_out_numbers(trained, seed=experiment.seed, limit=limit, batch=experiment.batch_size)
    means = {f"test/{n}": value["mean"] for n, value in numbers.items()}
    run.append(run.held_out, [{"step": step, **means}])
    return sign * means[name]
