"""What the commands on a run share: RUN and its flags, the restored run, the weights of a distance."""

import sys
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from jaxgen.cli.parse import ahead, parse
from jaxgen.core.ranges import CheckpointStep, NonNegative
from jaxgen.errors import UserError
from jaxgen.runtime.reading import user_path

if TYPE_CHECKING:
    from jaxgen.experiment import Experiment
    from jaxgen.metrics.lpips import LPIPS
    from jaxgen.runs.folder import RunFolder
    from jaxgen.runs.restore import Trained

Settings = TypeVar("Settings")


@dataclass(frozen=True)
class Common:
    step: CheckpointStep = -1
    """Step of the checkpoint to use; the newest when negative."""
    best: bool = False
    """Use the best checkpoint of a run that was trained with --best."""
    adapters: NonNegative = 1.0
    """Strength of the adapters of a run that was trained with --lora.rank: 1 as trained, 0 for what they adapt."""
    device: Literal["auto", "cpu", "gpu", "tpu"] = "auto"
    compilation_cache: bool = True
    """Keep compiled programs in the user's cache folder."""
    trust: tuple[str, ...] = ()
    """Modules of your own, or scripts by their paths, that define the run's model, data or codec. They are imported,
    which runs their code."""


@dataclass(frozen=True)
class OnMesh(Common):
    mesh: str = ""
    """Devices to use, as data=2; one when empty. On a CPU with two cores, data=2 is nearly twice as fast."""


def only(kind: type[Settings], options: Any) -> Settings:
    """The settings of a kind that options have beside others."""
    return kind(**{field.name: getattr(options, field.name) for field in fields(kind)})  # pyright: ignore[reportArgumentType]


@dataclass(frozen=True)
class LPIPSWeights:
    lpips: tuple[str, ...] = ()
    """Files of LPIPS weights, trunk and heads, that `jaxgen weights convert` wrote, to measure images by."""
    lpips_net: Literal["alex", "vgg"] = "alex"
    """What `lpips` are weights of."""

    def distance(self) -> "LPIPS | None":
        """The distance whose weights are named; None where none are."""
        if not self.lpips:
            return None
        from jaxgen.metrics.lpips import LPIPS, TRUNKS
        from jaxgen.weights import load

        if len(self.lpips) != 2:
            raise UserError(f"lpips names {len(self.lpips)} files, two are expected: of the trunk and of the heads")
        heads = f"lpips_{self.lpips_net}"
        trunk, on_top = map(user_path, self.lpips)
        return LPIPS(load(TRUNKS[heads][0], trunk), load(heads, on_top))


@dataclass(frozen=True)
class Asked:
    """The arguments of a command: a run, the command's own flags, and the run's experiment as flags changed it.

    words: the command as it was typed, after `jaxgen`.
    """

    run: "RunFolder"
    options: Any
    experiment: "Experiment"
    words: tuple[str, ...]

    def restore(self) -> "Trained":
        """The run restored as the flags say."""
        from jaxgen.core.mesh import Layout
        from jaxgen.runs.restore import restore

        options = self.options
        layout = Layout.make(getattr(options, "mesh", ""))
        step = None if options.step < 0 else options.step
        chosen = {"step": step, "best": options.best, "adapters": options.adapters}
        return restore(self.run, self.experiment, layout=layout, **chosen)

    def origin(self, trained: "Trained", **chosen: Any) -> dict[str, Any]:
        """Where the command's pictures come from. chosen: values of its flags that say which ones they are."""
        from jaxgen.runs.origin import origin_of, pinned

        best = {"best": False} if self.options.best else {}  # what is best may change, a step stays
        values = {name.replace("_", "-"): value for name, value in chosen.items()}
        return origin_of(trained, chosen, pinned(self.words, {**values, "step": trained.step, **best}))


def ask(kind: type[Common], args: list[str], command: str, text: str | None) -> Asked:
    """RUN and the flags of a command: its own, and any field of the run's experiment as --run.FIELD. Starts jax."""
    import tyro

    from jaxgen.core.configuration import check_fields, trust
    from jaxgen.core.mesh import size
    from jaxgen.experiment import Experiment
    from jaxgen.runs.folder import RunFolder
    from jaxgen.runtime.devices import start_jax

    if not args or args[0].startswith("-"):
        print(f"{text}\n\nusage: jaxgen {command} RUN [flags]\nflags: jaxgen {command} RUN --help")
        if args and args[0] in ("-h", "--help"):
            sys.exit(0)
        raise UserError(f"no run folder was named: jaxgen {command} RUN")
    run = RunFolder(user_path(args[0]))
    # The run's experiment, and so its flags, can be read only with the modules that define it.
    trust(ahead(args, trust={"nargs": "*", "default": []}).trust)

    # Fields the two share (a seed, the device) are the command's; the experiment's own keep theirs.
    @dataclass(frozen=True)
    class Args:
        options: Annotated[kind, tyro.conf.arg(name="")]  # pyright: ignore[reportInvalidTypeForm]: tyro reads it
        experiment: Annotated[Experiment, tyro.conf.arg(name="run")]

    given = parse(Args, Args(kind(), run.experiment()), args[1:], f"jaxgen {command}", text)
    options = given.options
    check_fields(options)
    start_jax(options.device, options.compilation_cache, size(getattr(options, "mesh", "")))
    return Asked(run, options, given.experiment, (command, *args))
