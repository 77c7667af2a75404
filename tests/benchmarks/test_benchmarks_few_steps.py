"""The curve of scores over few network evaluations."""

import json
from types import SimpleNamespace

import few_steps
import pytest
from conftest import EXPERIMENTS
from small_runs import smoke_run

from jaxgen.errors import UserError
from jaxgen.experiment import presets
from jaxgen.models.consistency import Consistency
from jaxgen.models.flow_matching import FlowMatching
from jaxgen.models.gan import GAN
from jaxgen.ops.few_steps import Halved, Renoised
from jaxgen.ops.samplers import Euler, Heun
from jaxgen.runs.distilled import TaughtBy

SMOKE = presets(EXPERIMENTS["distill"])["smoke"]


def test_models_are_sampled_in_as_many_evaluations_as_are_asked_for():
    flow = FlowMatching(shape=(2,), sampler=Heun(steps=25, clip=0.5))
    assert few_steps.in_steps(flow, 50).sampler == Euler(steps=50, clip=0.5)
    assert few_steps.in_steps(Consistency(sampler=Renoised(3, angles=(1.0, 0.5))), 2).sampler == Renoised(2)
    assert few_steps.in_steps(SMOKE.model, 2).sampler == Halved(2, of=4)
    assert few_steps.in_steps(SMOKE.model, 3) is None
    with pytest.raises(UserError, match="no sampler of steps"):
        few_steps.in_steps(GAN(), 1)


def test_a_number_that_a_sampler_does_not_take_is_left_out():
    """Regression: shortcuts, which take powers of two, ended the whole curve at its last point."""
    run = SimpleNamespace(experiment=lambda: presets(EXPERIMENTS["shortcut"])["smoke"])
    assert few_steps.trained_for(run, 3) is None  # pyright: ignore[reportArgumentType]


@pytest.mark.slow
def test_a_curve_has_a_point_for_each_number_that_a_run_has_learnt(tmp_path, monkeypatch):
    """A progressive student is read at the end of each phase."""
    from dataclasses import replace

    from jaxgen.train.loop import train

    monkeypatch.setenv("JAXGEN_CACHE", str(tmp_path / "cache"))
    for name in ("classifier", "edm"):
        smoke_run(name, tmp_path / name)
    taught = replace(
        SMOKE, codec=TaughtBy(run=str(tmp_path / "edm")), model=replace(SMOKE.model, phase=10), num_samples=4
    )  # fmt: skip
    train(taught, tmp_path / "distill")
    out = tmp_path / "curve.json"
    few_steps.main([
        str(tmp_path / "edm"), str(tmp_path / "distill"), "--classifier", str(tmp_path / "classifier"), "--name", "x",
        "--num", "24", "--batch", "8", "--evaluations", "1", "2", "8", "--out", str(out),
    ])  # fmt: skip
    written = json.loads(out.read_text())
    points = [(p["run"], p["evaluations"], p["step"]) for p in written["points"]]
    assert points == [("edm", 1, 20), ("edm", 2, 20), ("edm", 8, 20), ("distill", 1, 20), ("distill", 2, 10)]
    assert all(p["distance"] > 0 and 0 <= p["recall"] <= 1 for p in written["points"])
    assert out.with_suffix(".png").read_bytes()[1:4] == b"PNG"
