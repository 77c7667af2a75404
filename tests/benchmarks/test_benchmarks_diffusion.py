"""Benchmarks of diffusion: diffusers' pipelines do what our samplers do, and a curve of scores goes on where it was."""

import json
import math
from dataclasses import replace
from importlib.metadata import version

import numpy as np
import pytest
import score_curve
from conftest import EXPERIMENTS
from small_runs import smoke_run

from jaxgen import core
from jaxgen.core.configuration import to_json
from jaxgen.errors import UserError
from jaxgen.experiment import presets
from jaxgen.models.ddpm import DDPM
from jaxgen.models.edm import EDM
from jaxgen.models.mean_flow import MeanFlow
from jaxgen.ops.samplers import DDIM, Ancestral
from jaxgen.ops.schedules import Cosine, Linear

SMOKE = presets(EXPERIMENTS["ddpm"])["smoke"]

# --- diffusers' pipelines ---


@pytest.fixture(scope="module")
def pipelines():
    """The script; importing PyTorch and diffusers takes seconds."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("diffusers")
    import diffusers_pipeline

    # Its threads wait for each other by spinning: on cores shared with another test, a hundred times slower than one.
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(diffusers_pipeline, "use_all_cores", lambda: None)
        patch.setattr(diffusers_pipeline.common, "tried", lambda *_: "takes minutes")
        yield diffusers_pipeline


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize(
    "schedule, sampler",
    [
        (Cosine(20), Ancestral()),
        (Linear(30), Ancestral(large=True)),
        (Cosine(20), DDIM(steps=20)),
        (Linear(30), DDIM(steps=30, eta=0.5)),
    ],
)
def test_a_pipeline_draws_our_samples(pipelines, monkeypatch, schedule, sampler):
    """Network, weights, times, coefficients and range: the same noise gives the same images."""
    import torch
    from peers import unet2d

    model = replace(SMOKE.model, schedule=schedule, sampler=sampler)
    state = pipelines.random_state(replace(SMOKE, model=model))
    ours = np.clip((core.sample(model, state, core.sample_keys(0, 3)) + 1) / 2, 0, 1)
    drawn = iter(range(100))

    def noise(shape, **_):
        z = core.normal_each(core.fold_each(core.sample_keys(0, 3), next(drawn)), model.shape)
        return torch.tensor(np.asarray(z)).movedim(-1, 1)

    for module in ("pipelines.ddpm.pipeline_ddpm", "pipelines.ddim.pipeline_ddim"):
        monkeypatch.setattr(f"diffusers.{module}.randn_tensor", noise)
    for module in ("scheduling_ddpm", "scheduling_ddim"):
        monkeypatch.setattr(f"diffusers.schedulers.{module}.randn_tensor", noise)
    pipeline = unet2d.Pipeline(model, unet2d.unet2d(model, state.params["network"]))
    if isinstance(sampler, DDIM):
        pipeline.options["use_clipped_model_output"] = True  # as ours has it; left alone where they are timed
    theirs = pipeline(3)
    assert theirs.std() > 0.2
    np.testing.assert_allclose(ours, theirs, atol=2e-3)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.slow
def test_pipelines_are_timed_beside(pipelines, tmp_path):
    out = tmp_path / "out.json"
    pipelines.main(["smoke", "--num", "4", "--ddim-steps", "5", "--rounds", "1", "--devices", "2", "--out", str(out)])
    written = json.loads(out.read_text())
    assert [(row["name"], row["evaluations"]) for row in written["results"]] == [("DDIM", 5), ("Ancestral", 20)]
    for row in written["results"]:
        assert row["diffusers"] == version("diffusers")
        assert 0 < row["largest_difference"] <= 1e-4
        assert set(row["ms_per_batch"]) == {"ours", "torch contiguous", "torch channels_last"}
        best = min(row["ms_per_batch"][side]["median"] for side in row["ms_per_batch"] if side != "ours")
        assert row["peer_ratio"] == pytest.approx(best / row["ms_per_batch"]["ours"]["median"])
        assert 0 < row["compile_seconds"] < math.inf


def test_another_network_is_noticed(pipelines):
    from peers import unet2d

    state = pipelines.random_state(SMOKE)
    module = unet2d.unet2d(SMOKE.model, state.params["network"])
    module.time_proj.scale *= 1.01
    with pytest.raises(UserError, match="differ by"):
        pipelines.difference(SMOKE.model, state.params, module)


def test_models_that_pipelines_have_no_words_for(pipelines):
    with pytest.raises(UserError, match="choose a preset without classes"):
        pipelines.main(["emoji"])


# --- the curve ---


def lines(model, **options):
    options = score_curve.Options(run="", classifier="", evaluations=(5, 10), ancestral=(15,), **options)
    found = {}
    for line, n in score_curve.points(model, options):
        found.setdefault(line, []).append(n)
    return found


def test_lines_on_a_schedule():
    """Samplers of equal coefficients are one line; those that need other schedules are left out."""
    assert lines(DDPM(schedule=Cosine(100))) == {
        "ancestral = DDIM, eta 1": [5, 10, 15],
        "DDIM = Euler": [5, 10],
        "Heun": [5, 9],
        "DPM-Solver++(2M)": [5, 10],
    }
    # A learned variance is used by the ancestral sampler alone.
    assert set(lines(DDPM(schedule=Cosine(100), objective="hybrid"))) > {"ancestral", "DDIM, eta 1"}
    assert {"Heun", "Heun, churn 30", "annealed Langevin"} < set(lines(EDM()))
    assert lines(MeanFlow(), samplers=("leaps", "Euler")) == {"leaps": [5, 10], "Euler": [5, 10]}
    with pytest.raises(UserError, match="did you mean Heun"):
        lines(EDM(), samplers=("Huen",))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for name in ("classifier", "ddpm"):
        smoke_run(name, folder / name)
    return folder


@pytest.mark.slow
def test_curve(runs, tmp_path, monkeypatch):
    """Points are what `jaxgen evaluate` says, a killed command goes on, and another run's file is left alone."""
    monkeypatch.setenv("JAXGEN_CACHE", str(tmp_path / "cache"))
    out = tmp_path / "curve.json"
    run, classifier = str(runs / "ddpm"), str(runs / "classifier")
    flags = [run, "--classifier", classifier, "--num", "24", "--batch", "8", "--out", str(out), "--evaluations", "3"]
    flags += ["--samplers", "ancestral", "DDIM, eta 1", "Heun"]

    kept, drawn = [], score_curve.drawn

    def killed(trained, *args):
        if kept:
            raise KeyboardInterrupt
        kept.append(to_json(trained.model.sampler))
        return drawn(trained, *args)

    monkeypatch.setattr(score_curve, "drawn", killed)
    with pytest.raises(KeyboardInterrupt):
        score_curve.main([*flags, "--mesh", "data=2"])
    first = json.loads(out.read_text())["points"]
    assert [p["sampler"] for p in first] == kept
    monkeypatch.setattr(score_curve, "drawn", drawn)
    score_curve.main(flags)
    written = json.loads(out.read_text())
    assert [(p["line"], p["evaluations"]) for p in written["points"]] == [("ancestral = DDIM, eta 1", 3), ("Heun", 3)]
    assert written["points"][0]["value"] == first[0]["value"]
    assert out.with_suffix(".png").read_bytes()[1:4] == b"PNG"

    from jaxgen import __main__ as commands

    score = ["--metrics", "fid", "--classifier", classifier, "--num", "24", "--batch", "8"]
    commands.call(["evaluate", run, *score, "--run.model.sampler.steps", "3"])
    commands.call(["evaluate", run, *score, "--of", "test"])
    samples, real = json.loads((runs / "ddpm" / "scores.json").read_text())[-2:]
    assert samples["values"]["fd_digits_cnn"] == pytest.approx(first[0]["value"], rel=1e-3)
    assert real["values"]["fd_digits_cnn"] == pytest.approx(written["real_against_real"]["value"], rel=1e-6)
    with pytest.raises(UserError, match="holds other scores"):
        score_curve.main([*flags, "--seed", "1"])
