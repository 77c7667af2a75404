"""What a user can get wrong: each ends in one line and exit code 2, before any training."""

import json
import shutil

import pytest
from conftest import EXPERIMENTS

from jaxgen import __main__ as commands
from jaxgen.cli import train
from jaxgen.core import compiled
from jaxgen.experiment import presets
from jaxgen.runtime import cache
from jaxgen.train import loop


def complaint(capsys, call) -> str:
    """The one line a command prints on stderr as it exits with 2."""
    with pytest.raises(SystemExit) as stop:
        call()
    assert stop.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("error: ")
    return lines[0]


def script(name, *argv):
    return lambda: train.main(presets(EXPERIMENTS[name]), "doc", list(argv))


@pytest.mark.parametrize(
    ("name", "argv", "words"),
    [
        ("vae", ["smok"], ["smok", "did you mean smoke?"]),
        ("vae", ["smoke", "--sed", "3"], ["--sed", "did you mean --seed?"]),
        ("vae", ["smoke", "--seed", "three"], ["--seed", "three"]),
        ("vae", ["smoke", "--seed", "-1"], ["seed is -1"]),
        ("vae", ["smoke", "--steps", "7"], ["steps is 7", "multiple", "5"]),
        ("vae", ["smoke", "--model.latnt", "3"], ["--model.latnt", "did you mean --model.latent?"]),
        ("vae", ["smoke", "--batch-size", "5000"], ["batch_size is 5000", "1437"]),
        ("vae", ["smoke", "--model.shape", "28", "28", "1"], ["(8, 8, 1)", "--model.shape 8 8 1"]),
        ("cvae", ["smoke", "--model.num-classes", "5"], ["label 9 is out of range", "0 to 4"]),
        ("cvae", ["emoji", "--data.label", "none"], ["no labels", "--data.label"]),
        ("ddpm", ["smoke", "--model.network.mults", "1", "1", "1", "1", "1"], ["cannot be halved 4 times", "16"]),
        ("ddpm", ["smoke", "--model.sampler.steps", "50"], ["50", "20"]),
        ("ddpm", ["emoji", "--data.size", "16"], ["(16, 16, 3)", "--model.shape 16 16 3"]),
        ("vae", ["smoke", "--device", "gpu"], ["no gpu is here", "--device cpu"]),
        ("vae", ["mnist", "--data.data-dir", "/nowhere", "--data.no-download"], ["mnist", "digits"]),
        ("vae", ["mnist", "--data.name", "mnits"], ["mnits", "mnist"]),
    ],
)
def test_bad_flags_are_one_line(name, argv, words, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(compiled, "init", lambda *_: pytest.fail("computed something before complaining"))
    # Nothing listens there: a download fails at once instead of after minutes of retries.
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    line = complaint(capsys, script(name, *argv, "--out", str(tmp_path / "run")))
    for word in words:
        assert word in line


def test_a_place_that_cannot_be_written_is_named(capsys, tmp_path):
    (tmp_path / "file").write_text("")
    assert "--out" in complaint(capsys, script("vae", "smoke", "--out", str(tmp_path / "file" / "run")))


def test_help_is_not_an_error(capsys):
    script("vae", "--help")()
    assert "presets: smoke" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stop:
        script("vae", "smoke", "--help")()
    assert not stop.value.code
    assert "--model.latent" in capsys.readouterr().out


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "vae"
    loop.train(presets(EXPERIMENTS["vae"])["smoke"], folder)
    return folder


def jaxgen(monkeypatch, *argv):
    monkeypatch.setattr("sys.argv", ["jaxgen", *map(str, argv)])
    return commands.main


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["smaple", "RUN"], ["smaple", "did you mean sample?"]),
        (["sample"], ["no run folder"]),
        (["sample", "nowhere"], ["nowhere", "experiment.json"]),
        (["sample", "RUN", "--num", "10000001"], ["num is 10000001"]),
        (["sample", "RUN", "--step", "5"], ["no checkpoint of step 5", "[10, 20]"]),
        (["sample", "RUN", "--cond", "3"], ["not conditional"]),
        (["evaluate", "RUN", "--split", "tset"], ["tset"]),
        (["report", "nowhere"], ["nowhere"]),
    ],
)
def test_bad_commands_are_one_line(argv, words, run, capsys, monkeypatch):
    line = complaint(capsys, jaxgen(monkeypatch, *[str(run) if a == "RUN" else a for a in argv]))
    for word in words:
        assert word in line


def test_a_truncated_checkpoint_is_one_line(run, capsys, monkeypatch, tmp_path):
    copy = shutil.copytree(run, tmp_path / "copy")
    shutil.rmtree(copy / "checkpoints" / "10")
    for data in (copy / "checkpoints" / "20" / "state").glob("**/d/*"):  # of arrays that sampling reads, or not
        data.write_bytes(data.read_bytes()[:-8])
    line = complaint(capsys, jaxgen(monkeypatch, "sample", copy))
    assert str(copy / "checkpoints" / "20") in line
    assert "damaged" in line


def test_a_damaged_experiment_is_one_line(run, capsys, monkeypatch, tmp_path):
    copy = shutil.copytree(run, tmp_path / "copy")
    written = json.loads((copy / "experiment.json").read_text())
    for value, word in [("{", "cannot be read"), (json.dumps({**written, "sede": 1}), "did you mean seed?")]:
        (copy / "experiment.json").write_text(value)
        assert word in complaint(capsys, jaxgen(monkeypatch, "sample", copy))


def test_the_cache_folder_is_private(tmp_path, monkeypatch):
    import jax

    before = jax.config.jax_compilation_cache_dir
    monkeypatch.setenv("JAXGEN_CACHE", str(tmp_path / "cache"))
    try:
        cache.use_compilation_cache()
        assert (tmp_path / "cache" / "xla").stat().st_mode & 0o077 == 0
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
