"""`jaxgen guide RUN`: pictures that CLIP finds near to a prompt."""

from dataclasses import dataclass

from jaxgen.cli.flags import Repeated
from jaxgen.cli.options import Asked, Common, ask, only
from jaxgen.core.ranges import OptionalCount, Samples, Seed, Size
from jaxgen.errors import UserError
from jaxgen.inference import guiding, prompts
from jaxgen.models.clip_guidance import CLIPGuidance
from jaxgen.runs.folder import RunFolder
from jaxgen.runs.restore import Trained, restore
from jaxgen.runtime.files import check_output
from jaxgen.runtime.reading import user_path


@dataclass(frozen=True, kw_only=True)
class GuideOptions(CLIPGuidance, Common):
    clip: str = ""
    """Run of experiments/clip.py, or of `jaxgen weights import-clip`, that guides."""
    prompt: Repeated = ()
    """A text that each picture is to show, TEXT or TEXT:WEIGHT; with a weight below 0, to keep away from. Given several
    times, all count."""
    image_prompt: Repeated = ()
    """A picture to be like, FILE or FILE:WEIGHT, beside the texts."""
    prompts: str = ""
    """A file with a prompt a line, of parts between bars, as `a red dragon | blurred:-0.5`; one compiled program draws
    them all."""
    judge: str = ""
    """Run of another CLIP, whose measure of the pictures is written too: guidance fools the one that it climbs."""
    num: Samples = 4
    """Pictures of each prompt."""
    seed: Seed = 0
    """Picture i of a seed and prompt is the same whatever `num`, `batch` and the other prompts are."""
    cond: tuple[OptionalCount, ...] = ()
    """Classes to choose from, where the run is conditional; all when empty."""
    batch: Size = 64
    """Pictures computed at a time."""
    out: str = ""
    """Folder for samples.png, samples.safetensors, start.png, way.gif and guided.json; RUN/guided when empty."""


def command(args: list[str]) -> None:
    """Draws pictures of a run that a trained CLIP finds near to a prompt (--clip RUN --prompt "a red dragon"): the
    latents of a GAN, StyleGAN, VAE or VQ-VAE are optimized, a diffusion model's sampling is drawn aside."""
    guide(ask(GuideOptions, args, "guide", command.__doc__))


def guide(asked: Asked) -> None:
    """Draws what was asked by `GuideOptions`."""
    options = asked.options
    wanted = guiding.Wanted(_prompts(options), options.num, options.seed, tuple(options.cond))
    if not options.clip:
        raise UserError("no CLIP was named: pass --clip RUN, of experiments/clip.py or of jaxgen weights import-clip")
    out = user_path(options.out) if options.out else asked.run.path / "guided"
    check_output(out, folder=True)
    clip, judge = _clip(options.clip), _clip(options.judge) if options.judge else None
    clips = [one for one in (clip, judge) if one is not None]
    for one in clips:
        prompts.check_clip(one)
    trained = asked.restore()
    guiding.check(trained, clips, wanted)
    settings = only(CLIPGuidance, options)
    origin = asked.origin(trained, seed=options.seed, num=options.num)
    numbers = guiding.write_guided(out, trained, clip, judge, wanted, settings, options.batch, origin)
    for name, found in numbers["similarity"].items():
        means = ", ".join(f"{kind} {found[kind]['mean']:.3f}" for kind in ("plain", "start", "guided"))
        print(f"similarity by {name} ({found['run']}): {means}")
    print(f"{len(wanted.prompts)} prompts, {options.num} pictures each, of step {trained.step}: {out / 'samples.png'}")


def _clip(run: str) -> Trained:
    return restore(RunFolder(user_path(run)))


def _prompts(options: GuideOptions) -> list[prompts.Prompt]:
    parts = [prompts.part(words) for words in options.prompt]
    parts += [prompts.part(words, picture=True) for words in options.image_prompt]
    if bool(parts) == bool(options.prompts):
        raise UserError("name what to draw: --prompt TEXT (and --image-prompt FILE), or else --prompts FILE")
    return [tuple(parts)] if parts else prompts.read_prompts(user_path(options.prompts))
