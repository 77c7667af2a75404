"""Jupyter notebooks of the guides, for Colab, which opens no Markdown.

    python docs/notebooks.py            # writes docs/colab/NAME.ipynb from docs/guides/NAME.md
    python docs/notebooks.py --check    # fails where one is missing or out of date

A notebook has the guide's text and code and no outputs. Its first cell installs jaxgen where it is missing. Source code
that the guide includes is copied, as a notebook has no files beside it.
"""

import argparse
import ast
import json
import re
import sys
from pathlib import Path

from conf import REPOSITORY

DOCS = Path(__file__).resolve().parent
INSTALL = f"""\
import importlib.util

if importlib.util.find_spec("jaxgen") is None:
    %pip install --quiet git+https://github.com/{REPOSITORY}"""
FENCE = re.compile(r"^```\{([\w-]+)\} ?([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
OPTION = re.compile(r"^:([\w-]+): ?(.*)$", re.MULTILINE)
LINK = re.compile(r"\]\((?!https?:|#)([^)]+)\)")


def has_code(text: str) -> bool:
    """Whether a guide runs anything."""
    return "```{code-cell}" in text


def included(guide: Path, target: str, options: dict[str, str]) -> str:
    """The lines that `literalinclude` shows, by the options `pyobject` or `start-at` and `end-before`."""
    source = (guide.parent / target).read_text()
    if "pyobject" in options:
        node: ast.AST = ast.parse(source)
        for name in options["pyobject"].split("."):
            node = next(child for child in ast.iter_child_nodes(node) if getattr(child, "name", None) == name)
        return ast.get_source_segment(source, node, padded=True) or ""
    if "start-at" in options:
        source = source[source.index(options["start-at"].strip()) :]
    if "end-before" in options:
        source = source[: source.index(options["end-before"].strip())]
    return source


def notebook(guide: Path) -> str:
    """The notebook of a guide, as JSON."""
    text = re.sub(r"\A---\n.*?\n---\n", "", guide.read_text(), flags=re.DOTALL)
    pieces: list[tuple[str, str]] = [("code", INSTALL)]
    end = 0

    def prose(part: str) -> None:
        if part.strip():
            pieces.append(("markdown", LINK.sub(_absolute(guide), part.strip())))

    for fence in FENCE.finditer(text):
        prose(text[end : fence.start()])
        end = fence.end()
        kind, argument, body = fence.groups()
        code = OPTION.sub("", body).strip("\n")
        if kind == "code-cell":
            pieces.append(("code", code))
        elif kind == "literalinclude":
            source = included(guide, argument, dict(OPTION.findall(body)))
            pieces.append(("markdown", f"```python\n{source.rstrip()}\n```"))
        else:
            raise ValueError(f"{guide}: a notebook cannot show the directive {kind}")
    prose(text[end:])
    content = {
        "cells": [_cell(i, kind, source) for i, (kind, source) in enumerate(pieces)],
        "metadata": {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        },
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def _cell(index: int, kind: str, source: str) -> dict:
    cell = {"cell_type": kind, "id": f"cell-{index}", "metadata": {}, "source": source.splitlines(keepends=True)}
    return cell | ({"execution_count": None, "outputs": []} if kind == "code" else {})


def _absolute(guide: Path):
    """Replaces a link relative to the guide by one to GitHub."""

    def replace(link: re.Match) -> str:
        path, hash, anchor = link[1].partition("#")
        target = (guide.parent / path).resolve().relative_to(DOCS.parent).as_posix()
        return f"](https://github.com/{REPOSITORY}/blob/main/{target}{hash}{anchor})"

    return replace


def notebooks() -> dict[Path, str]:
    """The notebooks and what they must contain."""
    guides = [guide for guide in sorted((DOCS / "guides").glob("*.md")) if has_code(guide.read_text())]
    return {DOCS / "colab" / f"{guide.stem}.ipynb": notebook(guide) for guide in guides}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; fail where a notebook is out of date")
    check = parser.parse_args().check
    stale = [path for path, text in notebooks().items() if not path.is_file() or path.read_text() != text]
    if check and stale:
        sys.exit("\n".join(f"{path}: out of date, run python docs/notebooks.py" for path in stale))
    for path in stale:
        path.parent.mkdir(exist_ok=True)
        path.write_text(notebooks()[path])


if __name__ == "__main__":
    main()
