"""The face: the ten lines that a stranger reads first, and what a run does and refuses."""

import doctest
import os
from dataclasses import replace

import numpy as np
import pytest
from conftest import ROOT
from small_runs import same, smoke_run

import jaxgen
from jaxgen.api.run import default_codec
from jaxgen.codecs import Binarize, Identity, Pixels
from jaxgen.data import Digits, Emoji, Toy2D
from jaxgen.errors import UserError
from jaxgen.inference.held_out import held_out_numbers
from jaxgen.models.ddpm import DDPM
from jaxgen.models.vae import VAE

MODEL = VAE(shape=(8, 8, 1), latent=4)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("face")
    for name in ("ddpm", "classifier", "cvae"):
        smoke_run(name, folder / name)
    return folder


def test_the_first_lines_of_the_library_run(tmp_path, monkeypatch):
    """docs/first_lines.md, which DESIGN's face and the site show, as a doctest."""
    monkeypatch.chdir(tmp_path)
    failed, tried = doctest.testfile(
        str(ROOT / "docs" / "first_lines.md"), module_relative=False, optionflags=doctest.ELLIPSIS
    )
    assert tried >= 8 and not failed


def test_in_memory_and_in_a_folder_are_the_same_run(tmp_path):
    settings = {"steps": 20, "batch_size": 32, "seed": 3}
    here = jaxgen.fit(MODEL, Digits(), **settings)
    there = jaxgen.fit(MODEL, Digits(), out=tmp_path / "run", **settings)
    assert (here.folder, there.run.path, here.step, there.step) == (None, tmp_path / "run", 20, 20)
    assert same(here.state.params, there.state.params)
    np.testing.assert_array_equal(here.sample(5, seed=1), there.sample(5, seed=1, batch=2))
    assert here.evaluate(limit=10) == there.evaluate(limit=10)
    assert there.report() == tmp_path / "run" / "report.html"
    with pytest.raises(UserError, match="trained in memory"):
        here.report()
    longer = jaxgen.fit(MODEL, Digits(), out=tmp_path / "run", **{**settings, "steps": 40}, steps_per_call=20)
    assert longer.step == 40


def test_the_codec_follows_from_model_and_data():
    assert default_codec(MODEL, Digits()) == Binarize()
    assert default_codec(DDPM(shape=(8, 8, 1)), Digits()) == Pixels()
    assert default_codec(MODEL, Toy2D(name="moons")) == Identity()


def test_numbers_are_those_of_the_command(runs):
    run = jaxgen.load(runs / "ddpm")
    assert run.evaluate(limit=8) == held_out_numbers(run, limit=8)[0]
    assert (runs / "ddpm" / "evaluation.json").exists()


def test_a_picture_is_varied_and_filled_in(runs):
    run = jaxgen.load(runs / "ddpm")
    image = Digits().arrays("test")["x"][0]
    stays = np.arange(8).reshape(1, 8, 1) < 4
    filled = run.edit(image, np.broadcast_to(stays, (8, 8, 1)), num=3)
    np.testing.assert_array_equal(filled[:, :, :4], np.broadcast_to(image[:, :4], (3, 8, 4, 1)))
    near, far = (np.abs(run.edit(image, num=3, strength=s).astype(float) - image).mean() for s in (0.1, 0.9))
    assert near < far
    with pytest.raises(UserError, match="the model draws"):
        run.edit(image[:4])
    with pytest.raises(UserError, match="the mask is bool"):
        run.edit(image, np.ones((8, 8), bool))
    with pytest.raises(UserError, match="the mask is float64"):
        run.edit(image, np.ones((8, 8, 1)))
    with pytest.raises(UserError, match="the picture is float64: uint8 is expected"):
        run.edit(image / 255)
    with pytest.raises(UserError, match="VAE makes nothing of a whole picture"):
        jaxgen.fit(MODEL, Digits(), steps=1, batch_size=8).edit(image)


def test_samples_are_scored_by_a_classifier(runs, monkeypatch, tmp_path):
    monkeypatch.setenv("JAXGEN_CACHE", str(tmp_path))
    (record,) = jaxgen.load(runs / "ddpm").score("fid", classifier=runs / "classifier", num=20, batch=10)
    assert record["values"]["fd_digits_cnn"] > 0 and record["protocol"]["num"] == 20
    with pytest.raises(UserError, match="one of the two"):
        jaxgen.load(runs / "ddpm").score("fid")


def test_settings_of_sampling_may_be_changed(runs):
    run = jaxgen.load(runs / "ddpm")
    model = replace(run.experiment.model, sampler=replace(run.experiment.model.sampler, steps=2))
    other = jaxgen.load(runs / "ddpm", changes={"model": model})
    assert other.model.sampler.steps == 2 and same(other.state.params, run.state.params)


def test_the_sampler_is_exported(runs, tmp_path):
    said = jaxgen.load(runs / "ddpm").export(tmp_path / "out", platforms=("cpu",))
    assert "sample.py" in said and (tmp_path / "out" / "sampler.bin").exists()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda run: run.sample(0), "num is 0"),
        (lambda run: run.sample(2, seed=-1), "seed is -1"),
        (lambda run: run.sample(2, cond=np.array([3, 3])), "DDPM is not conditional: leave it out"),
        (lambda run: jaxgen.load("nowhere"), "is no run folder"),
        (lambda run: jaxgen.fit(MODEL, Digits(), steps=10, batch_size=5000), "batch_size is 5000"),
        (lambda run: jaxgen.fit(MODEL, Digits(), steps="100"), "steps is '100'"),
        (lambda run: jaxgen.fit(MODEL, Digits(), steps=10, steps_per_call="5"), "steps_per_call is '5'"),
        (lambda run: jaxgen.load(run.folder.path, step=20, best=True), "step 20 and the best checkpoint were asked"),
        (lambda run: jaxgen.fit(VAE, Digits(), steps=2), r"VAE'>: one with its settings is expected"),  # pyright: ignore
        (lambda run: jaxgen.fit(MODEL, Digits, steps=2), "data is Digits: a data set with its settings"),  # pyright: ignore
        (lambda run: jaxgen.fit(MODEL, np.zeros((9, 8, 8, 1)), steps=2), "data is ndarray: .*class Mine"),  # pyright: ignore
        (lambda run: jaxgen.fit(MODEL, Digits(), steps=2, batchsize=4), "unknown .did you mean batch_size"),
        (lambda run: jaxgen.load(run.folder.path, changes={"modle": 1}), "'modle' is unknown .did you mean model"),
        (lambda run: run.edit([[1]]), r"the picture has shape \(1, 1\), the model draws"),
        (lambda run: run.edit(np.zeros((8, 8, 1), np.uint8), [[True]]), r"the mask is bool\(1, 1\): bool"),
        (lambda run: jaxgen.fit(replace(MODEL, shape=(28, 28, 1)), Digits(), steps=10), "examples have shape"),
        (lambda run: jaxgen.fit(VAE(shape=(16, 16, 3)), Emoji(size=16), steps=10), "have 3 channels: pass likelihood"),
    ],
)
def test_bad_input_is_told(call, words, runs):
    with pytest.raises(UserError, match=words):
        call(jaxgen.load(runs / "ddpm"))


def test_a_condition_is_one_for_each_sample(runs):
    run = jaxgen.load(runs / "cvae")
    np.testing.assert_array_equal(run.sample(2, cond=[3, 5]), run.sample(2, cond=np.array([3, 5])))
    for cond, words in (
        (np.array([1, 2, 3]), "one condition for each of 2 samples"),
        (3, "one condition for each of 2 samples"),
        ([0.5, 0.5], "labels are float64"),
        (np.zeros((2, 1), int), r"labels are int64\[2, 1\]"),
        ([3, 10], "label 10 is out of range"),
    ):
        with pytest.raises(UserError, match=words):
            run.sample(2, cond=cond)


def test_a_number_that_is_not_finite_stops_a_run_in_memory():
    from jaxgen.optim import Adam

    with pytest.raises(UserError, match="not finite at step"):
        jaxgen.fit(replace(MODEL, optimizer=Adam(lr=1e30)), Digits(), steps=20, batch_size=32)


def test_the_package_names_its_face():
    assert {"fit", "load", "Run", "Experiment", "TrainState", "GenerativeModel"} <= set(dir(jaxgen))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        jaxgen.nothing  # noqa: B018
    assert os.environ["XLA_FLAGS"]
