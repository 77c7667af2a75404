"""The README is short, its example runs as printed, what it names exists, and its numbers come from committed JSON."""

import re

import figures
import pytest
from conftest import EXPERIMENTS, ROOT

README = (ROOT / "README.md").read_text()


def test_it_can_be_read_in_a_minute():
    assert len(README.splitlines()) <= 180


def test_the_library_example_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    names: dict = {}
    exec(code, names)
    assert names["images"].shape == (64, 8, 8, 1) and names["images"].std() > 10
    assert (names["again"] == names["images"][:8]).all()
    assert {"nelbo", "iwae", "kl"} <= set(names["numbers"])


def test_every_script_stands_in_the_table():
    assert set(re.findall(r"\[`(\w+)`\]\(experiments/\w+\.py\)", README)) == set(EXPERIMENTS)


def test_what_it_points_at_exists():
    targets = re.findall(r'\]\((?!http)([^)]+)\)|src="([^"]+)"', README)
    assert len(targets) > 40
    for target in map("".join, targets):
        assert (ROOT / target).exists(), target


def test_tests_that_it_names_exist():
    contract = (ROOT / "tests" / "test_contract.py").read_text()
    named = re.findall(r"`(test_\w+)`", README)
    assert named and all(f"def {name}(" in contract for name in named)


def test_its_numbers_are_those_of_the_results():
    assert figures.refresh(README) == README
    assert not figures.hand_typed(README)


def test_a_number_without_json_is_found():
    assert figures.hand_typed("It takes 12.5 ms.")
    with pytest.raises(figures.FigureError):
        figures.refresh("<!--fig nowhere.json: a.b-->1<!--/fig-->")
