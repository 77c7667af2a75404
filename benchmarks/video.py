"""Held-out clips continued from their first frames, beside copies of the last one given, and scores of whole clips.

    python experiments/video_diffusion.py moving_digits
    python experiments/classifier.py moving_digits
    python benchmarks/video.py runs/video_diffusion-moving_digits-0 --classifier runs/classifier-moving_digits-0

PSNR is of the frames that were not given, as uint8, a number for each clip; the model is not told their digit. The
Frechet distance is of features of the classifier of clips, never called FVD; beside it stands that of held-out clips.
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import common
import jax.numpy as jnp
import numpy as np
import tyro

from jaxgen.cli import parse
from jaxgen.core import compiled
from jaxgen.core.keys import sample_keys
from jaxgen.core.ranges import OptionalSize, Samples, Size
from jaxgen.errors import UserError
from jaxgen.inference.sampling import as_picture, in_rows
from jaxgen.metrics.image import psnr
from jaxgen.models.video import VideoDiffusion
from jaxgen.report import save_picture
from jaxgen.report.seeds import estimate
from jaxgen.runs.folder import RunFolder
from jaxgen.runs.restore import Trained, restore
from jaxgen.runtime import devices
from jaxgen.runtime.files import write_text
from jaxgen.scoring import features
from jaxgen.scoring.records import Scoring, drawn_once, score_run

SHOWN, PER_CLASS = 8, 4


@dataclass(frozen=True)
class Options:
    run: Annotated[str, tyro.conf.Positional]
    classifier: str = ""
    """Run of a classifier of clips whose features score them; no scores when empty."""
    given: OptionalSize = 0
    """Frames; as many as training gives at most when 0."""
    num: Samples = 256
    """Held-out clips to continue."""
    samples: Samples = 1000
    """Clips to score."""
    batch: Size = 64
    seed: int = 1
    out: str = str(common.RESULTS / "video-moving-digits.json")
    """JSON file; pictures go beside it."""


def by_frame(guess: np.ndarray, clips: np.ndarray) -> np.ndarray:
    """PSNR of each frame in dB, f64[N, F], of clips uint8[N, F, H, W, C]; at most 60 dB, that of equal frames."""
    frames = [jnp.asarray(a.reshape(-1, *a.shape[2:])) for a in (guess, clips)]
    return np.minimum(np.asarray(psnr(*frames), np.float64).reshape(clips.shape[:2]), 60.0)


def of_future(guess: np.ndarray, clips: np.ndarray, given: int) -> np.ndarray:
    """PSNR of all frames after the given ones together, f64[N]: of one tall picture."""
    tall = [jnp.asarray(a[:, given:].reshape(len(a), -1, *a.shape[3:])) for a in (guess, clips)]
    return np.asarray(psnr(*tall), np.float64)


def continued(trained: Trained, model: VideoDiffusion, options: Options, given: int) -> tuple[np.ndarray, np.ndarray]:
    """Held-out clips and what their first frames are continued by, uint8[N, F, H, W, C] each."""
    clips, made = [], []
    batches = trained.experiment.data.padded_batches(options.batch, "test", options.num)
    for i, (raw, mask) in enumerate(batches):
        label = None if model.class_dropout else raw.get("cond")
        cond = model.continuing(jnp.asarray(raw["x"]), given, label)
        keys = sample_keys(options.seed, options.batch, i * options.batch)
        made.append(np.asarray(compiled.sample(model, trained.state, keys, cond, trained.codec))[mask])
        clips.append(raw["x"][mask])
        print(f"continued {sum(map(len, made))} of {options.num}", file=sys.stderr, flush=True)
    return np.concatenate(clips), np.concatenate(made)


def scored(trained: Trained, options: Options) -> tuple[dict[str, Any], np.ndarray]:
    """Scores of samples and of held-out clips against training clips, and the samples."""
    network, draw = features.of_run(restore(RunFolder(Path(options.classifier)))), drawn_once()
    num, batch = options.samples, options.batch
    settings = {"seed": options.seed, "batch": batch, "num": num}
    found = score_run(trained, network, ["fid"], Scoring(**settings), draw=draw)
    real = score_run(trained, network, ["fid"], Scoring(**settings, of="test"))
    name = network.metric("fid")
    values = {name: found[0]["values"][name], f"{name}_held_out": real[0]["values"][name]}
    cond = trained.model.sample_cond(num, trained.examples)
    samples = np.concatenate(list(draw(trained, options.seed, range(0, num, min(batch, num)), cond)))[:num]
    if cond is not None:
        # Its classes are of digit and quadrant, digits first.
        told = network.apply(samples)["logits"].argmax(axis=1) % 10
        values["asked_digit"] = float(np.mean(told == np.asarray(cond)))
    return {**values, "protocol": found[0]["protocol"], "features": network.provenance}, samples


def measure(options: Options) -> dict[str, Any]:
    trained = restore(RunFolder(Path(options.run)))
    model = trained.model
    if not isinstance(model, VideoDiffusion):
        raise UserError(f"{options.run} is a run of {type(model).__name__}: name one of experiments/video_diffusion.py")
    given = options.given or model.given or model.shape[0] // 2
    clips, made = continued(trained, model, options, given)
    copied = np.repeat(clips[:, given - 1 : given], clips.shape[1], axis=1)
    ours, copies = (of_future(guess, clips, given) for guess in (made, copied))
    run, out = RunFolder(Path(options.run)), Path(options.out)
    result: dict[str, Any] = {
        "run": run.path.name, "step": trained.step, "given": given, "frames": clips.shape[1], "clips": len(clips),
        "given_kept": bool(np.array_equal(made[:, :given], clips[:, :given])),
        "continuation_psnr": estimate(list(ours)), "copy_psnr": estimate(list(copies)),
        "gain": estimate(list(ours - copies)),
        "better_than_copy": float(np.mean(ours > copies)),
        "psnr_by_frame": {
            name: [float(v) for v in by_frame(guess, clips)[:, given:].mean(axis=0)]
            for name, guess in (("continuation", made), ("copy", copied))
        },
        "training_seconds": json.loads(run.timing.read_text().splitlines()[-1])["time"],
        "seed": options.seed,
    }  # fmt: skip
    shown = np.stack([clips[:SHOWN], made[:SHOWN]])
    save_picture(out.with_name(f"{out.stem}-continued.gif"), as_picture("continued.png", shown, True, None)[1])
    if options.classifier:
        result["scores"], samples = scored(trained, options)
        cond = trained.model.sample_cond(len(samples), trained.examples)
        rows = in_rows(samples, cond)
        some = rows[:, :PER_CLASS] if rows.ndim == 6 else samples[: 10 * PER_CLASS]
        save_picture(out.with_name(f"{out.stem}-samples.gif"), as_picture("samples.png", some, True, None)[1])
    return result


def main(args: list[str]) -> None:
    options = parse.parse(Options, None, args, "video.py", __doc__)
    devices.start_jax()
    result = measure(options)
    out = Path(options.out)
    written = {"benchmark": "video", "provenance": common.provenance(), "result": result}
    write_text(out, json.dumps(written, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    parse.run(lambda: main(sys.argv[1:]))
