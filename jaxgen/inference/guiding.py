"""`jaxgen guide`: pictures of a run that a trained CLIP finds near to prompts."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.core.capabilities import ClassConditional, HasLatents, Steers
from jaxgen.core.configuration import to_json
from jaxgen.core.keys import sample_keys
from jaxgen.errors import UserError
from jaxgen.inference import editing
from jaxgen.inference.held_out import mean_and_error
from jaxgen.inference.prompts import Prompt, check_clip, similarities, targets
from jaxgen.inference.sampling import drawn
from jaxgen.models.clip_guidance import CLIPGuidance, Targets, guide
from jaxgen.report import save_picture
from jaxgen.runs.restore import Trained
from jaxgen.runtime.files import write_tensors, write_text
from jaxgen.runtime.png import Origin


class Wanted(NamedTuple):
    """What is to be drawn: `num` pictures for each of P prompts, row i of each from sample i's key."""

    prompts: Sequence[Prompt]
    num: int = 4
    seed: int = 0
    classes: tuple[int, ...] = ()
    """To choose from; all when empty."""


def check(trained: Trained, clips: Sequence[Trained], wanted: Wanted) -> None:
    """Raises UserError for a run whose pictures one of the CLIPs cannot see, or no gradient moves, and for classes that
    it does not know."""
    model = trained.model
    if not isinstance(model, HasLatents | Steers):
        name = type(model).__name__
        raise UserError(
            f"{trained.name} is a run of {name}, whose pictures no gradient moves: guide a GAN, StyleGAN, VAE, VQ-VAE "
            "or diffusion model"
        )
    image = jax.eval_shape(trained.codec.unrounded, jax.ShapeDtypeStruct((1, *model.shape), jnp.float32))
    for clip in clips:
        channels = check_clip(clip).shape[2]
        if image.ndim != 4 or image.shape[3] not in (1, channels):
            given = list(image.shape[1:])
            raise UserError(
                f"{trained.name} draws {given}, {clip.name} sees pictures of {channels} channels: name another"
            )
    editing.check_free(model)
    if getattr(model, "text", None):
        raise UserError(f"{trained.name} is told texts itself: jaxgen sample {trained.name} --prompt ... draws them")
    if wanted.classes:
        if not getattr(model, "num_classes", 0):
            raise UserError(f"--cond was given, but {trained.name} is not conditional: leave it out")
        trained.experiment.model.check_cond(np.asarray(wanted.classes, np.int32))


def conditions(trained: Trained, wanted: Wanted) -> Any:
    """What `models.clip_guidance.guide` takes as `cond`: classes to choose candidates from."""
    model = trained.model
    if not isinstance(model, ClassConditional) or not model.num_classes:
        return None
    return np.asarray(wanted.classes or range(model.num_classes), np.int32)


class Pictures(NamedTuple):
    """`models.clip_guidance.Guided` of all rows, in NumPy."""

    x: np.ndarray
    start: np.ndarray
    similarity: np.ndarray
    film: np.ndarray
    cond: np.ndarray | None


def guided_pictures(
    trained: Trained, clip: Trained, wanted: Wanted, settings: CLIPGuidance, batch: int = 64
) -> Pictures:
    """Pictures by `guide` for P prompts times num samples, a prompt after the other; `batch` rows at a time, by one
    program. Raises UserError for runs that cannot guide or be guided."""
    judge = check_clip(clip)
    check(trained, [clip], wanted)
    goals, num, cond = targets(clip, wanted.prompts), wanted.num, conditions(trained, wanted)
    total = len(wanted.prompts) * num
    batch, parts = min(batch, total), []
    for first in range(0, total, batch):
        rows = np.arange(first, first + batch) % total  # past the end they start over, and are cut off below
        keys = sample_keys(wanted.seed, num)[jnp.asarray(rows % num)]
        some = Targets(*(part[jnp.asarray(rows // num)] for part in goals))
        made = guide(
            settings, trained.model, judge, trained.codec, trained.state, clip.state.sampling_params, keys, some, cond
        )  # fmt: skip
        parts.append(jax.tree.map(np.asarray, made))

    def joined(name: str, axis: int) -> np.ndarray:
        return np.concatenate([getattr(part, name) for part in parts], axis=axis).take(range(total), axis=axis)

    conds = None if cond is None else joined("cond", 0)
    return Pictures(joined("x", 0), joined("start", 0), joined("similarity", 1), joined("film", 1), conds)


def plain_pictures(trained: Trained, wanted: Wanted, batch: int = 256) -> np.ndarray:
    """Samples without guidance, as many for each prompt; classes in turn, or those that were asked. batch: samples
    computed at once."""
    num = len(wanted.prompts) * wanted.num
    cond = trained.model.sample_cond(num, trained.examples)
    if cond is not None:  # each prompt meets all classes
        order = np.random.default_rng(wanted.seed).permutation(num)
        cond = np.resize(np.asarray(wanted.classes, np.int32), num) if wanted.classes else np.asarray(cond)[order]
    size = min(batch, num)
    return np.concatenate(list(drawn(trained, wanted.seed, range(0, num, size), cond)))[:num]


def compared(judges: dict[str, Trained], wanted: Wanted, pictures: dict[str, np.ndarray]) -> dict[str, Any]:
    """For each judge and kind of pictures, uint8[P * num, H, W, C]: the similarity to their prompts over all, with its
    standard error over prompts, and of each prompt. `gain` is that of the guided pictures less the plain ones'."""
    numbers: dict[str, Any] = {}
    for name, judge in judges.items():
        goals = targets(judge, wanted.prompts)
        goals = Targets(*(jnp.repeat(part, wanted.num, axis=0) for part in goals))
        each = {
            kind: similarities(judge, images, goals).reshape(-1, wanted.num).mean(axis=1)
            for kind, images in pictures.items()
        }
        numbers[name] = {
            "run": judge.name,
            "weights": judge.weights,
            **{kind: mean_and_error(values.astype(np.float64)) for kind, values in each.items()},
            "gain": mean_and_error((each["guided"] - each["plain"]).astype(np.float64)),
            "each": {kind: [round(float(v), 4) for v in values] for kind, values in each.items()},
        }
    return numbers


def write_guided(
    folder: Path,
    trained: Trained,
    clip: Trained,
    judge: Trained | None,
    wanted: Wanted,
    settings: CLIPGuidance,
    batch: int = 64,
    origin: Origin | None = None,
) -> dict[str, Any]:
    """Draws, and writes into the folder: samples.png, a row for each prompt, which stands below its first picture, and
    samples.safetensors; start.png, what guidance started from; way.gif, if frames were kept; guided.json, how near all
    are to the prompts. Returns that."""
    made = guided_pictures(trained, clip, wanted, settings, batch)
    count, num = len(wanted.prompts), wanted.num

    def rows(images: np.ndarray) -> np.ndarray:
        return images.reshape(*images.shape[:-4], count, num, *images.shape[-3:])

    said = [" | ".join(map(str, prompt)) if i == 0 else "" for prompt in wanted.prompts for i in range(num)]
    for name, images in (("samples.png", made.x), ("start.png", made.start)):
        save_picture(folder / name, rows(images), texts=said, origin=origin)
    if len(made.film):
        save_picture(folder / "way.gif", rows(made.film))
    arrays = {name: rows for name, rows in made._asdict().items() if name != "film" and rows is not None}
    write_tensors(folder / "samples.safetensors", arrays)
    pictures = {"plain": plain_pictures(trained, wanted, batch), "start": made.start, "guided": made.x}
    judges = {"clip": clip} | ({"judge": judge} if judge else {})
    numbers = {
        "run": trained.name,
        "weights": trained.weights,
        "step": trained.step,
        "prompts": [[str(one) for one in prompt] for prompt in wanted.prompts],
        "num": num,
        "seed": wanted.seed,
        "guidance": to_json(settings),
        "similarity": compared(judges, wanted, pictures),
    }
    write_text(folder / "guided.json", json.dumps(numbers, indent=1) + "\n")
    return numbers
