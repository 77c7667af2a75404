"""Sound that runs of WaveNet and DiffWave leave: by class in a report and by `jaxgen sample`, of mels as vocoders."""

import dataclasses
import json
import wave

import numpy as np
import pytest
from conftest import EXPERIMENTS

from jaxgen.cli import sample
from jaxgen.data import Notes
from jaxgen.errors import UserError
from jaxgen.experiment import presets
from jaxgen.inference.pictures import save_pictures
from jaxgen.inference.vocoding import check_vocoder, vocoded
from jaxgen.models.wavenet import WaveNet
from jaxgen.report import write_report
from jaxgen.runs.checkpoint import Checkpoints
from jaxgen.runs.folder import RunFolder
from jaxgen.runs.restore import initial_state, open_run, restore

SMOKE = presets(EXPERIMENTS["wavenet"])["smoke"]
BY_CLASS = dataclasses.replace(
    SMOKE, data=Notes(num=100, samples=256, rate=4000), num_samples=3,
    model=WaveNet(network=SMOKE.model.network, output=SMOKE.model.output, mel=SMOKE.model.mel, shape=(256,),
                  num_classes=8),
)  # fmt: skip


def started(experiment, folder):
    """An untrained run."""
    run = open_run(experiment, folder, None, experiment.codec)
    with Checkpoints(run.checkpoints) as checkpoints:
        checkpoints.save(initial_state(experiment, experiment.codec))
    return RunFolder(run.path)


@pytest.fixture(scope="module")
def by_class(tmp_path_factory):
    return started(BY_CLASS, tmp_path_factory.mktemp("runs") / "notes")


def read(file):
    with wave.open(str(file)) as sound:
        return sound.getframerate(), np.frombuffer(sound.readframes(sound.getnframes()), "<i2") / 32_767


def test_a_run_leaves_sounds_of_its_classes(by_class):
    trained = restore(by_class)
    save_pictures(trained, final=True)
    folder = trained.run.pictures(0)
    said = json.loads((folder / "sounds.json").read_text())
    assert said == {"made_0.wav": "Drawn 0, C4", "made_1.wav": "Drawn 1, E4", "made_2.wav": "Drawn 2, A4"}
    assert (folder / "samples.png").stat().st_size > 500
    assert write_report(by_class.path).read_text().count("<audio controls") == 3


def test_sounds_of_a_class_are_sampled(by_class, tmp_path):
    sample.command([str(by_class.path), "--num", "2", "--cond", "5", "--seed", "3", "--out", str(tmp_path)])
    (rate, first), (_, second) = read(tmp_path / "0.wav"), read(tmp_path / "1.wav")
    assert rate == 4000 and len(first) == 256 and not np.allclose(first, second)
    with pytest.raises(UserError, match="label 8 is out of range"):
        sample.command([str(by_class.path), "--num", "1", "--cond", "8", "--out", str(tmp_path)])


def test_who_draws_by_class_is_no_vocoder(by_class):
    with pytest.raises(UserError, match="of WaveNet, which makes no sound of mels"):
        check_vocoder(restore(by_class), BY_CLASS.model.mel)


def test_a_vocoder_makes_sound_of_mels(tmp_path):
    """As long as the frames say, by its key, and the same whatever silence is put after it."""
    trained, mel = restore(started(SMOKE, tmp_path / "run")), SMOKE.model.mel
    frames = np.random.default_rng(0).normal(-5, 1, (9, mel.bands)).astype(np.float32)
    x = vocoded(trained, frames, mel, seed=1)
    assert x.shape == (8 * mel.hop,) and np.abs(x).max() <= 1 and x.std() > 0.01
    alone = trained.model.vocode(trained.state, sample.sample_keys(1, 1), frames[None], np.array([9]))
    np.testing.assert_allclose(x, alone[0, mel.hop // 2 :][: 8 * mel.hop], atol=1e-4)
