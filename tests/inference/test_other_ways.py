"""Beam search, speculative decoding and autoguidance from the command line."""

from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load_file
from small_runs import smoke_run

from jaxgen import __main__ as commands
from jaxgen import core
from jaxgen.errors import UserError
from jaxgen.inference.sampling import draw, guided
from jaxgen.inference.text import tokenizer_of
from jaxgen.models.decoding.beam import beam_search
from jaxgen.models.gpt import prompts
from jaxgen.runs.folder import RunFolder
from jaxgen.runs.restore import restore


@pytest.fixture(scope="module")
def text_run(tmp_path_factory):
    return smoke_run("gpt", tmp_path_factory.mktemp("text") / "run")


@pytest.fixture(scope="module")
def diffusion_run(tmp_path_factory):
    return smoke_run("ddpm", tmp_path_factory.mktemp("diffusion") / "run")


def written(run, *flags):
    commands.call(["sample", str(run), "--prompt", "The ", "--tokens", "6", "--out", str(run / "out"), *flags])
    return (run / "out" / "samples.txt").read_text()


def test_beams_are_the_likeliest(text_run):
    trained = restore(RunFolder(text_run))
    tokenizer = tokenizer_of(trained.run)
    model = replace(trained.model, decoding=replace(trained.model.decoding, tokens=6))
    best, _ = beam_search(model, trained.state, prompts([tokenizer.encode("The ")], model.window), 3)
    expected = [tokenizer.decode(np.asarray(row)[: 4 + 6]) for row in best[0, :2]]
    assert written(text_run, "--beams", "3", "--num", "2") == f"--- 0 ---\n{expected[0]}\n--- 1 ---\n{expected[1]}\n"
    with pytest.raises(UserError, match="num is 4 of 3 beams"):
        written(text_run, "--beams", "3", "--num", "4")


def test_a_draft_writes_what_its_model_would(text_run):
    """Greedily the text is that of the model alone, whatever the draft."""
    greedy = ("--run.model.decoding.temperature", "0")
    assert written(text_run, "--draft", str(text_run), *greedy) == written(text_run, *greedy)
    with pytest.raises(UserError, match="choose one"):
        written(text_run, "--draft", str(text_run), "--beams", "2")


@pytest.mark.slow
def test_a_guide_moves_samples_away_from_its_own(diffusion_run):
    flags = ["--num", "4", "--run.model.guidance.scale", "3", "--guide-step", "10"]
    commands.call(["sample", str(diffusion_run), "--guide", str(diffusion_run), *flags])
    (file,) = (diffusion_run / "samples").glob("seed0-num4-*/samples.safetensors")  # not that of plain samples
    found = load_file(file)["x"]
    trained, early = restore(RunFolder(diffusion_run)), restore(RunFolder(diffusion_run), step=10)
    model = trained.experiment.model
    strong = trained.to(replace(trained.experiment, model=replace(model, guidance=replace(model.guidance, scale=3.0))))
    np.testing.assert_array_equal(found, draw(guided(strong, early), 0, 4))
    assert not np.array_equal(found, draw(trained, 0, 4))
    with pytest.raises(UserError, match=r"guidance\.scale is 1"):
        guided(trained, early)


def test_a_model_is_no_guide_of_itself(diffusion_run):
    """Guided away from the very same answers, samples are the plain ones."""
    trained = restore(RunFolder(diffusion_run))
    model = trained.experiment.model
    strong = trained.to(replace(trained.experiment, model=replace(model, guidance=replace(model.guidance, scale=3.0))))
    plain = core.sample(trained.model, trained.state, core.sample_keys(0, 2), None, trained.codec)
    assert np.abs(draw(guided(strong, trained), 0, 2).astype(int) - np.asarray(plain, int)).max() <= 1
