"""`jaxgen export RUN`: the sampler as a file that needs jax alone."""

from dataclasses import dataclass
from typing import Literal

from jaxgen.cli.options import Common, ask
from jaxgen.inference.export import export_run
from jaxgen.runtime.reading import user_path


@dataclass(frozen=True)
class ExportOptions(Common):
    platforms: tuple[Literal["cpu", "cuda", "tpu"], ...] = ("cpu", "cuda", "tpu")
    out: str = ""
    """Folder for what is written; RUN/export when empty."""


def command(args: list[str]) -> None:
    """The run's sampler as a file that needs jax alone, with a script that draws from it."""
    asked = ask(ExportOptions, args, "export", command.__doc__)
    out = user_path(asked.options.out) if asked.options.out else asked.run.path / "export"
    print(export_run(asked.restore(), out, asked.options.platforms))
