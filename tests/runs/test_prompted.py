"""A prompt with the run that teaches it: what is read, what is refused, and a whole run rendered."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import EXPERIMENTS, first_stage

from jaxgen.core import compiled, sample_keys
from jaxgen.data import Cameras
from jaxgen.errors import UserError
from jaxgen.experiment import presets
from jaxgen.inference.pictures import save_pictures
from jaxgen.inference.prompts import embed_texts
from jaxgen.inference.rendering import Rendering, render_run
from jaxgen.models.diffusion import Diffusion
from jaxgen.runs.checkpoint import Checkpoints
from jaxgen.runs.folder import RunFolder
from jaxgen.runs.prompted import Prompted
from jaxgen.runs.restore import initial_state, open_run, restore

SMOKE = presets(EXPERIMENTS["text_to_3d"])["smoke"]


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return first_stage("clip-smoke-0", tmp_path_factory.getbasetemp())


@pytest.fixture(scope="module")
def artist(tmp_path_factory):
    return first_stage("text_to_image-smoke-0", tmp_path_factory.getbasetemp())


def test_a_prompt_is_the_embedding_that_the_run_gives_it(clip):
    taught = Prompted(run=str(clip), prompt=" red apple ").load()
    wanted = embed_texts(restore(RunFolder(clip)), ["red apple"])
    np.testing.assert_allclose(taught.teacher.told.vectors[:, 0], wanted, atol=1e-6)
    assert taught.provenance["model"] == "CLIP" and taught.provenance["run"] == str(clip)
    batch = taught.encode({"x": np.full((3, 2, 2, 3), 255, np.uint8)}, jax.random.key(0))
    np.testing.assert_array_equal(batch["x"], 1.0)
    np.testing.assert_array_equal(taught.decode(batch["x"]), 255)


def test_wrong_runs_are_refused(clip, artist, tmp_path):
    other = first_stage("vae-smoke-0", tmp_path)
    for codec, words in (
        (Prompted(run=str(tmp_path / "clip-emoji-0"), prompt="x"), r"clip\.py emoji --seed 0"),
        (Prompted(run=str(other), prompt="x"), "run of VAE, which reads no text"),
        (Prompted(run=str(clip), prompt="  "), "prompt is empty"),
        (Prompted(run=str(clip), prompt="x", step=3), "no checkpoint of step 3"),
    ):
        with pytest.raises(UserError, match=words):
            codec.load()
    record = Prompted(run=str(clip), prompt="x").load().provenance
    with pytest.raises(UserError, match="other weights"):
        Prompted(run=str(clip), prompt="x").load({**record, "sha256": "0" * 64})
    with pytest.raises(UserError, match=r"--model\.shape 16 16 3 --data\.size 16"):
        replace(SMOKE, codec=Prompted(run=str(artist), prompt="x")).check()


def test_a_diffusion_run_teaches_by_its_score(artist):
    """A step of the same script, and the number that it is evaluated by."""
    experiment = replace(
        SMOKE, model=replace(SMOKE.model, shape=(16, 16, 3)), data=Cameras(size=16, train_views=8), batch_size=2,
        codec=Prompted(run=str(artist), prompt="red apple"),
    )  # fmt: skip
    experiment.check()
    codec = experiment.codec.load()
    assert isinstance(codec.teacher.model, Diffusion)
    state, batch = initial_state(experiment, codec), experiment.data.batch_at(0, 0, 2)
    fresh = jax.tree.map(jnp.copy, state)
    stepped = jax.tree.map(lambda a: jnp.asarray(a)[None], dict(batch))
    new, metrics = compiled.train_steps(experiment.model, fresh, jax.random.key(0), stepped, codec)
    assert np.isfinite(metrics["loss"]).all() and metrics["grad_norm"] > 0
    moved = jax.tree.map(lambda a, b: not np.array_equal(a, b), state.params, new.params)
    assert all(jax.tree.leaves(moved))
    numbers = compiled.evaluate(experiment.model, state, sample_keys(0, 2), batch, codec)
    assert numbers["noise_error"].shape == (2,) and np.all(numbers["noise_error"] > 0)


def test_a_scene_without_pictures_is_rendered(clip, tmp_path):
    experiment = replace(SMOKE, codec=replace(SMOKE.codec, run=str(clip)), data=replace(SMOKE.data, test_views=3))
    codec = experiment.codec.load()
    run = open_run(experiment, tmp_path / "run", None, codec)
    with Checkpoints(run.checkpoints) as checkpoints:
        checkpoints.save(initial_state(experiment, codec))
    trained = restore(run)
    said = render_run(trained, Rendering(turntable=3, limit=2), tmp_path / "out")
    assert "2 views of test" in said and "psnr" not in said
    names = {file.name for file in (tmp_path / "out").iterdir()}
    assert {"turntable.gif", "view000.png", "view001.png", "opacity001.png"} <= names
    assert json.loads((tmp_path / "out" / "views.json").read_text())["views"] == [{}, {}]
    save_pictures(trained, final=True)
    # Nothing is held out, and no training picture is near.
    assert {file.name for file in run.pictures(0).iterdir()} >= {"samples.png", "views.png"}
    assert not list(run.pictures(0).glob("*images.png"))
    with pytest.raises(UserError, match="without pictures"):
        render_run(trained, Rendering(), tmp_path / "again", lpips=object())
