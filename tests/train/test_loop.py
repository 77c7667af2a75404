"""Whole runs: what they leave behind, that they come out the same again, and that they go on where they stopped."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import EXPERIMENTS, ROOT
from PIL import Image
from safetensors.numpy import load_file
from small_runs import damage, final_state, same

from jaxgen.codecs import Identity
from jaxgen.core import abstract_state
from jaxgen.errors import UserError
from jaxgen.experiment import presets
from jaxgen.inference.sampling import draw
from jaxgen.report import read_metrics
from jaxgen.runs.checkpoint import Checkpoints
from jaxgen.runs.folder import RunFolder
from jaxgen.runs.restore import Trained
from jaxgen.train.loop import train

VAE = presets(EXPERIMENTS["vae"])["smoke"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run of the smallest preset."""
    folder = tmp_path_factory.mktemp("runs") / "vae"
    train(VAE, folder, {"experiment": "vae", "preset": "smoke"})
    return folder


def test_a_run_leaves_everything_a_reader_needs(finished):
    assert RunFolder(finished).experiment() == VAE
    environment = json.loads((finished / "environment.json").read_text())
    assert environment["seed"] == VAE.seed
    assert {"jax", "flax", "jaxgen"} <= set(environment["versions"])
    lines = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, VAE.steps + 1))
    assert all(np.isfinite(line["loss"]) for line in lines)
    assert len(list((finished / "tensorboard").iterdir())) == 1
    for step in ("000000010", "000000020"):
        with Image.open(finished / "pictures" / step / "samples.png") as picture:
            assert np.asarray(picture).std() > 1
    page = (finished / "report.html").read_text()
    assert page.count("data:image/png;base64,") >= 4


def test_the_same_seed_twice_is_the_same_to_the_bit(finished, tmp_path):
    train(VAE, tmp_path / "again")
    assert same(final_state(VAE, finished), final_state(VAE, tmp_path / "again"))
    assert (finished / "metrics.jsonl").read_text() == (tmp_path / "again" / "metrics.jsonl").read_text()
    other = dataclasses.replace(VAE, seed=1)
    train(other, tmp_path / "other")
    assert not same(final_state(VAE, finished), final_state(other, tmp_path / "other"))


def test_a_stopped_run_goes_on_as_if_it_had_not(finished, tmp_path):
    half = dataclasses.replace(VAE, steps=10)
    train(half, tmp_path / "run")
    # What a crash between logging and saving leaves: lines of steps that no checkpoint holds.
    run = RunFolder(tmp_path / "run")
    run.append(run.metrics, [{"step": 11, "loss": -1.0}])
    with run.metrics.open("a") as stream:
        stream.write('{"step": 12, "lo')
    train(VAE, tmp_path / "run")
    assert same(final_state(VAE, finished), final_state(VAE, tmp_path / "run"))
    assert (finished / "metrics.jsonl").read_text() == run.metrics.read_text()


def test_a_killed_run_goes_on_as_if_it_had_not(finished, tmp_path):
    """SIGKILL once a checkpoint is there, then the same command again."""
    folder = tmp_path / "run"
    command = [sys.executable, "experiments/vae.py", "smoke", "--out", str(folder), "--device", "cpu"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (folder / "checkpoints" / "10").is_dir() and time.monotonic() < deadline:
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    train(VAE, folder)
    assert same(final_state(VAE, finished), final_state(VAE, folder))


def test_streamed_data_trains_like_data_on_the_device(finished, tmp_path):
    train(dataclasses.replace(VAE, preload=0), tmp_path / "run")
    assert same(final_state(VAE, finished), final_state(VAE, tmp_path / "run"))


def test_samples_do_not_depend_on_the_batch_they_are_drawn_in(finished):
    trained = Trained(VAE, Identity(), final_state(VAE, finished))
    at_once, in_parts = draw(trained, 7, 10, batch=10), draw(trained, 7, 10, batch=4)
    np.testing.assert_allclose(in_parts, at_once, rtol=0, atol=1e-5)


def test_samples_do_not_depend_on_the_mesh_they_are_drawn_on(finished, monkeypatch):
    from jaxgen.cli.sample import command as sample

    for mesh in ("", "data=2"):
        sample([str(finished), "--num", "5", "--mesh", mesh, "--out", str(finished / f"mesh-{mesh}")])
    one, two = (load_file(finished / f"mesh-{mesh}" / "samples.safetensors")["x"] for mesh in ("", "data=2"))
    assert one.shape == (5, 8, 8, 1)
    assert np.max(np.abs(one.astype(int) - two)) <= 1  # a level, where rounding meets a half


def test_another_experiment_does_not_overwrite_a_run(finished):
    with pytest.raises(UserError, match=r"batch_size: 32 there, 16 here.*--out"):
        train(dataclasses.replace(VAE, batch_size=16), finished)


def test_a_folder_with_other_things_in_it_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("...")
    with pytest.raises(UserError, match="not empty"):
        train(VAE, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("how", ["truncated", "flipped"])
def test_a_damaged_checkpoint_is_named_and_passed_over(how, tmp_path):
    train(VAE, tmp_path / "run")
    run = RunFolder(tmp_path / "run")
    like = abstract_state(VAE.model, run.examples(), VAE.codec)
    said: list[str] = []
    damage(run.checkpoints / "20", how)
    with Checkpoints(run.checkpoints) as checkpoints:
        assert checkpoints.restore(like, report=said.append).step == 10
    assert len(said) == 1
    assert str(run.checkpoints / "20") in said[0]
    assert (run.checkpoints / "20").is_dir()
    damage(run.checkpoints / "10", how)
    with Checkpoints(run.checkpoints) as checkpoints, pytest.raises(UserError, match=r"damaged.*move"):
        checkpoints.restore(like, report=said.append)


def test_samples_are_kept_as_safetensors(finished, capsys):
    from jaxgen.cli.sample import command as sample

    sample([str(finished), "--num", "5", "--seed", "7"])
    folder = finished / "samples" / "seed7-num5"
    assert load_file(folder / "samples.safetensors")["x"].shape == (5, 8, 8, 1)
    assert str(folder) in capsys.readouterr().out


def test_other_flags_draw_into_another_folder(finished):
    from jaxgen.cli.sample import command as sample

    sample([str(finished), "--num", "3", "--files"])
    first = finished / "samples" / "seed0-num3"
    kept = (first / "samples.safetensors").read_bytes()
    for flags in (["--step", "10"], ["--run.seed", "5"]):
        before = set((finished / "samples").iterdir())
        sample([str(finished), "--num", "3", *flags])
        (new,) = set((finished / "samples").iterdir()) - before
        assert new.name.startswith("seed0-num3-")
    assert (first / "samples.safetensors").read_bytes() == kept and (first / "files" / "2.png").is_file()
    # What is drawn there anew leaves no single files of the draw before.
    sample([str(finished), "--num", "3", "--batch", "2"])
    assert not (first / "files").exists()


def test_evaluate_covers_every_held_out_example_once(finished):
    from jaxgen.cli.evaluate import command as evaluate

    results = []
    for batch in ("200", "7"):
        evaluate([str(finished), "--limit", "20", "--batch", batch])
        results.append(json.loads((finished / "evaluation.json").read_text()))
    assert [r["num"] for r in results] == [20, 20]
    # The KL has no noise, so the two batchings agree; a padded example counted twice would not.
    kl = [r["metrics"]["kl"]["mean"] for r in results]
    assert kl[0] == pytest.approx(kl[1], rel=1e-5)


def test_metrics_are_read_back(finished):
    steps, values = read_metrics(finished / "metrics.jsonl")["loss"]
    assert len(steps) == len(values) == VAE.steps
