"""Sweeps: settings that differ in traced numbers are lanes of one program; each member is an ordinary run."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
from conftest import EXPERIMENTS
from scipy import stats
from small_runs import final_state, same

from jaxgen import __main__ as commands
from jaxgen.cli.sweep import axes_of, folder_names, with_values
from jaxgen.errors import UserError
from jaxgen.experiment import presets
from jaxgen.optim import switched, with_optimizers
from jaxgen.report import read_metrics
from jaxgen.report.sweep import write_sweep_report
from jaxgen.runs.folder import RunFolder
from jaxgen.runs.restore import restore
from jaxgen.train.loop import train
from jaxgen.train.sweep import Setting, Sweep, check_metric, grouped, train_sweep

VAE = presets(EXPERIMENTS["vae"])["smoke"]
RATES = ("1e-4", "1e-2")
FACTS = {"experiment": "vae", "preset": "smoke"}


def with_rate(experiment, rate, **fields):
    model = with_optimizers(experiment.model, lambda one: dataclasses.replace(one, lr=float(rate), **fields))
    return dataclasses.replace(experiment, model=model)


def sweep_of(out, steps=20, rates=RATES, seeds=2, **options):
    experiment = dataclasses.replace(VAE, steps=steps, num_samples=4)
    settings = [Setting({"model.optimizer.lr": r}, with_rate(experiment, r), out / f"lr={r}") for r in rates]
    return Sweep(settings=tuple(settings), seeds=seeds, out=out, **options)


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    out = tmp_path_factory.mktemp("sweep") / "straight"
    assert train_sweep(sweep_of(out), FACTS) is None
    return out


def members(out):
    return sorted(file.parent for file in out.glob("*/seed*/experiment.json"))


def test_a_member_is_the_run_of_its_rate_and_seed(swept, tmp_path):
    """To rounding, as one program's sums are ordered otherwise than another's; and it is read as any run."""
    names = [str(member.relative_to(swept)) for member in members(swept)]
    assert names == ["lr=1e-2/seed0", "lr=1e-2/seed1", "lr=1e-4/seed0", "lr=1e-4/seed1"]
    alone = dataclasses.replace(with_rate(VAE, "1e-2"), seed=1, num_samples=4)
    train(alone, tmp_path / "alone")
    folder = swept / "lr=1e-2" / "seed1"
    curves = [read_metrics(one / "metrics.jsonl")["loss"][1] for one in (folder, tmp_path / "alone")]
    np.testing.assert_allclose(*curves, rtol=1e-4)
    other = read_metrics(swept / "lr=1e-4" / "seed1" / "metrics.jsonl")["loss"][1]
    assert abs(other[-1] / curves[1][-1] - 1) > 0.01
    run = restore(RunFolder(folder))
    assert run.experiment.model.optimizer.lr == 1e-2 and run.experiment.seed == 1 and run.step == 20
    states = (run.state, restore(RunFolder(tmp_path / "alone")).state)
    for a, b in zip(*(jax.tree.leaves(state.params) for state in states)):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


def assert_same(one, other):
    """Bitwise, in each member's state and log, and so in all numbers."""
    for member in members(one):
        again = other / member.relative_to(one)
        experiment = RunFolder(member).experiment()
        assert same(final_state(experiment, member), final_state(experiment, again))
        assert (member / "metrics.jsonl").read_text() == (again / "metrics.jsonl").read_text()
    numbers = [[s["metrics"] for s in json.loads((o / "sweep.json").read_text())["settings"]] for o in (one, other)]
    assert numbers[0] == numbers[1]


def test_a_killed_sweep_goes_on_to_the_same_bits(swept, tmp_path):
    """Killed between the last saves of its members."""
    out = shutil.copytree(swept, tmp_path / "killed")
    for member in members(out)[1:]:
        shutil.rmtree(member / "checkpoints" / "20")
        (member / "evaluation.json").unlink()
    assert train_sweep(sweep_of(out), FACTS) is None
    assert_same(swept, out)


def test_a_stopped_sweep_goes_on_to_the_same_bits(swept, tmp_path):
    """Stopped after its first call by a time limit, and gone on with by the same command."""
    out = tmp_path / "stopped"
    assert train_sweep(sweep_of(out), FACTS, max_hours=1e-9) == "--max-hours 1e-09"
    assert not (out / "report.html").exists()
    assert {int(p.name) for m in members(out) for p in (m / "checkpoints").iterdir() if p.is_dir()} < {5, 10}
    assert train_sweep(sweep_of(out), FACTS) is None
    assert_same(swept, out)


def test_numbers_have_students_intervals_over_seeds(swept):
    record = json.loads((swept / "sweep.json").read_text())
    assert record["axes"] == {"model.optimizer.lr": list(RATES)} and record["seeds"] == [0, 1]
    for setting in record["settings"]:
        files = [swept / setting["folder"] / f"seed{seed}" / "evaluation.json" for seed in (0, 1)]
        values = [json.loads(file.read_text())["metrics"]["nelbo"]["mean"] for file in files]
        expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
        number = setting["metrics"]["test/nelbo"]
        assert number["mean"] == pytest.approx(np.mean(values)) and number["num_seeds"] == 2
        assert number["ci95"] == pytest.approx((expected.high - expected.low) / 2)
    ranked = [s["metrics"][record["ranked_by"]]["mean"] for s in record["settings"]]
    assert record["best"] == record["settings"][int(np.argmin(ranked))]["folder"]
    page = (swept / "report.html").read_text()
    assert "test/nelbo</b> <span>against model.optimizer.lr" in page and "lr=1e-4/report.html" in page
    commands.call(["report", str(swept)])
    assert (swept / "report.html").read_text() == page


def test_a_folder_in_a_record_is_a_name_alone(swept, tmp_path):
    """Regression: a record of another's made a link to a script, and a path out of the folder was read."""
    record = json.loads((swept / "sweep.json").read_text())
    for name in ("javascript:alert(1)//", "../..", 3):
        record["settings"][0]["folder"] = name
        (tmp_path / "sweep.json").write_text(json.dumps(record))
        with pytest.raises(UserError, match="a name alone is expected"):
            write_sweep_report(tmp_path)


def test_another_sweep_is_not_mixed_in(swept):
    with pytest.raises(UserError, match=r"holds another sweep \(axes.model.optimizer.lr"):
        train_sweep(sweep_of(swept, rates=("1e-4", "1e-3")), FACTS)
    with pytest.raises(UserError, match=r"holds another sweep \(seeds"):
        train_sweep(sweep_of(swept, seeds=3), FACTS)


@pytest.mark.parametrize("metric", ["test/nelbow", "train/nelbow", "nelbo"])
def test_a_metric_that_no_run_has_is_refused_before_training(metric, tmp_path):
    with pytest.raises(UserError, match=f"metric is '{metric}'"):
        train_sweep(sweep_of(tmp_path / "out", metric=metric), FACTS)
    assert not (tmp_path / "out").exists()
    for known in ("", "test/nelbo", "-train/kl", "samples/modes"):
        check_metric(VAE, known)


def settings_of(experiments, *paths):
    return [Setting(dict.fromkeys(paths, str(i)), e, None) for i, e in enumerate(experiments)]


def test_what_differs_in_traced_numbers_alone_is_one_program():
    rates = [with_rate(VAE, rate, warmup=5, decay_steps=20) for rate in (1e-4, 1e-3, 1e-2)]
    (group,) = grouped(settings_of(rates, "model.optimizer.lr"))
    assert len(group.settings) == 3 and group.varied == ("optimizer.lr",)
    # Shapes take turns, each with all its rates.
    wide = [dataclasses.replace(e, batch_size=size) for size in (32, 64) for e in rates[:2]]
    groups = grouped(settings_of(wide, "model.optimizer.lr", "batch_size"))
    assert [len(g.settings) for g in groups] == [2, 2] and {g.varied for g in groups} == {("optimizer.lr",)}
    # Code branches on whether gradients are clipped.
    clipped = [with_rate(VAE, 1e-3, clip=clip) for clip in (0.0, 1.0)]
    assert [g.varied for g in grouped(settings_of(clipped, "model.optimizer.clip"))] == [(), ()]
    # An optimizer of another kind is another program; an integer, a number of another kind.
    models = [with_optimizers(VAE.model, lambda one, kind=kind: switched(one, kind)) for kind in ("adam", "muon")]
    kinds = [dataclasses.replace(VAE, model=model) for model in models]
    assert [g.varied for g in grouped(settings_of(kinds, "optimizer"))] == [(), ()]
    # In bfloat16 an array would widen the loss that it multiplies.
    half = [dataclasses.replace(e, precision="bfloat16") for e in rates]
    assert len(grouped(settings_of(half, "model.optimizer.lr"))) == 1


@pytest.mark.parametrize("kind", ["adam", "rmsprop", "lion", "muon", "schedule-free", "prodigy"])
def test_every_optimizer_takes_its_rate_as_an_array(kind):
    model = with_optimizers(VAE.model, lambda one: dataclasses.replace(switched(one, kind), weight_decay=0.1, clip=1.0))
    rates = [with_rate(dataclasses.replace(VAE, model=model), rate) for rate in (0.1, 0.2)]
    assert len(grouped(settings_of(rates, "model.optimizer.lr"))) == 1


def test_words_of_a_command():
    flags = ["--model.optimizer.lr", "1e-4,1e-3", "--seeds", "4", "--batch-size=32,64"]
    axes = axes_of(flags)
    assert axes == {"model.optimizer.lr": ("1e-4", "1e-3"), "batch_size": ("32", "64")}
    one = with_values(flags, {"model.optimizer.lr": "1e-3", "batch_size": "32"})
    assert one == ["--model.optimizer.lr", "1e-3", "--seeds", "4", "--batch-size=32"]
    assert folder_names(axes, [("1e-4", "32")]) == ["lr=1e-4,batch_size=32"]
    assert folder_names({"a.lr": (), "b.lr": ()}, [("1", "x/y")]) == ["a.lr=1,b.lr=x_y"]


def test_help_shows_its_own_flags_and_the_presets(capsys):
    with pytest.raises(SystemExit) as leaving:
        commands.call(["sweep", "vae", "smoke", "--help"])
    said = capsys.readouterr().out
    assert leaving.value.code == 0 and "--at-once" in said and "--model.optimizer.lr" in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "a script and a preset are expected"),
        (["vae", "smoke"], "no flag has several values"),
        (["vae", "smoke", "--seeds", "2,4"], "--seeds is '2,4': a sweep has one value"),
        (["vae", "smoke", "--model.optimizer.lr", "1e-3,,1e-4"], "values, each once"),
        (["vae", "smoke", "--model.optimizer.lr", "1e-3,0.001"], "lr=1e-3 and lr=0.001 are the same setting"),
        (["vae", "smoke", "--model.optimizer.lr", "1e-3,much"], "could not convert string to float: 'much'"),
        (["vae", "smoke", "--model.optimizer.lr", "1e-3,-1"], "model.optimizer.lr is -1.0"),
        (["vae", "smoke", "--model.optimizer.rate", "1e-3,1e-4"], "--model.optimizer.rate"),
        (["vae", "smoek", "--model.optimizer.lr", "1e-3,1e-4"], "did you mean smoke"),
        (["vay", "smoke", "--model.optimizer.lr", "1e-3,1e-4"], "did you mean vae"),
        (["vae", "smoke", "--batch-size", "32,9999999"], "9999999"),
    ],
)
def test_bad_words_are_one_line(words, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as error:
        commands.call(["sweep", *words])
    assert said in str(error.value) and "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())
