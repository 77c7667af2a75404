"""`jaxgen render RUN`: views and film of a scene, and the mesh of a radiance field."""

from dataclasses import dataclass

from jaxgen.cli.options import Common, LPIPSWeights, ask
from jaxgen.inference.rendering import Rendering, check, render_run
from jaxgen.runtime.reading import user_path


@dataclass(frozen=True)
class RenderOptions(Rendering, LPIPSWeights, Common):
    out: str = ""
    """Folder for views, film and mesh; RUN/render when empty."""


def command(args: list[str]) -> None:
    """Of a scene: held-out views with PSNR, SSIM and LPIPS, depth and opacity, a turntable; of a field also a mesh."""
    asked = ask(RenderOptions, args, "render", command.__doc__)
    options = asked.options
    check(asked.experiment, options)
    lpips = options.distance()
    out = user_path(options.out) if options.out else asked.run.path / "render"
    trained = asked.restore()
    print(render_run(trained, options, out, lpips, asked.origin(trained)))
