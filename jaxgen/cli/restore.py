"""`jaxgen restore RUN --image FILE`: pictures that may be behind a degraded one."""

from dataclasses import dataclass

import numpy as np

from jaxgen.cli.options import Asked, Common, ask, only
from jaxgen.core.keys import sample_keys
from jaxgen.core.ranges import OptionalCount, Samples, Seed
from jaxgen.errors import UserError
from jaxgen.inference import images
from jaxgen.inference.restoring import Degraded, conditions, restore_pictures
from jaxgen.report import save_picture
from jaxgen.runtime.files import check_output, write_tensors
from jaxgen.runtime.reading import user_path


@dataclass(frozen=True)
class RestoreOptions(Degraded, Common):
    image: str = ""
    """The degraded picture. Of lost resolution it is smaller than the run's pictures by `factor`, otherwise of their
    size; of lost colour it is read as grey."""
    num: Samples = 8
    """Pictures to draw of all that may be behind it."""
    seed: Seed = 0
    """Picture i of a seed under a condition is the same whatever `num` is."""
    cond: tuple[OptionalCount, ...] = ()
    """Its class, where the run is conditional. When empty, none where the run was trained on examples without, and
    otherwise all classes, an equal share of `num` each."""
    out: str = ""
    """Folder for samples.png, samples.safetensors, 0.png, 1.png, ...; RUN/restored when empty."""


def command(args: list[str]) -> None:
    """Draws what may be behind a degraded picture, by a diffusion model that was trained on whole ones: --lost noise,
    colour, resolution or sharpness. No training is needed; the samples differ where the picture leaves it open."""
    restore(ask(RestoreOptions, args, "restore", command.__doc__))


def restore(asked: Asked) -> None:
    """Draws what was asked by `RestoreOptions`."""
    options, model = asked.options, asked.experiment.compute_model
    if not options.image:
        raise UserError("no picture was named: pass --image FILE, the degraded one")
    degraded = only(Degraded, options)
    shape = degraded.shape(model, asked.experiment.codec)
    y = images.read_image(user_path(options.image), shape)
    cond = conditions(model, options.num, options.cond, asked.run.examples())
    out = user_path(options.out) if options.out else asked.run.path / "restored"
    check_output(out, folder=True)
    trained = asked.restore()
    y = np.broadcast_to(y, (options.num, *shape))
    x = restore_pictures(trained, sample_keys(options.seed, options.num), y, degraded, cond)
    origin = asked.origin(trained, seed=options.seed, num=options.num)
    save_picture(out / "samples.png", x, origin=origin)
    images.save_each(out, x, origin)
    write_tensors(out / "samples.safetensors", {"x": x})
    print(f"{options.num} pictures of step {trained.step}: {out / 'samples.png'}")
