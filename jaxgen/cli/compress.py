"""`jaxgen compress`: pictures to a file without loss, by a run of an autoregressive model."""

from dataclasses import dataclass
from pathlib import Path

from jaxgen.cli.options import Common, ask
from jaxgen.core.ranges import OptionalCount
from jaxgen.errors import UserError
from jaxgen.inference.compression import check_model, check_place, compress_files
from jaxgen.runtime.reading import user_path


@dataclass(frozen=True)
class CompressOptions(Common):
    cond: tuple[OptionalCount, ...] = ()
    """Of a conditional model: the class of each picture, or one for all."""


def command(args: list[str]) -> None:
    """Pictures to a file without loss, by a run of an autoregressive model: RUN IN.png... OUT.jxg [flags]."""
    files, args = leading(args, "compress RUN IN.png OUT.jxg")
    asked = ask(CompressOptions, args, "compress", command.__doc__)
    check_model(asked.experiment.compute_model)
    check_place(files[-1])
    print(compress_files(asked.restore(), files[:-1], files[-1], asked.options.cond))


def leading(args: list[str], usage: str) -> tuple[list[Path], list[str]]:
    """The files named after RUN, and the arguments without them."""
    end = next((i for i, arg in enumerate(args) if arg.startswith("-")), len(args))
    if not any(arg in ("-h", "--help") for arg in args) and end < 3:
        raise UserError(f"a run, what is read and what is written are expected: jaxgen {usage}")
    return [user_path(arg) for arg in args[1:end]], [*args[:1], *args[end:]] if end else args
