"""Vocoders beside Griffin-Lim, and classes that are heard."""

import json

import numpy as np
import pytest
import sound_classes
import vocoders
from conftest import EXPERIMENTS

from jaxgen.data import Notes
from jaxgen.errors import UserError
from jaxgen.experiment import presets
from jaxgen.ops.audio import Mel
from jaxgen.runs.checkpoint import Checkpoints
from jaxgen.runs.restore import initial_state, open_run

MEL = Mel(rate=4000, n_fft=64, hop=16, window=64, bands=16, high=2000.0)


def test_numbers_of_vocoders():
    """The true sound is at no distance, noise farther than a quieter copy, whose distance is its gain's logarithm."""
    rng = np.random.default_rng(0)
    true = [0.2 * rng.standard_normal(1600).astype(np.float32) for _ in range(2)]
    known = {
        "half": lambda frames, i: 0.5 * true[i][: (len(frames) - 1) * 16],
        "noise": lambda frames, i: 0.02 * rng.standard_normal((len(frames) - 1) * 16).astype(np.float32),
    }
    rows, sounds = vocoders.results(known, true, ["a", "b"], MEL, recognise=False)
    assert [row["vocoder"] for row in rows] == ["true sound", "half", "noise"]
    own, half, noise = (row["log_mel_l1"] for row in rows)
    assert own == 0 and half < noise
    assert half == pytest.approx(np.log(2), abs=1e-3)
    assert rows[1]["mel_cepstral_distortion"] < 0.1 < rows[2]["mel_cepstral_distortion"]
    assert rows[2]["seconds"] == pytest.approx(2 * 1600 / 4000) and len(sounds["noise"]) == 2


def test_a_run_is_measured(tmp_path, monkeypatch, capsys):
    """Untrained, by the command: JSON, picture and sound; one that draws by class is one line."""
    experiment = presets(EXPERIMENTS["diffwave"])["smoke"]
    with Checkpoints(open_run(experiment, tmp_path / "diffwave-smoke-0", None, experiment.codec).checkpoints) as saved:
        saved.save(initial_state(experiment, experiment.codec))
    out = tmp_path / "out.json"
    args = ["--no-recognise", "--num", "2", "--shown", "1", "--out", str(out)]
    vocoders.main([str(tmp_path / "diffwave-smoke-0"), *args])
    rows = json.loads(out.read_text())["results"]
    assert [row["vocoder"] for row in rows] == ["true sound", "griffin-lim", "diffwave-smoke-0"]
    assert rows[0]["log_mel_l1"] == 0 < rows[1]["log_mel_l1"] < rows[2]["log_mel_l1"]
    assert out.with_suffix(".png").is_file() and (tmp_path / "out-diffwave-smoke-0-0.wav").is_file()
    assert "griffin-lim" in capsys.readouterr().out
    with pytest.raises(UserError, match="no run was named"):
        vocoders.main(["--num", "2"])


def test_notes_are_heard():
    data = Notes(num=100)
    heard, batch = sound_classes.listener(data), data.arrays("train")
    assert all(heard(x) == label for x, label in zip(batch["x"][:30], batch["cond"]))
