"""`jaxgen sample RUN`: pictures, arrays or text."""

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from jaxgen.cli.options import Asked, Common, OnMesh, ask
from jaxgen.core.capabilities import Translates
from jaxgen.core.keys import sample_keys
from jaxgen.errors import UserError
from jaxgen.inference import editing, images, text
from jaxgen.inference.editing import Edit
from jaxgen.inference.sampling import check_numbers, draw, guided, in_frames, in_rows
from jaxgen.report import save_picture
from jaxgen.runs.folder import RunFolder
from jaxgen.runs.restore import Trained, restore


@dataclass(frozen=True)
class SampleOptions(Edit, OnMesh):
    num: int = 64
    seed: int = 0
    """Sample i of a seed is the same picture whatever `num` and `batch` are."""
    batch: int = 256
    """Samples computed at a time."""
    cond: tuple[int, ...] = ()
    """Classes to sample, repeated up to `num`; every class in turn when empty."""
    image: str = ""
    """A picture to start from. A diffusion model varies it (see strength) or, with mask, fills it in; PixelCNN fills it
    in; StyleGAN finds its style and varies that; pix2pix translates a picture of any size, `num` times if dropout
    makes the results differ, and also writes 0.png, 1.png, ..."""
    mask: str = ""
    """A picture of the same size, white where `image` is drawn anew. PixelCNN draws from top to bottom, so its part
    fits what is above."""
    guide: str = ""
    """Diffusion models: run of a worse model of the same data, smaller or trained for less time, to guide away from
    (autoguidance, arXiv:2406.02507). The scale is --run.model.guidance.scale."""
    guide_step: int = -1
    """Checkpoint of the guide; the newest when negative."""
    between: int = 0
    """Diffusion models and StyleGAN: draw rows of this many pictures that go from one sample to another."""
    out: str = ""
    """Folder for samples.png and samples.safetensors; RUN/samples/seedSEED-numNUM when empty."""


@dataclass(frozen=True)
class WriteOptions(Common):
    """For runs of text. Settings of the model say how tokens are drawn, as --run.model.decoding.temperature 0.7."""

    prompt: str | None = None
    """Text to continue; the first token of held-out text when None."""
    num: int = 1
    seed: int = 0
    """Sample i of a seed and prompt is the same text whatever `num` is."""
    tokens: int = 0
    """Tokens to write; the model's own number when 0."""
    beams: int = 0
    """Beam search: write the `num` likeliest of this many continuations instead of drawn ones; 0 draws."""
    draft: str = ""
    """Run of a smaller model with the same tokenizer, for speculative decoding: the same distribution, faster for a few
    texts."""
    draft_tokens: int = 4
    """Tokens that the draft proposes at a time."""
    out: str = ""
    """Folder for samples.txt; RUN/samples/seedSEED-numNUM when empty."""


def command(args: list[str]) -> None:
    """Draws samples from a run: a grid and the raw arrays, or text as it is written (--prompt). Any field of the
    experiment is a flag, as `--run.model.sampler.steps 50`."""
    if args and (Path(args[0]) / "tokenizer.json").is_file():
        return _write(args)
    asked = ask(SampleOptions, args, "sample", command.__doc__)
    options, model, run = asked.options, asked.experiment.compute_model, asked.run
    _check(options)
    editing.check_model(model, bool(options.image), bool(options.mask), bool(options.between))
    translates = model if options.image and isinstance(model, Translates) else None
    cond = model.sample_cond(options.num, run.examples())
    if options.cond:
        if cond is None:
            raise UserError(f"--cond was given, but {run.path} is not conditional: leave it out")
        cond = np.resize(np.asarray(options.cond, np.int32), options.num)
        model.check_cond(cond)
    num = options.num
    if translates:
        num = num if translates.noise else 1  # answers that are all alike need no more
        cond = images.sources(Path(options.image), cond.shape[-1], num)
    trained = asked.restore()
    if options.guide:
        step = None if options.guide_step < 0 else options.guide_step
        trained = guided(trained, restore(RunFolder(Path(options.guide)), step=step))
    if (options.image or options.between) and not translates:
        raw = _edited(trained, cond, options)
    else:
        raw = draw(trained, options.seed, num, cond, options.batch)
    out = _folder(asked)
    columns = options.between if raw.ndim == 4 else 0
    shown = raw.reshape(-1, columns, *raw.shape[1:]) if columns else in_rows(raw, cond)
    save_picture(out / "samples.png", in_frames(shown, asked.experiment.data.picture_size))
    if translates:
        images.save_each(out, raw)
    save_file({"x": raw}, out / "samples.safetensors")
    print(f"{num} samples of step {trained.step}: {out / 'samples.png'}, {out / 'samples.safetensors'}")


def _check(options: SampleOptions) -> None:
    """Raises UserError for numbers out of range and flags that do not go together."""
    check_numbers(options.num, options.batch, options.seed)
    if options.mask and not options.image:
        raise UserError("--mask was given without --image: name the picture whose white part is to be drawn anew")
    if options.between == 1 or options.between > 2 * options.num:
        raise UserError(f"between is {options.between}: 2 or more pictures a row, and num for all rows")


def _folder(asked: Asked) -> Path:
    options = asked.options
    return Path(options.out) if options.out else asked.run.path / "samples" / f"seed{options.seed}-num{options.num}"


def _edited(trained: Trained, cond: np.ndarray | None, options: SampleOptions) -> np.ndarray:
    """Samples that start from a picture, or lie between two."""
    if options.between:
        rows = max(1, options.num // options.between)
        return editing.rows_between(trained, options.seed, rows, options.between, cond)
    shape = editing.shape_of(trained.model)
    image, mask = images.read_image(Path(options.image), shape), None
    if options.mask:
        mask = images.read_image(Path(options.mask), (*shape[:2], 1)) < 128
    keys = sample_keys(options.seed, options.num)
    return editing.redraw(trained, keys, image, mask, cond, Edit(options.strength, options.resample))


def _write(args: list[str]) -> None:
    asked = ask(WriteOptions, args, "sample", command.__doc__)
    options = asked.options
    if options.num < 1 or options.seed < 0 or options.tokens < 0 or options.beams < 0:
        raise UserError(f"num is {options.num}, seed {options.seed}: num starts at 1; seed, tokens and beams at 0")
    trained = asked.restore()
    draft = restore(RunFolder(Path(options.draft))) if options.draft else None
    writing = text.Writing(
        options.prompt, options.seed, options.num, options.tokens, options.beams, draft, options.draft_tokens
    )
    file = text.write_samples(trained, writing, _folder(asked))
    print(f"step {trained.step}: {file}", file=sys.stderr)
