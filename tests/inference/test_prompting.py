"""Pictures of prompts by a small run that was trained on captions, from the command line: pixels and latents."""

import dataclasses
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from PIL import Image
from safetensors.numpy import load_file
from small_runs import smoke_run

import jaxgen
from jaxgen import __main__ as commands
from jaxgen import core
from jaxgen.codecs import Identity, Pixels
from jaxgen.core.types import TrainState
from jaxgen.data import Captioned, Digits, Emoji, Notes
from jaxgen.errors import UserError
from jaxgen.experiment import Experiment
from jaxgen.inference import editing, prompting
from jaxgen.inference.editing import Edit
from jaxgen.inference.prompting import Drawing, by_prompt, drawing, resized
from jaxgen.inference.sampling import draw
from jaxgen.models.diffwave import DiffWave
from jaxgen.models.flow_matching import FlowMatching
from jaxgen.models.taesd import TAESD
from jaxgen.models.vae import VAE
from jaxgen.nets.taesd import TinyAutoencoder
from jaxgen.nets.unet import UNet
from jaxgen.ops.samplers import DDIM, Euler, Heun
from jaxgen.runs.folder import RunFolder
from jaxgen.runs.pretrained import Loaded, Pretrained
from jaxgen.runs.restore import Trained, restore


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Of the smoke preset, whose parameters are then random: at initialisation the output is zero."""
    folder = smoke_run("text_to_image", tmp_path_factory.mktemp("prompting") / "run")
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(folder / "image.png")
    return folder


@pytest.fixture(scope="module")
def trained(run):
    found = restore(RunFolder(run))
    leaves, tree = jax.tree.flatten(found.state.params)
    rng = np.random.default_rng(0)
    params = tree.unflatten([jnp.float32(0.2 * rng.normal(size=leaf.shape)) for leaf in leaves])
    return dataclasses.replace(found, state=found.state.replace(params=params, ema=None))


def sample(run, *flags):
    commands.call(["sample", str(run), "--out", str(run / "out"), *flags])
    return load_file(run / "out" / "samples.safetensors")["x"]


def test_samples_of_a_prompt_depend_on_it_and_on_their_keys_alone(trained):
    def drawn(prompts, num, negative=None, scale=3.0):
        wanted = drawing(trained.experiment, Drawing(guidance=scale))
        told = trained.to(wanted)
        return draw(told, 1, num, prompting.conditions(told, prompts, num, negative)).astype(int)

    both = drawn(["red apple", "blue fish"], 4)
    assert np.abs(both[:2] - drawn(["red apple"], 2)).max() <= 1
    assert np.abs(both[2:] - drawn(["blue fish"], 4)[2:]).max() <= 1
    assert np.abs(both[0] - drawn(["blue fish"], 1)[0]).max() > 3
    unguided = drawn(["red apple"], 2, scale=1.0)
    assert np.abs(drawn(["red apple"], 2, "red apple") - unguided).max() <= 1
    assert np.abs(drawn(["red apple"], 2, "blue fish") - unguided).max() > 3


def test_flags_of_prompts(run, capsys):
    x = sample(
        run, "--prompt", "red apple", "--prompt", "fish", "--negative", "blurred", "--guidance", "2", "--steps", "3"
    )
    assert x.shape == (2, 16, 16, 3)
    assert sample(run, "--prompt", "red apple", "--num", "3", "--sampler", "heun", "--steps", "2").shape[0] == 3
    assert "left out" not in capsys.readouterr().err
    sample(run, "--prompt", "a red apple")
    assert capsys.readouterr().err == "more than the model reads, left out: e\n"
    image = np.asarray(Image.open(run / "image.png"))
    kept = sample(run, "--prompt", "apple", "--num", "2", "--image", str(run / "image.png"), "--strength", "0")
    np.testing.assert_array_equal(kept, np.broadcast_to(image, kept.shape))


def test_a_run_draws_prompts_as_the_command_does(run):
    x = sample(run, "--prompt", "red apple", "--prompt", "fish", "--negative", "blurred", "--num", "4", "--seed", "3")
    loaded = jaxgen.load(run)
    told = {"prompts": ["red apple", "fish"], "negative": "blurred"}
    np.testing.assert_array_equal(loaded.sample(4, seed=3, **told), x)
    file = str(run / "image.png")
    varied = sample(run, "--prompt", "red apple", "--num", "2", "--image", file, "--strength", "0.7")
    again = loaded.edit(np.asarray(Image.open(file)), num=2, prompts=["red apple"], strength=0.7)
    np.testing.assert_array_equal(again, varied)
    np.testing.assert_array_equal(loaded.sample(2, prompts="fish"), loaded.sample(2, prompts=["fish"]))
    with pytest.raises(UserError, match="num is 1, and there are 2 prompts"):
        loaded.sample(1, prompts=["red apple", "fish"])
    with pytest.raises(UserError, match="both cond and prompts"):
        loaded.sample(2, cond={"text": np.zeros((2, 12), np.int32)}, prompts=["fish"])
    with pytest.raises(UserError, match="negative was given without prompts"):
        loaded.sample(2, negative="blurred")


@pytest.mark.parametrize(("flags", "words"), [
    (("--negative", "x"), "--negative was given without --prompt"),
    (("--prompt", "x", "--cond", "1"), "--prompt was given with --cond, --guide or --guide-step"),
    (("--cond", "1"), "--cond names classes, .* is told texts: pass --prompt"),
    (("--prompt", "x", "--negative", "y", "--guidance", "1"), "leads away from it, and is 1: pass --guidance 4"),
    (("--prompt", "x", "--size", "18x16"), "18, 16"),
    (("--prompt", "x", "--size", "0x16"), "size is '0x16': HEIGHTxWIDTH"),
    (("--prompt", "x", "--sampler", "pndm"), "PNDM starts where alpha is above 0"),
    (("--steps", "100001"), "steps is 100001"),
    (("--guidance", "nan"), "guidance is nan"),
    (("--size", "12345678"), "size is '12345678': HEIGHTxWIDTH"),
])  # fmt: skip
def test_wrong_flags_are_one_line(flags, words, run):
    with pytest.raises(UserError, match=words):
        sample(run, *flags)


def test_other_models_are_told_no_prompts():
    other = Experiment(model=VAE(shape=(8, 8, 1), latent=2), data=Digits())
    with pytest.raises(UserError, match="here is a run of VAE that is told no texts: --prompt needs one that is"):
        prompting.check_told(other, "here")
    for given in (Drawing(steps=3), Drawing(guidance=1.0), Drawing(sampler="ddim"), Drawing(size="8")):
        with pytest.raises(UserError, match="VAE is no diffusion model, which --"):
            drawing(other, given)
    assert drawing(other, Drawing()) is other


def test_a_size_is_of_pictures():
    """Regression: a model of sound ended in a traceback."""
    sound = SimpleNamespace(experiment=Experiment(model=DiffWave(), data=Notes()), codec=Identity(), name="sound")
    with pytest.raises(UserError, match="sound draws no pictures, which --size is for"):
        resized(sound, 8, 8)  # pyright: ignore[reportArgumentType]


def test_settings_of_drawing():
    model = FlowMatching(shape=(8, 8, 3), num_classes=2, class_dropout=0.1, sampler=Euler(9, clip=0.0))
    before = Experiment(model=model, data=Digits())
    after = drawing(before, Drawing(steps=4, guidance=2.5)).model
    assert after == dataclasses.replace(model, sampler=Euler(4, clip=0.0), guidance=after.guidance)
    assert after.guidance.scale == 2.5
    assert drawing(before, Drawing(sampler="heun")).model.sampler == Heun(9, clip=0.0)
    assert drawing(before, Drawing(sampler="ddim", steps=3)).model.sampler == DDIM(3, clip=0.0)
    assert Drawing(size="64x32").sides == (64, 32) and Drawing(size="48").sides == (48, 48) and Drawing().sides is None
    np.testing.assert_array_equal(by_prompt(5, 2), [0, 0, 0, 1, 1])
    np.testing.assert_array_equal(by_prompt(2, 3), [0, 1])
    # Regression: beyond 46,340 samples of as many prompts, the product left 32 bits.
    np.testing.assert_array_equal(by_prompt(50_000, 50_000), np.arange(50_000))


@pytest.fixture(scope="module")
def latent():
    """A model of 8 times smaller latents, with random weights throughout."""
    stage = TAESD(network=TinyAutoencoder(latent=4, width=8), shape=(16, 24, 3))
    params = jax.jit(stage.init_params)(jax.random.key(0), {"x": jnp.zeros((1, *stage.shape))})
    state = TrainState(step=jnp.int32(0), params=params, opt_state={})
    codec = Loaded(state, Pixels(low=0.0), stage, "latents")
    model = FlowMatching(
        shape=(2, 3, 4), network=UNet(width=8, mults=(1,), blocks=1, attention=()), sampler=Euler(3, clip=0.0)
    )
    data = Captioned(data=Emoji(size=16), tokenizer="bytes", window=8)
    x = {"x": jnp.zeros((1, *model.shape))}
    state = jax.jit(model.init, compiler_options=core.compiled.QUICK_TO_COMPILE)(jax.random.key(1), x)
    return Trained(Experiment(model=model, data=data, codec=Pretrained(form="latents")), codec, state)


def test_what_stays_of_a_picture_stays_in_its_pixels(latent):
    image = np.random.default_rng(0).integers(0, 256, (16, 24, 3), dtype=np.uint8)
    stays = np.ones((16, 24, 1), bool)
    np.testing.assert_array_equal(editing.redraw(latent, core.sample_keys(0, 2), image, stays)[1], image)
    stays[3, 9] = False
    drawn = editing.redraw(latent, core.sample_keys(0, 2), image, stays)
    np.testing.assert_array_equal(np.all(drawn == image, axis=-1) >= stays[..., 0], True)
    trip = editing.redraw(latent, core.sample_keys(0, 2), image, edit=Edit(strength=0))
    np.testing.assert_array_equal(trip[0], trip[1])
    z = latent.codec.encode({"x": image[None]}, jax.random.key(0))["x"]
    assert np.abs(trip[0].astype(int) - np.asarray(latent.codec.decode(z))[0]).max() <= 1


def test_a_latent_is_redrawn_with_any_of_its_pixels():
    stays = np.ones((16, 24, 1), bool)
    stays[3, 9] = stays[8, 23] = False
    np.testing.assert_array_equal(editing.coarse(stays, (2, 3, 4))[..., 0], [[True, False, True], [True, True, False]])
    np.testing.assert_array_equal(editing.coarse(stays, (16, 24, 3)), stays)


def test_other_sizes(latent):
    large = resized(dataclasses.replace(latent, folder=None), 32, 8)
    assert draw(large, 0, 2).shape == (2, 32, 8, 3)
    with pytest.raises(UserError, match="the size is 30x8: sides that divide by 8 are expected"):
        resized(latent, 30, 8)
    model = dataclasses.replace(latent.experiment.model, network=OfOneSize())
    params = {"network": model.network.init(jax.random.key(0), jnp.zeros((1, *model.shape)), jnp.zeros(1), 4)["params"]}
    experiment = dataclasses.replace(latent.experiment, model=model)
    fixed = dataclasses.replace(latent, experiment=experiment, state=latent.state.replace(params=params))
    assert resized(fixed, 16, 24).model == model
    with pytest.raises(UserError, match="has parameters for pictures of one size: leave --size out"):
        resized(fixed, 32, 8)


class OfOneSize(nn.Module):
    """Adds a picture of parameters."""

    def check(self, shape):
        """Takes any shape."""

    @nn.compact
    def __call__(self, x, t, out, y=None, context=None, context_mask=None, train=False):
        return x + self.param("picture", nn.initializers.zeros, x.shape[1:])[None]
