"""`jaxgen sample RUN`: pictures, arrays or text."""

import hashlib
import json
import shutil
import sys
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from annotated_types import Ge, Le

from jaxgen.cli.flags import Repeated
from jaxgen.cli.options import Asked, Common, OnMesh, ask
from jaxgen.core.capabilities import Continues, DrawsSound, Translates
from jaxgen.core.configuration import to_json
from jaxgen.core.keys import sample_keys
from jaxgen.core.ranges import CheckpointStep, Depth, OptionalCount, OptionalDepth, OptionalSize, Samples, Seed, Size
from jaxgen.errors import UserError
from jaxgen.inference import cascading, editing, images, prompting, text
from jaxgen.inference.editing import Edit
from jaxgen.inference.prompting import Drawing
from jaxgen.inference.prompts import asked_texts, captions
from jaxgen.inference.sampling import as_picture, draw, guided, in_rows, is_clips
from jaxgen.inference.vocoding import save_sounds
from jaxgen.models.diffusion import Diffusion
from jaxgen.report import save_picture
from jaxgen.runs.checkpoint import saved_steps
from jaxgen.runs.folder import RunFolder
from jaxgen.runs.restore import Trained, restore
from jaxgen.runs.snapshots import restore_earlier
from jaxgen.runtime.files import check_output, write_tensors
from jaxgen.runtime.reading import read_lines, user_path

NUM = 64
"""Samples, where no number is given and no prompts."""
PLAIN = ("num", "seed", "batch", "files", "device", "mesh", "compilation_cache", "trust")
"""Flags that change no sample, or that a folder's name tells."""


@dataclass(frozen=True)
class SampleOptions(Edit, OnMesh, Drawing):
    num: Annotated[int, Ge(0), Le(10_000_000)] = 0
    """Samples to draw; 64, or with prompts one of each, when 0."""
    seed: Seed = 0
    """Sample i of a seed under a condition is the same picture whatever `num` and `batch` are."""
    batch: Size = 256
    """Samples computed at a time."""
    cond: tuple[OptionalCount, ...] = ()
    """Classes to sample, repeated up to `num`; when empty, all classes, an equal share of `num` each."""
    prompt: Repeated = ()
    """Of a model trained on texts: what the pictures are to show; given several times, some of `num` each."""
    prompts: str = ""
    """A file of such texts, one a line."""
    negative: str | None = None
    """With `prompt`: a text that guidance leads away from, instead of an empty one."""
    image: str = ""
    """A picture to start from. A diffusion model varies it (see strength) or, with mask, fills it in; PixelCNN and
    image GPT fill it in; StyleGAN finds its style and varies that; pix2pix translates a picture of any size, `num`
    times if dropout makes the results differ, and also writes 0.png, 1.png, ..."""
    mask: str = ""
    """A picture of the same size, white where `image` is drawn anew. PixelCNN and image GPT draw from top to bottom, so
    their part fits what is above. Transparent parts count as black."""
    alpha: bool = False
    """The mask is the transparency of `image`: what is transparent is drawn anew."""
    clip: str = ""
    """A clip, such as a GIF of the model's size, whose first frames are kept: a model of clips draws the others."""
    given: OptionalSize = 0
    """Frames of `clip` that are kept; when 0, as many as training gave at most, or half."""
    guide: str = ""
    """Diffusion models: run of a worse model of the same data, smaller or trained for less time, to guide away from
    (autoguidance, arXiv:2406.02507). `guidance` is the scale."""
    guide_step: CheckpointStep = -1
    """Checkpoint or snapshot of the guide; the newest checkpoint when negative. Without `guide`, an earlier step of
    this run."""
    cascade: Repeated = ()
    """Run that goes on from what RUN draws, as one of cascade.py, super_resolution.py or clip_decoder.py; given several
    times, one from another. Each is told the same prompts, and draws by the seed after the one before it."""
    level: Annotated[float, Ge(0), Le(1)] | None = None
    """With `cascade`: noise on the small picture that the last run enlarges, from 0, none, to 1; its own when None."""
    between: OptionalDepth = 0
    """Diffusion models, GANs and models with latents, as VAEs: draw rows of this many pictures that go from one sample
    to another."""
    files: bool = False
    """Also write each sample of images as a PNG of its own into the folder `files`, for scorers outside; classes and
    captions go to metadata.jsonl beside them, as ImageFolder reads it."""
    out: str = ""
    """Folder for samples.png (samples.gif of clips) and samples.safetensors, and of sound 0.wav, 1.wav, ...;
    RUN/samples/seedSEED-numNUM when empty, with a further word that stands for other flags."""

    @property
    def guided(self) -> bool:
        """Whether another model is guided away from."""
        return bool(self.guide) or self.guide_step >= 0


@dataclass(frozen=True)
class WriteOptions(Common):
    """For runs of text. Settings of the model say how tokens are drawn, as --run.model.decoding.temperature 0.7."""

    prompt: str | None = None
    """Text to continue; the first token of held-out text when None."""
    num: Samples = 1
    seed: Seed = 0
    """Sample i of a seed and prompt is the same text whatever `num` is."""
    tokens: Annotated[int, Ge(0), Le(1_000_000)] = 0
    """Tokens to write; the model's own number when 0."""
    beams: OptionalDepth = 0
    """Beam search: write the `num` likeliest of this many continuations instead of drawn ones; 0 draws."""
    draft: str = ""
    """Run of a smaller model with the same tokenizer, for speculative decoding: the same distribution, faster for a few
    texts."""
    draft_tokens: Depth = 4
    """Tokens that the draft proposes at a time."""
    out: str = ""
    """Folder for samples.txt; RUN/samples/seedSEED-numNUM when empty, with a further word that stands for other
    flags."""


def command(args: list[str]) -> None:
    """Draws samples from a run: a grid and the raw arrays, or text as it is written (--prompt). Any field of the
    experiment is a flag, as `--run.model.sampler.steps 50`."""
    if args and writes(user_path(args[0])):
        return write(ask(WriteOptions, args, "sample", command.__doc__))
    sample(ask(SampleOptions, args, "sample", command.__doc__))


def writes(run: Path) -> bool:
    """Whether samples of a run are text, to which `write` and its options belong."""
    return (run / "tokenizer.json").is_file()


def sample(asked: Asked) -> None:
    """Draws what was asked by `SampleOptions`."""
    options = asked.options
    if options.prompts:
        if options.prompt:
            raise UserError("--prompt and --prompts were given: leave one out")
        options = replace(options, prompt=read_lines(user_path(options.prompts), "prompts"))
    _check(options)
    asked = replace(asked, options=options, experiment=prompting.drawing(asked.experiment, options))
    model, num = asked.experiment.compute_model, options.num or len(options.prompt) or NUM
    editing.check_model(model, bool(options.image), bool(options.mask) or options.alpha, bool(options.between))
    translates = model if options.image and isinstance(model, Translates) else None
    lines = max(1, num // options.between) if options.between else num
    cond = _cond(asked, lines)
    if translates:
        num = num if translates.noise else 1  # answers that are all alike need no more
        cond = images.sources(user_path(options.image), cond.shape[-1], num)
    if options.clip:
        cond = _clip(asked, num, cond if options.cond else None)
    given = _given(asked) if options.image and not translates else None
    check_output(out := _folder(asked, num), folder=True)
    if options.files and not options.cascade and (x := asked.run.examples()["x"]).ndim != 4:
        raise UserError(f"--files is of pictures, {asked.run.path} draws arrays of shape {x.shape[1:]}: leave it out")
    trained = asked.restore()
    later = _later(trained, options)
    if options.sides:
        trained = prompting.resized(trained, *options.sides)
    rows, chosen = cond, {"seed": options.seed, "num": num}
    if options.prompt:
        for one in (*options.prompt, options.negative or ""):
            if cut := prompting.cut_off(trained, one):
                print(f"more than the model reads, left out: {cut}", file=sys.stderr)
        cond = prompting.conditions(trained, options.prompt, lines, options.negative)
        rows = prompting.by_prompt(num, len(options.prompt))
    if options.guided:
        step = None if options.guide_step < 0 else options.guide_step
        worse = restore_earlier(RunFolder(user_path(options.guide)) if options.guide else asked.run, step)
        chosen["guide_step"] = worse.step
        trained = guided(trained, worse)
    words = cascading.words(trained, later, cond, options.prompt, num)
    if given:
        edit = Edit(options.strength, options.resample)
        raw = editing.redraw(trained, sample_keys(options.seed, num), *given, cond, edit)
    elif options.between:
        raw = editing.rows_between(trained, options.seed, lines, options.between, cond)
        cond = jax.tree.map(lambda c: np.repeat(c, options.between, axis=0), cond)
    else:
        raw = draw(trained, options.seed, num, cond, options.batch)
    origin = asked.origin(trained, **chosen)
    if later:
        raw = cascading.continued(later, raw, options.seed, words, options.negative, options.batch)
        origin["cascade"] = [{"run": one.name, "step": one.step, "weights": one.weights} for one in later]
    if isinstance(model, DrawsSound):
        file = "samples.png"
        save_sounds(out, raw, model.mel, origin)
    else:
        columns = options.between if raw.ndim in (4, 5) else 0
        seen = raw if later else asked.experiment.data.shown(raw)
        shown = raw.reshape(-1, columns, *raw.shape[1:]) if columns else in_rows(seen, rows)
        said = captions(trained, cond) if len(raw) == num else ()
        file, shown = as_picture("samples.png", shown, is_clips(raw), asked.experiment.data.picture_size)
        save_picture(out / file, shown, texts=said, origin=origin)
    if translates:
        images.save_each(out, raw, origin)
    write_tensors(out / "samples.safetensors", {"x": raw})
    shutil.rmtree(out / "files", ignore_errors=True)  # an earlier draw's, which would stay beside these samples
    if options.files:
        images.save_files(out / "files", raw, cond, asked_texts(trained, cond), origin)
    print(f"{len(raw)} samples of step {trained.step}: {out / file}, {out / 'samples.safetensors'}")


def _cond(asked: Asked, num: int) -> Any:
    """Conditions of `num` samples but those of prompts, which need the run's tokenizer. Raises UserError for flags that
    the model has no use for."""
    options, model, run = asked.options, asked.experiment.compute_model, asked.run
    if options.prompt:
        prompting.check_told(asked.experiment, str(run.path))
        return None
    cond = model.sample_cond(num, run.examples())
    if options.cond:
        if cond is None:
            raise UserError(f"--cond was given, but {run.path} is not conditional: leave it out")
        if isinstance(cond, dict):
            told = "texts: pass --prompt TEXT" if getattr(model, "text", None) else "none: leave it out"
            raise UserError(f"--cond names classes, {run.path} is told {told}")
        cond = np.resize(np.asarray(options.cond, np.int32), num)
        # A scale of guidance by another model needs no training without classes.
        check = model.check_labels if options.guided and isinstance(model, Diffusion) else model.check_cond
        check(cond)
    return cond


def _check(options: SampleOptions) -> None:
    """Raises UserError for numbers out of range and flags that do not go together."""
    if options.mask and not options.image:
        raise UserError("--mask was given without --image: name the picture whose white part is to be drawn anew")
    if options.alpha and (options.mask or not options.image):
        raise UserError("--alpha takes the transparency of --image as the mask: give --image, and no --mask")
    if options.image and options.between:
        raise UserError("--image and --between were given: leave one out")
    if options.given and not options.clip:
        raise UserError("--given was given without --clip: name the clip whose first frames are kept")
    if options.clip and (options.image or options.between or options.prompt):
        raise UserError("--clip was given with --image, --between or --prompt: leave these out")
    if options.negative is not None and not options.prompt:
        raise UserError("--negative was given without --prompt: say what the pictures are to show")
    if options.prompt and (options.cond or options.guided):
        raise UserError("--prompt was given with --cond, --guide or --guide-step: leave these out")
    if options.cascade and (options.image or options.between):
        raise UserError("--cascade was given with --image or --between: leave these out")
    if options.level is not None and not options.cascade:
        raise UserError("--level is of a run that --cascade names: name one, or leave it out")
    if options.between == 1 or options.between > 2 * (options.num or len(options.prompt) or NUM):
        raise UserError(f"between is {options.between}: 2 or more pictures a row, and num for all rows")


def _later(trained: Trained, options: SampleOptions) -> list[Trained]:
    """The runs that go on from what `trained` draws. Raises UserError for those that do not go together."""
    later = [restore(RunFolder(user_path(name))) for name in options.cascade]
    if later and options.level is not None:
        later[-1] = cascading.at_level(later[-1], options.level)
    cascading.check([trained, *later])
    return later


def _folder(asked: Asked, num: int) -> Path:
    """Where the results go. Of a run's own folders, those of other flags than `PLAIN` have a name of their own."""
    options = asked.options
    if options.out:
        return user_path(options.out)
    plain = type(options)()
    given = {f.name: v for f in fields(options) if (v := getattr(options, f.name)) != getattr(plain, f.name)}
    flags = {name: value for name, value in given.items() if name not in PLAIN}
    if "step" in flags and flags["step"] == max(saved_steps(asked.run.checkpoints), default=-1):
        del flags["step"]  # the newest, which was told
    if (experiment := to_json(asked.experiment)) != to_json(asked.run.experiment()):
        flags["experiment"] = experiment
    name = f"seed{options.seed}-num{num}"
    if flags:
        name += "-" + hashlib.sha256(json.dumps(flags, sort_keys=True, default=str).encode()).hexdigest()[:6]
    return asked.run.path / "samples" / name


def _given(asked: Asked) -> tuple[np.ndarray, np.ndarray | None]:
    """The picture to start from, uint8[H, W, C], and where it stays, bool[H, W, 1], or None."""
    options, experiment = asked.options, asked.experiment
    file, shape = user_path(options.image), editing.shape_of(experiment.compute_model, experiment.codec)
    shape = (*options.sides, shape[-1]) if options.sides else shape
    if options.alpha:
        return images.read_with_alpha(file, shape)
    mask = images.read_mask(user_path(options.mask), shape) if options.mask else None
    return images.read_image(file, shape), mask


def _clip(asked: Asked, num: int, labels: Any) -> Any:
    """The conditions that continue the clip `num` times, under labels i32[num] where some were asked for."""
    options, model = asked.options, asked.experiment.compute_model
    if not isinstance(model, Continues):
        raise UserError(f"{type(model).__name__} draws no clips: --clip needs a run of video_diffusion.py")
    length, *shape = asked.experiment.codec.raw_shape(model.shape)
    given = options.given or model.given or length // 2
    if given > (most := model.given or length - 1):
        raise UserError(f"given is {given}: the model continues at most {most} frames")
    frames = images.read_frames(user_path(options.clip), tuple(shape), given)
    clip = np.concatenate([frames, np.repeat(frames[-1:], length - given, axis=0)])
    cond = model.continuing(jnp.broadcast_to(clip, (num, *clip.shape)), given, labels)
    model.check_cond(cond)
    return cond


def write(asked: Asked) -> None:
    """Writes what was asked by `WriteOptions`."""
    options = asked.options
    folder = _folder(asked, options.num)
    if options.out:  # a text is printed even where the run's own folder cannot keep it
        check_output(folder, folder=True)
    trained = asked.restore()
    draft = restore(RunFolder(user_path(options.draft))) if options.draft else None
    writing = text.Writing(
        options.prompt, options.seed, options.num, options.tokens, options.beams, draft, options.draft_tokens
    )
    file = text.write_samples(trained, writing, folder)
    print(f"step {trained.step}: {file}", file=sys.stderr)
