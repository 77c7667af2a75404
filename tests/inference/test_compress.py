"""Compression by a small autoregressive model whose probabilities are known."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT
from markov import Markov, drawn, started

from jaxgen import __main__ as commands
from jaxgen import core
from jaxgen.data import Digits
from jaxgen.errors import UserError
from jaxgen.experiment import Experiment, presets
from jaxgen.inference.compression import check_model, compress, compress_files, decompress, decompress_file, fingerprint
from jaxgen.inference.images import save_each
from jaxgen.runs.restore import Trained
from jaxgen.train import loop


@pytest.mark.parametrize(
    "model, num",
    [
        (Markov(), 100),
        (Markov(shape=(4, 5, 3), code_levels=2), 300),
        (Markov(shape=(3, 3, 1), code_levels=5, num_classes=3), 7),
    ],
)
def test_what_comes_out_is_what_went_in_and_as_long_as_the_model_says(model, num):
    state = started(model)
    cond = np.arange(num, dtype=np.int32) % model.num_classes if model.num_classes > 1 else None
    images, bits = drawn(model, state, num, cond)
    data = compress(model, state, images, b"abcd", cond)
    np.testing.assert_array_equal(decompress(model, state, data, b"abcd"), images)
    head = 8 * (12 + 8 + 8 + (num if cond is not None else 0))
    assert bits - 40 < 8 * len(data) < 1.001 * bits + 64 + head
    if num == 100:
        assert 8 * len(data) < 1.02 * bits


@pytest.fixture(scope="module")
def small():
    model = Markov(shape=(2, 3, 1), code_levels=2)
    state = started(model)
    images, _ = drawn(model, state, 3)
    return model, state, images, compress(model, state, images, b"mark")


def test_files_that_do_not_fit_are_refused(small):
    model, state, _, data = small
    cases = {
        "another model": (data, b"kram"),
        "JXG": (b"PNG" + data[3:], b"mark"),
        "format 9": (data[:3] + b"\x09" + data[4:], b"mark"),
        "head is damaged": (data[:12] + b"\x05" * 5 + data[17:], b"mark"),
        "does not end": (data[:13], b"mark"),
        "cut short": (data[:-4], b"mark"),
        "checksum": (data[:8] + bytes(4) + data[12:], b"mark"),
    }
    for words, (wrong, mark) in cases.items():
        with pytest.raises(UserError, match=words):
            decompress(model, state, wrong, mark)


def test_images_that_do_not_fit_are_refused(small):
    model, state, images, _ = small
    with pytest.raises(UserError, match="between the 2 levels"):
        compress(model, state, np.full_like(images, 128))
    with pytest.raises(UserError, match="expected"):
        compress(model, state, images[:, :1])
    for name in ("vae", "ddpm"):
        script = ROOT / "experiments" / f"{name}.py"
        with pytest.raises(UserError, match="autoregressive"):
            check_model(presets(script)["smoke"].model)


def test_commands(tmp_path, monkeypatch, capsys):
    """From pictures to a file and back, by the run that wrote it and no other."""
    experiment = Experiment(
        model=Markov(), data=Digits(), batch_size=8, steps=2, steps_per_call=1, log_every=2, save_every=1,
        sample_every=2, num_samples=4,
    )  # fmt: skip
    run, out = tmp_path / "run", tmp_path / "back"
    loop.train(experiment, run)
    images = Digits().arrays("test")["x"][:3]
    save_each(tmp_path / "in", images)
    pictures = [str(tmp_path / "in" / f"{i}.png") for i in range(3)]

    def jaxgen(*argv):
        commands.call([*map(str, argv)])

    jaxgen("compress", run, *pictures, tmp_path / "all.jxg")
    jaxgen("decompress", run, tmp_path / "all.jxg", out)
    for picture in pictures:
        there, back = (Path(p) for p in (picture, out / Path(picture).name))
        assert there.read_bytes() == back.read_bytes()
    assert "bits per dimension" in capsys.readouterr().out
    with pytest.raises(UserError, match="another model"):
        jaxgen("decompress", run, tmp_path / "all.jxg", out, "--step", "1")
    with pytest.raises(UserError, match="jaxgen compress RUN"):
        jaxgen("compress", run, pictures[0])
    state = started(Markov())
    with pytest.raises(UserError, match="not conditional"):
        compress_files(Trained(experiment, experiment.codec, state), [Path(pictures[0])], tmp_path / "one.jxg", (3,))
    compress_files(Trained(experiment, experiment.codec, state), [Path(pictures[0])], tmp_path / "one.jxg")
    with pytest.raises(UserError, match=r"\.png"):
        decompress_file(Trained(experiment, experiment.codec, state), tmp_path / "one.jxg", tmp_path / "one.jpg")
    with pytest.raises(UserError, match="overwritten"):
        jaxgen("compress", run, *pictures)
    with pytest.raises(UserError, match=r"last\.jxg.*Not a directory"):
        jaxgen("compress", run, pictures[0], Path(pictures[1]) / "last.jxg")
    with pytest.raises(UserError, match=r"0\.png is no folder"):
        jaxgen("decompress", run, tmp_path / "all.jxg", pictures[0])
    monkeypatch.setenv("HOME", str(tmp_path))
    jaxgen("compress", run, "~/in/0.png", "~/one.jxg")
    jaxgen("decompress", run, "~/one.jxg", "~/home.png")
    assert (tmp_path / "home.png").read_bytes() == Path(pictures[0]).read_bytes()
    with pytest.raises(UserError, match="cannot be read"):
        decompress_file(Trained(experiment, experiment.codec, state), tmp_path / "none.jxg", tmp_path / "one.png")


def test_a_fingerprint_is_of_weights_and_settings(small):
    model, state, *_ = small
    experiment = Experiment(model=model, data=Digits())
    mark = fingerprint(experiment, state)
    assert mark == fingerprint(experiment, jax.tree.map(jnp.array, state))
    moved = state.replace(params=jax.tree.map(lambda p: p.at[0, 0, 0].add(1e-4), state.params))
    assert mark != fingerprint(experiment, moved)
    assert mark != fingerprint(dataclasses.replace(experiment, model=Markov(shape=(2, 3, 1), code_levels=3)), state)
    assert core.count_params(state.params) == 4
