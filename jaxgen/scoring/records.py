"""`jaxgen evaluate RUN --metrics ...` and `jaxgen compare RUN...`: scores with their provenance in RUN/scores.json.

A record has three parts beside its values: `protocol`, what two numbers must share to be lined up (features, sample
count, reference); `subject`, what is scored (model, step, averaged parameters or not, sampler, seed); `environment`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from jaxgen.core.capabilities import ClassConditional, WalksLatents
from jaxgen.core.configuration import differences, to_json
from jaxgen.core.mesh import divisible
from jaxgen.core.model import GenerativeModel
from jaxgen.core.ranges import Samples, Seed, Size
from jaxgen.errors import UserError
from jaxgen.experiment import Experiment
from jaxgen.inference.sampling import drawn
from jaxgen.report.seeds import estimate, scores_alike, seed_folders
from jaxgen.runs.environment import environment
from jaxgen.runs.folder import RunFolder
from jaxgen.runs.marks import check_mark
from jaxgen.runs.restore import Trained
from jaxgen.runtime.progress import say, track
from jaxgen.runtime.reading import read_json
from jaxgen.scoring import features, path_length, scores, texts

Record = dict[str, Any]


@dataclass(frozen=True)
class Scoring:
    """What to score, and against what."""

    num: Samples = 10_000
    """Number of samples to score."""
    seed: Seed = 0
    batch: Size = 200
    reference: Literal["train", "test", "all"] = "train"
    """Split of real data that samples are compared with."""
    of: Literal["samples", "train", "test", "all"] = "samples"
    """What to score: samples of the run, or a split of its data for the score of real data."""


Draw = Callable[[Trained, int, range, Any], Iterator[np.ndarray]]
"""Samples of a seed, as `sampling.drawn`."""


def drawn_once() -> Draw:
    """`sampling.drawn` of one run and condition, which keeps the samples that it has drawn."""
    kept: dict[tuple[int, int], np.ndarray] = {}

    def draw(trained: Trained, seed: int, firsts: range, cond: Any = None) -> Iterator[np.ndarray]:
        for first in firsts:
            if (seed, first) not in kept:
                (kept[seed, first],) = drawn(trained, seed, range(first, first + firsts.step, firsts.step), cond)
            yield kept[seed, first]

    return draw


def score_run(
    trained: Trained,
    network: features.Network,
    metrics: list[str],
    scoring: Scoring = Scoring(),
    distance: path_length.Distance | None = None,
    draw: Draw | None = None,
) -> list[Record]:
    """Scores samples of a run, or a split of its data, against the reference; `keep` writes the records.

    metrics: as `scores.check_metrics` gives them. distance: for path lengths, where it is not the network's own.
    draw: one that remembers, for several networks that see the same samples. Raises UserError for a score that
    cannot be taken; one that does not exist of this network and model is left out, which is said.
    """
    experiment, model = trained.experiment, trained.model
    num, seed, of = scoring.num, scoring.seed, scoring.of
    metrics = existing(metrics, trained, network)
    distance = distance or network.distance
    if "ppl" in metrics:
        check_paths(trained, distance, of)
    if "asked" in metrics:
        check_asked(model, network, of)
    by_test = {"memorization", "clip_score"} & set(metrics)
    for split in {scoring.reference, *([of] if of != "samples" else []), *(["test"] if by_test else [])}:
        check_mark(trained.folder, experiment, split)
    batch = divisible(scoring.batch, trained.layout)
    real, real_hash = features.real_rows(network, experiment.data, scoring.reference, batch, track)
    subject: Record = {"of": of, "run": trained.name, "data": to_json(experiment.data)}
    cond, said = None, list[str]()
    template = network.texts.template if network.texts and "clip_score" in metrics else None
    if of == "samples":
        cond = texts.asked(trained, num)
        subject |= {"model": type(model).__name__, "step": trained.step, "parameters": trained.state.sampling_field}
        subject |= {"sampler": _sampler(model), "first_sample": 0, "seed": seed, "experiment": _fixed(experiment)}
        rows = _sampled(trained, network, {**subject, "batch": batch}, scoring, cond, draw or drawn)
        if "asked" in metrics:
            rows = {**rows, "asked": np.asarray(cond)}
        if template is not None:
            said = texts.of_samples(trained, template, cond)
    else:
        rows, subject["hash"] = features.real_rows(network, experiment.data, of, batch, track)
        if template is not None:
            said = texts.of_split(trained, template, of)
            rows = {**rows, "said": np.arange(len(said))}
        rows = scores.some_of(rows, num)
        said = [said[int(i)] for i in rows.get("said", ())]
    held_out, held_out_hash = None, ""
    if by_test:
        held_out, held_out_hash = features.real_rows(network, experiment.data, "test", batch, track)
    protocol = {"features": network.provenance, "num": len(rows["features"])}
    protocol |= {"reference": {"split": scoring.reference, "num": len(real["features"]), "hash": real_hash}}
    records = []
    for record in scores.scores(metrics, network, rows, real, held_out):
        record["protocol"] = {**protocol, **record.pop("settings")}
        records.append({**record, "subject": subject, "environment": environment()})
    if template is not None:
        assert held_out is not None
        held_out_said, every = texts.of_split(trained, template, "test"), texts.of_classes(trained, template)
        record = texts.clip_score(network, rows, said, held_out, held_out_said, every)
        reference = {"split": "test", "num": len(held_out["features"]), "hash": held_out_hash}
        record["protocol"] = {**protocol, "reference": reference, **record.pop("settings")}
        records.append({**record, "subject": subject, "environment": environment()})
    walks = model.latent_ways if isinstance(model, WalksLatents) and "ppl" in metrics else ()
    for way in walks:
        assert distance is not None  # check_paths has seen to it
        record = path_length.ppl(trained, distance, way, path_length.Paths(seed, num, batch), cond)
        record["protocol"] = {**distance.provenance, "num": num, **record.pop("settings")}
        records.append({**record, "subject": subject, "environment": environment()})
    return records


def _sampled(
    trained: Trained, network: features.Network, asked: Record, scoring: Scoring, cond: Any, draw: Draw
) -> features.Rows:
    """Features of the samples; those that an interrupted command left in the run's folder are not computed again."""
    # Conditions are dealt out over all samples, so that another number of them changes each.
    asked = {**asked, "weights": trained.weights, "num": None if cond is None else scoring.num, "network": network.key}
    folder = trained.folder.path / "scores" / features.digest(asked) if trained.folder else None

    def batches(firsts: range) -> Iterator[np.ndarray]:
        return draw(trained, scoring.seed, firsts, cond)

    return features.sampled_rows(network, batches, scoring.num, asked["batch"], folder, track)


def existing(metrics: list[str], trained: Trained, network: features.Network) -> list[str]:
    """The metrics that there are of this network and model; why there are no others is said. Raises UserError where
    none is left, and for CLIP scores of a network that knows no texts."""
    missing: dict[str, str] = {}
    if not network.classes:
        missing = dict.fromkeys(("is", "classes", "asked"), f"{network.name} tells no classes")
    if "clip_score" in metrics:
        if network.texts is None:
            raise UserError("clip_score needs a CLIP: give --classifier RUN, one of experiments/clip.py")
        if not texts.conditions(trained):
            missing["clip_score"] = f"{type(trained.model).__name__} of {trained.name} is asked for by no text"
    left = [name for name in metrics if name not in missing]
    reasons = [f"{name} is left out: {missing[name]}" for name in metrics if name in missing]
    if not left:
        raise UserError(f"{'; '.join(reasons)}; ask for another metric, as fid")
    for reason in reasons:
        say(reason)
    return left


def check_asked(model: GenerativeModel, network: features.Network, of: str) -> None:
    """Raises UserError unless samples are drawn for classes that the network can tell."""
    if of != "samples" or not isinstance(model, ClassConditional) or not model.num_classes:
        raise UserError(f"asked needs samples of a model of classes, not {of} of {type(model).__name__}: leave it out")
    if not network.name:
        raise UserError("asked needs a classifier of the model's own classes: give --classifier RUN, not --weights")
    if network.num_classes and network.num_classes != model.num_classes:
        raise UserError(
            f"asked needs a classifier of the model's own {model.num_classes} classes, and {network.name} tells "
            f"{network.num_classes}: give --classifier RUN of the same data"
        )


def check_paths(trained: Trained, distance: path_length.Distance | None, of: str) -> None:
    """Raises UserError unless path lengths can be taken."""
    if of != "samples":
        raise UserError(f"ppl was asked for of {of}: only a model has paths; leave --of out")
    if distance is None:
        raise UserError("ppl needs a distance: give --classifier RUN, or --lpips TRUNK HEADS beside the weights")
    path_length.check_model(trained.model, trained.codec)


def _sampler(model: Any) -> Any:
    """The settings of the model's sampler, where it has one to choose."""
    sampler = getattr(model, "sampler", None)
    return to_json(sampler) if is_dataclass(sampler) else None


def _fixed(experiment: Experiment) -> str:
    """A hash of all settings of the experiment."""
    return features.digest(to_json(experiment))


def keep(run: RunFolder, new: list[Record]) -> None:
    """Adds records to RUN/scores.json, in place of older ones of the same protocol and subject. A file that cannot be
    read is set aside, which is said."""
    file, old = run.path / "scores.json", []
    if file.exists():
        try:
            old = _read(file)
        except UserError as error:
            aside = file.with_name("scores.unreadable.json")
            say(f"{error}; it is now {aside.name}")
            file.replace(aside)
    same = [(r["metric"], r["protocol"], r["subject"]) for r in new]
    run.write_json("scores.json", [r for r in old if (r["metric"], r["protocol"], r["subject"]) not in same] + new)


def _read(file: Path) -> list[Record]:
    """The records in a file. Raises UserError where it holds something else."""
    records, parts = read_json(file), {"metric": str, "values": dict, "protocol": dict, "subject": dict}
    if not isinstance(records, list):
        raise UserError(f"{file} holds no list of scores: restore it")
    for record in records:
        if not isinstance(record, dict) or any(not isinstance(record.get(n), kind) for n, kind in parts.items()):
            raise UserError(f"{file} holds something else than scores: restore it")
    return records


# --- comparing ------------------------------------------------------------------------------------------------


def load(run: Path) -> list[Record]:
    """The records of a run, or the estimates over the seeds of a folder of several. Raises UserError when it has
    none."""
    file = run / "scores.json"
    if file.exists():
        return _read(file)
    if folders := seed_folders(run):
        return _over_seeds(run, {seed: load(folder) for seed, folder in folders.items()})
    raise UserError(f"{run} has no scores: jaxgen evaluate {run} --metrics fid,...")


def _over_seeds(run: Path, records: dict[int, list[Record]]) -> list[Record]:
    """A record for each score that was taken of every seed alike: the means over seeds, and in `ci95` the half-widths
    of their 95 % intervals. Raises UserError where there is none."""
    found = []
    for record, of_seeds in scores_alike(list(records.values())):
        numbers = {n: estimate(values) for n, values in of_seeds.items()}
        halves = {n: number["ci95"] for n, number in numbers.items() if "ci95" in number}
        subject = {**record["subject"], "run": run.name, "seeds": len(records)}
        values = {n: number["mean"] for n, number in numbers.items()}
        found.append({**record, "subject": subject, "values": values, "ci95": halves})
    if not found:
        raise UserError(f"no score was taken of all seeds in {run} alike: evaluate each of {run}/seed* alike")
    return found


def line_up(runs: list[Path]) -> tuple[list[str], list[list[str]]]:
    """A table of the scores that all runs have: its headings, and a row for each subject of each run, as a checkpoint
    or a split of the data.

    Raises UserError when there is no such score, or when a score was taken by another protocol, and says which.
    """
    records = [load(run) for run in runs]
    shared = [m for m in dict.fromkeys(r["metric"] for r in records[0]) if all(_of(rs, m) for rs in records)]
    if not shared:
        raise UserError(f"no metric was taken of all of {', '.join(map(str, runs))}: evaluate them alike")
    protocols = {metric: _protocol(metric, runs, [_of(rs, metric) for rs in records]) for metric in shared}
    alike = [[r for r in rs if protocols.get(r["metric"]) == r["protocol"]] for rs in records]
    columns = [(m, name) for m in shared for name in _of(alike[0], m)[-1]["values"]]
    rows = []
    for run, found in zip(runs, alike):
        subjects: list[Record] = []
        for record in found:
            if record["subject"] not in subjects:
                subjects.append(record["subject"])
        for subject in subjects:
            taken = {r["metric"]: r for r in found if r["subject"] == subject}
            nums = ", ".join(dict.fromkeys(str(r["protocol"]["num"]) for r in taken.values()))
            values = [_cell(taken[metric], name) if metric in taken else "-" for metric, name in columns]
            rows.append([run.name, subject_line(subject), nums, *values])
    return ["run", "scored", "num", *(name for _, name in columns)], rows


def _cell(record: Record, name: str) -> str:
    half = record.get("ci95", {}).get(name)
    return f"{record['values'][name]:.4g}" + (f" ± {half:.2g}" if half is not None else "")


def subject_line(subject: Record) -> str:
    """What was scored, in a few words."""
    if subject["of"] != "samples":
        return f"real {subject['of']}"
    sampler = subject["sampler"]
    drawn_by = f", {sampler['type'].rpartition(':')[2]}" if sampler else ""
    drawn_by += f" {sampler['steps'] or 'all'} steps" if sampler and "steps" in sampler else ""
    drawn_by += f" psi {sampler['psi']}" if sampler and "psi" in sampler else ""
    seeds = f", {subject['seeds']} seeds" if "seeds" in subject else ""
    taken = f"{subject['model']} step {subject['step']} ({subject['parameters']}{drawn_by}), seed {subject['seed']}"
    return f"{taken}{seeds}"


def _of(records: list[Record], metric: str) -> list[Record]:
    return [r for r in records if r["metric"] == metric]


def _protocol(metric: str, runs: list[Path], found: list[list[Record]]) -> Record:
    """The newest protocol that all runs share. Raises UserError when there is none."""
    for record in reversed(found[0]):
        if all(any(r["protocol"] == record["protocol"] for r in records) for records in found):
            return record["protocol"]
    first = found[0][-1]["protocol"]
    for run, records in zip(runs[1:], found[1:]):
        if other := differences(first, records[-1]["protocol"]):
            raise UserError(f"{metric} of {runs[0]} and of {run} cannot be lined up: {'; '.join(other)}")
    raise UserError(f"{metric} was taken by no one protocol of all runs: evaluate them alike")
