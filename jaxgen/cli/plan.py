"""`jaxgen plan SCRIPT PRESET --on MACHINE`: does a preset fit an accelerator that is not here, what would it cost?"""

import json
from dataclasses import dataclass

from jaxgen.cli.train import Flags, flags_of, module_doc, preset_of, script_file
from jaxgen.core.configuration import check_fields
from jaxgen.core.ranges import OptionalCount
from jaxgen.errors import UserError
from jaxgen.experiment import presets
from jaxgen.runtime.files import check_output, write_text
from jaxgen.runtime.reading import user_path


@dataclass(frozen=True)
class PlanOptions(Flags):
    on: str = "h100"
    """The machine: a100, a100_40, h100, h200, b200 or rtx4090, with a number of them as in h100:8; v5e, v5p or v6e with
    a slice, as in v5e:4x4."""
    samples: OptionalCount = 0
    """Plan the sampler too, for so many samples in one call."""
    search: bool = False
    """Try meshes, and while none fits, recomputed activations and gradients in parts; plan the fastest that fits."""
    out: str = ""
    """File for the plan as JSON."""


def command(args: list[str]) -> None:
    """Compiles a preset's training step, and with --samples its sampler, for a machine that is not here: does it fit,
    what it moves, how fast it could be at best: jaxgen plan SCRIPT PRESET --on h100:8 [flags]."""
    if len(args) < 2 or args[0].startswith("-") or args[1].startswith("-"):
        print(f"{command.__doc__}\n\nusage: jaxgen plan SCRIPT PRESET --on MACHINE [flags]")
        if args and args[0] in ("-h", "--help"):
            return
        raise UserError("a script and a preset are expected: jaxgen plan gpt gpt2 --on h100:8")
    script, name, *rest = args
    file = script_file(script)
    chosen = preset_of(presets(file), name)
    experiment, options = flags_of(chosen, rest, f"jaxgen plan {script} {name}", module_doc(file), PlanOptions)
    check_fields(options)

    from jaxgen.planning.machines import machine, quiet
    from jaxgen.planning.plan import plan, with_sampler
    from jaxgen.planning.search import search

    on, out = machine(options.on), user_path(options.out) if options.out else None
    if out:
        check_output(out, folder=False)
    quiet()
    devices = on.devices()
    if options.search:
        found = search(experiment, on, devices, file.stem, name, lambda line: print(f"  {line}", flush=True))
    else:
        found = plan(experiment, on, devices, file.stem, name)
    if options.samples:
        found = with_sampler(found, devices, options.samples)
    print("\n".join(found.lines()))
    if out:
        write_text(out, json.dumps(found.to_json(), indent=2) + "\n")
