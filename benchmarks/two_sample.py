"""How well a k-nearest-neighbour classifier tells a run's samples from all digits, beside digits from digits.

    python experiments/ddpm.py digits
    python benchmarks/two_sample.py runs/ddpm-digits-0
"""

import json
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import common
import numpy as np
import tyro

from jaxgen.cli import parse
from jaxgen.data import Digits
from jaxgen.inference.sampling import draw
from jaxgen.metrics.two_sample import knn_two_sample
from jaxgen.runs.folder import RunFolder
from jaxgen.runs.restore import restore
from jaxgen.runtime import devices

SPLITS = 10


@dataclass(frozen=True)
class Options:
    run: Annotated[str, tyro.conf.Positional]
    seed: int = 1
    k: int = 5
    batch: int = 599
    out: str = str(common.ROOT / "benchmarks" / "results" / "two-sample-digits.json")


def main() -> None:
    options = parse.parse(Options, None, sys.argv[1:], "two_sample.py", __doc__)
    devices.start_jax()
    run = RunFolder(Path(options.run))
    trained = restore(run)
    real = Digits().arrays("all")["x"]
    cond = trained.model.sample_cond(len(real), trained.examples)
    sampled = draw(trained, options.seed, len(real), cond, options.batch)
    # Real against real can only be halves, so the same halves are compared with samples too.
    rng, half = np.random.default_rng(0), len(real) // 2
    orders = [rng.permutation(len(real)) for _ in range(SPLITS)]
    score = partial(knn_two_sample, k=options.k)
    trained = json.loads((run.path / "timing.jsonl").read_text().splitlines()[-1])
    result = {
        "run": run.path.name,
        "experiment": json.loads((run.path / "experiment.json").read_text()),
        "step": trained.step,
        "training_seconds": trained["time"],
        "samples": len(real),
        "sample_seed": options.seed,
        "k": options.k,
        "all_real_against_samples": score(real, sampled),
        "half_real_against_samples": np.mean([score(real[o[:half]], sampled[:half]) for o in orders]),
        "half_real_against_real": np.mean([score(real[o[:half]], real[o[half : 2 * half]]) for o in orders]),
    }
    out = Path(options.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({"provenance": common.provenance(), "result": result}, indent=2) + "\n")
    for name in ("all_real_against_samples", "half_real_against_samples", "half_real_against_real"):
        print(f"{name.replace('_', ' '):28} {result[name]:.3f}")


if __name__ == "__main__":
    parse.run(main)
