"""Where pictures of a run come from: what their PNGs hold, and `jaxgen inspect` prints."""

import importlib.metadata
from collections.abc import Mapping, Sequence
from typing import Any

from jaxgen.core.configuration import to_json, with_names
from jaxgen.runs.environment import environment_line
from jaxgen.runs.restore import Trained


def origin_of(trained: Trained, asked: Mapping[str, Any], command: Sequence[str] | None = None) -> dict[str, Any]:
    """The run, its checkpoint and settings, for `save_picture` and `save_image`.

    asked: what else says which picture it is, as its seed. command: the words after `jaxgen` that draw the same pixels,
    as the user typed them; None where no command draws the picture alone. Paths are the names of what they lead to, but
    for those in the command. Multi-host: every process is to call it.
    """
    experiment = trained.experiment
    return {
        "jaxgen": importlib.metadata.version("jaxgen"),
        "run": trained.name,
        "model": type(experiment.model).__name__,
        "step": trained.step,
        "parameters": trained.state.sampling_field,
        "weights": trained.weights,
        **asked,
        "computed_by": environment_line(),
        "settings": {"model": to_json(with_names(experiment.model)), "codec": to_json(with_names(experiment.codec))},
        "command": None if command is None else list(command),
    }


def pinned(command: Sequence[str], values: Mapping[str, Any]) -> list[str]:
    """A command whose flags have the values that they had, also where the user left them to defaults. Of a flag that is
    given twice the last one counts."""
    words = list(command)
    for name, value in values.items():
        switch = isinstance(value, bool)
        flag = [f"--{'' if not switch or value else 'no-'}{name}", *([] if switch else [str(value)])]
        if not any(words[i : i + len(flag)] == flag for i in range(len(words))):
            words += flag
    return words
