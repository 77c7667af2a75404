"""Objects made of prompts, and how often a CLIP that did not teach them knows their held-out views.

    python experiments/clip.py emoji
    python experiments/clip.py emoji --seed 1                  # the judge
    python benchmarks/text_to_3d.py emoji --teacher runs/clip-emoji-0 --judge runs/clip-emoji-1
    python benchmarks/text_to_3d.py emoji_sds --teacher runs/cascade-base-0 --judge runs/clip-emoji-1

A view is retrieved if of all prompts its own is nearest to it by the judge. Held-out cameras look from higher up than
any in training. p: the share of all ways to deal the prompts to the objects by which as many views or more would be
retrieved. Beside it, the same by the teacher if that is a CLIP, which guidance fools, and how many names of the judge's
data are as near to a view as the prompt. JSON, a sheet of held-out views and a film around all objects.
"""

import itertools
import json
import re
import sys
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import common
import numpy as np
import tyro
from rows import Row, Rows

from jaxgen.api.run import Run
from jaxgen.cli import parse
from jaxgen.comparison import measure
from jaxgen.core import compiled
from jaxgen.core.capabilities import ScoresText
from jaxgen.core.keys import sample_keys
from jaxgen.core.ranges import Seed
from jaxgen.errors import UserError
from jaxgen.inference.prompts import check_clip, embed_images, embed_texts
from jaxgen.inference.rendering import turntable
from jaxgen.metrics.retrieval import ranks
from jaxgen.models.text_to_3d import TextTo3D
from jaxgen.report import save_picture
from jaxgen.report.seeds import estimate
from jaxgen.runs.folder import RunFolder
from jaxgen.runs.restore import Trained, restore
from jaxgen.runtime import devices

DEALS = 100_000
"""Ways to deal prompts that are tried; all, of up to eight prompts."""


@dataclass(frozen=True)
class Options:
    preset: Annotated[str, tyro.conf.Positional]
    """Of experiments/text_to_3d.py."""
    teacher: str = "runs/clip-emoji-0"
    """Run of a CLIP, or of text to image by diffusion, as the preset takes it."""
    judge: str = "runs/clip-emoji-1"
    """Run of another CLIP."""
    prompts: tuple[str, ...] = (
        "tomato", "banana", "blue heart", "evergreen tree", "soccer ball", "aubergine", "jack-o-lantern", "mushroom",
    )  # fmt: skip
    seed: Seed = 0
    steps: Annotated[int, tyro.conf.arg(name="train-steps")] = 0
    """Of training; the preset's when 0."""
    frames: Annotated[int, tyro.conf.arg(name="turntable")] = 36
    """Frames of the film."""
    folder: str = "runs"
    out: str = ""
    """JSON, and beside it a sheet and a film; benchmarks/results/text-to-3d-PRESET.json when empty."""


def run_of(prompt: str, options: Options) -> Run:
    """The object of a prompt, trained if need be."""
    experiment = common.preset_of("text_to_3d", options.preset)
    codec: Any = experiment.codec
    codec, steps = replace(codec, run=options.teacher, prompt=prompt), options.steps or experiment.steps
    experiment = replace(experiment, codec=codec, seed=options.seed, steps=steps)
    name = re.sub(r"\W+", "_", prompt.lower()).strip("_")
    return measure.trained(experiment, Path(options.folder) / f"text_to_3d-{options.preset}-{name}-{options.seed}")


def held_out_views(run: Run) -> np.ndarray:
    """uint8[V, H, W, 3]."""
    cameras = run.experiment.data.arrays("test")["cond"]  # pyright: ignore[reportIndexIssue]
    drawn = compiled.sample(run.model, run.state, sample_keys(0, len(cameras)), cameras, run.codec)
    return np.asarray(drawn)


# --- retrieval -------------------------------------------------------------------------------------------------------


def votes(views: np.ndarray, texts: np.ndarray) -> np.ndarray:
    """The share of views f32[V, D] to which each of texts f32[P, D] is nearest, f64[P]; unit vectors. Texts that are
    equally near share a view."""
    near = views @ texts.T
    best = near >= near.max(axis=1, keepdims=True) - 1e-6
    return np.mean(best / best.sum(axis=1, keepdims=True), axis=0)


def chance_of(shares: np.ndarray) -> float:
    """The share of deals of prompts to objects that retrieve as many views as the true one or more, of f64[P, P], the
    `votes` of each object for each prompt."""
    count = len(shares)
    if count <= 8:
        deals = np.array(list(itertools.permutations(range(count))))
    else:
        rng = np.random.default_rng(0)
        deals = np.stack([np.arange(count), *(rng.permutation(count) for _ in range(DEALS))])
    retrieved = shares[np.arange(count)[None], deals].mean(axis=1)
    return float(np.mean(retrieved >= np.trace(shares) / count - 1e-9))


@cache
def texts_of(run: str, prompts: tuple[str, ...]) -> tuple[Trained, np.ndarray, np.ndarray]:
    """A CLIP, its embeddings of the prompts, and of all other names in its data."""
    trained = restore(RunFolder(Path(run)))
    check_clip(trained)
    names = sorted(set(trained.experiment.data.captions("all")) - set(prompts))
    return trained, embed_texts(trained, prompts), embed_texts(trained, names)


def seen_by(run: str, views: np.ndarray, own: int, prompts: tuple[str, ...]) -> Row:
    """What a CLIP says of the views of prompt `own`."""
    trained, texts, names = texts_of(run, prompts)
    found = embed_images(trained, views)
    among = np.concatenate([texts[own : own + 1], names])
    nearer = ranks(found, among, np.zeros(len(found), int), np.arange(len(among)))
    shares = votes(found, texts)
    return {
        "run": trained.name, "weights": trained.weights, "retrieved": float(shares[own]), "votes": shares.tolist(),
        "similarity": float(np.mean(found @ texts[own])), "median_rank": float(np.median(nearer)), "names": len(among),
    }  # fmt: skip


def measured(prompt: str, options: Options, by: dict[str, str]) -> Row:
    run, own = run_of(prompt, options), options.prompts.index(prompt)
    views = held_out_views(run)
    clear = [value["mean"] for name, value in run.evaluate("test", batch=len(views)).items() if name == "transmittance"]
    timing = json.loads(run.run.timing.read_text().splitlines()[-1])
    return {
        "run": run.name, "steps": run.step, "views": len(views), "training_seconds": timing["time"],
        "transmittance": clear[0], **{name: seen_by(clip, views, own, options.prompts) for name, clip in by.items()},
    }  # fmt: skip


def summary(rows: list[Row], by: dict[str, str]) -> Row:
    """Of all objects: the share of views retrieved, with an interval over objects, and how it compares with chance."""
    found: Row = {"chance": 1 / len(rows)}
    for name in by:
        shares = np.array([row[name]["votes"] for row in rows])
        found[name] = {**estimate(np.diag(shares).tolist()), "p": chance_of(shares)}
    return found


def main(args: list[str]) -> None:
    options = parse.parse(Options, None, args, "text_to_3d.py", __doc__)
    if len(options.prompts) < 2 or len(set(options.prompts)) < len(options.prompts):
        raise UserError(f"prompts are {', '.join(options.prompts) or 'none'}: two or more, all different, are expected")
    devices.start_jax()
    if not isinstance(common.preset_of("text_to_3d", options.preset).model, TextTo3D):
        raise UserError(f"{options.preset} is no preset of a radiance field: see experiments/text_to_3d.py")
    teacher, (judge, *_) = restore(RunFolder(Path(options.teacher))), texts_of(options.judge, options.prompts)
    if teacher.weights == judge.weights:
        raise UserError(f"{options.judge} is what teaches: name a CLIP of another seed with --judge")
    by = {"judge": options.judge} | ({"teacher": options.teacher} if isinstance(teacher.model, ScoresText) else {})
    out = Path(options.out or common.RESULTS / f"text-to-3d-{options.preset}.json")
    columns = {
        "prompt": lambda r: r["case"],
        **{f"{name}'s": lambda r, n=name: f"{r[n]['retrieved']:.0%}" for name in by},
        "rank": lambda r: f"{r['judge']['median_rank'] + 1:.0f} of {r['judge']['names']}",
        "similarity": lambda r: f"{r['judge']['similarity']:.2f}",
        "transmittance": lambda r: f"{r['transmittance']:.2f}",
        "seconds": lambda r: f"{r['training_seconds']:.0f}",
    }
    table = Rows(out, "text_to_3d", columns, options, common.provenance())
    for prompt in options.prompts:
        table.add(prompt, lambda prompt=prompt: measured(prompt, options, by))
    runs = [run_of(prompt, options) for prompt in options.prompts]
    views = np.stack([held_out_views(run) for run in runs])
    said = [prompt if i == 0 else "" for prompt in options.prompts for i in range(views.shape[1])]
    save_picture(out.with_suffix(".png"), views, texts=said)
    save_picture(out.with_suffix(".gif"), np.stack([turntable(run, options.frames) for run in runs], axis=1))
    found = summary(table.rows, by)
    table.finish(f"text to 3-D by {options.preset}: held-out views retrieved", summary=found)
    for name in by:
        of = found[name]
        print(f"{name}: {of['mean']:.0%} ± {of.get('ci95', 0):.0%}, chance {found['chance']:.0%}, p = {of['p']:.2g}")


if __name__ == "__main__":
    parse.run(lambda: main(sys.argv[1:]))
