"""`jaxgen diff`: settings, numbers, environments, data, and the step at which metrics part."""

import dataclasses
import json

import pytest
from messages import one_line

from jaxgen import __main__ as commands
from jaxgen.core.configuration import to_json
from jaxgen.data import Digits
from jaxgen.errors import UserError
from jaxgen.experiment import Experiment
from jaxgen.models.vae import VAE
from jaxgen.optim import Adam, Muon
from jaxgen.report.seeds import over_seeds, seed_folders
from jaxgen.runs.differing import differing

ONE = Experiment(model=VAE(shape=(8, 8, 1), latent=4, optimizer=Adam(lr=1e-3)), data=Digits())


def run_of(folder, experiment, losses, **environment):
    """A run's folder as far as its files are read here; losses from step 1 on."""
    folder.mkdir()
    (folder / "experiment.json").write_text(json.dumps(to_json(experiment)))
    lines = [{"step": i, "loss": loss, "accuracy": -loss} for i, loss in enumerate(losses, start=1)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "environment.json").write_text(json.dumps(environment))
    return folder


def with_optimizer(optimizer):
    return dataclasses.replace(ONE, model=dataclasses.replace(ONE.model, optimizer=optimizer))


@pytest.fixture
def two(tmp_path):
    a = run_of(tmp_path / "a", ONE, [4, 3, 2, 1], versions={"jax": "1", "numpy": "2"}, command="x", seed=0)
    losses = [4, 3.0001, 2.5, 1.5, 0.1]
    other = dataclasses.replace(with_optimizer(Adam(lr=1e-2)), seed=3)
    b = run_of(tmp_path / "b", other, losses, versions={"jax": "1", "numpy": "3"}, command="y", seed=3)
    (a / "data.json").write_text(json.dumps({"train": {"num": 5, "hash": "aa"}, "test": {"num": 1, "hash": "bb"}}))
    (b / "data.json").write_text(json.dumps({"train": {"num": 5, "hash": "ab"}, "test": {"num": 1, "hash": "bb"}}))
    return a, b


def test_all_that_differs(two):
    found = differing(two)
    assert found["settings"] == [["model.optimizer.lr", 1e-3, 1e-2], ["seed", 0, 3]]
    assert found["metrics"]["loss"] == {"last": [1, 0.1], "best": [1, 0.1]}
    assert found["metrics"]["accuracy"] == {"last": [-1, -0.1], "best": [-1, -0.1]}  # the highest
    assert found["environment"] == [["versions.numpy", "2", "3"]]
    assert found["commands"] == ["x", "y"]
    assert found["data"] == {"train": False, "test": True}
    assert found["parted"]["exactly"] == {"step": 2, "metrics": ["loss", "accuracy"]}
    assert found["parted"]["beyond"] == {"step": 3, "metrics": ["loss", "accuracy"]}
    assert found["parted"]["common_steps"] == 4
    assert differing(two, tolerance=1.0)["parted"]["beyond"] is None


def test_the_best_is_not_the_last(tmp_path):
    a = run_of(tmp_path / "a", ONE, [4, 1, 2])
    b = run_of(tmp_path / "b", ONE, [4, 1, 2])
    found = differing((a, b))
    assert found["metrics"]["loss"] == {"last": [2, 2], "best": [1, 1]}
    assert found["metrics"]["accuracy"]["best"] == [-1, -1]
    assert found["settings"] == found["environment"] == []
    assert found["parted"]["exactly"] is None and found["parted"]["beyond"] is None


def test_an_evaluation_is_of_held_out_data_and_no_later_than_the_curve(tmp_path):
    """Regression: numbers of training data were shown as held-out ones, and one number was a curve's last and best."""
    runs = [run_of(tmp_path / name, ONE, [4, 1]) for name in "ab"]
    for run, split in zip(runs, ("train", "test")):
        numbers = {"nelbo": {"mean": 1.0}, "mse": {"mean": 7.0}}
        (run / "evaluation.json").write_text(json.dumps({"split": split, "metrics": numbers}))
        (run / "held_out.jsonl").write_text('{"step": 1, "test/mse": 2.0}\n{"step": 2, "test/mse": 3.0}\n')
    found = differing(tuple(runs))["metrics"]
    assert found["test/nelbo"] == {"last": [None, 1.0], "best": [None, 1.0]}
    assert found["test/mse"] == {"last": [3.0, 3.0], "best": [2.0, 2.0]}
    for seed, run in enumerate(runs):
        run.rename(tmp_path / f"seed{seed}")
    assert not any(name.startswith("test/") for name in over_seeds([*seed_folders(tmp_path).values()])[1])


def test_nan_is_where_nan_is(tmp_path):
    a = run_of(tmp_path / "a", ONE, [float("nan"), 1.0])
    b = run_of(tmp_path / "b", ONE, [float("nan"), float("inf")])
    assert differing((a, b))["parted"]["beyond"]["step"] == 2


def test_another_class_is_named_with_its_own_fields(tmp_path):
    a = run_of(tmp_path / "a", ONE, [1])
    b = run_of(tmp_path / "b", with_optimizer(Muon(lr=1e-3)), [1])
    settings = differing((a, b))["settings"]
    assert settings[0] == ["model.optimizer", "Adam", "Muon"]
    assert ["model.optimizer.momentum", None, 0.95] in settings
    assert not any(path == "model.optimizer.lr" for path, *_ in settings)


def test_the_command_prints_both(two, capsys):
    commands.call(["diff", *map(str, two), "--json"])
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(differing(two)))
    commands.call(["diff", *map(str, two), "--tolerance", "0.01"])
    said = capsys.readouterr().out
    for words in ("optimizer.lr", "data, train: another one", "data, test: the same", "first differ at step 2: loss"):
        assert words in said
    assert "metrics first differ by more than 0.01 of their size at step 3" in said


def test_what_cannot_be_compared_is_refused_in_one_line(two, tmp_path):
    a, b = map(str, two)
    for words, said in (
        ([], "0 runs were named, two are expected"),
        ([a], "1 runs were named"),
        ([a, a], "was named twice"),
        ([a, str(tmp_path / "c")], "is no run folder"),
        ([a, b, "--tolerance", "-1"], "tolerance is -1"),
        ([a, b, "--tolerence", "1"], "tolerance"),
    ):
        with pytest.raises(UserError) as error:
            commands.call(["diff", *words])
        assert said in one_line(error)
