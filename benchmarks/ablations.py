"""What papers assert of single choices, each tried with and without over seeds: a number with its interval, a figure.

    python benchmarks/ablations.py                    # all studies, an hour of one core
    python benchmarks/ablations.py ema clipping --seeds 3
    python benchmarks/ablations.py beta               # disentanglement over beta, on images of known factors
    python benchmarks/ablations.py posterior --out benchmarks/results/ablations-posterior.json   # flows as q(z | x)
    python benchmarks/ablations.py quantizer --out benchmarks/results/ablations-quantizer.json   # VQ, FSQ, LFQ

Every row is trained on embedded data (or points) with one thing changed. Runs lie in runs/ablations and are not trained
again; the figure is written beside the JSON.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import common
import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from flax import linen as nn
from rows import Row, Rows

from jaxgen import core
from jaxgen.api.run import Run
from jaxgen.cli import parse
from jaxgen.codecs import Pixels
from jaxgen.comparison import families, measure
from jaxgen.core.configuration import to_json
from jaxgen.core.keys import fold_each, normal_each
from jaxgen.data import Digits, Factors
from jaxgen.errors import UserError, nearest
from jaxgen.experiment import Experiment, presets
from jaxgen.metrics.disentanglement import dci, factor_vae_score, mutual_information_gap
from jaxgen.metrics.ppl import PPL, LatentPath, lerp, path_lengths, slerp_unit
from jaxgen.models.classifier import Classifier
from jaxgen.models.vqvae import VQVAE
from jaxgen.nets.gan import MLPCritic
from jaxgen.ops.gan import Minimax, NonSaturating, Objective, Wasserstein, gradient_penalty
from jaxgen.ops.implicit_codes import FSQ, LFQ
from jaxgen.ops.quantize import perplexity
from jaxgen.ops.variational import Planar, Radial
from jaxgen.report.seeds import estimate
from jaxgen.runtime import devices
from jaxgen.scoring import features

NUM = 2000
"""Samples that are scored, and codes that are probed."""
CODED = 4096
"""Images that are encoded at once."""


@dataclass(frozen=True)
class Options:
    studies: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    seeds: int = 3
    shorter: int = 1
    """Divides every training's steps: for a test."""
    folder: str = "runs/ablations"
    out: str = str(common.RESULTS / "ablations.json")


@dataclass(frozen=True)
class Study:
    """claim: what is asserted. preset: script and preset that each variant is a change of, for `steps` steps. numbers:
    of a run. shown: the number of the figure."""

    claim: str
    preset: str
    steps: int
    variants: dict[str, Callable[[Any], Any]]
    numbers: Callable[[Run, Run], Row]
    shown: str


# --- numbers of a run ---------------------------------------------------------------------------------------------


def quality(run: Run, judge: Run) -> Row:
    found = measure.scored(run, judge, NUM)
    return {name: found[name] for name in ("fd", "precision", "recall", "coverage", "rarest_class")}


def averaged_or_not(run: Run, judge: Run) -> Row:
    """The same training scored by its averaged weights, and by its last."""
    last = replace(run, state=run.state.replace(ema=None))
    return {"averaged": quality(run, judge)["fd"], "last": quality(last, judge)["fd"]}


def bits(run: Run, _: Run) -> Row:
    return {"bits_per_dim": run.evaluate()["bits_per_dim"]["mean"]}


def means(run: Run, x: np.ndarray) -> np.ndarray:
    """The means of q(z | x) of images uint8[N, H, W, C]."""
    model: Any = run.model
    encode = jax.jit(lambda x: model.encode(run.state.sampling_params, x)[0])
    firsts = range(0, len(x), CODED)
    keys = jax.random.split(jax.random.key(0), len(firsts))
    parts = (
        run.codec.encode({"x": jnp.asarray(x[first : first + CODED])}, keys[i])["x"] for i, first in enumerate(firsts)
    )
    return np.concatenate([np.asarray(encode(part)) for part in parts])


def collapse(run: Run, _: Run) -> Row:
    """The bound, and latents in use: those whose mean varies over data by more than 0.01, section 4.2 of
    arXiv:1509.00519."""
    varies = means(run, run.experiment.data.arrays("test")["x"]).var(axis=0)
    found = run.evaluate()
    return {"used_latents": int(np.sum(varies > 0.01)), "nelbo": found["nelbo"]["mean"], "kl": found["kl"]["mean"]}


def bounds(run: Run, _: Run) -> Row:
    """The free energy, minus the bound that is trained, and minus the tighter one by importance weights."""
    found = run.evaluate()
    return {name: found[name]["mean"] for name in ("nelbo", "kl", "iwae")}


def coded(run: Run, _: Run) -> Row:
    """Reconstruction of held-out images, and the use of codes over all of them."""
    model, data, found = run.model, run.experiment.data, run.evaluate()
    assert isinstance(model, VQVAE) and isinstance(data, Digits)
    x = run.codec.encode({"x": jnp.asarray(data.arrays("test")["x"])}, jax.random.key(0))["x"]
    uses = jnp.bincount(jax.jit(model.encode_codes)(run.state, x).ravel(), length=model.num_codes)
    numbers = {"codes": model.num_codes, "used": int(jnp.sum(uses > 0)), "perplexity": float(perplexity(uses))}
    return {"psnr": found["psnr"]["mean"], **numbers}


def disentangled(run: Run, _: Run) -> Row:
    data = run.experiment.data
    assert isinstance(data, Factors)
    codes, factors = means(run, data.arrays("all")["x"]), data.values("all")
    found = run.evaluate(limit=1000)
    return {
        **mutual_information_gap(codes, factors), "factor_vae": factor_vae_score(codes, factors),
        **dci(codes, factors), "reconstruction": found["nelbo"]["mean"] - found["kl"]["mean"],
        "kl": found["kl"]["mean"],
    }  # fmt: skip


def entangled(run: Run, judge: Run) -> Row:
    """Of styles w and latents z: the path length, by the classifier's features, and how well a linear classifier tells
    the classes of their images."""
    from sklearn.linear_model import LogisticRegression

    model: Any = run.model
    state, keys = run.state, core.sample_keys(0, NUM)
    z, ends = (normal_each(fold_each(keys, end), (model.latent,)) for end in (0, 1))
    decode = jax.jit(lambda w: model.synthesize(state.sampling_params["gen"], model.truncated(state, w, 1.0)))
    style = jax.jit(lambda z: model.style_of(state, z))
    w, w_ends = style(z), style(ends)
    classify, codec, between = judge.model, run.codec, features.of_run(judge).distance
    assert isinstance(classify, Classifier) and isinstance(codec, Pixels) and between is not None
    distance = partial(between.apply, between.params)
    named = np.asarray(classify.classify(judge.state.sampling_params, decode(w))[1]).argmax(axis=1)
    t = jax.random.uniform(jax.random.key(0), (NUM,))
    paths = {
        "w": (decode, LatentPath(w, w_ends, lerp)),
        "z": (lambda z: decode(style(z)), LatentPath(z, ends, slerp_unit)),
    }
    found: Row = {}
    for name, (generate, path) in paths.items():
        lengths = jax.jit(
            lambda t, g=generate, p=path: path_lengths(lambda v: codec.unrounded(g(v)), distance, p, t)
        )(t)  # fmt: skip
        ppl = PPL(capacity=NUM)
        found[f"path_length_{name}"] = ppl.compute(ppl.update(ppl.init(), lengths))["ppl"]
    for name, code in (("w", w), ("z", z)):
        rows, half = np.asarray(code), NUM // 2
        rows = (rows - rows.mean(axis=0)) / (rows.std(axis=0) + 1e-6)
        probe = LogisticRegression(max_iter=500).fit(rows[:half], named[:half])
        found[f"probe_{name}"] = float(probe.score(rows[half:], named[half:]))
    return found


# --- the studies --------------------------------------------------------------------------------------------------


def as_it_is(model: Any) -> Any:
    return model


STUDIES: dict[str, Study] = {
    "beta": Study(
        "a heavier KL term separates factors of variation (Higgins et al., ICLR 2017)", "beta_vae factors", 6000,
        {f"beta {b}": lambda m, b=b: replace(m, beta=float(b)) for b in (1, 4, 16)}, disentangled, "mig",
    ),
    "kl_warmup": Study(
        "a KL term that grows from nothing keeps latents in use (arXiv:1602.02282)", "vae digits", 3000,
        {"none": as_it_is, "1,000 steps": lambda m: replace(m, kl_warmup=1000)}, collapse, "used_latents",
    ),
    "posterior": Study(
        "a posterior that flows move is nearer to the true one than a Gaussian (arXiv:1505.05770)", "vae digits", 5000,
        {
            "Gaussian": as_it_is, "10 planar flows": lambda m: replace(m, posterior=Planar(10)),
            "10 radial flows": lambda m: replace(m, posterior=Radial(10)),
        }, bounds, "nelbo",
    ),
    "quantizer": Study(
        "a fixed grid of codes does as well as a learnt codebook (arXiv:2309.15505)", "vqvae digits", 1500,
        {
            "VQ": as_it_is, "FSQ": lambda m: replace(m, codebook=FSQ(levels=(8, 4))),
            "LFQ": lambda m: replace(m, codebook=LFQ(bits=5, commitment=0.05, entropy=0.02)),
        }, coded, "psnr",
    ),
    "label_smoothing": Study(
        "labels of 0.9 for real examples steady a GAN (arXiv:1606.03498)", "dcgan digits", 2000,
        {"none": as_it_is, "0.1": lambda m: replace(m, objective=NonSaturating(0.1))}, quality, "fd",
    ),
    "instance_noise": Study(
        "noise on what the critic sees steadies a GAN (arXiv:1610.04490)", "dcgan digits", 2000,
        {"none": as_it_is, "0.3, fading": lambda m: replace(m, instance_noise=0.3, instance_noise_steps=2000)},
        quality, "fd",
    ),
    "spectral_norm": Study(
        "spectral normalization steadies a GAN (arXiv:1802.05957)", "sngan digits", 1000,
        {"with": as_it_is, "without": lambda m: replace(m, critic=m.critic.clone(spectral=False))}, quality, "fd",
    ),
    "ema": Study(
        "samples of averaged weights are better than of the last (arXiv:2006.11239)", "dcgan digits", 2000,
        {"none": as_it_is}, averaged_or_not, "fd",
    ),
    "clipping": Study(
        "gradients of bounded norm allow a high rate (arXiv:1211.5063)", "maf digits", 1000,
        {
            f"{'clipped' if c else 'not clipped'}, rate {lr:g}": lambda m, c=c, lr=lr: replace(
                m, optimizer=replace(m.optimizer, lr=lr, clip=c)
            )
            for lr in (1e-3, 1e-2) for c in (1.0, 0.0)
        }, bits, "bits_per_dim",
    ),
    "styles": Study(
        "styles w are less entangled than latents z (arXiv:1812.04948)", "stylegan2 digits", 1500,
        {"StyleGAN2": as_it_is}, entangled, "accuracy of a linear classifier",
    ),
}  # fmt: skip

SEVERAL = {"ema": ("averaged", "last"), "styles": ("probe_w", "probe_z")}
"""Studies of one variant, whose numbers are compared with each other."""

# --- Wasserstein's distance and Jensen-Shannon's as signals -------------------------------------------------------

APART = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0)
SIGNALS: dict[str, tuple[Objective, float]] = {
    "Jensen-Shannon": (Minimax(), 0.0), "Jensen-Shannon, not saturating": (NonSaturating(), 0.0),
    "Wasserstein": (Wasserstein(), 10.0),
}  # fmt: skip
"""The objective, and the weight of its critic's gradient penalty."""


def signal(objective: Objective, penalty: float, apart: float, seed: int, steps: int) -> float:
    """What the generator is told of two parallel lines `apart`, example 1 of arXiv:1701.07875: the derivative of its
    loss by their distance, which should be 1 for Wasserstein's, once a critic is trained on them."""
    critic: nn.Module = MLPCritic((64, 64))
    key_init, key = jax.random.split(jax.random.key(seed))
    params = critic.init(key_init, jnp.zeros((2, 2)))
    tx = optax.adam(1e-3)

    def points(key: jax.Array, at: jax.Array | float) -> jax.Array:
        along = jax.random.uniform(key, (256,))
        return jnp.stack([jnp.broadcast_to(jnp.asarray(at, jnp.float32), (256,)), along], axis=1)

    def loss(params: Any, key: jax.Array) -> jax.Array:
        keys = jax.random.split(key, 3)
        real, fake = points(keys[0], 0.0), points(keys[1], apart)
        value = objective.critic(_logits(critic, params, real), _logits(critic, params, fake))
        weight = jax.random.uniform(keys[2], (256, 1))
        between = real + weight * (fake - real)
        return value + penalty * gradient_penalty(lambda x: _logits(critic, params, x), between)

    def step(carry: Any, key: jax.Array) -> tuple[Any, None]:
        params, opt = carry
        updates, opt = tx.update(jax.grad(loss)(params, key), opt)
        return (optax.apply_updates(params, updates), opt), None

    keys = jax.random.split(key, steps + 1)
    (params, _), _ = jax.jit(lambda carry, keys: jax.lax.scan(step, carry, keys))((params, tx.init(params)), keys[1:])
    told = jax.grad(lambda at: objective.generator(_logits(critic, params, points(keys[0], at))))
    return float(told(jnp.float32(apart)))


def _logits(critic: nn.Module, params: Any, x: jax.Array) -> jax.Array:
    logits = critic.apply(params, x)
    assert isinstance(logits, jax.Array)
    return logits


# --- all of them --------------------------------------------------------------------------------------------------


def experiment_of(study: Study, variant: str, seed: int, shorter: int) -> Experiment:
    script, preset = study.preset.split()
    experiment = presets(common.ROOT / "experiments" / f"{script}.py")[preset]
    experiment = families.of_length(experiment, study.steps / shorter)
    return replace(experiment, model=study.variants[variant](experiment.model), seed=seed)


def over_seeds(rows: list[Row]) -> list[Row]:
    """For each study and variant the mean of every number with the half-width of its 95 % interval."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["study"], row["variant"]), []).append(row["numbers"])
    found = []
    for (study, variant), numbers in groups.items():
        estimates = {name: estimate([one[name] for one in numbers]) for name in numbers[0]}
        found.append({"study": study, "variant": variant, "seeds": len(numbers), **estimates})
    return found


def draw(found: list[Row], file: Path) -> None:
    """A panel for each study: the number that its claim is about, of each variant."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    by_study: dict[str, list[Row]] = {}
    for row in found:
        by_study.setdefault(row["study"], []).append(row)
    lines = -(-len(by_study) // 2)
    figure = Figure(figsize=(12, 2.2 * lines), dpi=100, facecolor="white", layout="constrained")
    axes = np.atleast_1d(figure.subplots(lines, 2, squeeze=False)).ravel()
    look: Row = {"color": "#3a6fd0", "ecolor": "0.6"}
    for place, (study, rows) in zip(axes, by_study.items()):
        place.grid(color="0.9")
        if study == "signal":
            for row in rows:
                numbers = [row[f"{apart:g}"] for apart in APART]
                means, halves = ([n.get(of, 0.0) for n in numbers] for of in ("mean", "ci95"))
                place.errorbar(APART, means, yerr=halves, fmt="o-", label=row["variant"], ecolor="0.6", markersize=4)
            place.set_title("signal: derivative of the generator's loss by the distance of two lines", fontsize=9)
            place.set_yscale("symlog", linthresh=0.01)
            place.legend(fontsize=7)
            continue
        names = SEVERAL.get(study) or (STUDIES[study].shown,)
        shown = [(row["variant"] if len(names) == 1 else name, row[name]) for row in rows for name in names]
        heights = np.arange(len(shown))[::-1]
        means, halves = ([n.get(of, 0.0) for _, n in shown] for of in ("mean", "ci95"))
        place.errorbar(means, heights, xerr=halves, fmt="o", **look)
        place.set_yticks(heights, [label.replace("_", " ") for label, _ in shown], fontsize=8)
        place.set_title(f"{study.replace('_', ' ')}: {STUDIES[study].shown.replace('_', ' ')}", fontsize=9)
        place.margins(y=0.2)
    for place in axes[len(by_study) :]:
        place.set_axis_off()
    FigureCanvasAgg(figure).print_png(file)


def main(args: list[str]) -> None:
    options = parse.parse(Options, None, args, "ablations.py", __doc__)
    known = (*STUDIES, "signal")
    for name in options.studies:
        if name not in known:
            raise UserError(f"{name!r} is no study{nearest(name, known)}")
    devices.start_jax()
    columns = {"study": lambda r: r["case"], "numbers": lambda r: _said(r["numbers"])}
    table = Rows(options.out, "ablations", columns, options, common.provenance())
    folder = Path(options.folder)
    classifier = presets(common.ROOT / "experiments" / "classifier.py")["digits"]
    judge = measure.trained(classifier, folder / "judge")
    for name in options.studies or known:
        for seed in range(options.seeds):
            if name == "signal":
                for variant, (objective, penalty) in SIGNALS.items():
                    add(table, name, variant, seed, lambda o=objective, p=penalty, s=seed: {
                        f"{apart:g}": signal(o, p, apart, s, 1000 // options.shorter) for apart in APART
                    })  # fmt: skip
                continue
            study = STUDIES[name]
            for variant in study.variants:
                experiment = experiment_of(study, variant, seed, options.shorter)
                # Studies of one experiment share its run.
                run = folder / f"{study.preset.replace(' ', '-')}-{features.digest(to_json(experiment))}"
                add(table, name, variant, seed, lambda e=experiment, r=run, s=study: s.numbers(
                    measure.trained(e, r), judge
                ))  # fmt: skip
    found = over_seeds(table.rows)
    figure = Path(options.out).with_suffix(".png")
    draw(found, figure)
    claims = {name: study.claim for name, study in STUDIES.items()}
    claims["signal"] = "Jensen-Shannon's distance tells nothing of how far apart two lines are (arXiv:1701.07875)"
    table.finish("ablations", unfinished=set(options.studies or known) != set(known), over_seeds=found, claims=claims)


def add(table: Rows, study: str, variant: str, seed: int, numbers: Callable[[], Row]) -> None:
    def row() -> Row:
        return {"study": study, "variant": variant, "seed": seed, "numbers": numbers()}

    table.add(f"{study}: {variant}, seed {seed}", row)


def _said(numbers: Row) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in numbers.items())


if __name__ == "__main__":
    parse.run(lambda: main(sys.argv[1:]))
