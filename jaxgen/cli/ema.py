"""`jaxgen ema RUN`: averages of parameters of any length, after the training."""

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Le

from jaxgen.cli.options import Asked, Common, ask
from jaxgen.core.configuration import check_value
from jaxgen.core.ema import Length
from jaxgen.core.ranges import OptionalCount, Samples, Seed, Size
from jaxgen.errors import UserError, nearest
from jaxgen.inference.averages import ROUGH, Measure, Measured, name_of, parse_lengths, sweep, whole_run, write_run
from jaxgen.inference.held_out import held_out_numbers
from jaxgen.ops.power_ema import LONGEST
from jaxgen.report.lengths import save_lengths
from jaxgen.report.seeds import best_of
from jaxgen.runs.environment import environment
from jaxgen.runs.folder import RunFolder
from jaxgen.runs.marks import check_mark
from jaxgen.runs.restore import Trained, check_new, restore
from jaxgen.runs.snapshots import lengths_of, rebuild
from jaxgen.runtime.reading import user_path
from jaxgen.scoring import features
from jaxgen.scoring.records import Scoring, score_run
from jaxgen.scoring.scores import check_metrics


@dataclass(frozen=True)
class EmaOptions(Common):
    length: Annotated[float, Ge(0), Le(LONGEST)] = 0.0
    """Length of the average: its profile's standard deviation, relative to the steps trained."""
    lengths: str = ""
    """Several of them, as 0.03,0.05,0.1,0.2."""
    evaluate: bool = False
    """Write no runs, but measure each length, and the latest parameters, on held-out data: a table, RUN/ema.png and
    RUN/ema.json."""
    number: str = ""
    """With `evaluate`: which of the model's numbers; the first when empty."""
    split: Literal["test", "train", "all"] = "test"
    """With `evaluate`: the data to measure on."""
    limit: OptionalCount = 0
    """With `evaluate`: use only this many examples; all when 0."""
    weights: str = ""
    """With `evaluate`: score samples by their FID instead, with these weights of Inception, as jaxgen evaluate."""
    classifier: str = ""
    """With `evaluate`: score samples by their Fréchet distance in features of this run instead."""
    num: Samples = 2_000
    """Samples to score."""
    seed: Seed = 0
    batch: Size = 200
    out: str = ""
    """Folder of the new run; RUN-ema-LENGTH when empty. With `evaluate`, folder of ema.png and ema.json."""


def command(args: list[str]) -> None:
    """Makes averages of any length of a run that was trained with --model.ema-lengths, from its snapshots (post-hoc
    EMA, arXiv:2312.02696). Each becomes a run of its own, RUN-ema-LENGTH, which is the one that training with that
    length would have given, to within the error of its profile, which is said."""
    ema(ask(EmaOptions, args, "ema", command.__doc__))


def ema(asked: Asked) -> None:
    """Makes or measures what was asked by `EmaOptions`."""
    options, run = asked.options, asked.run
    lengths = tuple(dict.fromkeys(parse_lengths(options.lengths) + ((options.length,) if options.length else ())))
    lengths_of(run.experiment())  # which refuses a run that keeps no averages
    if not lengths:
        raise UserError("no length was named: pass --length 0.1, or --lengths 0.03,0.05,0.1")
    for length in lengths:
        check_value(length, Length, "length")
    if options.adapters != 1:
        raise UserError("--adapters is for a run's use: leave it out, the averaged run keeps its adapters")
    if asked.experiment != run.experiment():
        raise UserError("--run.... was given: averages are of the run as it was trained, leave it out")
    if not options.evaluate:
        return _write(asked, lengths)
    if options.weights and options.classifier:
        raise UserError("--weights and --classifier were given: leave one out")
    step = None if options.step < 0 else options.step
    of_samples = bool(options.weights or options.classifier)
    measure = _distance(options) if of_samples else _number(asked)
    trained, rows = whole_run(run, step, options.best), []
    for name, row in sweep(trained, sorted(set(lengths)), measure):
        if not rows:
            print(f"{'length':>10} {name:>14} {'stderr':>10} {'profile':>9}")
        rows.append(row)
        said = f"{row.length:g}" if row.length else "latest"
        print(f"{said:>10} {row.value:14.6g} {row.stderr:10.2g} {row.missed:9.1e}")
    best = best_of(name)((row for row in rows if row.length), key=lambda row: row.value)
    out = user_path(options.out) if options.out else run.path
    save_lengths(out / "ema.png", rows, name, f"{trained.name}, step {trained.step}")
    how = ("num", "seed") if of_samples else ("split", "limit", "seed")
    facts = {"run": trained.name, "step": trained.step, "number": name, **{n: getattr(options, n) for n in how}}
    rows = [row._asdict() for row in rows]
    RunFolder(out).write_json("ema.json", {**facts, "rows": rows, "environment": environment()})
    print(f"best: {best.value:.6g} at length {best.length:g}; {out / 'ema.png'}")


def _write(asked: Asked, lengths: tuple[float, ...]) -> None:
    """A run folder of each length."""
    options, run = asked.options, asked.run
    if options.out and len(lengths) > 1:
        raise UserError("--out names the folder of one length: leave it out, or pass one --length")
    own = run.path.absolute()
    places = [user_path(options.out) if options.out else own.with_name(f"{own.name}-ema-{name_of(n)}") for n in lengths]
    for place in places:
        check_new(place)
    trained = whole_run(run, None if options.step < 0 else options.step, options.best)
    for one, place in zip(rebuild(run, trained.state, lengths), places, strict=True):
        write_run(trained, one, place)
        rough = "" if one.missed < ROUGH else ": too short or long for these snapshots, take it for an approximation"
        print(f"{place}: length {one.length:g} at step {trained.step}, profile to {one.missed:.1e}{rough}")


def _number(asked: Asked) -> Measure:
    """A number of the model on held-out data."""
    options = asked.options
    check_mark(asked.run, asked.experiment, options.split)

    def measure(trained: Trained) -> Measured:
        numbers, _ = held_out_numbers(
            trained, options.split, seed=options.seed, limit=options.limit or None, batch=options.batch
        )
        if not numbers:
            model = type(trained.model).__name__
            raise UserError(f"{model} has no number per example: score samples instead, with --classifier RUN")
        name = options.number or next(iter(numbers))
        if name not in numbers:
            raise UserError(f"number is {name!r}{nearest(name, numbers)}: choose one of {', '.join(numbers)}")
        return Measured(name, numbers[name]["mean"], numbers[name]["stderr"] or 0.0)

    return measure


def _distance(options: EmaOptions) -> Measure:
    """The Fréchet distance of samples."""
    metrics = check_metrics("fid", options.num)
    if options.weights:
        network = features.inception(user_path(options.weights), "tf1")
    else:
        network = features.of_run(restore(RunFolder(user_path(options.classifier))))
    scoring = Scoring(num=options.num, seed=options.seed, batch=options.batch)

    def measure(trained: Trained) -> Measured:
        ((name, value),) = score_run(trained, network, metrics, scoring)[0]["values"].items()
        return Measured(name, value, 0.0)

    return measure
