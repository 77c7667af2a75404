"""The README's library example runs as printed, and what it names exists."""

import re

from conftest import EXPERIMENTS, ROOT

README = (ROOT / "README.md").read_text()


def test_the_library_example_runs():
    (code,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    names: dict = {}
    exec(code, names)
    assert names["images"].shape == (64, 8, 8, 1)
    assert names["images"].std() > 10


def test_every_script_stands_in_the_table():
    for name in EXPERIMENTS:
        assert f"`{name}.py`" in README


def test_files_it_points_at_exist():
    for target in re.findall(r"\]\((?!http)([^)]+)\)", README):
        assert (ROOT / target).exists(), target
