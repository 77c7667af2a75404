"""`jaxgen COMMAND`: each command is a module of `jaxgen.cli` with a function `command(args)`."""

import sys
from importlib import import_module

from jaxgen.cli import parse
from jaxgen.errors import UserError, nearest

COMMANDS = {
    "train": "Train a preset of an experiment script: jaxgen train ddpm digits. --list shows scripts and presets.",
    "sweep": "Train a preset at several settings: jaxgen sweep vae digits --model.optimizer.lr 1e-4,1e-3 --seeds 4.",
    "plan": "Compile a preset for a machine that is not here: does it fit, how fast: jaxgen plan gpt gpt2 --on h100:8.",
    "sample": "Draw samples from a run: a grid and the raw arrays, or text.",
    "inspect": "Print where a picture comes from, and the command that draws it again: jaxgen inspect FILE.",
    "guide": "Draw pictures that a trained CLIP finds near to a text: jaxgen guide RUN --clip RUN --prompt TEXT.",
    "restore": "Draw what may be behind a noisy, grey, small or blurred picture: jaxgen restore RUN --image FILE.",
    "evaluate": "Measure a run on held-out data, or score its samples against real data (--metrics fid,...).",
    "ema": "Make averages of any length of a run's parameters, or find the best: jaxgen ema RUN --length 0.1.",
    "compare": "Show the scores of several runs side by side; refused where they were not taken alike.",
    "diff": "What two runs differ in, and the step at which their metrics part: jaxgen diff RUN RUN [--json].",
    "judge": "Write a page on which a person chooses between pictures of runs, blind: jaxgen judge RUN RUN [--real].",
    "app": "Play with runs on a page in a browser of this machine: jaxgen app RUN...",
    "speak": "Read a text out by a run of a model that speaks: jaxgen speak RUN TEXT OUT.wav.",
    "render": "Render a radiance field: held-out views, a turntable, a mesh.",
    "export": "Write the run's sampler as a file that needs jax alone.",
    "compress": "Compress pictures without loss by a run of an autoregressive model or an integer flow.",
    "decompress": "Restore the pictures that the same run compressed.",
    "report": "Write the page of a run anew.",
    "weights": "Convert published weights, to score by or go on from: GPT-2, CLIP, Stable Diffusion, speech ...",
}


def call(args: list[str]) -> None:
    """Runs a command. Raises UserError for one that there is not."""
    if not args or args[0] in ("-h", "--help"):
        lines = [f"  {name:10} {text}" for name, text in COMMANDS.items()]
        print("\n".join(["usage: jaxgen COMMAND ARGUMENTS [flags]", "", *lines]))
        return
    if args[0] not in COMMANDS:
        raise UserError(f"command {args[0]!r} is unknown{nearest(args[0], COMMANDS)}: choose {', '.join(COMMANDS)}")
    import_module(f"jaxgen.cli.{args[0]}").command(args[1:])


def main() -> None:
    parse.run(lambda: call(sys.argv[1:]))


if __name__ == "__main__":
    main()
