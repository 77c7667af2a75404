"""Parts of our HTML pages: sections, pictures, and tables of a configuration."""

import base64
import json
import shlex
from collections.abc import Iterable
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

from jaxgen.errors import UserError
from jaxgen.report.style import SCRIPT, STYLE
from jaxgen.runtime import reading
from jaxgen.runtime.files import write_bytes
from jaxgen.runtime.picture import undecoded

FIRST = ("samples", "reconstruction", "traversal", "interpolation", "trajectory")  # the others follow alphabetically


class Picture(NamedTuple):
    """A picture file and its size in pixels."""

    file: Path
    width: int
    height: int


def write_page(file: Path, title: str, parts: Iterable[str]) -> None:
    """Writes one HTML file with the parts that are not empty, and with style sheet and script inside."""
    title = escape(title)
    page = (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{title}</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<link rel="icon" href="data:,">\n<style>{STYLE}</style>\n</head>\n<body>\n'
        + "\n".join(filter(None, parts))
        + f"\n<script>{SCRIPT}</script>\n</body>\n</html>\n"
    )
    write_bytes(file, page.encode("utf-8", "backslashreplace"))


def read_json(path: Path, notes: list[str]) -> dict[str, Any]:
    """The JSON object in a file, {} without one. For a file that is not a JSON object, a sentence joins `notes`."""
    if not path.is_file():
        return {}
    try:
        value = reading.read_json(path)
    except UserError:
        value = None
    if not isinstance(value, dict):
        notes.append(f"{path.name} is not a JSON object and was left out.")
        return {}
    return value


def read_scores(path: Path) -> list[dict[str, Any]]:
    """The records of a scores.json; none where it holds something else."""
    if not path.is_file():
        return []
    try:
        value = reading.read_json(path)
    except UserError:
        return []
    found = value if isinstance(value, list) else []
    kinds = {"metric": str, "protocol": dict, "subject": dict, "values": dict}
    return [r for r in found if isinstance(r, dict) and all(isinstance(r.get(n), kind) for n, kind in kinds.items())]


def section(title: str, body: str) -> str:
    """A section with a heading; '' without a body."""
    return f"<section><h2>{title}</h2>\n{body}\n</section>" if body else ""


def div(kind: str, body: str) -> str:
    """A <div> of a class; '' without a body."""
    return f'<div class="{kind}">{body}</div>' if body else ""


def pictures_in(folder: Path) -> dict[str, dict[int, Picture]]:
    """The readable .png and .gif files in folder/STEP, by name and step."""
    found: dict[str, dict[int, Picture]] = {}
    for path in sorted(folder.glob("*/*")) if folder.is_dir() else ():
        is_picture = path.suffix in (".png", ".gif") and not path.name.startswith(".")
        if not is_picture or not path.parent.name.isdecimal():
            continue
        try:
            with undecoded(path) as image:
                found.setdefault(path.stem, {})[int(path.parent.name)] = Picture(path, *image.size)
        except UserError:  # a damaged file should not hide the others
            continue
    rank = {name: i for i, name in enumerate(FIRST)}
    return dict(sorted(found.items(), key=lambda item: (rank.get(item[0], len(FIRST)), item[0])))


def img(picture: Picture, alt: str, up_to: int = 0) -> str:
    """An <img> with its data inside, enlarged without smoothing, by an integer factor, to at most `up_to` px."""
    path, width, height = picture
    factor = max(1, up_to // width)
    data = base64.b64encode(reading.read_bytes(path)).decode()
    pixels = ' class="pixels"' if width < 640 else ""
    return (
        f'<img{pixels} src="data:image/{path.suffix[1:]};base64,{data}" alt="{escape(alt)}" '
        f'width="{factor * width}" height="{factor * height}">'
    )


def sounds(folder: Path) -> str:
    """The section with the sounds of the newest of folder/STEP that has some, as players with their data inside. What
    each is, sounds.json beside them says."""
    found = [file for file in sorted(folder.glob("*/*.wav")) if file.parent.name.isdecimal()]
    if not found:
        return ""
    newest = max((file.parent for file in found), key=lambda step: int(step.name))
    said = read_json(newest / "sounds.json", [])
    players = []
    for file in found:
        if file.parent == newest:
            data = base64.b64encode(reading.read_bytes(file)).decode()
            name = escape(str(said.get(file.name, file.stem.replace("_", " "))))
            players.append(
                f'<figure><audio controls src="data:audio/wav;base64,{data}"></audio>'
                f"<figcaption>{name}</figcaption></figure>"
            )
    step = f'<p class="quiet">step {int(newest.name):,}</p>'
    return section("Sounds", div("sounds", "\n".join(players)) + step)


def configuration(experiment: dict[str, Any], environment: dict[str, Any]) -> str:
    """The section with all settings of the run."""
    shown = {k: v for k, v in environment.items() if k != "command"}
    return section("Configuration", details("Experiment", experiment) + details("Environment", shown))


def details(title: str, value: Any) -> str:
    """A collapsed table of nested JSON, with dotted names; '' for an empty value."""
    if not value:
        return ""
    rows = flatten(value)
    body = []
    for name, text in rows:
        path, _, field = name.rpartition(".")
        prefix = f"<i>{escape(path)}.</i><wbr>" if path else ""
        kind = ' class="kind"' if any(other.startswith(f"{name}.") for other, _ in rows) else ""
        body.append(f'<tr{kind}><th scope="row">{prefix}{escape(field)}</th><td>{escape(text)}</td></tr>')
    return (
        f"<details><summary>{title}<small>{len(rows)} values</small></summary>"
        f'<table class="tree"><tbody>{"".join(body)}</tbody></table></details>'
    )


def flatten(value: Any, name: str = "") -> list[tuple[str, str]]:
    """(dotted name, text) pairs of nested JSON. An object's own name has its "type"; flat lists stay whole."""
    if isinstance(value, list) and any(isinstance(v, dict | list) for v in value):
        value = {str(i): v for i, v in enumerate(value)}
    if not isinstance(value, dict) or not value:
        return [(name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))]
    rows = []
    for key, v in value.items():
        is_type = key == "type" and name and isinstance(v, str)
        rows += flatten(v, name if is_type else f"{name}.{key}" if name else str(key))
    # The type of an object comes before its fields, wherever it is in the file.
    return sorted(rows, key=lambda row: row[0] != name)


def reproduce(environment: dict[str, Any]) -> str:
    """The section with the command line and the commit; '' if the command is unknown."""
    command = environment.get("command")
    if not command:
        return ""
    command = shlex.join(map(str, command)) if isinstance(command, list) else str(command)
    git = environment.get("git")
    git = git if isinstance(git, dict) else {}
    at = f"At commit <code>{escape(str(git['commit']))}</code>" if git.get("commit") else ""
    if at and git.get("dirty"):
        at += ', <span class="bad">with changes that were not committed</span>'
    return section("To reproduce", f"<pre>{escape(command)}</pre>{f'<p class=quiet>{at}.</p>' if at else ''}")
