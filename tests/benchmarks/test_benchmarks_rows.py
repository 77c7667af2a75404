"""Rows of benchmarks are printed and written when they are measured, and a stopped command goes on."""

import json
from dataclasses import dataclass

import common
import presets
import pytest
import rows
import train
import whole_runs

from jaxgen.errors import UserError

HERE = {"versions": {"jax": "1"}, "devices": ["cpu 0"], "git": {"commit": "abc", "dirty": False}, "matmul_flops": 1e9}
COLUMNS = {"experiment": lambda r: r["case"], "number": lambda r: str(r["number"])}


@dataclass(frozen=True)
class Options:
    names: tuple[str, ...] = ()
    calls: int = 3
    quick: bool = False
    out: str = ""


@pytest.fixture(autouse=True)
def no_matrix_products(monkeypatch):
    monkeypatch.setattr(common, "measure_matmul_flops", lambda: 1e9)


def opened(path, provenance=HERE, **options):
    return rows.Rows(path, "kind", COLUMNS, Options(**options), provenance)


def test_a_stopped_benchmark_goes_on(tmp_path, capsys):
    out = tmp_path / "new" / "out.json"
    first = opened(out)
    first.add("a", lambda: {"number": 1, "peer_ratio": 2.0})
    assert "a: experiment a, number 1" in capsys.readouterr().out

    def stopped():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        first.add("b", stopped)
    written = json.loads(out.read_text())
    assert written["unfinished"] and [row["case"] for row in written["results"]] == ["a"]
    assert written["results"][0]["taken"]["commit"] == "abc" and written["settings"] == {"calls": 3}

    again = opened(out, names=("b",))
    again.add("a", lambda: pytest.fail("measured twice"))
    assert "a: kept as measured" in capsys.readouterr().out
    again.add("b", lambda: {"number": 2, "peer_ratio": 8.0})
    again.finish("a table")
    written = json.loads(out.read_text())
    assert "unfinished" not in written and [row["number"] for row in written["results"]] == [1, 2]
    assert written["geometric_means"] == {"peer_ratio": pytest.approx(4.0)}
    assert "geometric mean of peer_ratio: 4.00" in capsys.readouterr().out
    assert not [path for path in out.parent.iterdir() if path != out]


@pytest.mark.parametrize(
    "other",
    [
        {"calls": 4},
        {"quick": True},
        {"provenance": {**HERE, "versions": {"jax": "2"}}},
        {"provenance": {**HERE, "devices": ["gpu 0"]}},
    ],
)
def test_other_settings_or_machines_begin_anew(tmp_path, other):
    out = tmp_path / "out.json"
    opened(out).add("a", lambda: {"number": 1})
    assert not opened(out, **other).rows
    assert len(opened(out).rows) == 1


def test_rows_of_any_machine_stay(tmp_path):
    """Regression: hours of presets were replaced by one row, taken with another version of numpy."""
    out = tmp_path / "presets.json"
    for case, version in (("a", "1"), ("b", "2")):
        provenance = {**HERE, "versions": {"jax": version}}
        rows.Rows(out, "presets", COLUMNS, presets.OneFile(str(out)), provenance).add(case, lambda: {"number": 1})
    assert [row["case"] for row in json.loads(out.read_text())["results"]] == ["a", "b"]


def test_a_finished_file_is_measured_anew(tmp_path):
    out = tmp_path / "out.json"
    done = opened(out)
    done.add("a", lambda: {"number": 1})
    done.finish("a table")
    assert not opened(out).rows
    out.write_text("{")
    assert not opened(out).rows


def test_a_place_that_cannot_be_written_is_refused_before_measuring(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        opened(tmp_path / "file" / "out.json")


def test_training_goes_on_after_the_last_row(tmp_path, monkeypatch, capsys):
    """Progress names the case, the side and the phase."""
    out, measure, seen = tmp_path / "out.json", train.measure, []

    def killed(name, *args):
        seen.append(name)
        if len(seen) == 2:
            raise KeyboardInterrupt
        return measure(name, *args)

    monkeypatch.setattr(train, "measure", killed)
    flags = ["mlp3", "mlp3-wide", "--quick", "--out", str(out)]
    with pytest.raises(KeyboardInterrupt):
        train.main(flags)
    (row,) = json.loads(out.read_text())["results"]
    assert row["case"] == "mlp3" and row["quick"] and set(row["ms_per_step"]) == {"fused"}
    said = capsys.readouterr().err
    assert "mlp3: jaxgen, compile" in said and "mlp3: jaxgen fused, measure 1 of 5" in said
    train.main(flags)
    assert seen == ["mlp3", "mlp3-wide", "mlp3-wide"]
    written = json.loads(out.read_text())
    assert [row["case"] for row in written["results"]] == ["mlp3", "mlp3-wide"] and "unfinished" not in written


def test_whole_runs_keep_each_time(tmp_path, monkeypatch):
    times = iter([(9.0, 3.0), (9.0, 2.0), KeyboardInterrupt(), (9.0, 5.0), (9.0, 2.5)])

    def run(*_):
        found = next(times)
        if isinstance(found, BaseException):
            raise found
        return found

    monkeypatch.setattr(whole_runs, "run", run)
    flags = ["saving", "--repeats", "2", "--out", str(tmp_path / "out.json")]
    with pytest.raises(KeyboardInterrupt):
        whole_runs.main(flags)
    whole_runs.main(flags)
    result = json.loads((tmp_path / "out.json").read_text())["result"]
    assert result["seconds"] == {"saving": [3.0, 5.0], "not": [2.0, 2.5]}
    assert result["overhead"] == pytest.approx(4.0 / 2.25 - 1)


def test_a_quick_round_ends(monkeypatch):
    monkeypatch.setattr(common, "QUICK_SECONDS", 0.0)
    calls = []
    times = common.in_turns({"ours": lambda: calls.append(1)}, 5, "case", quick=True, seconds=0.0)
    assert len(times["ours"]) == 1 and len(calls) == 2  # the first is not timed


def test_peers_apart_by_how_they_run():
    ms = {"ours": {"median": 2.0}, "torch contiguous": {"median": 4.0}, "torch channels_last": {"median": 3.0}}
    row = common.against_peer(ms, "ours", "no compiler")
    assert row == {
        "peer": "torch channels_last", "peer_ratio": 1.5, "compiled": "no compiler", "compiled_ratio": None
    }  # fmt: skip
    row = common.against_peer({**ms, "torch.compile contiguous": {"median": 1.0}}, "ours")
    assert (row["compiled"], row["compiled_ratio"]) == ("torch.compile contiguous", 0.5)
    assert common.ratio(row, "compiled") == "0.50"


def test_results_do_not_tell_folders_of_the_machine():
    here = {"out": f"{rows.ROOT}/runs/x", "files": ["/home/me/text.txt", "a/b", 1], "none": None}
    assert rows.placeless(here) == {"out": "runs/x", "files": ["text.txt", "a/b", 1], "none": None}
