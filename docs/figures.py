"""Numbers of the documentation and the README, taken from benchmarks/results/*.json.

    python docs/figures.py                      # writes docs/*.md from their templates, and experiments/results.json
    python docs/figures.py --check [README.md]  # fails where a page is out of date or a number has no JSON
    python docs/figures.py --write README.md    # refreshes the numbers between markers

A figure names a file of benchmarks/results, a path in it and, after `as`, how to print the value:

    FILE: PATH as STEPS           train-digits.json: results[0].ms_per_step.fused.median as .1f

A template holds it as `{{ FILE: PATH as STEPS }}`. Any other Markdown file holds the number too, between markers:
`<!--fig FILE: PATH as STEPS-->92.1<!--/fig-->`.

PATH is keys joined by dots. `["torch contiguous"]` is a key with spaces, `[0]` an element, and
`[name=vae-mnist]` the one element whose field has that value; several conditions are joined by commas, and a field may
be a path: `[metric=fd_mnist_cnn, subject.run=cgan-mnist]`.

STEPS, in order and separated by spaces: `/60` and `*1e3` scale; `sum` adds the numbers of a list or object; `max` and
`min` choose from a list; `abs` drops the sign; a format of Python prints: `.1f`, `,d`, `.1%`, `.3g`; the same behind
`±` prints a mean and its error, `100.73 ± 0.26`, of an object with `mean` and `stderr` or `ci95`; `±ci`, always the
half-width of the 95 % confidence interval.

`{{ best SCRIPT }}` prints what docs/templates/best.toml holds for each preset of experiments/SCRIPT.py, and
`{{ plans FILE }}` the table of a file that benchmarks/plans.py wrote, `{{ scaling FILE }}` of plan_scaling.py's,
`{{ speed FILE }}` of cpu.py's; `{{ families FILE }}`, `{{ samplers FILE }}` and `{{ claims FILE }}` of a file that
experiments/compare.py wrote, `{{ ablations FILE }}` of ablations.py's,
`{{ presets FILE }}` of presets.py's, `{{ restoration FILE }}` of restoration.py's, and so on for what TABLES of
docs/tables.py has. `{{ systems }}` is the table of all systems of docs/templates/systems.toml.
"""

import argparse
import json
import re
import sys
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

from tables import TABLES

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
TEMPLATES = ROOT / "docs" / "templates"

PLACEHOLDER = re.compile(r"\{\{ *(.+?) *\}\}")
MARKER = re.compile(r"<!--fig (.+?)-->(.*?)<!--/fig-->", re.DOTALL)
PART = re.compile(r'\.?([A-Za-z_][\w/-]*)|\["([^"]+)"\]|\[(-?\d+)\]|\[([^\]"]+=[^\]]*)\]')
# What only a measurement may say: a decimal number, or a number with a unit, outside code and links.
MEASURED = re.compile(
    r"\d+\.\d+|\d[\d,]* ?%|\d[\d,]* (?:ns|µs|ms|s|min|minutes|seconds|hours|dB|nats|bits|bytes|[KMG]i?B|"
    r"(?:tokens|rays|samples|images|pixels)/s|times)\b"
)
NOT_PROSE = re.compile(
    r"```.*?```|`[^`]*`|\]\([^)]*\)|https?://\S+|<!--fig .*?<!--/fig-->|\{\{.*?\}\}|<!--.*?-->"
    r"|\b(?:arXiv:|jax(?:lib)? |PyTorch |Python )[\d.]+|95 % confidence",
    re.DOTALL,
)


class FigureError(Exception):
    """A figure that cannot be taken from the results."""


@cache
def load(name: str) -> Any:
    """Contents of one file of benchmarks/results."""
    path = RESULTS / name
    if not path.is_file():
        raise FigureError(f"benchmarks/results has no {name}")
    return json.loads(path.read_text())


def lookup(value: Any, path: str) -> Any:
    """Value at `path`, see the top of this file."""
    position = 0
    while position < len(path):
        part = PART.match(path, position)
        if part is None:
            raise FigureError(f"cannot read {path[position:]!r} of the path {path!r}")
        name, quoted, index, conditions = part.groups()
        try:
            if conditions:
                (value,) = [item for item in value if matches(item, conditions)]
            else:
                value = value[int(index) if index else name or quoted]
        except (KeyError, IndexError, TypeError, ValueError):
            there = sorted(value) if isinstance(value, dict) else f"{len(value)} elements"
            raise FigureError(f"{path!r}: nothing, or more than one thing, at {part[0]!r}; there are {there}") from None
        position = part.end()
    return value


def matches(item: Any, conditions: str) -> bool:
    """Whether `item` has each of the values in `field=value, field=value`."""
    for condition in conditions.split(","):
        field, _, wanted = condition.strip().partition("=")
        try:
            if str(lookup(item, field)) != wanted:
                return False
        except FigureError:
            return False
    return True


def apply(value: Any, step: str) -> Any:
    """One of the steps at the top of this file."""
    if step[0] in "/*":
        factor = float(step[1:]) if step[0] == "*" else 1 / float(step[1:])
        return {k: v * factor for k, v in value.items()} if isinstance(value, dict) else value * factor
    if step == "sum":
        return sum(value.values() if isinstance(value, dict) else value)
    if step in ("max", "min", "abs"):
        return {"max": max, "min": min, "abs": abs}[step](value)
    if step.startswith("±ci"):
        half = value["ci95"] if "ci95" in value else NORMAL95 * value["stderr"]
        value, step = {"mean": value["mean"], "ci95": half}, "±" + step[3:]
    if step[0] == "±":
        error = value["stderr"] if "stderr" in value else value["ci95"]
        if step.endswith("%"):
            return f"{100 * value['mean']:{step[1:-1]}f} ± {100 * error:{step[1:-1]}f} %"
        return f"{value['mean']:{step[1:]}} ± {error:{step[1:]}}"
    return format(value, step).replace("%", " %")


NORMAL95 = 1.96
"""Standard errors in the half-width of a 95 % confidence interval."""
SHOWN = 2
"""Presets of a script that the README's table names, the best ones; the rest are in docs/presets.md."""
PROTOCOL = " (classifier features, 2,000 samples)"


def figure(spec: str) -> str:
    """Text of `FILE: PATH as STEPS`, of `best SCRIPT` or of `best SCRIPT PRESET`."""
    if spec.startswith("best "):
        script, *preset = spec.split()[1:]
        numbers = best_numbers().get(script)
        if not numbers or (preset and preset[0] not in numbers):
            raise FigureError(f"docs/templates/best.toml has no entry for {spec!r}")
        if preset:
            return numbers[preset[0]]
        said = "; ".join(f"`{preset}`: {text}" for preset, text in list(numbers.items())[:SHOWN])
        return said.replace(PROTOCOL, "")  # the README says it once, for the whole table
    if spec == "systems":
        return systems_table()
    kind, _, file = spec.partition(" ")
    if kind in TABLES:
        return TABLES[kind](load(file.strip()))
    name, colon, rest = spec.partition(":")
    if not colon:
        raise FigureError(f"{spec!r} is not FILE: PATH as STEPS")
    path, _, steps = rest.strip().partition(" as ")
    try:
        value = lookup(load(name.strip()), path.strip())
        for step in steps.split():
            value = apply(value, step)
    except (FigureError, KeyError, TypeError, ValueError) as error:
        raise FigureError(f"{spec}: {error}") from None
    if not isinstance(value, (str, int, float)):
        raise FigureError(f"{spec}: this is not a number but {type(value).__name__}")
    return str(value)


def fill(text: str) -> str:
    """A template with its placeholders replaced."""
    return PLACEHOLDER.sub(lambda match: figure(match[1]), text)


def refresh(text: str) -> str:
    """Markdown with the numbers between its markers taken anew."""
    return MARKER.sub(lambda match: f"<!--fig {match[1]}-->{figure(match[1])}<!--/fig-->", text)


def hand_typed(text: str) -> list[str]:
    """Measurements written out in Markdown, which should be figures; in a table, each cell that starts with a digit."""
    prose = NOT_PROSE.sub(" ", text)
    cells = [cell.strip() for row in re.findall(r"^\|.*$", prose, flags=re.MULTILINE) for cell in row.split("|")]
    return MEASURED.findall(prose) + [cell for cell in cells if re.match(r"[-+±~<>≈ ]*\d", cell)]


def best_numbers() -> dict[str, dict[str, str]]:
    """Best committed result of each experiment script and preset: {"vae": {"mnist": "nelbo 100.7 nats (test)"}}."""
    entries = tomllib.loads((TEMPLATES / "best.toml").read_text())
    found = {script: {preset: fill(text) for preset, text in presets.items()} for script, presets in entries.items()}
    for row in load("presets.json")["results"]:
        if text := in_short(row):
            found.setdefault(row["script"], {}).setdefault(row["preset"], text)
    return found


IN_SHORT = {"bits_per_dim": "{:.2f} bits/dim", "iwae": "at most {:.1f} nats", "nll": "{:.3f} nats",
            "accuracy": "accuracy {:.1%}", "psnr": "PSNR {:.1f} dB", "kl_reverse": "KL {:.3f} nats",
            "prior_similarity": "cosine {:.3f} with the picture's embedding"}  # fmt: skip
"""Of what presets.py measures on held-out data: the first that there is."""


def in_short(row: dict[str, Any]) -> str:
    """A row of presets.json on half a line; "" where nothing tells how good it is."""
    said = []
    for name, form in IN_SHORT.items():
        if name in row["held_out"]:
            of = "test, the best checkpoint on it" if row.get("best_step") else "test"
            said = [form.format(row["held_out"][name]["mean"]).replace("%", " %") + f" ({of})"]
            break
    if "fd" in row["scores"]:
        said.append(f"fd {row['scores']['fd']:.2f}{PROTOCOL}")
    if "modes" in row["scores"]:
        said.append(f"{row['scores']['modes']} modes, {100 * row['scores']['good']:.1f} % good samples")
    if "w2" in row["scores"]:
        said.append(f"W2 {row['scores']['w2']:.3f} (of real points: {row['scores']['w2_real']:.3f})")
    return ", ".join(said)


NOTHING = "not measured yet"


def shown_of(script: str, preset: str) -> str:
    """The picture that presets.py made of a preset, "" where there is none."""
    picture = f"presets/{script}-{preset}.png"
    return picture if (RESULTS / picture).is_file() else ""


def systems() -> list[dict[str, Any]]:
    """Every system: its name, its scripts or commands, its figures, and what is to be seen or heard."""
    best, found = best_numbers(), []
    for system in tomllib.loads((TEMPLATES / "systems.toml").read_text())["system"]:
        measured = {script: best[script] for script in system["of"] if script in best}
        first = [(script, *next(iter(of.items()))) for script, of in measured.items()]
        numbers = [f"`{script} {preset}`: {text}" for script, preset, text in first]
        pictures = [shown_of(script, preset) for script, of in measured.items() for preset in of]
        figures = fill(system["figure"]) if "figure" in system else "; ".join(numbers)
        found.append({**system, "figure": figures, "shown": system.get("shown") or next(filter(None, pictures), "")})
    return found


def systems_table() -> str:
    """A row for each system."""
    rows = ["| system | script or command | measured | |", "|---|---|---|---|"]
    for system in systems():
        names = ", ".join(f"`{name}`" for name in system["of"])
        shown = system["shown"]
        kind = {".wav": "sound", ".json": "texts"}.get(Path(shown).suffix, "picture")
        link = f"[{kind}](../benchmarks/results/{shown})" if shown else ""
        rows.append(f"| {system['name']} | {names} | {system['figure'] or NOTHING} | {link} |")
    return "\n".join(rows)


def pages() -> dict[Path, str]:
    """Generated pages and what they must contain."""
    note = "<!-- Written by docs/figures.py from docs/templates/{}: edit that file, then run the script. -->\n\n"
    written = {ROOT / "experiments" / "results.json": json.dumps(best_numbers(), indent=2) + "\n"}  # train --list
    for template in sorted(TEMPLATES.glob("*.md")):
        written[ROOT / "docs" / template.name] = note.format(template.name) + fill(template.read_text())
    return written


def check(files: list[Path]) -> list[str]:
    """What is wrong with generated pages, templates and files with markers, a line for each fault."""
    faults = [f"{path}: out of date, run python docs/figures.py" for path, text in pages().items()
              if not path.is_file() or path.read_text() != text]  # fmt: skip
    for path in [*sorted(TEMPLATES.glob("*.md")), *files]:
        text = path.read_text()
        if refresh(text) != text:
            faults.append(f"{path}: out of date, run python docs/figures.py --write {path}")
        faults += [f"{path}: {number!r} is typed by hand, not taken from a result" for number in hand_typed(text)]
    return faults


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", nargs="*", type=Path, help="check the pages and these files; write nothing")
    parser.add_argument("--write", nargs="+", type=Path, help="refresh the numbers between markers of these files")
    arguments = parser.parse_args()
    try:
        if arguments.check is not None:
            faults = check(arguments.check)
            sys.exit("\n".join(faults) if faults else 0)
        for path in arguments.write or []:
            path.write_text(refresh(path.read_text()))
        for path, text in {} if arguments.write else pages().items():
            path.write_text(text)
    except FigureError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
