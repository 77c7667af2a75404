"""Held-out pictures degraded and restored by a diffusion model's posterior, beside simple estimates of them.

    python benchmarks/restoration.py digits                        # trains ddpm and a classifier of digits if need be
    python benchmarks/restoration.py mnist --data-dir DIR --num 50
    python benchmarks/restoration.py emoji --script ddpm

Tasks: noise, resolution, sharpness, a hidden half, and of colour pictures colour. Beside the posterior's samples and
their mean stand a simple estimate (a Gaussian filter, bicubic enlargement, the blurred picture itself, biharmonic
filling-in, the grey picture) and the best linear one, which knows the mean and the covariance of the training pictures:
the posterior's mean if these were Gaussian. PSNR in dB over the pixels that were unknown; `named` is the fraction of
pictures in which a classifier sees the class that they are of.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import common
import jax
import jax.numpy as jnp
import numpy as np
import tyro
from rows import Row, Rows

from jaxgen import core
from jaxgen.api.run import Run
from jaxgen.cli import parse
from jaxgen.comparison import measure
from jaxgen.core.capabilities import Inpaints
from jaxgen.core.ranges import Samples
from jaxgen.errors import UserError
from jaxgen.inference.restoring import Degraded, conditions, restore_pictures
from jaxgen.report import save_picture
from jaxgen.report.seeds import estimate
from jaxgen.runtime import devices

SHOWN = 8
"""Pictures of the figure."""
SHRINKAGE = 1e-3
"""Added to the covariance's diagonal, in units of the range: pictures have constant pixels."""
HIDDEN = "hidden half"


@dataclass(frozen=True)
class Options:
    data: Annotated[str, tyro.conf.Positional]
    """The preset that the runs are of: digits, mnist, emoji, ..."""
    script: str = "ddpm"
    num: Samples = 100
    """Held-out pictures."""
    samples: Samples = 8
    """Of the posterior of each."""
    steps: Annotated[int, tyro.conf.arg(name="sampler-steps")] = 50
    tasks: tuple[str, ...] = ()
    """All that the pictures allow when empty."""
    data_dir: str = ""
    folder: str = "runs"
    out: str = ""
    """JSON, and beside it a figure of the same name; benchmarks/results/restoration-DATA.json when empty."""


def run_of(script: str, options: Options) -> Run:
    experiment = common.preset_of(script, options.data, options.data_dir)
    return measure.trained(experiment, Path(options.folder) / f"{script}-{options.data}-{experiment.seed}")


def tasks_of(shape: tuple[int, ...]) -> dict[str, Degraded | None]:
    """By name; None for the hidden half."""
    side = shape[0]
    small = side < 16
    found: dict[str, Degraded | None] = {
        "noise": Degraded(std=0.5),
        "resolution": Degraded(lost="resolution", factor=2 if small else 4),
        "sharpness": Degraded(lost="sharpness", width=1.0 if small else 2.0, std=0.02),
        HIDDEN: None,
    }
    return found | ({"colour": Degraded(lost="colour")} if shape[-1] == 3 else {})


# --- estimates -------------------------------------------------------------------------------------------------------


def simple(y: np.ndarray, task: str, degraded: Degraded | None, shape: tuple[int, ...], train: Any) -> np.ndarray:
    """f64[N, *shape] in [0, 1] of degraded pictures y in [0, 1]."""
    from scipy.ndimage import gaussian_filter
    from skimage.restoration import inpaint_biharmonic

    if task == "noise":

        def filtered(y: np.ndarray, width: float) -> np.ndarray:
            return gaussian_filter(y, (0, width, width, 0), mode="nearest")

        # The width that is best for training pictures with such noise.
        clean, noisy = train
        widths = np.arange(0.3, 2.5, 0.1)
        return filtered(y, min(widths, key=lambda w: np.mean((filtered(noisy, w) - clean) ** 2)))
    if task == "resolution":
        return np.asarray(jax.image.resize(jnp.asarray(y), (len(y), *shape), "cubic"), np.float64)
    if task == HIDDEN:
        mask = ~kept_half(shape)[..., 0]
        return np.stack([inpaint_biharmonic(one, mask, channel_axis=-1) for one in y])
    return np.broadcast_to(y, (len(y), *shape))


def linear(y: np.ndarray, degrade: Callable[[jax.Array], jax.Array], std: float, train: np.ndarray) -> np.ndarray:
    """E[x | y] if x were Gaussian with the mean and covariance of `train`: f64[N, *shape]; all in [0, 1]."""
    shape = train.shape[1:]
    x = train.reshape(len(train), -1)
    mean, size = x.mean(axis=0), x.shape[1]
    cov = (x - mean).T @ (x - mean) / len(x) + SHRINKAGE * np.eye(size)
    # The matrix of the linear map, a column for each pixel.
    columns = jax.lax.map(lambda e: degrade(e[None]).ravel(), jnp.eye(size).reshape(size, *shape), batch_size=256)
    a = np.asarray(columns, np.float64).T
    gain = np.linalg.solve(a @ cov @ a.T + max(std, 1 / 255) ** 2 * np.eye(len(a)), a @ cov).T
    return (mean + (y.reshape(len(y), -1) - mean @ a.T) @ gain.T).reshape(-1, *shape)


def kept_half(shape: tuple[int, ...]) -> np.ndarray:
    """bool[H, W, 1], true in the left half."""
    mask = np.zeros((*shape[:2], 1), bool)
    mask[:, : shape[1] // 2] = True
    return mask


# --- one task --------------------------------------------------------------------------------------------------------


def to_bytes(x: np.ndarray) -> np.ndarray:
    return np.rint(np.clip(x, 0, 1) * 255).astype(np.uint8)


def degraded_to(x: np.ndarray, degraded: Degraded | None, seed: int) -> np.ndarray:
    """Degraded pictures, uint8, as a file has them."""
    if degraded is None:
        return np.where(kept_half(x.shape[1:]), x, 0)
    y = np.asarray(degraded.degrade(jnp.asarray(x / 255, jnp.float32)), np.float64)
    return to_bytes(y + degraded.std * np.random.default_rng(seed).normal(size=y.shape))


def posterior(run: Run, y: np.ndarray, degraded: Degraded | None, options: Options) -> np.ndarray:
    """uint8[samples, N, *shape]: each posterior's samples."""
    found = []
    cond = conditions(run.model, len(y), (), run.examples)
    mask = kept_half(y.shape[1:])
    for k in range(options.samples):
        keys = core.sample_keys(k, len(y))
        if degraded is None:
            assert isinstance(run.model, Inpaints)
            found.append(np.asarray(_filled(run.model, run.codec, run.state, keys, y, mask[None], cond)))
        else:
            found.append(restore_pictures(run, keys, y, degraded, cond))
    return np.stack(found)


def _fill(model: Any, codec: Any, state: Any, keys: jax.Array, y: Any, mask: Any, cond: Any) -> jax.Array:
    x = codec.encode({"x": jnp.asarray(y)}, jax.random.key(0))["x"]
    return codec.decode(model.inpaint(state, keys, x, jnp.asarray(mask), cond, resample=5))


_filled = jax.jit(_fill, static_argnums=0)


def measured(task: str, degraded: Degraded | None, run: Run, judge: Run, options: Options) -> tuple[Row, np.ndarray]:
    """The row of a task, and the pictures of its figure: uint8[lines, SHOWN, *shape]."""
    data: Any = run.experiment.data
    test, train = data.arrays("test"), data.arrays("train")
    chosen = np.random.default_rng(0).permutation(len(test["x"]))[: options.num]
    x, labels = np.asarray(test["x"])[chosen], np.asarray(test["cond"])[chosen]
    shape = x.shape[1:]
    known = np.asarray(train["x"])[:5000]
    y = degraded_to(x, degraded, 1)
    samples = posterior(run, y, degraded, options)
    mask = kept_half(shape)
    degrade = degraded.degrade if degraded else lambda a: jnp.where(mask[None], a, 0)
    noisy = degraded_to(known, degraded, 2) / 255
    estimates = {
        "simple": to_bytes(simple(y / 255, task, degraded, shape, (known / 255, noisy))),
        "linear": to_bytes(linear(y / 255, degrade, degraded.std if degraded else 0.0, known / 255)),
        "sample": samples[0],
        "mean": np.rint(samples.astype(np.float64).mean(axis=0)).astype(np.uint8),
    }
    if degraded is None:  # what is known needs no estimate
        estimates = {name: np.where(mask, x, one) for name, one in estimates.items()}
    where = np.broadcast_to(~mask if degraded is None else True, shape)
    psnr = {name: decibels(one, x, where) for name, one in estimates.items()}
    row: Row = {"task": task, "settings": None if degraded is None else vars(degraded), "num": len(x)}
    row["psnr"] = {name: estimate(values.tolist()) for name, values in psnr.items()}
    best = max(("simple", "linear"), key=lambda name: psnr[name].mean())
    row["gain"] = {"over": best, **estimate((psnr["mean"] - psnr[best]).tolist())}
    row["named"] = {
        name: float(common.recognised(judge, one, labels).mean()) for name, one in {"whole": x, **estimates}.items()
    }
    enlarged = np.asarray(jax.image.resize(jnp.asarray(y), (*x.shape[:3], y.shape[3]), "nearest"))
    lines = [x, np.broadcast_to(enlarged, x.shape), *estimates.values(), samples[1]]
    return row, np.stack([line[:SHOWN] for line in lines])


def decibels(x: np.ndarray, truth: np.ndarray, where: np.ndarray) -> np.ndarray:
    """PSNR of each picture over the pixels of `where`, at most 60 dB."""
    error = np.mean(((x.astype(np.float64) - truth) ** 2)[:, where], axis=1)
    return 10 * np.log10(255**2 / np.maximum(error, 255**2 / 1e6))


def main(args: list[str]) -> None:
    options = parse.parse(Options, None, args, "restoration.py", __doc__)
    out = Path(options.out or common.RESULTS / f"restoration-{options.data}.json")
    shape = common.preset_of(options.script, options.data).model.shape  # pyright: ignore[reportAttributeAccessIssue]
    known = tasks_of(shape)
    if wrong := set(options.tasks) - known.keys():
        raise UserError(f"tasks are {', '.join(known)}; {', '.join(sorted(wrong))} is none of them")
    devices.start_jax()
    columns = {
        "task": lambda r: r["task"],
        **{name: lambda r, n=name: f"{r['psnr'][n]['mean']:.2f}" for name in ("simple", "linear", "sample", "mean")},
        "gain": lambda r: f"{r['gain']['mean']:.2f} ± {r['gain'].get('ci95', 0):.2f} dB",
    }
    table = Rows(out, "restoration", columns, options, common.provenance())
    run, judge = run_of(options.script, options), run_of("classifier", options)
    model: Any = run.model
    sampler = replace(model.sampler, steps=options.steps)
    run = replace(run, experiment=replace(run.experiment, model=replace(run.experiment.model, sampler=sampler)))
    for task in options.tasks or known:

        def row(task: str = task) -> Row:
            found, pictures = measured(task, known[task], run, judge, options)
            save_picture(out.with_name(f"{out.stem}-{task.replace(' ', '-')}.png"), pictures)
            return found

        table.add(task, row)
    table.finish(f"restoration of {options.data} by {options.script}")


if __name__ == "__main__":
    parse.run(lambda: main(sys.argv[1:]))
