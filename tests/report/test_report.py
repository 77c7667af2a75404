"""Pictures against their inputs by the pixel, curves against raw numbers, the page as a browser parses it."""

import base64
import json
import os
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from jaxgen.errors import UserError
from jaxgen.report import curves, grid, picture, read_metrics, save_picture, scatter, write_report
from jaxgen.report.curves import CHUNK, smooth, thin
from jaxgen.report.page import _duration, _estimate
from jaxgen.report.parts import flatten

rng = np.random.default_rng(0)


def images(*shape):
    return rng.integers(0, 256, shape, dtype=np.uint8)


def ungrid(canvas, rows, cols, h, w, pad, scale):
    """uint8[rows, cols, h, w, 3] read back from a grid, after checking that enlarged pixels are uniform."""
    out = np.empty((rows, cols, h, w, 3), np.uint8)
    for r, c, i, j in np.ndindex(rows, cols, h, w):
        y, x = pad + r * (h * scale + pad) + i * scale, pad + c * (w * scale + pad) + j * scale
        block = canvas[y : y + scale, x : x + scale].reshape(-1, 3)
        assert (block == block[0]).all()
        out[r, c, i, j] = block[0]
    return out


@pytest.mark.parametrize("c", [1, 3])
@pytest.mark.parametrize("pad, scale, cols", [(1, 1, 3), (0, 2, 5), (3, 4, 2)])
def test_grid_puts_every_pixel_where_it_belongs(c, pad, scale, cols):
    x = images(5, 4, 6, c)
    rows = -(-5 // cols)
    canvas = grid(x, cols=cols, pad=pad, scale=scale, background=(9, 8, 7))
    assert canvas.dtype == np.uint8
    assert canvas.shape == (rows * (4 * scale + pad) + pad, cols * (6 * scale + pad) + pad, 3)
    tiles = ungrid(canvas, rows, cols, 4, 6, pad, scale).reshape(-1, 4, 6, 3)
    np.testing.assert_array_equal(tiles[:5], np.broadcast_to(x, (5, 4, 6, 3)))
    assert (tiles[5:] == (9, 8, 7)).all()
    if pad:  # separators: all of the first row and column, and between the first two tiles
        assert (canvas[:pad] == (9, 8, 7)).all() and (canvas[:, :pad] == (9, 8, 7)).all()
        assert (canvas[:, pad + 6 * scale : 2 * pad + 6 * scale] == (9, 8, 7)).all()


def test_grid_keeps_rows_and_columns():
    x = images(2, 3, 8, 8, 1)
    canvas = grid(x)
    assert canvas.shape == (2 * 49 + 1, 3 * 49 + 1, 3)  # 8 px enlarged six times
    np.testing.assert_array_equal(ungrid(canvas, 2, 3, 8, 8, 1, 6), np.broadcast_to(x, (2, 3, 8, 8, 3)))
    np.testing.assert_array_equal(canvas, grid(x.reshape(6, 8, 8, 1), cols=3))
    with pytest.raises(UserError, match="cols=4"):
        grid(x, cols=4)


@pytest.mark.parametrize("given, shape", [
    ((64, 28, 28, 1), (8 * 57 + 1, 8 * 57 + 1, 3)),  # 28 px doubled
    ((10, 48, 48, 3), (2 * 49 + 1, 5 * 49 + 1, 3)),  # no empty cells
    ((7, 48, 48, 3), (3 * 49 + 1, 3 * 49 + 1, 3)),
    ((64, 256, 256, 1), (11 * 257 + 1, 6 * 257 + 1, 3)),  # no wider than 1600 px
    ((1, 60, 8, 8, 3), (1 * 25 + 1, 60 * 25 + 1, 3)),
    ((1, 100, 8, 8, 3), (1 * 9 + 1, 100 * 9 + 1, 3)),
])  # fmt: skip
def test_grid_chooses_a_layout(given, shape):
    assert grid(np.zeros(given, np.uint8)).shape == shape


def test_scatter_puts_points_where_they_are():
    points = np.array([[-1.0, 0.5]] * 50 + [[np.nan, 0.0]])
    a = scatter(points, limits=(-2, 2))
    assert a.dtype == np.uint8 and a.shape == (720, 720, 3)
    blank = scatter(np.array([[9.0, 9.0]] * 50 + [[np.nan, 0.0]]), limits=(-2, 2))
    y, x = np.nonzero((a != blank).any(-1))
    # Axes from 36 px to 2 % of the right and upper edges; y grows upwards.
    left, right, top, bottom = 36, 0.98 * 720, 0.02 * 720, 720 - 36
    assert abs(x.mean() - (left + 0.25 * (right - left))) < 8
    assert abs(y.mean() - (bottom - 0.625 * (bottom - top))) < 8
    np.testing.assert_array_equal(a, scatter(points, limits=((-2, 2), (-2, 2))))
    assert (a != scatter(points)).any()


def test_scatter_panels_and_degenerate_points():
    assert scatter(rng.normal(size=(2, 3, 20, 2))).shape == (800, 1200, 3)
    assert scatter(rng.normal(size=(4, 20, 2)).astype(np.float16)).shape == (400, 1600, 3)
    assert scatter(rng.normal(size=(9, 5, 2))).shape == (400, 1600, 3)  # 8 in a row
    for points in (np.full((3, 2), np.nan), np.ones((1, 2))):
        scatter(points)


def test_picture_dispatches_on_dtype_and_shape():
    x, points = images(4, 8, 8, 3), rng.normal(size=(30, 2))
    for shown, expected in ((x, grid(x)), (x[0], grid(x[:1])), (points, scatter(points))):
        np.testing.assert_array_equal(picture(shown), expected)


@pytest.mark.parametrize("raw", [
    np.zeros((4, 8, 8, 2), np.uint8), np.zeros((4, 8, 8, 3), np.float32), np.zeros((0, 8, 8, 3), np.uint8),
    np.zeros((4, 8), np.int32), np.zeros((5, 3)), np.zeros((0, 2)), np.zeros(2), "text",
])  # fmt: skip
def test_what_has_no_picture_is_said_in_one_line(raw, tmp_path):
    for show in (picture, grid, scatter, lambda x: save_picture(tmp_path / "a.png", x)):
        with pytest.raises(UserError, match=r"uint8\[N, h, w, c\]") as error:
            show(raw)
        assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_png_is_exact_deterministic_and_whole(tmp_path):
    x = images(3, 3, 8, 8, 3)
    for name in ("a/a.png", "b/a.png"):
        save_picture(tmp_path / name, x)
        assert os.listdir((tmp_path / name).parent) == ["a.png"]  # no temporary file stays
    with Image.open(tmp_path / "a/a.png") as image:
        np.testing.assert_array_equal(np.asarray(image), grid(x))
    assert (tmp_path / "a/a.png").read_bytes() == (tmp_path / "b/a.png").read_bytes()
    points = rng.normal(size=(50, 2))
    save_picture(tmp_path / "p.png", points)
    save_picture(tmp_path / "q.png", points)
    assert (tmp_path / "p.png").read_bytes() == (tmp_path / "q.png").read_bytes()
    with pytest.raises(UserError, match=r"png or \.gif"):
        save_picture(tmp_path / "a.jpg", x)


def frames_of(path):
    with Image.open(path) as image:
        frames, times = [], []
        for i in range(image.n_frames):
            image.seek(i)
            frames.append(np.asarray(image.convert("RGB")).astype(int))
            times.append(image.info["duration"])
        return np.stack(frames), times, image.info["loop"]


GREYS, FEW_COLOURS = images(7, 4, 8, 8, 1), images(20, 3)[rng.integers(20, size=(7, 4, 8, 8))]


@pytest.mark.parametrize("x", [GREYS, FEW_COLOURS])
def test_gif_of_few_colours_is_exact_and_holds_its_last_frame(x, tmp_path):
    save_picture(tmp_path / "a.gif", x)
    frames, times, loop = frames_of(tmp_path / "a.gif")
    np.testing.assert_array_equal(frames, np.stack([grid(f) for f in x]))
    assert times == [500] * 6 + [1000] and loop == 0


def test_gif_keeps_colours(tmp_path):
    """A smooth colour field dissolving into noise: the hard case for one palette."""
    ramp = np.linspace(0, 1, 16)
    field = np.stack(np.broadcast_arrays(ramp[:, None], ramp, 1 - ramp[:, None] * ramp), -1)
    t = np.linspace(0, 1, 6)[:, None, None, None, None]
    x = (255 * (t * field + (1 - t) * rng.random((6, 4, 16, 16, 3)))).round().astype(np.uint8)
    save_picture(tmp_path / "a.gif", x)
    frames, times, _ = frames_of(tmp_path / "a.gif")
    error = np.abs(frames - np.stack([grid(f) for f in x]))
    assert len(frames) == 6 and sum(times) == 4000
    # 255 colours in a cube of 256: a ball of one colour has radius about 25.
    assert error.mean() < 14 and error[-1].mean() < 7, (error.mean(), error[-1].mean())


def test_gif_of_points_rows_and_many_frames(tmp_path):
    save_picture(tmp_path / "points.gif", np.linspace(0, 1, 3)[:, None, None] * rng.normal(size=(40, 2)))
    assert frames_of(tmp_path / "points.gif")[0].shape == (3, 720, 720, 3)
    save_picture(tmp_path / "rows.gif", images(2, 1, 3, 8, 8, 3))
    assert frames_of(tmp_path / "rows.gif")[0].shape == (2, 50, 148, 3)
    x = images(150, 1, 4, 4, 1)
    save_picture(tmp_path / "long.gif", x)
    frames, _, _ = frames_of(tmp_path / "long.gif")
    assert len(frames) == 100
    np.testing.assert_array_equal(frames[-1], grid(x[-1]))
    save_picture(tmp_path / "one.gif", x[:1])
    with pytest.raises(UserError, match="frames"):
        save_picture(tmp_path / "a.gif", np.zeros((4, 2)))


def test_read_metrics_tolerates_what_a_killed_run_leaves(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(
        '{"step": 1, "loss": 0.5, "note": "text", "vector": [1, 2]}\n'
        '{"step": 2, "loss": NaN, "kl": 3}\n'
        '{"step": 3, "loss": null}\n'
        '{"step": 4, "lo{"step": 3, "loss": 7}\n'  # killed here and resumed
        '{"step": 3, "loss": -Infinity}\n\n[1]\n{"loss": 2}\n'
        '{"step": 5, "loss": 0.25, "kl"'
    )
    metrics = read_metrics(path)
    assert list(metrics) == ["loss", "kl"]
    np.testing.assert_array_equal(metrics["loss"][0], [1, 2, 3])
    np.testing.assert_array_equal(metrics["loss"][1], [0.5, np.nan, -np.inf])  # the later line of step 3
    np.testing.assert_array_equal(metrics["kl"], [[2], [3]])
    assert read_metrics(tmp_path / "none.jsonl") == {}


def test_read_metrics_joins_chunks(tmp_path):
    n = 2 * CHUNK + 17
    lines = [json.dumps({"step": i, "loss": i / 4}) for i in range(n)]
    (tmp_path / "m.jsonl").write_text("\n".join([*lines, '{"st']))
    steps, values = read_metrics(tmp_path / "m.jsonl")["loss"]
    np.testing.assert_array_equal(steps, np.arange(n))
    np.testing.assert_array_equal(values, np.arange(n) / 4)
    assert steps.dtype == np.int64 and values.dtype == np.float64


def test_thin_keeps_the_extremes_of_every_strip():
    buckets = 40
    steps, values = np.cumsum(rng.integers(1, 5, 10_000)), rng.normal(size=10_000)
    values[[777, 8888]] = 50, -60
    x, y = thin(steps, values, buckets)
    assert len(x) <= 2 * buckets + 2 and (np.diff(x) > 0).all()
    np.testing.assert_array_equal(y, values[np.searchsorted(steps, x)])  # points of the curve, no others
    assert (x[0], x[-1]) == (steps[0], steps[-1])
    strip = np.minimum((steps - steps[0]) * buckets // (steps[-1] - steps[0]), buckets - 1)
    for b in range(buckets):
        assert {values[strip == b].min(), values[strip == b].max()} <= set(y)
    np.testing.assert_array_equal(thin(steps[:80], values[:80], buckets), (steps[:80], values[:80]))


def test_smooth_against_a_loop():
    steps, values = np.arange(200), rng.normal(size=200)
    x, y = smooth(steps, values, 200)  # one value a strip
    np.testing.assert_array_equal(x, steps)
    decay = 1 - 1 / (0.02 * 200)
    for i in (0, 1, 50, 199):
        w = decay ** np.arange(i, -1, -1)
        np.testing.assert_allclose(y[i], (w * values[: i + 1]).sum() / w.sum())
    np.testing.assert_allclose(smooth(np.arange(5000), np.full(5000, 3.0), 7)[1], np.full(7, 3.0))


def test_curves_keep_spikes_mark_faults_and_repeat():
    steps = np.arange(5000)
    loss = rng.random(5000) + 1
    spiky, broken = loss.copy(), loss.copy()
    spiky[1234] = 1e4
    broken[[10, 2500, 4999]] = np.nan, np.inf, -np.inf
    data = {"b": (steps, broken), "loss": (steps, loss), "a$<": (steps, spiky), "none": (steps[:0], loss[:0])}
    drawn = curves(data)
    assert drawn == curves(data)
    figures = drawn.split("<figure")[1:]
    assert len(figures) == drawn.count("<svg") == drawn.count("</svg>") == 3
    assert [f.split("<b>")[1].split("</b>")[0] for f in figures] == ["loss", "b", "a$&lt;"]
    assert "http" not in drawn and "xmlns" not in drawn and "#0102" not in drawn and "currentColor" in drawn
    assert [f.count('class="nonfinite"') for f in figures] == [0, 1, 0]
    marks = figures[1].split('class="nonfinite"')[1]
    assert marks.count("<use") == 3 and "3 not finite" in figures[1]
    # The spike is drawn: only it needs a logarithmic axis up to 10,000.
    assert ">10000<" in figures[2] and ">10000<" not in figures[0]
    # Thinned: 5,000 points would be 5,000 line segments.
    assert 500 < figures[0].count("\nL ") < 1000


@pytest.mark.parametrize("values", [[np.nan] * 3, [1.0], [0.0, -1.0, 5.0], [2.0] * 60, [1e-30, 1e30]])
def test_curves_of_odd_values(values):
    assert "<svg" in curves({"x": (np.arange(len(values)), np.array(values))})
    assert curves({}) == ""


class Page(HTMLParser):
    """Collects tags, text, and checks that elements nest."""

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
    assert page.text.count(EVIL) == 2  # in configuration and events it is shown as text,
    assert len(page.all("script")) == 1  # never as markup: the one script is the page's own
    first = page.all("img")[0]
    data = base64.b64decode(first["src"].removeprefix("data:image/png;base64,"))
    assert data == (run / "pictures/000001000/samples.png").read_bytes()
    assert int(first["width"]) == 8 * (2 * 49 + 1) and first["class"] == "pixels"  # a whole factor


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
    (run / "evaluation.json").write_text('{"metrics": {')  # damaged is not the same as missing: it is named
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
