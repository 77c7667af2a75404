"""What a prior and a cascade's noise are worth: prompts found again in their pictures, and quality by noise level.

    python experiments/clip.py emoji                      # embeddings of the prior and its decoder
    python experiments/clip.py emoji --seed 1             # the judge, another CLIP
    python experiments/clip_prior.py emoji; python experiments/clip_decoder.py emoji
    python experiments/cascade.py base; python experiments/cascade.py emoji
    python benchmarks/cascade.py                          # ten minutes of one core

retrieval: one picture for each held-out caption, by the decoder: of what the prior draws, of one draw without the best
of two, of the text's own embedding in the place of the picture's (no prior, figure 8 of arXiv:2204.06125), and of the
held-out picture's own embedding, the most that a prior could reach. R@k: how often the judge finds the caption's
picture among the k nearest of all.

levels: held-out pictures made small, and small pictures that the first stage draws of held-out captions, enlarged at
each noise level. PSNR of the former beside bicubic enlargement; of both the Frechet distance of the judge's features
from training pictures, never called FID.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import common
import jax.numpy as jnp
import numpy as np
from rows import Row, Rows

from jaxgen.cli import parse
from jaxgen.core.ranges import Fraction, Samples, Seed, Size
from jaxgen.errors import UserError
from jaxgen.inference import cascading
from jaxgen.inference.embedded import Embedded
from jaxgen.inference.prompting import conditions
from jaxgen.inference.prompts import embed_images, embed_texts
from jaxgen.inference.sampling import draw
from jaxgen.metrics.fid import Gaussian, frechet_distance
from jaxgen.metrics.image import psnr
from jaxgen.metrics.retrieval import recalls
from jaxgen.models.super_resolution import SuperResolution
from jaxgen.ops.resize import clean_bicubic
from jaxgen.report import save_picture
from jaxgen.report.seeds import estimate
from jaxgen.runs.folder import RunFolder
from jaxgen.runs.restore import Trained, restore
from jaxgen.runtime import devices
from jaxgen.runtime.reading import user_path
from jaxgen.scoring import features

SHOWN = 10


@dataclass(frozen=True)
class Options:
    parts: tuple[Literal["retrieval", "levels"], ...] = ("retrieval", "levels")
    """Retrieval needs the prior and its decoder, levels the two stages of the cascade."""
    folder: str = "runs"
    """Of the runs below."""
    prior: str = "clip_prior-emoji-0"
    decoder: str = "clip_decoder-emoji-0"
    judge: str = "clip-emoji-1"
    """A CLIP that neither was trained by."""
    base: str = "cascade-base-0"
    """Draws the small pictures."""
    enlarging: str = "cascade-emoji-0"
    num: Samples = 216
    """Held-out captions; all of emoji's are 216."""
    levels: tuple[Fraction, ...] = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5)
    seed: Seed = 0
    batch: Size = 72
    out: str = str(common.RESULTS / "cascade-emoji.json")
    """JSON, and beside it pictures of its name."""


# --- retrieval --------------------------------------------------------------------------------------------------------


def found_again(judge: Trained, pictures: np.ndarray, captions: list[str]) -> Row:
    """R@1 and R@10 both ways, with the standard error of a share, by a CLIP; pictures: uint8[N, H, W, C]."""
    groups = np.unique(captions, return_inverse=True)[1].reshape(-1)
    found = recalls(embed_images(judge, pictures), embed_texts(judge, captions), groups)
    kept = {name: values for name, values in found.items() if not name.endswith("_r5")}
    return {name: {"mean": float(v.mean()), "stderr": float(v.std() / len(v) ** 0.5)} for name, v in kept.items()}


def retrieval(table: Rows, prior: Trained, decoder: Trained, judge: Trained, options: Options) -> np.ndarray:
    """Adds a row for each source of embeddings, and for held-out pictures. Returns the pictures of a figure,
    uint8[sources, SHOWN, H, W, C]."""
    data, num, seed, batch = decoder.experiment.data, options.num, options.seed, options.batch
    held_out: Any = {name: array[:num] for name, array in data.arrays("test").items()}  # pyright: ignore
    captions = list(data.captions("test"))[:num]
    model: Any = prior.experiment.model
    single = prior.to(replace(prior.experiment, model=replace(model, best_of=1)))
    told = conditions(prior, captions, len(captions))
    sources = {
        "prior": draw(prior, seed, len(captions), told, batch),
        "prior, one draw": draw(single, seed, len(captions), told, batch),
        "text embedding": told["text_embedding"],
        "picture embedding": held_out["embedding"],
    }
    # The decoder's seed is the same for all: only the embedding differs.
    pictures = {name: draw(decoder, seed + 1, len(z), {"embedding": z}, batch) for name, z in sources.items()}
    pictures["held-out pictures"] = held_out["x"]

    def row(name: str) -> Row:
        found: Row = {"part": "retrieval", "of": name, "num": len(captions)}
        found |= found_again(judge, pictures[name], captions)
        if name in sources:
            unit = [z / np.linalg.norm(z, axis=1, keepdims=True) for z in (sources[name], held_out["embedding"])]
            found["cosine_with_picture"] = estimate(np.sum(unit[0] * unit[1], axis=1).tolist())
        return found

    for name in pictures:
        table.add(name, lambda name=name: row(name))
    return np.stack([x[:SHOWN] for x in pictures.values()])


# --- levels -----------------------------------------------------------------------------------------------------------


def bicubic(small: np.ndarray, side: int) -> np.ndarray:
    """uint8[N, side, side, C] of small pictures, uint8."""
    large = clean_bicubic(jnp.asarray(small, jnp.float32), side)
    return np.rint(np.clip(np.asarray(large), 0, 255)).astype(np.uint8)


def enlarged(stage: Trained, small: np.ndarray, captions: list[str], level: float, options: Options) -> np.ndarray:
    at = cascading.at_level(stage, level)
    return cascading.continued([at], small, options.seed, captions, batch=options.batch)


def levels(table: Rows, base: Trained, stage: Trained, judge: Trained, options: Options) -> dict[str, np.ndarray]:
    """Adds a row for bicubic enlargement and for each level. Returns the pictures of two figures."""
    data, network = stage.experiment.data, features.of_run(judge)
    model: Any = stage.model
    arrays: Any = {split: data.arrays(split)["x"] for split in ("train", "test")}  # pyright: ignore
    real, captions = arrays["test"][: options.num], list(data.captions("test"))[: options.num]
    known = Gaussian.of(np.concatenate([network.apply(x)["features"] for x in chunks(arrays["train"])]))
    small = {
        "held-out": np.rint(np.asarray(model.shrink(jnp.asarray(real, jnp.float32)))).astype(np.uint8),
        "drawn": draw(base, options.seed, len(real), conditions(base, captions, len(real)), options.batch),
    }
    side = real.shape[1]
    ways: dict[str, Callable[[np.ndarray], np.ndarray]] = {"bicubic": lambda x: bicubic(x, side)}
    for level in options.levels:
        if level <= model.augment:
            ways[f"level {level:g}"] = lambda x, level=level: enlarged(stage, x, captions, level, options)
    shown = {name: [np.repeat(np.repeat(x, model.factor, axis=1), model.factor, axis=2)] for name, x in small.items()}
    shown["held-out"].insert(0, real)
    simple = {of: network.apply(bicubic(x, side))["features"] for of, x in small.items()}

    def fd(rows: np.ndarray) -> float:
        return frechet_distance(Gaussian.of(rows), known)

    for name, way in ways.items():
        large = {of: way(x) for of, x in small.items()}
        for of, x in large.items():
            shown[of].append(x)

        def row(name: str = name, large: dict[str, np.ndarray] = large) -> Row:
            found: Row = {"part": "levels", "of": name, "num": len(real)}
            found["psnr"] = estimate(np.asarray(psnr(jnp.asarray(large["held-out"]), jnp.asarray(real))).tolist())
            for of, x in large.items():
                seen, what = network.apply(x)["features"], of.replace("-", "_")
                found[network.metric(f"fid_of_{what}")] = common.jackknife(lambda kept, a=seen: fd(a[kept]), len(seen))
                if name != "bicubic":
                    found[f"gain_of_{what}"] = common.jackknife(
                        lambda kept, a=seen, b=simple[of]: fd(b[kept]) - fd(a[kept]), len(seen)
                    )
            return found

        table.add(name, row)
    return {name: np.stack([line[:SHOWN] for line in lines]) for name, lines in shown.items()}


def main(args: list[str]) -> None:
    options = parse.parse(Options, None, args, "cascade.py", __doc__)
    out = Path(options.out)
    devices.start_jax()

    def run(name: str) -> Trained:
        return restore(RunFolder(user_path(options.folder) / name))

    judge = run(options.judge)
    pairs: dict[str, tuple[Trained, Trained]] = {}
    if "retrieval" in options.parts:
        prior, decoder = pairs["retrieval"] = run(options.prior), run(options.decoder)
        cascading.check([prior, decoder])
        if not isinstance(decoder.experiment.data, Embedded):
            raise UserError(f"{decoder.name} is to be a run of clip_decoder.py: name one with --decoder")
        if judge.weights == decoder.experiment.data.embedder(decoder.run.path):
            raise UserError(
                f"{judge.name} embedded what the prior was trained on: judge by another CLIP, of another seed"
            )
    if "levels" in options.parts:
        base, stage = pairs["levels"] = run(options.base), run(options.enlarging)
        cascading.check([base, stage])
        if not isinstance(stage.model, SuperResolution):
            raise UserError(f"{stage.name} is to be a run of cascade.py: name one with --enlarging")

    def share(name: str) -> Callable[[Row], str]:
        return lambda r: f"{r[name]['mean']:.1%}" if name in r else ""

    def distance(of: str) -> Callable[[Row], str]:
        return lambda r: next((f"{v['mean']:.2f}" for name, v in r.items() if name.startswith(f"fd_of_{of}")), "")

    columns = {
        "part": lambda r: r["part"], "of": lambda r: r["of"], "R@1": share("text_to_image_r1"),
        "R@10": share("text_to_image_r10"), "psnr": lambda r: f"{r['psnr']['mean']:.2f}" if "psnr" in r else "",
        "fd held-out": distance("held_out"), "fd drawn": distance("drawn"),
    }  # fmt: skip
    table = common.rows(out, "cascade", columns, options)
    figures = {}
    if "retrieval" in pairs:
        figures["retrieval"] = retrieval(table, *pairs["retrieval"], judge, options)
    if "levels" in pairs:
        figures |= levels(table, *pairs["levels"], judge, options)
    for name, pictures in figures.items():
        save_picture(out.with_name(f"{out.stem}-{name}.png"), pictures)
    runs = {one.name: {"step": one.step, "weights": one.weights} for one in (judge, *sum(pairs.values(), ()))}
    table.finish("prior and cascade", runs=runs)


def chunks(x: np.ndarray, size: int = 512) -> list[np.ndarray]:
    return [x[first : first + size] for first in range(0, len(x), size)]


if __name__ == "__main__":
    parse.run(lambda: main(sys.argv[1:]))
