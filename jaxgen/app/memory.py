"""Runs that were restored before, so that pressing a button again reads no checkpoint."""

from dataclasses import replace

from jaxgen.errors import UserError
from jaxgen.experiment import Experiment
from jaxgen.runs.folder import RunFolder
from jaxgen.runs.restore import Trained, restore

RUNS = 4
"""Whose parameters are kept."""
SETTINGS = 8
"""Of sampling, of each run, that are kept beside its own."""


class Memory:
    """The runs that were used last, each by its checkpoint, under the settings that it was used with."""

    def __init__(self):
        self._runs: dict[tuple, list[Trained]] = {}

    def restore(self, run: RunFolder, experiment: Experiment, step: int, best: bool, adapters: float) -> Trained:
        """As `runs.restore.restore`; the newest checkpoint when step is negative, also one that is newer than what was
        kept. experiment: the run's own, but for settings of sampling."""
        try:
            changed = run.checkpoints.stat().st_mtime_ns
        except OSError as error:
            raise UserError(f"{run.path} has no checkpoints: train it first") from error
        key = (run.path, step, best, adapters, changed)
        kept = self._runs.pop(key, [])
        if not kept:
            kept = [restore(run, experiment, step=None if step < 0 else step, best=best, adapters=adapters)]
        first = kept[0]
        experiment = replace(experiment, lora=first.experiment.lora)  # adapters are merged
        found = next((one for one in kept if one.experiment == experiment), None)
        if found is None:
            kept.append(found := first.to(experiment))
            del kept[1 : len(kept) - SETTINGS]
        self._runs[key] = kept
        while len(self._runs) > RUNS:
            del self._runs[next(iter(self._runs))]
        return found
