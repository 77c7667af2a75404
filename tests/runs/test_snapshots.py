"""Snapshots of averages in a run's folder, other lengths made of them, and guidance by an earlier step."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from small_runs import final_state, same

import jaxgen
from jaxgen import __main__ as commands
from jaxgen.codecs import Identity
from jaxgen.data import Toy2D
from jaxgen.errors import UserError
from jaxgen.experiment import Experiment
from jaxgen.inference.averages import name_of, parse_lengths
from jaxgen.models.flow_matching import FlowMatching
from jaxgen.nets.time_mlp import TimeMLP
from jaxgen.ops.guidance import Guidance
from jaxgen.ops.samplers import Euler
from jaxgen.optim import Adam
from jaxgen.runs.folder import RunFolder
from jaxgen.runs.restore import restore
from jaxgen.runs.snapshots import Snapshots, flat, rebuild, restore_earlier
from jaxgen.train.loop import roll_back, train
from jaxgen.train.seeds import train_seeds

OTHERS = (0.03, 0.07, 0.15, 0.2)
EXPERIMENT = Experiment(
    model=FlowMatching(
        shape=(2,), network=TimeMLP(width=8, depth=1), sampler=Euler(steps=3, clip=0.0), ema_lengths=(0.05, 0.1),
        evaluate_times=3, optimizer=Adam(lr=3e-3),
    ),
    codec=Identity(), data=Toy2D(name="moons"), batch_size=32, steps=640, steps_per_call=20, log_every=320,
    save_every=320, sample_every=640, snapshot_every=20, num_samples=16,
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A run of 32 snapshots, stopped halfway and gone on with."""
    out = tmp_path_factory.mktemp("snapshots") / "run"
    train(replace(EXPERIMENT, steps=320), out)
    train(EXPERIMENT, out)
    return out


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """The same with other lengths, the truth for averages made afterwards, and snapshots further apart."""
    out = tmp_path_factory.mktemp("snapshots") / "whole"
    train(replace(EXPERIMENT, model=replace(EXPERIMENT.model, ema_lengths=(*OTHERS, 0.05)), snapshot_every=320), out)
    return out


def state_of(folder):
    return final_state(RunFolder(folder).experiment(), folder)


def apart(a, b) -> float:
    """Relative distance of two trees."""
    x, y = (np.concatenate([leaf.reshape(-1).astype(np.float64) for leaf in flat(tree).values()]) for tree in (a, b))
    return float(np.linalg.norm(x - y) / np.linalg.norm(y))


def test_snapshots_are_spaced_and_a_resumed_run_has_the_same(folder, tmp_path):
    train(replace(EXPERIMENT, snapshot_every=320), tmp_path)
    assert Snapshots(RunFolder(folder)).steps() == list(range(20, 641, 20))
    assert Snapshots(RunFolder(tmp_path)).steps() == [320, 640]
    assert same(state_of(folder), state_of(tmp_path))
    for step in (320, 640):
        a, b = (Snapshots(RunFolder(f)).read(step) for f in (folder, tmp_path))
        assert a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


def test_an_average_made_afterwards_is_that_of_a_run_trained_with_it(folder, whole):
    """Show: to 1e-3 relative, from 0.03 to 0.2 by 32 snapshots."""
    state, trained = state_of(folder), state_of(whole)
    kept = EXPERIMENT.model.__class__(ema_lengths=(*OTHERS, 0.05)).running_averages(trained)
    made = rebuild(RunFolder(folder), state, OTHERS)
    for one in made:
        assert apart(one.params, kept[one.length]) < 1e-3 and one.used == tuple(range(20, 641, 20))
        assert apart(one.params, state.params) > 10 * apart(one.params, kept[one.length])
    assert [one.missed < 0.02 for one in made] == [True] * 4
    (far,) = rebuild(RunFolder(folder), state, (0.28,))
    assert far.missed > 0.05  # nearly a plain mean: the first steps weigh too much for snapshots of 0.05 and 0.1


def test_ema_makes_a_run_of_its_own(folder, whole, capsys):
    (folder / "held_out.jsonl").write_text('{"step": 640, "test/velocity_mse": 1.0}\n')  # of the average that it kept
    commands.call(["ema", str(folder), "--length", "0.15"])
    said = capsys.readouterr().out
    out = folder.with_name("run-ema-0.150")
    assert str(out) in said and "approximation" not in said and not (out / "held_out.jsonl").exists()
    run = jaxgen.load(out)
    assert run.experiment.model == replace(EXPERIMENT.model, ema_lengths=(0.15,))
    assert run.sample(3, seed=1).shape == (3, 2)
    assert apart(run.state.ema, state_of(whole).opt_state["averages"]["0.15"]) < 1e-3
    record = json.loads((out / "ema.json").read_text())
    assert record["length"] == 0.15 and record["step"] == 640 and record["lengths_kept"] == [0.05, 0.1]
    assert len(record["snapshots"]) == 32 and record["run"] == str(folder)
    assert record["source_sha256"] != record["sha256"]
    # It can be trained on as one that had kept this length: the next step moves its average alone.
    state = state_of(out)
    assert list(state.opt_state) == ["all"] and same(state.params, state_of(folder).params)
    train(replace(run.experiment, steps=660), out)
    assert int(state_of(out).step) == 660
    with pytest.raises(UserError, match="holds a run already"):
        commands.call(["ema", str(folder), "--lengths", "0.2,0.15"])
    assert not folder.with_name("run-ema-0.200").exists()


def test_ema_of_an_earlier_checkpoint(folder):
    out = folder.with_name("early")
    commands.call(["ema", str(folder), "--length", "0.1", "--step", "320", "--out", str(out)])
    state, snapshot = state_of(out), Snapshots(RunFolder(folder)).read(320)
    assert int(state.step) == 320
    for name, leaf in flat(state.ema).items():
        np.testing.assert_allclose(leaf, snapshot[f"0.1/{name}"], rtol=1e-5, atol=1e-7)
    assert len((out / "metrics.jsonl").read_text().splitlines()) == 320


def test_evaluate_draws_the_curve(folder, capsys):
    commands.call(["ema", str(folder), "--lengths", "0.2,0.05", "--evaluate", "--limit", "64", "--batch", "64"])
    said = capsys.readouterr().out
    record = json.loads((folder / "ema.json").read_text())
    assert [row["length"] for row in record["rows"]] == [0.05, 0.2, 0.0] and record["number"] == "velocity_mse"
    best = min(record["rows"][:2], key=lambda row: row["value"])
    assert f"at length {best['length']:g}" in said and "latest" in said
    assert (folder / "ema.png").read_bytes().startswith(b"\x89PNG")
    commands.call(["evaluate", str(folder), "--limit", "64", "--batch", "64"])
    found = json.loads((folder / "evaluation.json").read_text())["metrics"]["velocity_mse"]
    np.testing.assert_allclose(record["rows"][0]["value"], found["mean"], rtol=1e-4)  # samples are of the first length
    with pytest.raises(UserError, match="did you mean velocity_mse"):
        commands.call([
            "ema", str(folder), "--length", "0.2", "--evaluate", "--number", "velocity_msee", "--limit", "64",
        ])  # fmt: skip


def test_samples_are_guided_by_an_earlier_snapshot(folder):
    """--guide-step alone is of the same run: of a checkpoint where one is left, else of a snapshot."""
    early = restore_earlier(RunFolder(folder), 100)
    snapshot = Snapshots(RunFolder(folder)).read(100)
    for name, leaf in flat(early.state.ema).items():
        np.testing.assert_array_equal(leaf, snapshot[f"0.05/{name}"])
    assert early.step == 100 and restore_earlier(RunFolder(folder), 320).step == 320
    assert same(restore_earlier(RunFolder(folder), None).state.ema, restore(RunFolder(folder)).state.ema)

    def drawn(*flags):
        commands.call(["sample", str(folder), "--num", "8", "--out", str(folder / "drawn"), *flags])
        return load_file(folder / "drawn" / "samples.safetensors")["x"]

    plain = drawn()
    guided = drawn("--guide-step", "100", "--guidance", "2")
    same_again = drawn("--guide-step", "640", "--guidance", "2")
    assert np.abs(guided - plain).max() > 1e-3
    np.testing.assert_allclose(same_again, plain, atol=1e-4)  # guided away from its own answers
    with pytest.raises(UserError, match="no checkpoint or snapshot of step 7, only checkpoints of 320, 640; snapshots"):
        drawn("--guide-step", "7", "--guidance", "2")


def test_what_cannot_be_made_is_refused(folder, whole, tmp_path):
    for flags, words in (
        ((), "no length was named"), (("--lengths", "a,b"), "numbers joined by commas"),
        (("--lengths", "0.1,0.4"), "length is 0.4"), (("--length", "0.1", "--step", "7"), "no checkpoint of step 7"),
        (("--lengths", "0.1,0.2", "--out", str(tmp_path / "x")), "--out names the folder of one"),
        (("--length", "0.1", "--adapters", "0.5"), "leave it out"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=words):
            commands.call(["ema", str(folder), *flags])
    assert parse_lengths("0.05, 0.1,") == (0.05, 0.1) and parse_lengths("") == ()
    assert [name_of(n) for n in (0.1, 0.05, 0.0125)] == ["0.100", "0.050", "0.0125"]
    run = RunFolder(whole)
    file = Snapshots(run).file(320)
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"000000320\.safetensors is damaged: move it away"):
        rebuild(run, state_of(whole), (0.1,))
    file.unlink()
    assert rebuild(run, state_of(whole), (0.05,))[0].used == (640,)


def test_runs_without_such_averages_say_so(tmp_path):
    plain = replace(EXPERIMENT, model=replace(EXPERIMENT.model, ema_lengths=()))
    assert plain.snapshots_every == 0 and EXPERIMENT.snapshots_every == 20
    RunFolder(tmp_path / "plain").create(plain)
    with pytest.raises(UserError, match="keeps no power-function averages: train one with --model"):
        commands.call(["ema", str(tmp_path / "plain")])
    with pytest.raises(UserError, match="snapshot_every is 30, a multiple of steps_per_call = 20"):
        replace(EXPERIMENT, snapshot_every=30)


def test_a_rollback_takes_its_snapshots_along(whole, tmp_path):
    """Those after the step that training goes back to are of another order of the data."""
    run = RunFolder(tmp_path)
    for step in (20, 40, 60):
        Snapshots(run).file(step).parent.mkdir(exist_ok=True)
        Snapshots(run).file(step).write_bytes(b"")

    class Found(Exception):
        step = 55

    roll_back(EXPERIMENT, run, 40, Found("loss is NaN"))  # pyright: ignore[reportArgumentType]
    assert Snapshots(run).steps() == [20, 40]


@pytest.mark.slow
def test_lanes_of_seeds_keep_snapshots_too(tmp_path):
    short = replace(EXPERIMENT, steps=80, log_every=40, save_every=80, sample_every=80, snapshot_every=40)
    train_seeds(short, 2, tmp_path / "seeds")
    train(short, tmp_path / "one")
    for step in (40, 80):
        a, b = (Snapshots(RunFolder(tmp_path / f)).read(step) for f in ("seeds/seed0", "one"))
        assert all(np.allclose(a[name], b[name], atol=1e-5) for name in b)


def test_guidance_needs_a_scale(folder):
    with pytest.raises(UserError, match=r"guidance\.scale is 1, which asks no guide: pass --guidance 2"):
        commands.call(["sample", str(folder), "--guide-step", "100", "--num", "2"])
    assert EXPERIMENT.model.guidance == Guidance()
