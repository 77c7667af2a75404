"""Training curves: what is read from metrics files, thinned, smoothed and drawn, against raw numbers."""

import json

import numpy as np
import pytest

from jaxgen.report import curves, read_metrics
from jaxgen.report.curves import CHUNK, smooth, thin

rng = np.random.default_rng(0)


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


def test_thin_keeps_the_extremes_of_every_bucket():
    buckets = 40
    steps, values = np.cumsum(rng.integers(1, 5, 10_000)), rng.normal(size=10_000)
    values[[777, 8888]] = 50, -60
    x, y = thin(steps, values, buckets)
    assert len(x) <= 2 * buckets + 2 and (np.diff(x) > 0).all()
    np.testing.assert_array_equal(y, values[np.searchsorted(steps, x)])  # only points of the curve
    assert (x[0], x[-1]) == (steps[0], steps[-1])
    bucket = np.minimum((steps - steps[0]) * buckets // (steps[-1] - steps[0]), buckets - 1)
    for b in range(buckets):
        assert {values[bucket == b].min(), values[bucket == b].max()} <= set(y)
    np.testing.assert_array_equal(thin(steps[:80], values[:80], buckets), (steps[:80], values[:80]))


def test_smooth_against_a_loop():
    steps, values = np.arange(200), rng.normal(size=200)
    x, y = smooth(steps, values, 200)  # one value per bucket
    np.testing.assert_array_equal(x, steps)
    decay = 1 - 1 / (0.02 * 200)
    for i in (0, 1, 50, 199):
        w = decay ** np.arange(i, -1, -1)
        np.testing.assert_allclose(y[i], (w * values[: i + 1]).sum() / w.sum())
    np.testing.assert_allclose(smooth(np.arange(5000), np.full(5000, 3.0), 7)[1], np.full(7, 3.0))


def test_curves_keep_spikes_mark_nonfinite_values_and_repeat():
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
    # The spike is drawn: without it no axis would reach 10,000.
    assert ">10000<" in figures[2] and ">10000<" not in figures[0]
    # The curve is thinned: 5,000 points would be 5,000 line segments.
    assert 500 < figures[0].count("\nL ") < 1000


@pytest.mark.parametrize("values", [[np.nan] * 3, [1.0], [0.0, -1.0, 5.0], [2.0] * 60, [1e-30, 1e30]])
def test_curves_of_odd_values(values):
    assert "<svg" in curves({"x": (np.arange(len(values)), np.array(values))})
    assert curves({}) == ""
