"""Pictures given to a diffusion model, a StyleGAN or PixelCNN, from the command line."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import EXPERIMENTS, first_stage
from PIL import Image
from safetensors.numpy import load_file
from small_runs import smoke_run

from jaxgen import __main__ as commands
from jaxgen import core
from jaxgen.codecs import Binarize, Pixels
from jaxgen.data import Digits
from jaxgen.errors import UserError
from jaxgen.experiment import Experiment, presets
from jaxgen.inference import editing
from jaxgen.models.mdlm import MDLM
from jaxgen.models.pixelcnn import PixelCNN
from jaxgen.nets.pixelcnn import PlainPixelCNN
from jaxgen.runs.restore import Trained, initial_state


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = smoke_run("ddpm", tmp_path_factory.mktemp("edit") / "run")
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8)).save(folder / "image.png")
    half = np.zeros((8, 8), np.uint8)
    half[:, 4:] = 255
    Image.fromarray(half).save(folder / "mask.png")
    return folder


@pytest.fixture(scope="module")
def style_run(tmp_path_factory):
    return smoke_run("stylegan2", tmp_path_factory.mktemp("edit") / "style")


def sample(run, *flags):
    commands.call(["sample", str(run), "--out", str(run / "out"), *flags])
    return load_file(run / "out" / "samples.safetensors")["x"]


def test_filling_in_keeps_the_rest(run):
    x = sample(run, "--num", "3", "--image", str(run / "image.png"), "--mask", str(run / "mask.png"))
    image = np.asarray(Image.open(run / "image.png"))[..., None]
    np.testing.assert_array_equal(x[:, :, :4], np.broadcast_to(image[:, :4], (3, 8, 4, 1)))
    assert len({a.tobytes() for a in x[:, :, 4:]}) == 3


def test_less_strength_stays_nearer(run):
    image = np.asarray(Image.open(run / "image.png"))[..., None].astype(float)
    far = [
        np.abs(sample(run, "--num", "4", "--image", str(run / "image.png"), "--strength", s) - image).mean()
        for s in ("0.1", "0.9")
    ]
    assert far[0] < 0.7 * far[1]


def test_rows_lead_from_sample_to_sample(run):
    """Their ends are the samples that the same seed gives."""
    plain = sample(run, "--num", "4", "--run.model.sampler.steps", "0").astype(int)
    rows = sample(run, "--num", "10", "--between", "5").reshape(2, 5, 8, 8, 1).astype(int)
    assert np.abs(rows[:, 0] - plain[[0, 2]]).max() <= 1
    # An ancestral sampler's noise on the way is the first one's, so only a deterministic one ends at the second.
    assert not np.array_equal(rows[:, 0], rows[:, -1])


def test_each_row_between_is_of_its_class(tmp_path):
    """Regression: rows were drawn under every second class that was asked for, and called by all of them."""
    run = smoke_run("cvae", tmp_path / "run")
    x = sample(run, "--num", "8", "--between", "4", "--cond", "3", "5", "--files")
    for row, label in enumerate((3, 5)):
        alone = sample(run, "--num", "8", "--between", "4", "--cond", str(label))
        np.testing.assert_array_equal(x[4 * row : 4 * row + 4], alone[4 * row : 4 * row + 4])
    assert not np.array_equal(x[4:], sample(run, "--num", "8", "--between", "4", "--cond", "3")[4:])
    sample(run, "--num", "8", "--between", "4", "--cond", "3", "5", "--files")
    said = [json.loads(line) for line in (run / "out" / "files" / "metadata.jsonl").read_text().splitlines()]
    assert [line["label"] for line in said] == [3] * 4 + [5] * 4


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--mask", "m.png"), "without --image"),
        (("--image", "no.png"), "cannot be read"),
        (("--between", "1"), "2 or more"),
    ],
)
def test_bad_requests_are_refused(flags, words, run):
    with pytest.raises(UserError, match=words):
        sample(run, *flags)


def test_a_picture_of_another_size_is_refused(run, tmp_path):
    Image.new("L", (9, 8)).save(tmp_path / "wide.png")
    with pytest.raises(UserError, match="is 9 x 8, the model draws 8 x 8"):
        sample(run, "--image", str(tmp_path / "wide.png"))


@pytest.mark.slow
def test_rows_between_styles_end_at_samples(style_run):
    quiet = "--run.model.sampler.no-noise"
    plain = sample(style_run, "--num", "4", quiet).astype(int)
    rows = sample(style_run, "--num", "10", "--between", "5", quiet).reshape(2, 5, 8, 8, 1).astype(int)
    assert np.abs(rows[:, [0, -1]] - plain.reshape(2, 2, 8, 8, 1)).max() <= 1


def test_a_picture_is_projected(style_run, tmp_path):
    """A sample of the model is found again, better by more steps; strength 1 goes to the samples of the seed."""
    picture = sample(style_run, "--num", "1", "--run.model.sampler.no-noise")[0]
    Image.fromarray(picture[..., 0]).save(tmp_path / "image.png")
    flags = ("--num", "2", "--image", str(tmp_path / "image.png"), "--strength", "0")
    far = [
        np.abs(sample(style_run, *flags, "--run.model.projector.steps", n).astype(float) - picture).mean()
        for n in ("1", "100")
    ]
    assert far[1] < 0.7 * far[0]


def test_a_style_model_fills_nothing_in(style_run):
    with pytest.raises(UserError, match="StyleGAN fills in no part of a picture: --mask"):
        sample(style_run, "--mask", "m.png", "--image", "i.png")


def test_parts_are_drawn_anew_where_codes_are_tokens(tmp_path, monkeypatch):
    """Masked diffusion over four codes: the codes whose pixels all stay are given, the others are drawn."""
    stage = first_stage("vqvae-smoke-0", tmp_path)
    experiment = presets(EXPERIMENTS["mdlm"])["smoke"]
    experiment = replace(experiment, codec=replace(experiment.codec, run=str(stage)))
    assert editing.shape_of(experiment.model, experiment.codec) == (8, 8, 1)
    codec = experiment.codec.load()
    trained = Trained(experiment, codec, initial_state(experiment, codec))
    image, mask = Digits().arrays("test")["x"][0], np.zeros((8, 8, 1), bool)
    mask[:, :5] = True
    cond = np.arange(6, dtype=np.int32)
    x = editing.redraw(trained, core.sample_keys(0, 6), image, mask, cond)
    np.testing.assert_array_equal(x[:, :, :5], np.broadcast_to(image[None, :, :5], (6, 8, 5, 1)))
    assert len({a.tobytes() for a in x[:, :, 5:]}) > 1
    monkeypatch.setattr(MDLM, "infill", lambda self, state, keys, tokens, given, cond: jnp.where(given, tokens, 3))
    editing._redraw.clear_cache()
    x = editing.redraw(trained, core.sample_keys(0, 6), image, mask, cond)
    editing._redraw.clear_cache()
    codes = codec.encode({"x": image[None]}, jax.random.key(0))["x"]
    tokens = jnp.where(jnp.array([[True, False, True, False]]), codes, 3)
    np.testing.assert_array_equal(x[0, :, 5:], np.asarray(codec.decode(tokens))[0, :, 5:])
    with pytest.raises(UserError, match="edits no picture"):
        editing.shape_of(experiment.model, Pixels())


def test_pixelcnn_fills_in_and_does_nothing_else():
    model = PixelCNN(network=PlainPixelCNN(width=4, layers=1), shape=(4, 4, 1))
    editing.check_model(model, image=True, mask=True, between=False)
    for given, words in (("image", "nothing of a whole picture"), ("between", "no way between samples")):
        with pytest.raises(UserError, match=f"PixelCNN .*{words}"):
            editing.check_model(model, **{"image": False, "mask": False, "between": False, given: True})
    image = np.random.default_rng(0).integers(0, 256, (4, 4, 1), dtype=np.uint8)
    stays = np.arange(4).reshape(4, 1, 1) < 2
    state = core.init(model, core.run_key(0, core.INIT), {"x": np.zeros((1, 4, 4, 1), np.float32)})
    trained = Trained(Experiment(model=model, data=Digits()), Binarize(dynamic=False), state)
    raw = editing.redraw(trained, core.sample_keys(0, 5), image, stays)
    # What stays is the picture's own grey, which the model has seen as black or white.
    np.testing.assert_array_equal(raw[:, :2], np.broadcast_to(image[:2], (5, 2, 4, 1)))
    assert set(np.unique(raw[:, 2:])) <= {0, 255}
    assert len(np.unique(raw[:, 2:], axis=0)) > 1
