"""Arithmetic on codes where the right answer is known, beside the same arithmetic on pixels; and styles mixed by layer.

    python experiments/beta_vae.py factors; python benchmarks/latents.py runs/beta_vae-factors-0
    python experiments/stylegan2.py emoji; python experiments/classifier.py emoji
    python benchmarks/latents.py runs/stylegan2-emoji-0 --classifier runs/classifier-emoji-0

A VAE of known factors is asked for the picture half-way between two that differ in place alone, and for a picture with
one factor set to another value: z + mean(z | new) - mean(z | old), means over training pictures. The true picture is
known, so each has a PSNR; pixels are averaged, or moved by the means of pictures, for comparison. Of orientation
nothing is asked, as a turned square is the same square. A StyleGAN takes its first layers' styles from one sample, the
others from another of another class: the classifier says whose class a mix has, and how surely, beside mean pixels.
"""

import sys
from dataclasses import dataclass
from typing import Any

import ablations
import common
import jax
import numpy as np
from rows import Row, Rows

from jaxgen.api.run import load
from jaxgen.cli import parse
from jaxgen.core import sample_keys
from jaxgen.core.ranges import Samples, Seed
from jaxgen.data import Factors
from jaxgen.data.factors import FACTORS
from jaxgen.errors import UserError
from jaxgen.models.stylegan import StyleGAN
from jaxgen.models.vae import VAE
from jaxgen.report import save_picture
from jaxgen.report.seeds import estimate
from jaxgen.runs.restore import Trained
from jaxgen.runtime.reading import user_path

SET = ("shape", "scale", "x", "y")
"""Factors that are set to another value."""
SHOWN = 12
SURE = 0.9
"""Probability from which a classifier is sure."""


@dataclass(frozen=True)
class Options:
    num: Samples = 1000
    """Pictures of each task."""
    classifier: str = ""
    """Run that names the classes of a StyleGAN's samples."""
    seed: Seed = 0
    out: str = ""
    """JSON, and beside it a picture for each task; benchmarks/results/latents-PRESET.json when empty."""


# --- a VAE of known factors ---------------------------------------------------------------------------------------


class Coded:
    """The means of q(z | x) of all pictures of known factors, and what is drawn of codes."""

    def __init__(self, run: Trained):
        data = run.experiment.data
        assert isinstance(data, Factors)
        self.run, self.x, self.factors = run, np.asarray(data.load("all")["x"]), data.values("all")
        self.codes = ablations.means(run, self.x)  # pyright: ignore[reportArgumentType]
        test = {tuple(row) for row in data.values("test").tolist()}
        self.train = np.array([tuple(row) not in test for row in self.factors.tolist()])

    def at(self, factors: np.ndarray) -> np.ndarray:
        """Indices of pictures by their factors, i32[N, 5]."""
        return np.asarray(np.ravel_multi_index(tuple(factors.T), tuple(FACTORS.values())))

    def drawn(self, codes: np.ndarray) -> np.ndarray:
        """uint8[N, H, W, C]."""
        state, model = self.run.state, self.run.model
        assert isinstance(model, VAE)
        x = jax.jit(lambda z: model.latent_space(state).decode(z))(codes)
        return np.asarray(self.run.codec.decode(x))


def answers(coded: Coded, task: str, rng: np.random.Generator, num: int) -> dict[str, np.ndarray]:
    """Pictures uint8[N, H, W, C]: what is given, the true answer, what codes and pixels answer, and the true picture
    coded and drawn."""
    held_out = coded.factors[~coded.train]
    first = held_out[rng.integers(len(held_out), size=num)]
    if task == "half-way":
        second = first.copy()
        second[:, 3:] = rng.integers(FACTORS["x"], size=(num, 2))
        second[:, 3:] ^= (second[:, 3:] ^ first[:, 3:]) & 1  # an even number of pixels apart
        truth = first.copy()
        truth[:, 3:] = (first[:, 3:] + second[:, 3:]) // 2
        a, b = coded.at(first), coded.at(second)
        codes = (coded.codes[a] + coded.codes[b]) / 2
        pixels = (coded.x[a].astype(np.float64) + coded.x[b]) / 2
        given = {"given": coded.x[a], "other": coded.x[b]}
    else:
        which = list(FACTORS).index(task)
        truth = first.copy()
        truth[:, which] = (first[:, which] + rng.integers(1, FACTORS[task], size=num)) % FACTORS[task]
        a, old, new = coded.at(first), first[:, which], truth[:, which]
        where = [coded.train & (coded.factors[:, which] == value) for value in range(FACTORS[task])]
        code_means = np.stack([coded.codes[rows].mean(axis=0) for rows in where])
        pixel_means = np.stack([coded.x[rows].mean(axis=0) for rows in where])
        codes = coded.codes[a] + code_means[new] - code_means[old]
        pixels = coded.x[a] + pixel_means[new] - pixel_means[old]
        given = {"given": coded.x[a]}
    at = coded.at(truth)
    return given | {
        "truth": coded.x[at], "codes": coded.drawn(codes), "pixels": np.rint(np.clip(pixels, 0, 255)).astype(np.uint8),
        "rebuilt": coded.drawn(coded.codes[at]),
    }  # fmt: skip


def decibels(x: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """PSNR of each picture, f64[N]; half a level of error at least, so that equal pictures have a number."""
    error = np.mean((x.astype(np.float64) - truth) ** 2, axis=(1, 2, 3))
    return 10 * np.log10(255**2 / np.maximum(error, 0.25))


def known_task(coded: Coded, task: str, options: Options, out: Any) -> Row:
    """PSNR of codes and of the simple answers: pixels, and the given picture left as it is. `gain`: of codes over the
    better of these."""
    found = answers(coded, task, np.random.default_rng(options.seed), options.num)
    save_picture(out.with_name(f"{out.stem}-{task}.png"), np.stack([x[:SHOWN] for x in found.values()]))
    psnr = {name: decibels(found[name], found["truth"]) for name in ("codes", "pixels", "given", "rebuilt")}
    simple = max(("pixels", "given"), key=lambda name: psnr[name].mean())
    return {
        "num": options.num, "psnr": {name: estimate(list(values)) for name, values in psnr.items()}, "simple": simple,
        "gain": estimate(list(psnr["codes"] - psnr[simple])),
    }  # fmt: skip


# --- styles of two samples ----------------------------------------------------------------------------------------


def styles(run: Trained, judge: Trained, options: Options, out: Any) -> list[tuple[str, Row]]:
    """A row for each layer at which styles change: the share of mixes whose class is that of the sample which gave the
    first layers' styles, of the other, and of neither, and how often the classifier is sure. The last row is of mean
    pixels."""
    model = run.model
    assert isinstance(model, StyleGAN)

    def named(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Class and its probability."""
        chances = np.asarray(jax.nn.softmax(common.class_logits(judge, x)))
        return chances.argmax(axis=1), chances.max(axis=1)

    count = 4 * options.num
    space = model.latent_space(run.state, model.sample_cond(count, run.examples))
    draw, synthesize = jax.jit(space.draw), jax.jit(lambda ws: run.codec.decode(space.decode(ws)))
    ws = np.asarray(draw(sample_keys(options.seed, count)))
    x = np.asarray(synthesize(ws))
    classes, chances = named(x)
    halves = np.arange(2 * options.num)
    pairs = np.stack([halves, halves + 2 * options.num], axis=1)
    clear = (classes[pairs[:, 0]] != classes[pairs[:, 1]]) & (chances[pairs] > SURE).all(axis=1)
    pairs = pairs[clear][: options.num]
    a, b = pairs.T

    def row(mixed: np.ndarray) -> Row:
        seen, sure = named(mixed)
        shares = {"first": seen == classes[a], "second": seen == classes[b], "sure": sure > SURE}
        return {"num": len(pairs), **{name: estimate(list(map(float, hits))) for name, hits in shares.items()}}

    layers, found, strips = ws.shape[1], [], [x[a][:SHOWN]]
    for layer in range(1, layers):
        first = np.arange(layers)[None, :, None] < layer
        mixed = np.asarray(synthesize(np.where(first, ws[a], ws[b])))
        strips.append(mixed[:SHOWN])
        found.append((f"styles of the first {layer} of {layers} layers", row(mixed)))
    blend = np.rint((x[a].astype(np.float64) + x[b]) / 2).astype(np.uint8)
    strips += [x[b][:SHOWN], blend[:SHOWN]]
    save_picture(out.with_name(f"{out.stem}-styles.png"), np.stack(strips))
    return [*found, ("mean of pixels", row(blend))]


# --- all ----------------------------------------------------------------------------------------------------------


def main(args: list[str]) -> None:
    (run, *others), options = common.runs_asked(args, Options(), "latents.py", __doc__)
    if others:
        raise UserError(f"{len(others) + 1} runs were named: one is expected")
    out = common.out_of(options.out, "latents", run)
    if isinstance(run.model, VAE) and isinstance(run.experiment.data, Factors):
        columns = {
            "experiment": lambda r: r["case"],
            **{name: lambda r, n=name: f"{r['psnr'][n]['mean']:.1f}" for name in ("codes", "pixels", "given")},
            "gain": lambda r: f"{r['gain']['mean']:.2f} ± {r['gain']['ci95']:.2f}",
        }
        table = Rows(out, "latents", columns, options, common.provenance())
        coded = Coded(run)
        for task in ("half-way", *SET):
            table.add(task, lambda t=task: known_task(coded, t, options, out))
        table.finish(f"arithmetic on codes of {run.name}", run=run.name)
        return
    if not isinstance(run.model, StyleGAN):
        raise UserError(f"{run.name} is neither a VAE of known factors nor a StyleGAN: name one of these")
    if not options.classifier:
        raise UserError("no classifier was named: pass --classifier RUN, trained on the same data")
    judge = load(user_path(options.classifier))
    columns = {
        "experiment": lambda r: r["case"],
        **{name: lambda r, n=name: f"{r[n]['mean']:.1%}" for name in ("first", "second", "sure")},
    }
    table = Rows(out, "latents", columns, options, common.provenance())
    for case, row in styles(run, judge, options, out):
        table.add(case, lambda row=row: row)
    table.finish(f"styles of {run.name}", run=run.name)


if __name__ == "__main__":
    parse.run(lambda: main(sys.argv[1:]))
