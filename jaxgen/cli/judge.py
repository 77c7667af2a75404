"""`jaxgen judge RUN RUN`: a page on which a person chooses between pictures of runs, blind."""

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro
from annotated_types import Ge, Le

from jaxgen.cli.flags import Repeated
from jaxgen.cli.parse import parse
from jaxgen.core.configuration import check_fields, trust
from jaxgen.core.ranges import Seed, Size
from jaxgen.errors import UserError
from jaxgen.runtime.files import check_output
from jaxgen.runtime.reading import user_path


@dataclass(frozen=True)
class JudgeOptions:
    runs: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """Run folders; one is enough with --real."""
    real: bool = False
    """Compare the runs with held-out pictures of the first run's data too, of the same classes."""
    num: Annotated[int, Ge(1), Le(5000)] = 50
    """Choices between each two."""
    seed: Seed = 0
    """Of the samples, of the held-out pictures, and of the order and sides in which they are shown."""
    question: str = "Which looks more real?"
    """What is asked about each two pictures."""
    prompt: Repeated = ()
    """Runs of models trained on texts: what the pictures are to show; given several times, some of `num` each."""
    batch: Size = 256
    """Samples computed at a time."""
    out: str = "judge.html"
    """The page. Its name is to tell no more than the page does."""
    device: Literal["auto", "cpu", "gpu", "tpu"] = "auto"
    compilation_cache: bool = True
    """Keep compiled programs in the user's cache folder."""
    trust: tuple[str, ...] = ()
    """Modules of your own, or scripts by their paths, that define the runs' models, data or codecs. They are imported,
    which runs their code."""


def command(args: list[str]) -> None:
    """Writes one HTML file that shows two pictures at a time, of RUN RUN..., or of RUN --real and real data, without a
    name and in random order. Whoever opens it chooses by clicks or arrow keys, and saves the answers as JSON, of which
    jaxgen compare ANSWERS.json... makes win rates."""
    options = parse(JudgeOptions, JudgeOptions(), args, "jaxgen judge", command.__doc__)
    check_fields(options)
    folders = [user_path(run) for run in options.runs]
    if len(folders) + options.real < 2:
        raise UserError("two to choose from are expected: jaxgen judge RUN RUN, or jaxgen judge RUN --real")
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise UserError("a run was named twice: its pictures would be compared with themselves")
    check_output(out := user_path(options.out), folder=False)

    from jaxgen.inference import judging, prompting
    from jaxgen.runs.folder import RunFolder
    from jaxgen.runs.restore import restore
    from jaxgen.runtime.devices import start_jax

    trust(options.trust)
    start_jax(options.device, options.compilation_cache)
    runs = [RunFolder(folder) for folder in folders]
    for run in runs:
        experiment = run.experiment()
        if options.prompt:
            prompting.check_told(experiment, str(run.path))
    trained = [restore(run) for run in runs]
    num, seed = options.num, options.seed
    judging.check(trained, num, options.prompt)
    real = [judging.of_data(trained[0], num, seed)] if options.real else []
    contestants = [*(judging.of_run(one, num, seed, options.prompt, options.batch) for one in trained), *real]
    count = judging.write_judge(out, contestants, options.question, seed)
    print(f"{count} choices: open {out} in a browser, then jaxgen compare ANSWERS.json")
