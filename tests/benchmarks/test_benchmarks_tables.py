"""Tables that are put together from the files of other benchmarks: speed on a CPU, plans and their scaling."""

import json
import math

import cpu
import plan_scaling
import plans
import pytest
from conftest import EXPERIMENTS

from jaxgen.core.mesh import parse
from jaxgen.experiment import presets
from jaxgen.planning.machines import machine


def test_ratios_are_collected_by_name(tmp_path, monkeypatch):
    monkeypatch.setattr(cpu, "OUT", tmp_path / "speed-cpu.json")
    taken = {"at": "now"}
    rows = [
        {"name": "training", "peer_ratio": 2.0, "compiled_ratio": 1.5, "taken": taken},
        {"name": "rendering", "peer_ratio": 8.0, "compiled_ratio": None, "taken": taken},
    ]
    (tmp_path / "nerf-peer.json").write_text(json.dumps({"results": rows}))
    found = cpu.collected("NeRF")
    assert [(r["case"], r["peer_ratio"], r["compiled_ratio"]) for r in found] == [
        ("NeRF: training", 2.0, 1.5), ("NeRF: rendering", 8.0, None),
    ]  # fmt: skip
    cpu.write(found, unfinished=True)
    means = json.loads(cpu.OUT.read_text())["geometric_means"]
    assert means == {"peer_ratio": pytest.approx(4.0), "compiled_ratio": 1.5}
    # Of Tacotron 2 the row of Griffin-Lim has no peer; a row too few is an error.
    rows = [{"case": name, "ratio": ratio, "taken": taken} for name, ratio in (("train", 4.0), ("griffin-lim", None))]
    (tmp_path / "tacotron2.json").write_text(json.dumps({"results": rows}))
    with pytest.raises(ValueError, match="zip"):
        cpu.collected("Tacotron 2")


@pytest.mark.parametrize("name", [*plans.ROWS, *plan_scaling.rows()])
def test_planned_rows_name_machines_meshes_and_presets_that_there_are(name):
    if name in plans.ROWS:
        script, preset, *_ = name.split()
        on, *flags = plans.ROWS[name]
    else:
        script, preset, on, *flags = plan_scaling.rows()[name]
    assert preset in presets(EXPERIMENTS[script])
    if "--mesh" in flags:
        assert math.prod(parse(flags[flags.index("--mesh") + 1]).values()) == machine(on).count


def test_what_a_ring_sends_is_told_from_what_it_is_of():
    exchanges = [
        {"kind": "all-gather", "group": 8, "count": 10, "sent": 7000.0},
        {"kind": "collective-permute", "group": 2, "count": 10, "sent": 500.0},
    ]
    train = {"times": 10, "exchanges": exchanges, "memory": {"needed": 1}, "compile_seconds": 1.0}
    names = ("machine", "mesh", "batch_size", "fits", "flags", "taken", "jax")
    found = plan_scaling.curve({"programs": {"train": train}, **dict.fromkeys(names)})
    assert (found["sent_of_a_step"], found["arrays_of_a_step"]) == (750.0, 850.0)
