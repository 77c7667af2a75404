"""The page of a run, as a browser parses it."""

import base64
import json
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest

from jaxgen.errors import UserError
from jaxgen.report import save_picture, write_report
from jaxgen.report.page import _duration, _estimate
from jaxgen.report.parts import flatten

rng = np.random.default_rng(0)


def images(*shape):
    return rng.integers(0, 256, shape, dtype=np.uint8)


class Page(HTMLParser):
    """Collects tags and text, and checks that elements are nested correctly."""

    VOID = ("meta", "link", "img", "input", "wbr", "br")

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.text = [], [], ""
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):  # <path/> in an SVG
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not self.open or self.open[-1] not in ("style", "script"):
            self.text += data

    def all(self, tag):
        return [attrs for t, attrs in self.tags if t == tag]


EVIL = '<script>alert("x")</script>&amp; http://example.org/a.png'


@pytest.fixture
def run(tmp_path):
    for step in (500, 1000):
        save_picture(tmp_path / f"pictures/{step:09d}/samples.png", images(4, 8, 8, 3))
    save_picture(tmp_path / "pictures/000000500/traversal.png", images(2, 3, 8, 8, 1))
    save_picture(tmp_path / "pictures/000001000/trajectory.gif", images(3, 4, 8, 8, 1))
    (tmp_path / "pictures/000001000/broken.png").write_bytes(b"half a fi")
    (tmp_path / "pictures/notes").mkdir()
    vae = {"type": "jaxgen.models.vae:VAE", "latent": 32, "widths": [8, 16], "note": EVIL}
    files = {
        "experiment.json": {"model": vae, "codec": {"type": "codecs:Pixels"}, "seed": 3, "steps": 2000},
        "environment.json": {
            "experiment": "vae", "preset": "digits<", "command": "python vae.py digits --note '<b>'",
            "versions": {"jax": "0.7"}, "devices": ["H200", "H200"], "git": {"commit": "abc1", "dirty": True},
            "params": {"encoder": 1_200_000, "decoder": 300_000},
        },
        "evaluation.json": {
            "split": "test", "num": 10_000, "step": 1000, "weights": "ema",
            "metrics": {"elbo": {"mean": -21.33123, "stderr": 0.0312}, "fid": {"mean": 12.5, "stderr": None}},
        },
    }  # fmt: skip
    for name, value in files.items():
        (tmp_path / name).write_text(json.dumps(value))
    lines = [json.dumps({"step": i, "loss": 1 / i if i != 40 else float("nan")}) for i in range(1, 1001)]
    (tmp_path / "metrics.jsonl").write_text("\n".join([*lines, '{"step": 1001, "lo']))
    clock = [(500, 3000.0), (750, 10.0), (1000, 640.0)]  # resumed after the first
    (tmp_path / "timing.jsonl").write_text("\n".join(json.dumps({"step": s, "time": t}) for s, t in clock))
    (tmp_path / "events.jsonl").write_text(json.dumps({"step": 500, "event": "resumed", "detail": EVIL}))
    return tmp_path


SECTIONS = [
    "Final pictures", "Over training", "Curves", "Evaluation", "Events", "Configuration", "To reproduce",
]  # fmt: skip


def test_page_holds_everything_and_loads_nothing(run):
    path = write_report(run)
    assert path.read_bytes() == write_report(run).read_bytes()
    assert path == run / "report.html" and not list(run.glob(".*"))
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    for tag, attrs in page.tags:
        for name, value in attrs.items():
            if name in ("src", "href", "srcset", "action", "data", "poster"):
                assert value.startswith(("data:", "#")), (tag, name, value[:60])
    assert "url(http" not in text and "@import" not in text and "xmlns" not in text
    assert [img["alt"] for img in page.all("img")] == [
        "Samples at step 1,000", "Traversal at step 500", "Trajectory at step 1,000",
        "Samples at step 1,000", "Samples at step 500", "Samples at step 1,000",
    ]  # fmt: skip
    assert [h for h in SECTIONS if f"<h2>{h}</h2>" in text] == SECTIONS
    for expected in (
        "vae", "digits<, seed 3", "of 2,000", "1.5 M", "encoder 1.2 M", "2 \u00d7 H200", "1 h 1 min",
        "1 not finite", "-21.331 ± 0.031", "12.5", "test split, 10,000 samples, step 1,000", "resumed",
        "jaxgen.models.vae:VAE", "[8, 16]", "abc1", "not committed", "vae.py digits --note '<b>'",
    ):  # fmt: skip
        assert expected in page.text, expected
    # Configuration and events show it as text, never as markup: the only script is the page's own.
    assert page.text.count(EVIL) == 2 and len(page.all("script")) == 1
    first = page.all("img")[0]
    data = base64.b64decode(first["src"].removeprefix("data:image/png;base64,"))
    assert data == (run / "pictures/000001000/samples.png").read_bytes()
    assert int(first["width"]) == 8 * (2 * 49 + 1) and first["class"] == "pixels"  # an integer factor


def test_missing_parts_are_left_out(run):
    full = list(SECTIONS)
    for gone, sections in [
        ("pictures/000000500", ["Over training"]), ("pictures", ["Final pictures"]), ("timing.jsonl", []),
        ("metrics.jsonl", ["Curves"]), ("evaluation.json", ["Evaluation"]), ("events.jsonl", ["Events"]),
        ("environment.json", ["To reproduce"]),
    ]:  # fmt: skip
        shutil.rmtree(run / gone) if (run / gone).is_dir() else (run / gone).unlink()
        full = [s for s in full if s not in sections]
        text = write_report(run).read_text(encoding="utf-8")
        assert [s for s in SECTIONS if f"<h2>{s}</h2>" in text] == full, gone
    page = Page(text)
    assert full == ["Configuration"] and "VAE" in page.text and not page.all("img")
    (run / "evaluation.json").write_text('{"metrics": {')  # a damaged file is reported
    assert "evaluation.json is not a JSON object" in write_report(run).read_text(encoding="utf-8")


def test_a_folder_that_is_no_run(tmp_path):
    for folder, message in [(tmp_path, "no experiment.json"), (tmp_path / "none", "not a folder")]:
        with pytest.raises(UserError, match=message) as error:
            write_report(folder)
        assert "\n" not in str(error.value) and not list(tmp_path.iterdir())
    (tmp_path / "experiment.json").write_text("[]")
    with pytest.raises(UserError, match="not a JSON object"):
        write_report(tmp_path)


def test_numbers_and_names_read_well():
    assert _estimate({"mean": 3.14159, "stderr": 0.0213}) == "3.142 ± 0.021"
    assert _estimate({"mean": 1.2e-9, "stderr": 3e-11}) == "1.200e-09 ± 3.0e-11"
    assert _estimate({"mean": 12345.6, "stderr": 321.0}) == "12346 ± 321"
    assert _estimate({"mean": 5.0, "stderr": 0.0}) == "5 ± 0"
    assert _estimate({"mean": float("nan"), "stderr": float("nan")}) == "nan"
    assert _estimate(7.25) == "7.25" and _estimate({"mean": None}) == "—"
    assert [_duration(s) for s in (0.51, 90, 3599, 7260)] == ["0.51 s", "2 min", "1 h 0 min", "2 h 1 min"]
    value = {"a": {"x": 1, "type": "m:A"}, "l": [{"type": "m:B", "y": None}, 2], "s": [1, 2], "type": "m:E"}
    assert flatten(value) == [
        ("a", "m:A"), ("a.x", "1"), ("l.0", "m:B"), ("l.0.y", "null"), ("l.1", "2"), ("s", "[1, 2]"),
        ("type", "m:E"),
    ]  # fmt: skip
