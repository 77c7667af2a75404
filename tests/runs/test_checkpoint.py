"""What is kept, what is read back, and what happens when the disk is full."""

import dataclasses
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
from conftest import EXPERIMENTS, ROOT
from small_runs import damage, final_state, same

from jaxgen.core import TrainState
from jaxgen.errors import UserError
from jaxgen.experiment import presets
from jaxgen.inference.sampling import draw
from jaxgen.report import read_metrics
from jaxgen.runs.checkpoint import Checkpoints
from jaxgen.runs.folder import RunFolder
from jaxgen.runs.packing import pack
from jaxgen.runs.restore import Trained, saved_state
from jaxgen.train.loop import train

VAE = presets(EXPERIMENTS["vae"])["smoke"]


def state_at(step):
    return TrainState(step=jax.numpy.int32(step), params={"a": jax.numpy.full(3, float(step))}, opt_state={})


@pytest.mark.parametrize(
    ("scores", "kept", "best"),
    [
        ([3.0, 1.0, 2.0, 4.0, 5.0], [2, 4, 5], 2),
        ([3.0, 1.0, 2.0, 4.0, 0.5], [4, 5], 5),
        ([3.0, float("nan"), 2.0, 4.0, float("nan")], [3, 4, 5], 3),
    ],
)
def test_the_newest_and_the_best_are_kept(scores, kept, best, tmp_path):
    """Also across processes: the scores lie with the checkpoints."""
    for part in (range(3), range(3, 5)):
        with Checkpoints(tmp_path / "checkpoints", keep=2) as checkpoints:
            for i in part:
                checkpoints.save(state_at(i + 1), scores[i])
                checkpoints.wait()
    with Checkpoints(tmp_path / "checkpoints", keep=2) as checkpoints:
        assert checkpoints.steps() == kept
        assert checkpoints.best() == best


@pytest.mark.parametrize("text", ['{"sc', "\\x00", "[3]", '{"score": "x"}', "{}", None])
def test_a_score_that_is_none_is_set_aside(text, tmp_path, capsys):
    """Its checkpoint stays, and another is the best."""
    with Checkpoints(tmp_path / "checkpoints", keep=3) as checkpoints:
        for step, score in ((1, 2.0), (2, 1.0)):
            checkpoints.save(state_at(step), score)
    file = tmp_path / "checkpoints" / "2" / "metrics" / "metrics"
    file.unlink() if text is None else file.write_text(text)
    with Checkpoints(tmp_path / "checkpoints", keep=3) as checkpoints:
        assert checkpoints.best() == 1
        assert checkpoints.restore(state_at(0)).step == 2
        checkpoints.save(state_at(3), 0.5)
        checkpoints.wait()
        assert checkpoints.best() == 3
    assert len(capsys.readouterr().err.splitlines()) == (text is not None)


def test_without_scores_there_is_no_best(tmp_path):
    with Checkpoints(tmp_path / "checkpoints", keep=2) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(state_at(step))
        checkpoints.wait()
        assert checkpoints.steps() == [2, 3]
        with pytest.raises(UserError, match="--best"):
            checkpoints.best()


@pytest.mark.parametrize("step", [1, 2])
def test_no_step_is_saved_over_or_behind_another(step, tmp_path):
    """Orbax would say nothing and save nothing."""
    with Checkpoints(tmp_path / "checkpoints", keep=2) as checkpoints:
        checkpoints.save(state_at(2))
        with pytest.raises(UserError, match=f"cannot save step {step} in .*, which holds .2."):
            checkpoints.save(state_at(step))
        assert checkpoints.steps() == [2]


@pytest.mark.parametrize("best", ["loss", "-loss", "test/nelbo"])
def test_a_run_keeps_its_best_by_a_named_metric(best, tmp_path):
    """A run stopped on the way finds the same one."""
    experiment = dataclasses.replace(VAE, best=best, keep=1, save_every=5)
    train(dataclasses.replace(experiment, steps=10), tmp_path / "run")
    train(experiment, tmp_path / "run")
    file = "held_out" if best.startswith("test/") else "metrics"
    steps, values = read_metrics(tmp_path / "run" / f"{file}.jsonl")[best.removeprefix("-")]
    if file == "metrics":
        steps, values = steps.reshape(4, 5)[:, -1], values.reshape(4, 5).mean(axis=1)
    expected = steps[np.argmax(values) if best.startswith("-") else np.argmin(values)]
    with Checkpoints(tmp_path / "run" / "checkpoints", keep=1) as checkpoints:
        assert checkpoints.best() == expected
        assert checkpoints.steps() == sorted({expected, 20})


@pytest.mark.parametrize("best", ["los", "test/los", "loss/x"])
def test_best_must_name_a_metric(best, tmp_path):
    with pytest.raises(UserError, match=r"choose one of .*(loss|test/nelbo)"):
        train(dataclasses.replace(VAE, best=best), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_sampling_reads_no_optimizer_state(tmp_path):
    """A damaged optimizer state stops training from there, not sampling."""
    train(VAE, tmp_path / "run")
    run = RunFolder(tmp_path / "run")
    whole = final_state(VAE, run.path)
    with Checkpoints(run.checkpoints) as checkpoints:
        part = saved_state(VAE, run.examples(), VAE.codec, checkpoints, optimizer=False)
    assert part.opt_state is None
    assert same(part.params, whole.params)
    samples = [draw(Trained(VAE, VAE.codec, state), 0, 4) for state in (part, whole)]
    np.testing.assert_array_equal(*samples)


def test_a_run_goes_on_past_a_damaged_checkpoint(tmp_path):
    """Its step is saved again; the damaged one is kept beside."""
    train(VAE, tmp_path / "run")
    train(VAE, tmp_path / "straight")
    damage(tmp_path / "run" / "checkpoints" / "20", "flipped")
    train(VAE, tmp_path / "run")
    assert same(final_state(VAE, tmp_path / "run"), final_state(VAE, tmp_path / "straight"))
    assert (tmp_path / "run" / "set_aside" / "20").is_dir()


FULL = """
mount -t tmpfs -o size={size} none {folder} || exit 77
{python} experiments/vae.py smoke --device cpu --steps 4000 --steps-per-call 5 --save-every 10 --log-every 10 \
  --sample-every 4000 --keep 400 --out {folder}/run > /dev/null
echo "status $?" >&2
{python} -m jaxgen sample {folder}/run --num 2 --out {out}
"""


@pytest.mark.parametrize("size", ["2500k", pytest.param("4m", marks=pytest.mark.slow)])
def test_a_full_disk_is_one_error_and_loses_nothing(size, tmp_path):
    if shutil.which("unshare") is None:
        pytest.skip("needs unshare to mount a small disk")
    (tmp_path / "disk").mkdir()
    script = FULL.format(size=size, folder=tmp_path / "disk", python=sys.executable, out=tmp_path / "samples")
    command = ["unshare", "--map-root-user", "--mount", "sh", "-c", script]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    if "status" not in done.stderr:
        pytest.skip(f"a small disk cannot be mounted here: {done.stderr.strip()[:200]}")
    assert len(done.stderr.strip().splitlines()) == 2, done.stderr
    error, status = done.stderr.strip().splitlines()
    assert error.startswith("error: cannot")
    assert "space" in error
    assert "are whole" in error
    assert status == "status 2"
    assert done.returncode == 0, done.stdout
    assert (tmp_path / "samples" / "samples.safetensors").exists()


def test_a_save_that_fails_half_way_is_the_error(tmp_path, monkeypatch):
    """As when a quota ends it: the operating system says no to the writer, not to us."""
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        checkpoints.save(state_at(1))
        checkpoints.wait()

        def fail(*_, **__):
            raise ValueError("RESOURCE_EXHAUSTED: Failed to write 12 bytes: Disk quota exceeded")

        with monkeypatch.context() as patch:
            patch.setattr(checkpoints._manager, "save", fail)
            with pytest.raises(UserError, match=r"Disk quota exceeded; checkpoints \[1\] are whole"):
                checkpoints.save(state_at(2))
        assert checkpoints.restore(state_at(0)).step == 1


def test_small_and_large_arrays_of_any_type_come_back(tmp_path):
    """Small ones travel packed, large ones alone; of each, every bit."""
    rng = np.random.default_rng(0)
    params = {
        "large": jax.numpy.asarray(rng.normal(size=(600, 600)), jax.numpy.float32),
        "low": jax.numpy.asarray(rng.normal(size=(3, 5)), jax.numpy.bfloat16),
        "flags": jax.numpy.asarray(rng.random(7) < 0.5),
        "none": jax.numpy.zeros((0, 4)),
        "scalar": jax.numpy.float32(np.pi),
    }
    state = TrainState(step=jax.numpy.int32(3), params=params, opt_state={"all": jax.numpy.arange(5)})
    arrays, packs = pack(state)
    assert "params.large" in arrays
    assert packs["params-float32"] == ["params.none", "params.scalar"]
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        checkpoints.save(state)
        checkpoints.wait()
        like = jax.eval_shape(lambda: state)
        assert same(checkpoints.restore(like), state)
        assert same(checkpoints.restore(like, optimizer=False).params, params)
        other = like.replace(params={**like.params, "another": like.params["scalar"]})
        with pytest.raises(UserError, match=r"there is no params\.another"):
            checkpoints.restore(other)
