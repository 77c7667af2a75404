"""The documentation's numbers come from committed results, its pages are up to date, and its links lead somewhere."""

import json
import re

import figures
import notebooks
import pytest
from conftest import EXPERIMENTS, ROOT

from jaxgen.experiment import presets

PAGES = sorted([*(ROOT / "docs").glob("*.md"), *(ROOT / "docs" / "guides").glob("*.md")])


def test_generated_pages_are_up_to_date_and_no_number_is_typed_by_hand():
    # Templates stand for the pages that are written from them.
    # compiler.md is of versions, and of what other people reported.
    pages = [page for page in PAGES if page not in figures.pages() and page.name != "compiler.md"]
    assert figures.check([ROOT / "README.md", *pages]) == []


def test_a_number_typed_by_hand_is_found():
    assert figures.hand_typed("A step takes 92.1 ms.")
    assert figures.hand_typed("| VAE | 101 nats |")
    assert not figures.hand_typed("It needs Python 3.11 and follows arXiv:1312.6114; `--steps 50.5`.")


MISSING = ["nowhere.json: a", "train-digits.json: results[0].none", "train-digits.json: results"]


@pytest.mark.parametrize("spec", MISSING)
def test_a_figure_without_a_result_fails(spec):
    with pytest.raises((figures.FigureError, FileNotFoundError)):
        figures.fill("{{ " + spec + " }}")


def test_a_figure_is_the_results_own_number():
    row = json.loads((ROOT / "benchmarks/results/train-digits.json").read_text())["results"][0]
    assert figures.fill("{{ train-digits.json: results[0].peer_ratio as .2f }}") == f"{row['peer_ratio']:.2f}"


def test_best_numbers_are_of_scripts_and_presets_that_exist():
    for script, numbers in figures.best_numbers().items():
        assert set(numbers) <= set(presets(EXPERIMENTS[script])), script


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_included_files_exist(page):
    text = page.read_text()
    targets = re.findall(r"\]\((?!http|#)([^)#]+)\)", text) + re.findall(r"\{literalinclude\} (\S+)", text)
    for target in targets:
        assert (page.parent / target).exists(), target


def test_notebooks_for_colab_are_up_to_date_and_run_what_the_guides_run():
    written = notebooks.notebooks()
    assert {path.stem for path in (ROOT / "docs" / "colab").iterdir()} == {path.stem for path in written}
    for path, text in written.items():
        assert path.read_text() == text, f"{path}: run python docs/notebooks.py"
        guide = (ROOT / "docs" / "guides" / f"{path.stem}.md").read_text()
        cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
        assert len(cells) == 1 + guide.count("```{code-cell}")  # the first one installs
        for cell in cells[1:]:
            assert "".join(cell["source"]) in guide


def test_every_page_stands_in_the_index():
    index = (ROOT / "docs" / "index.md").read_text()
    for page in PAGES:
        name = page.relative_to(ROOT / "docs").with_suffix("").as_posix()
        assert name == "index" or f"\n{name}\n" in index, name
