"""`jaxgen evaluate RUN`: numbers on held-out data, or scores of samples."""

from dataclasses import dataclass
from typing import Literal

from jaxgen.cli.options import Asked, LPIPSWeights, OnMesh, ask
from jaxgen.core.ranges import OptionalCount
from jaxgen.errors import UserError
from jaxgen.inference.held_out import evaluation, held_out_numbers, plus_minus
from jaxgen.runs.folder import RunFolder
from jaxgen.runs.marks import check_mark
from jaxgen.runs.restore import restore
from jaxgen.runtime.reading import user_path
from jaxgen.scoring import features, scores
from jaxgen.scoring.path_length import by_lpips
from jaxgen.scoring.records import Scoring, keep, score_run


@dataclass(frozen=True)
class EvaluateOptions(Scoring, LPIPSWeights, OnMesh):
    split: Literal["test", "train", "all"] = "test"
    limit: OptionalCount = 0
    """Use only this many examples; all when 0."""
    metrics: str = ""
    """Score samples against real data instead: fid,kid,is,prdc,memorization,classes,wasserstein,sliced_wasserstein.
    Class-conditional models also have asked, GANs also ppl; with a CLIP, models asked for classes or texts also have
    clip_score."""
    weights: str = ""
    """Inception's weights for the features, a file that `jaxgen weights convert inception` wrote."""
    resize: Literal["tf1", "clean"] = "tf1"
    """How images are resized for Inception: as the original code does, or with antialiasing."""
    classifier: str = ""
    """Run of experiments/classifier.py or clip.py for the features instead; the scores carry its name."""


def command(args: list[str]) -> None:
    """The model's numbers on held-out data: mean and standard error, printed and kept in RUN/evaluation.json."""
    asked = ask(EvaluateOptions, args, "evaluate", command.__doc__)
    options = asked.options
    if options.metrics:
        return _score(asked)
    lpips = options.distance()
    check_mark(asked.run, asked.experiment, options.split)
    trained = asked.restore()
    numbers, count = held_out_numbers(
        trained, options.split, seed=options.seed, limit=options.limit or None, batch=options.batch,
        distances={lpips.name: lpips} if lpips else None,
    )  # fmt: skip
    if not numbers:
        name = type(asked.experiment.model).__name__
        raise UserError(f"{name} has no number per example: there is nothing to evaluate")
    facts = {"lpips": lpips.provenance} if lpips else {}
    record = evaluation(trained, options.split, options.seed, numbers, count, **facts)
    print(f"step {trained.step}, {count} example{'' if count == 1 else 's'} of {options.split}")
    for name, value in numbers.items():
        print(f"{name:20} {plus_minus(value)}")
    asked.run.write_json("evaluation.json", record)  # last: the folder may be read-only


def _score(asked: Asked) -> None:
    options = asked.options
    metrics = scores.check_metrics(options.metrics, options.num, options.reference)
    if bool(options.weights) == bool(options.classifier):
        raise UserError("scores need features: give --weights FILE (Inception) or --classifier RUN, one of the two")
    if options.weights:
        network = features.inception(user_path(options.weights), options.resize)
    else:
        network = features.of_run(restore(RunFolder(user_path(options.classifier))))
    lpips = options.distance()
    trained = asked.restore()
    scoring = Scoring(options.num, options.seed, options.batch, options.reference, options.of)
    records = score_run(trained, network, metrics, scoring, by_lpips(lpips) if lpips else None)
    found = {name: value for record in records for name, value in record["values"].items()}
    width = max(24, *map(len, found))
    for name, value in found.items():
        print(f"{name:{width}} {value:.6g}")
    file = asked.run.path / "scores.json"
    print(f"{records[0]['protocol']['num']} of {options.of} against {options.reference}; {file}")
    keep(asked.run, records)
