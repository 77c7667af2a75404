"""`jaxgen weights import-tacotron2` and `export-tacotron2`: a file becomes a run that speaks, and a run the file."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import EXPERIMENTS
from safetensors.numpy import load_file, save_file

from jaxgen.cli.weights import command
from jaxgen.errors import UserError
from jaxgen.experiment import presets
from jaxgen.inference.speech import speak
from jaxgen.nets.tacotron2 import Tacotron2Net
from jaxgen.runs.checkpoint import Checkpoints
from jaxgen.runs.folder import RunFolder
from jaxgen.runs.restore import initial_state, open_run, restore
from jaxgen.weights import tacotron2

NET = Tacotron2Net(
    reduction=2, encoder=8, encoder_layers=1, prenet=(8, 8), attention_rnn=8, attention=8, location_filters=2,
    location_size=5, decoder_rnn=8, postnet=8, postnet_layers=2,
)  # fmt: skip


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """Random parameters and statistics under NVIDIA's names."""
    one = jnp.ones((1,), jnp.int32)
    variables = NET.init(jax.random.key(0), one[:, None], one, jnp.zeros((1, 2, 80)), 2 * one, jnp.zeros((1, 1, 16)))
    path = tmp_path_factory.mktemp("weights") / "tacotron2.safetensors"
    tacotron2.write(path, NET, variables["params"], variables["batch_stats"])
    return path


def test_a_file_becomes_a_run_that_speaks_and_the_file_again(file, tmp_path, capsys):
    pytest.importorskip("espeakng_loader")
    command(["import-tacotron2", str(file), str(tmp_path / "run")])
    assert "jaxgen speak" in capsys.readouterr().out
    trained = restore(RunFolder(tmp_path / "run"))
    assert trained.model.network == NET and trained.step == 0
    ((wave, parts),) = speak(trained, ["some words"])
    assert len(wave) and all(np.isfinite(part.mel).all() for part in parts)
    command(["export-tacotron2", str(tmp_path / "run"), str(tmp_path / "again.safetensors")])
    before, after = load_file(file), load_file(tmp_path / "again.safetensors")
    assert before.keys() == after.keys()
    for name, array in before.items():
        np.testing.assert_array_equal(after[name], array)


def test_what_cannot_be_imported_is_one_line(file, tmp_path):
    tensors = load_file(file)
    save_file({**tensors, "embedding.weight": tensors["embedding.weight"][:99]}, tmp_path / "few.safetensors")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("")
    for args, message in (
        ([tmp_path / "few.safetensors", tmp_path / "run"], "has 99 symbols, English text has 148"),
        ([tmp_path / "none.pt", tmp_path / "run"], "none.pt"),
        ([file, tmp_path / "full"], "holds a run already, or other files"),
        ([file, tmp_path / "run", "--other", "x"], "takes --folder PLACE"),
        ([file, tmp_path / "run", "--folder", tmp_path / "none"], "is no folder"),
    ):
        with pytest.raises(UserError, match=re.escape(message)):
            command(["import-tacotron2", *map(str, args)])


def test_what_cannot_be_exported_is_one_line(tmp_path):
    """Runs of other models, of standardised mels, other names."""
    runs = {}
    for script in ("tacotron2", "gan"):
        experiment = presets(EXPERIMENTS[script])["smoke"]
        run = open_run(experiment, tmp_path / script, None, experiment.codec)
        with Checkpoints(run.checkpoints) as checkpoints:
            checkpoints.save(initial_state(experiment, experiment.codec))
        runs[script] = str(run.path)
    for run, name, message in (
        (runs["tacotron2"], "out.safetensors", "standardises mels by -5 and 2.5"),
        (runs["gan"], "out.safetensors", "a Tacotron2 is expected"),
        (runs["tacotron2"], "out.pt", "ends in .safetensors"),
    ):
        with pytest.raises(UserError, match=re.escape(message)):
            command(["export-tacotron2", run, str(tmp_path / name)])
    assert not (tmp_path / "out.safetensors").exists()
