"""`jaxgen restore` and `Run.restore`: what may be behind a degraded picture."""

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file
from small_runs import smoke_run

import jaxgen
from jaxgen import __main__ as commands
from jaxgen.data import Digits
from jaxgen.errors import UserError
from jaxgen.inference.restoring import Degraded

PICTURES = Digits().load("test")["x"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return smoke_run("ddpm", tmp_path_factory.mktemp("restore") / "run")


@pytest.fixture(scope="module")
def run(folder):
    return jaxgen.load(folder)


def small(x: np.ndarray) -> np.ndarray:
    return x.reshape(len(x), 4, 2, 4, 2, 1).mean(axis=(2, 4))


def test_samples_agree_with_what_is_known(run):
    """Of a small picture, the samples' means over squares are it; samples from scratch are far from it."""
    whole = PICTURES[:1]
    y = np.rint(small(whole)).astype(np.uint8)[0]
    x = run.restore(y, Degraded(lost="resolution", factor=2, iterations=8), num=4, seed=1)
    assert x.shape == (4, 8, 8, 1)
    error = np.abs(small(x) - y).mean()
    assert error < 0.2 * np.abs(small(run.sample(4, seed=1)) - y).mean()
    assert len({one.tobytes() for one in x}) == 4


def test_a_picture_of_a_seed_is_the_same_in_any_number(run):
    y = PICTURES[0]
    noisy = Degraded(std=0.3)
    np.testing.assert_array_equal(run.restore(y, noisy, num=3)[:2], run.restore(y, noisy, num=2))


def test_the_command_writes_what_python_draws(folder, run):
    y = PICTURES[0]
    Image.fromarray(y[..., 0]).save(folder / "noisy.png")
    commands.call(["restore", str(folder), "--image", str(folder / "noisy.png"), "--std", "0.3", "--num", "3"])
    x = load_file(folder / "restored" / "samples.safetensors")["x"]
    np.testing.assert_array_equal(x, run.restore(y, Degraded(std=0.3), num=3))
    np.testing.assert_array_equal(np.asarray(Image.open(folder / "restored" / "2.png")), x[2, ..., 0])


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ((), "no picture was named"),
        (("--image", "x.png", "--lost", "colour"), "no colours to lose"),
        (("--image", "x.png", "--lost", "resolution", "--factor", "3"), "do not shrink by 3"),
        (("--image", "x.png", "--std", "2"), "std"),
        (("--image", "missing.png"), "cannot be read"),
        (("--image", "noisy.png", "--cond", "7"), "is told none"),
    ],
)
def test_what_cannot_be_restored_is_refused(folder, monkeypatch, flags, words):
    Image.new("L", (8, 8)).save(folder / "noisy.png")
    monkeypatch.chdir(folder)
    with pytest.raises(UserError, match=words):
        commands.call(["restore", str(folder), "--out", "none", *flags])
    assert not (folder / "none").exists()


def test_a_model_that_restores_nothing_is_refused(tmp_path):
    gan = jaxgen.load(smoke_run("gan", tmp_path / "gan"))
    with pytest.raises(UserError, match="restores no pictures"):
        gan.restore(np.zeros((8, 8, 1), np.uint8), Degraded())
