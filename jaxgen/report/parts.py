"""Parts that our pages are made of: sections, pictures, tables of a configuration."""

import base64
import json
import shlex
from html import escape

from jaxgen.report.style import SCRIPT, STYLE
from jaxgen.runtime.files import write_bytes

FIRST = ("samples", "reconstruction", "traversal", "interpolation", "trajectory")  # then by the alphabet


def write_page(file, title, parts):
    """One HTML file of the parts that are not empty, with the style and script of all our pages inside."""
    title = escape(title)
    page = (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{title}</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<link rel="icon" href="data:,">\n<style>{STYLE}</style>\n</head>\n<body>\n'
        + "\n".join(filter(None, parts))
        + f"\n<script>{SCRIPT}</script>\n</body>\n</html>\n"
    )
    write_bytes(file, page.encode("utf-8", "backslashreplace"))


def read_json(path, notes):
    """The object in `path`; {} if there is no file, and with a note if there is one that cannot be read."""
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        value = None
    if not isinstance(value, dict):
        notes.append(f"{path.name} is not a JSON object and was left out.")
        return {}
    return value


def section(title, body):
    """A titled section; '' without a body."""
    return f"<section><h2>{title}</h2>\n{body}\n</section>" if body else ""


def div(kind, body):
    return f'<div class="{kind}">{body}</div>' if body else ""


def pictures_in(folder):
    """{name: {step: (file, width, height)}} of the readable .png and .gif files in folder/STEP."""
    from PIL import Image

    found = {}
    for path in sorted(folder.glob("*/*")) if folder.is_dir() else ():
        if (
            path.suffix not in (".png", ".gif")
            or path.name.startswith(".")
            or not path.parent.name.isdecimal()
        ):
            continue
        try:
            with Image.open(path) as image:
                found.setdefault(path.stem, {})[int(path.parent.name)] = (path, *image.size)
        except OSError:  # cut short by a full disk, say: the others are still worth showing
            continue
    rank = {name: i for i, name in enumerate(FIRST)}
    return dict(sorted(found.items(), key=lambda item: (rank.get(item[0], len(FIRST)), item[0])))


def img(picture, alt, up_to=0):
    """An <img> with its data inside, enlarged by a whole factor without smoothing to `up_to` px of width."""
    path, width, height = picture
    factor = max(1, up_to // width)
    data = base64.b64encode(path.read_bytes()).decode()
    pixels = ' class="pixels"' if width < 640 else ""
    return (
        f'<img{pixels} src="data:image/{path.suffix[1:]};base64,{data}" alt="{escape(alt)}" '
        f'width="{factor * width}" height="{factor * height}">'
    )


def configuration(experiment, environment):
    shown = {k: v for k, v in environment.items() if k != "command"}
    return section("Configuration", details("Experiment", experiment) + details("Environment", shown))


def details(title, value):
    """A table of dotted names that opens on a click; '' for nothing to show."""
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


def flatten(value, name=""):
    """[(dotted name, text)] of nested JSON: an object's "type" stands at its name, flat lists stay whole."""
    if isinstance(value, list) and any(isinstance(v, dict | list) for v in value):
        value = {str(i): v for i, v in enumerate(value)}
    if not isinstance(value, dict) or not value:
        return [(name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))]
    rows = []
    for key, v in value.items():
        here = (
            name if key == "type" and name and isinstance(v, str) else f"{name}.{key}" if name else str(key)
        )
        rows += flatten(v, here)
    # The type of an object comes before its fields, wherever the file has it.
    return sorted(rows, key=lambda row: row[0] != name)


def reproduce(environment):
    command = environment.get("command")
    if not command:
        return ""
    command = shlex.join(map(str, command)) if isinstance(command, list) else str(command)
    git = environment.get("git")
    git = git if isinstance(git, dict) else {}
    at = f"At commit <code>{escape(str(git['commit']))}</code>" if git.get("commit") else ""
    if at and git.get("dirty"):
        at += ', <span class="bad">with changes that were not committed</span>'
    return section(
        "To reproduce", f"<pre>{escape(command)}</pre>{f'<p class=quiet>{at}.</p>' if at else ''}"
    )
