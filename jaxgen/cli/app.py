"""`jaxgen app RUN...`: a page to play with trained runs, on this machine alone."""

import contextlib
import io
import re
import tempfile
import threading
import webbrowser
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from annotated_types import Ge, Le

from jaxgen.cli.parse import parse
from jaxgen.core.configuration import check_fields, trust
from jaxgen.errors import UserError
from jaxgen.runtime.files import check_output
from jaxgen.runtime.interrupt import Answered, leave
from jaxgen.runtime.reading import read_bytes, user_path

if TYPE_CHECKING:
    from jaxgen.app.results import Result
    from jaxgen.app.server import Server
    from jaxgen.cli.tasks import Kept, Subject, Task


MOST = {"num": 256, "turntable": 240}
"""Pictures, and frames of a film, that the page shows at once."""


@dataclass(frozen=True)
class AppOptions:
    runs: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """Run folders."""
    port: Annotated[int, Ge(0), Le(65_535)] = 7860
    """Of 127.0.0.1; any that is free when 0."""
    browser: bool = False
    """Open the page in the browser."""
    out: str = ""
    """Folder for the pictures that are given to the page, which the commands that it shows name; one that is removed at
    the end when empty."""
    device: Literal["auto", "cpu", "gpu", "tpu"] = "auto"
    compilation_cache: bool = True
    """Keep compiled programs in the user's cache folder."""
    trust: tuple[str, ...] = ()
    """Modules of your own, or scripts by their paths, that define the runs' models, data or codecs. They are imported,
    which runs their code."""


def command(args: list[str]) -> None:
    """Serves a page on which runs draw, write and speak in a browser of this machine, until Ctrl-C: a form for each of
    what a run can do, and with each result the command that makes it. Whoever has an account on this machine can use
    it."""
    options = parse(AppOptions, AppOptions(), args, "jaxgen app", command.__doc__)
    check_fields(options)
    if not options.runs:
        raise UserError("no run folder was named: jaxgen app RUN...")
    if options.out:
        check_output(user_path(options.out), folder=True)

    from jaxgen.runtime.devices import start_jax

    trust(options.trust)
    start_jax(options.device, options.compilation_cache)
    ended, signals = threading.Event(), []

    def end(number: int) -> None:
        signals.append(number)
        ended.set()

    with tempfile.TemporaryDirectory(prefix="jaxgen-app-", ignore_cleanup_errors=True) as scratch:
        given = user_path(options.out) if options.out else Path(scratch) / "given"
        server = serve(options.runs, given, Path(scratch), options.port)
        with Answered(end):
            print(f"open {server.address} in a browser of this machine; Ctrl-C ends the page", flush=True)
            if options.browser:
                webbrowser.open(server.address)
            ended.wait()
    leave(signals[0])  # at once, whatever is being drawn


def serve(runs: Sequence[str], given: Path, scratch: Path, port: int = 0) -> "Server":
    """A server of the page that has begun.

    given: folder for pictures that the page is given. scratch: an existing folder for results, while they are made.
    port: any that is free when 0. Raises UserError for what is no run, and a port that is in use.
    """
    from jaxgen.app.server import Server

    site = Playground(runs, given, scratch)
    try:
        server = Server(site, port)
    except OSError as error:
        raise UserError(f"port {port} cannot be used ({error.strerror}): choose another with --port, or 0") from error
    server.start()
    return server


class Playground:
    """The page's site: runs, and what the commands do with them. given and scratch: as `serve` takes them."""

    def __init__(self, runs: Sequence[str], given: Path, scratch: Path):
        from jaxgen.app.memory import Memory
        from jaxgen.cli.tasks import Subject
        from jaxgen.runs.folder import RunFolder

        self._given_in, self._scratch, self._memory = given, scratch, Memory()
        self._subjects: list[Subject] = []
        for path in runs:
            run = RunFolder(user_path(path))
            subject = Subject(path, run, run.experiment())
            if any(run.path.resolve() == other.run.path.resolve() for other in self._subjects):
                raise UserError(f"{path} was named twice: name each run once")
            if not run.checkpoints.is_dir():
                raise UserError(f"{path} has no checkpoints: train it first")
            self._subjects.append(subject)

    def cards(self) -> list[dict[str, Any]]:
        return [
            {
                "name": subject.name, "model": type(subject.model).__name__,
                "data": type(subject.experiment.data).__name__,
                "tasks": [task.name for task in self._tasks(subject)], "picture": self._latest(subject) is not None,
            }
            for subject in self._subjects
        ]  # fmt: skip

    def picture(self, run: int) -> bytes:
        """The newest samples of a run's training, a PNG."""
        if (file := self._latest(self._subject(run))) is None:
            raise UserError(f"run {run} has no picture yet")
        return read_bytes(file)

    def _latest(self, subject: "Subject") -> Path | None:
        found = subject.run.path.glob("pictures/*/samples.png")
        return max((file for file in found if re.fullmatch(r"\d+", file.parent.name)), default=None)

    def _subject(self, run: int) -> "Subject":
        if not 0 <= run < len(self._subjects):
            raise UserError(f"there is no run {run}: {len(self._subjects)} were named")
        return self._subjects[run]

    def _tasks(self, subject: "Subject") -> "list[Task]":
        from jaxgen.cli.tasks import TASKS

        return [task for task in TASKS if task.possible(subject, self._subjects)]

    def forms(self, run: int) -> list[dict[str, Any]]:
        subject = self._subject(run)
        shown = []
        for task in self._tasks(subject):
            controls = task.controls(subject, self._subjects)
            size = task.size(subject) if task.pictures else None
            shown.append({
                "name": task.name, "says": task.says, "controls": [one.to_json() for one in controls],
                "picture": bool(task.pictures), "mask": "mask" in task.pictures, "clip": "clip" in task.pictures,
                "size": size,
            })  # fmt: skip
        return shown

    def work(self, asked: Any) -> "Callable[[], Result]":
        from jaxgen.app.forms import values_of, words
        from jaxgen.cli.tasks import Kept, options_of

        if not isinstance(asked, dict) or not isinstance(asked.get("run"), int):
            raise UserError("the request names no run: an object with run, task, values and pictures is expected")
        subject = self._subject(asked["run"])
        task = next((task for task in self._tasks(subject) if task.name == asked.get("task")), None)
        if task is None:
            raise UserError(f"{subject.name} does not {str(asked.get('task'))!r:.40}: choose what its page shows")
        controls = task.controls(subject, self._subjects)
        options = options_of(task, subject, values_of(controls, asked.get("values", {})))
        check_fields(options)
        for name, most in MOST.items():
            if (given := getattr(options, name, 0)) > most:
                raise UserError(f"{name} is {given}: the page shows at most {most}, a command makes more")
        options = replace(options, **self._given(task, subject, options, asked.get("pictures") or {}))
        said = tuple(task.words(subject, words(options, ("out", "text")), options))
        request = Kept(subject.run, options, subject.experiment, said, self._memory)
        return lambda: self._done(task, subject, request)

    def _given(self, task: "Task", subject: "Subject", options: Any, pictures: Any) -> dict[str, str]:
        """The files of a task's pictures, by option. Raises UserError for what is no picture."""
        from jaxgen.app import uploads

        if not isinstance(pictures, dict) or pictures.keys() != set(task.pictures):
            wanted = f"its {' and '.join(task.pictures)}" if task.pictures else "none"
            raise UserError(f"{task.name} takes pictures: {wanted}; choose a picture, and paint the part to draw anew")
        if not pictures:
            return {}
        if "clip" in pictures:
            return {"clip": str(uploads.kept_clip(pictures["clip"], "clip", self._given_in))}
        shape = task.shape(subject, options)
        made = {"image": uploads.fitted(uploads.decoded(pictures["image"], "image"), shape)}
        if "mask" in pictures:
            assert shape is not None
            made["mask"] = uploads.fitted_mask(uploads.decoded(pictures["mask"], "mask"), shape)
        return {name: str(uploads.kept(picture, self._given_in)) for name, picture in made.items()}

    def _done(self, task: "Task", subject: "Subject", request: "Kept") -> "Result":
        """Does what was asked, in a folder that is removed, and reads what it wrote."""
        from jaxgen.app.results import collected
        from jaxgen.runs.origin import pinned

        options = request.options
        with tempfile.TemporaryDirectory(dir=self._scratch) as out:
            if "out" in {field.name for field in fields(options)}:
                request = replace(request, options=replace(options, out=out))
            with contextlib.redirect_stderr(io.StringIO()) as err:
                task.does(request)
            chosen = {"step": request.restored[0].step, **({"best": False} if options.best else {})}
            again = pinned(request.words, {**({"seed": options.seed} if hasattr(options, "seed") else {}), **chosen})
            notes = [line for line in err.getvalue().splitlines() if line.strip() and out not in line]
            return collected(Path(out), again, getattr(options, "between", 0), subject.names, notes)
