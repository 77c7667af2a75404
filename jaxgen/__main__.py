"""`jaxgen sample | evaluate | render | compare | export | compress | decompress | report RUN`: what can be done with a
run folder, and nothing else."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from jaxgen import cli
from jaxgen.errors import UserError, nearest
from jaxgen.options import (
    Common,
    CompressOptions,
    EvaluateOptions,
    ExportOptions,
    RenderOptions,
    SampleOptions,
    WriteOptions,
)


def _parse(kind: type, args: list[str], command: str, text: str) -> tuple[Any, Any]:
    """RUN and the flags of a command: its own, and any field of the run's experiment."""
    import tyro

    from jaxgen.experiment import Experiment
    from jaxgen.runfolder import RunFolder

    if not args or args[0].startswith("-"):
        print(f"{text}\n\nusage: jaxgen {command} RUN [flags]\nflags: jaxgen {command} RUN --help")
        if args and args[0] in ("-h", "--help"):
            sys.exit(0)
        raise UserError(f"no run folder was named: jaxgen {command} RUN")
    run = RunFolder(Path(args[0]))

    # Fields the two share (a seed, the device) are the command's; the experiment's own keep theirs.
    @dataclass(frozen=True)
    class Args:
        options: Annotated[kind, tyro.conf.arg(name="")]
        experiment: Annotated[Experiment, tyro.conf.arg(name="run")]

    given = cli.parse(Args, Args(kind(), run.experiment()), args[1:], f"jaxgen {command}", text)
    cli.start_jax(given.options.device, given.options.compilation_cache, getattr(given.options, "mesh", ""))
    return run, given


def _restore(run: Any, experiment: Any, options: Common, layout: Any = None) -> tuple[Any, Any]:
    """The codec, and the state without what only training needs."""
    from jaxgen.checkpoint import Checkpoints
    from jaxgen.loop import saved_state
    from jaxgen.use import loaded_codec

    codec = loaded_codec(run, experiment, layout)
    if not run.checkpoints.is_dir():
        raise UserError(f"{run.path} has no checkpoints: train it first")
    with Checkpoints(run.checkpoints) as checkpoints:
        step = checkpoints.best() if options.best else None if options.step < 0 else options.step
        return codec, saved_state(experiment, run.examples(), codec, checkpoints, step, layout, optimizer=False)


def sample(args: list[str]) -> None:
    """Samples from a run: a grid and the raw arrays, or text as it is written (--prompt). Any field of the experiment
    is a flag, as `--run.model.sampler.steps 50`."""
    if args and (Path(args[0]) / "tokenizer.json").is_file():
        return _write(args)
    import numpy as np
    from safetensors.numpy import save_file

    run, given = _parse(SampleOptions, args, "sample", sample.__doc__)
    options, experiment = given.options, given.experiment
    if options.num < 1 or options.batch < 1 or options.seed < 0:
        given = f"num is {options.num}, batch {options.batch}, seed {options.seed}"
        raise UserError(f"{given}: num and batch start at 1, seed at 0")
    from jaxgen import edit
    from jaxgen.parallel import Layout
    from jaxgen.report import save_picture
    from jaxgen.use import draw, in_frames, in_rows

    model = experiment.compute_model
    edit.check_model(model, bool(options.image), bool(options.mask), bool(options.between))
    translated = bool(options.image) and edit.translates(model)
    if options.mask and not options.image:
        raise UserError("--mask was given without --image: name the picture whose white part is to be drawn anew")
    if options.between == 1 or options.between > 2 * options.num:
        raise UserError(f"between is {options.between}: 2 or more pictures a row, and num for all rows")
    cond = model.sample_cond(options.num, run.examples())
    if options.cond:
        if cond is None:
            raise UserError(f"--cond was given, but {run.path} is not conditional: leave it out")
        cond = np.resize(np.asarray(options.cond, np.int32), options.num)
        model.check_cond(cond)
    num = options.num
    if translated:
        num = num if model.noise else 1  # answers that are all alike need no more
        cond = edit.sources(Path(options.image), cond.shape[-1], num)
    layout = Layout.make(options.mesh)
    codec, state = _restore(run, experiment, options, layout)
    if (options.image or options.between) and not translated:
        raw = _edited(model, state, codec, cond, options)
    else:
        raw = draw(model, state, options.seed, num, cond, codec, options.batch, layout)
    out = Path(options.out) if options.out else run.path / "samples" / f"seed{options.seed}-num{options.num}"
    columns = options.between if raw.ndim == 4 else 0
    shown = raw.reshape(-1, columns, *raw.shape[1:]) if columns else in_rows(raw, cond)
    save_picture(out / "samples.png", in_frames(shown, experiment.data.frame))
    if translated:
        edit.save_each(out, raw)
    save_file({"x": raw}, out / "samples.safetensors")
    print(f"{num} samples of step {int(state.step)}: {out / 'samples.png'}, {out / 'samples.safetensors'}")


def _write(args: list[str]) -> None:
    from jaxgen import writing

    run, given = _parse(WriteOptions, args, "sample", sample.__doc__)
    options = given.options
    if options.num < 1 or options.seed < 0 or options.tokens < 0:
        raise UserError(f"num is {options.num}, seed {options.seed}: num starts at 1, seed and tokens at 0")
    model = writing.with_tokens(given.experiment.compute_model, options.tokens)
    _, state = _restore(run, given.experiment, options)
    file = writing.write_samples(run, model, state, options.prompt, options.seed, options.num, options.out)
    print(f"step {int(state.step)}: {file}", file=sys.stderr)


def _edited(model: Any, state: Any, codec: Any, cond: Any, options: SampleOptions) -> Any:
    """Samples that start from a picture, or lie between two."""
    import numpy as np

    from jaxgen import core, edit

    if options.between:
        rows = max(1, options.num // options.between)
        return edit.rows_between(model, state, options.seed, rows, options.between, cond, codec)
    image, mask = edit.read_image(Path(options.image), model.shape), None
    if options.mask:
        mask = edit.read_image(Path(options.mask), (*model.shape[:2], 1)) < 128
    keys = core.sample_keys(options.seed, options.num)
    settings = {"strength": options.strength, "resample": options.resample}
    return np.asarray(edit.redraw(model, state, keys, image, mask, cond, codec, **settings))


def evaluate(args: list[str]) -> None:
    """The model's numbers on held-out data: mean and standard error, printed and kept in RUN/evaluation.json."""
    run, given = _parse(EvaluateOptions, args, "evaluate", evaluate.__doc__)
    options, experiment = given.options, given.experiment
    if options.limit < 0 or options.batch < 1:
        raise UserError(f"limit is {options.limit}, batch {options.batch}: limit starts at 0, batch at 1")
    if options.metrics:
        return _score(run, experiment, options)
    from jaxgen.parallel import Layout
    from jaxgen.runfolder import environment
    from jaxgen.use import held_out_numbers

    layout = Layout.make(options.mesh)
    lpips = _lpips(options) if options.lpips else None
    codec, state = _restore(run, experiment, options, layout)
    numbers, count = held_out_numbers(
        experiment, state, codec, options.seed, options.split, options.limit or None, options.batch, layout,
        {lpips.name: lpips} if lpips else None,
    )  # fmt: skip
    if not numbers:
        raise UserError(f"{type(experiment.model).__name__} has no number per example: there is nothing to evaluate")
    facts = {"split": options.split, "num": count, "seed": options.seed, "step": int(state.step)}
    facts |= {"parameters": state.sampling_field}
    facts |= {"lpips": lpips.provenance} if lpips else {}
    run.write_json("evaluation.json", {**facts, "metrics": numbers, "environment": environment()})
    print(f"step {facts['step']}, {count} examples of {options.split}")
    for name, value in numbers.items():
        print(f"{name:20} {value['mean']:.6g} +- {value['stderr']:.2g}")


def _lpips(options: Any) -> Any:
    """The distance whose weights are named."""
    from jaxgen.metrics.lpips import LPIPS, TRUNKS
    from jaxgen.weights import load

    if len(options.lpips) != 2:
        raise UserError(f"lpips names {len(options.lpips)} files, two are expected: of the trunk and of the heads")
    heads = f"lpips_{options.lpips_net}"
    return LPIPS(load(TRUNKS[heads][0], options.lpips[0]), load(heads, options.lpips[1]))


def _score(run: Any, experiment: Any, options: EvaluateOptions) -> None:
    from jaxgen import score
    from jaxgen.parallel import Layout
    from jaxgen.paths import by_lpips
    from jaxgen.runfolder import RunFolder
    from jaxgen.scores import score_run

    metrics = score.check_metrics(options.metrics, options.num, options.reference)
    if bool(options.weights) == bool(options.classifier):
        raise UserError("scores need features: give --weights FILE (Inception) or --classifier RUN, one of the two")
    if options.weights:
        network = score.inception(Path(options.weights), options.resize)
    else:
        other = RunFolder(Path(options.classifier))
        codec, state = _restore(other, other.experiment(), Common())
        network = score.classifier(other, state, codec)
    distance = by_lpips(_lpips(options)) if options.lpips else None
    layout = Layout.make(options.mesh)
    restored = _restore(run, experiment, options, layout)
    records = score_run(
        run, experiment, restored, network, metrics, options.num, options.seed, options.batch, options.of,
        options.reference, layout, distance,
    )  # fmt: skip
    for record in records:
        for name, value in record["values"].items():
            print(f"{name:24} {value:.6g}")
    print(f"{records[0]['protocol']['num']} of {options.of} against {options.reference}; {run.path / 'scores.json'}")


def render(args: list[str]) -> None:
    """Of a radiance field: held-out views with PSNR, SSIM and LPIPS, depth and opacity, a turntable, a mesh."""
    from jaxgen.render import check, render_run

    run, given = _parse(RenderOptions, args, "render", render.__doc__)
    options, experiment = given.options, given.experiment
    check(experiment, options)
    lpips = _lpips(options) if options.lpips else None
    codec, state = _restore(run, experiment, options)
    print(render_run(run, experiment, state, codec, options, lpips))


def compare(args: list[str]) -> None:
    """The scores of several runs side by side; refused where two were not taken in the same way."""
    from rich.console import Console
    from rich.table import Table

    from jaxgen.scores import line_up

    if len(args) < 2 or any(a.startswith("-") for a in args):
        print(f"{compare.__doc__}\n\nusage: jaxgen compare RUN RUN...")
        if args in (["-h"], ["--help"]):
            return
        raise UserError("two run folders or more are expected: jaxgen compare RUN RUN...")
    heads, rows = line_up([Path(a) for a in args])
    table = Table(*heads)
    for row in rows:
        table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 200).print(table)


def export(args: list[str]) -> None:
    """The run's sampler as a file that needs jax alone, with a script that draws from it."""
    run, given = _parse(ExportOptions, args, "export", export.__doc__)
    options, experiment = given.options, given.experiment
    from jaxgen.experiment import to_json
    from jaxgen.export import export_sampler, write_sampler
    from jaxgen.runfolder import RunFolder, environment

    codec, state = _restore(run, experiment, options)
    batch = run.examples()
    exported = export_sampler(experiment, state, codec, batch, options.platforms)
    out = Path(options.out) if options.out else run.path / "export"
    name = f"samples of {run.path.resolve().name} at step {int(state.step)}"
    usage = write_sampler(out, exported, name, experiment.model.sample_cond(2, batch))
    facts = {"step": int(state.step), "parameters": state.sampling_field}
    facts |= {"platforms": exported.platforms, "arguments": [str(a) for a in exported.in_avals]}
    facts |= {"result": [str(a) for a in exported.out_avals], "experiment": to_json(experiment)}
    RunFolder(out).write_json("sampler.json", {**facts, "environment": environment()})
    print(f"{name} for {', '.join(exported.platforms)}: python {out / 'sample.py'} {usage}")


def compress(args: list[str]) -> None:
    """Pictures to a file without loss, by a run of an autoregressive model: RUN IN.png... OUT.jxg [flags]."""
    from jaxgen.compress import check_model, compress_files

    files, args = _leading(args, "compress RUN IN.png OUT.jxg")
    run, given = _parse(CompressOptions, args, "compress", compress.__doc__)
    check_model(given.experiment.compute_model)
    _, state = _restore(run, given.experiment, given.options)
    print(compress_files(given.experiment, state, files[:-1], files[-1], given.options.cond))


def decompress(args: list[str]) -> None:
    """The pictures of a file that the same run compressed: RUN IN.jxg OUT.png [flags]; OUT is a folder for several."""
    from jaxgen.compress import check_model, decompress_file

    files, args = _leading(args, usage := "decompress RUN IN.jxg OUT.png")
    if len(files) > 2:
        raise UserError(f"{len(files)} files were named, two are expected: jaxgen {usage}")
    run, given = _parse(Common, args, "decompress", decompress.__doc__)
    check_model(given.experiment.compute_model)
    _, state = _restore(run, given.experiment, given.options)
    print(decompress_file(given.experiment, state, *files))


def _leading(args: list[str], usage: str) -> tuple[list[Path], list[str]]:
    """The files named after RUN, and the arguments without them."""
    end = next((i for i, arg in enumerate(args) if arg.startswith("-")), len(args))
    if not any(arg in ("-h", "--help") for arg in args) and end < 3:
        raise UserError(f"a run, what is read and what is written are expected: jaxgen {usage}")
    return [Path(arg) for arg in args[1:end]], [*args[:1], *args[end:]] if end else args


def report(args: list[str]) -> None:
    """Writes RUN/report.html anew from what is in the folder, of one seed or of many."""
    from jaxgen.report import write_report
    from jaxgen.report.seeds import write_seeds_report

    if len(args) != 1 or args[0].startswith("-"):
        print(f"{report.__doc__}\n\nusage: jaxgen report RUN")
        if args in (["-h"], ["--help"]):
            return
        raise UserError("exactly one run folder is expected: jaxgen report RUN")
    run = Path(args[0])
    many = not (run / "experiment.json").exists() and any(run.glob("seed*/experiment.json"))
    print(f"report: {(write_seeds_report if many else write_report)(run)}")


def weights(args: list[str]) -> None:
    """Converts public weights of feature networks, once: convert KIND FILE OUT. GPT-2's: import-gpt2, export-gpt2."""
    from jaxgen.weights.command import weights as command

    command(args)


COMMANDS = {
    "sample": sample, "evaluate": evaluate, "render": render, "compare": compare, "export": export,
    "compress": compress, "decompress": decompress, "report": report, "weights": weights,
}  # fmt: skip


def _main() -> None:
    args = sys.argv[1:]
    if not args or args[0] in ("-h", "--help"):
        lines = [f"  {name:10} {' '.join(f.__doc__.split())}" for name, f in COMMANDS.items()]
        print("\n".join(["usage: jaxgen COMMAND ARGUMENTS [flags]", "", *lines]))
        return
    if args[0] not in COMMANDS:
        raise UserError(f"command {args[0]!r} is unknown{nearest(args[0], COMMANDS)}: choose {', '.join(COMMANDS)}")
    COMMANDS[args[0]](args[1:])


def main() -> None:
    cli.run(_main)


if __name__ == "__main__":
    main()
