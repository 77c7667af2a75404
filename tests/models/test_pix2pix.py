"""pix2pix: outputs of any size, the critic's receptive field, and the losses by hand."""

import json
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import EXPERIMENTS
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.numpy import load_file

from jaxgen import __main__ as commands
from jaxgen import core
from jaxgen.core import sample_keys
from jaxgen.data import EmojiEdges
from jaxgen.errors import UserError
from jaxgen.experiment import presets
from jaxgen.inference.held_out import held_out_numbers
from jaxgen.models.adversarial import PASSES
from jaxgen.models.pix2pix import Pix2Pix
from jaxgen.models.shared import to_signed
from jaxgen.nets.pix2pix import PatchCritic, UNetGenerator
from jaxgen.ops.jitter import jitter
from jaxgen.runs.folder import RunFolder
from jaxgen.runs.restore import Trained, restore
from jaxgen.train.loop import train
from jaxgen.weights import KINDS, store

TINY = Pix2Pix(
    generator=UNetGenerator(channels=(3, 4, 4), dropout_layers=1), critic=PatchCritic(channels=(3, 4)), channels=2,
    optimizer=replace(Pix2Pix().optimizer, lr=1e-2),
)  # fmt: skip
PLAIN = replace(TINY, generator=replace(TINY.generator, dropout=0.0))


def batch_of(num: int = 4, size: tuple[int, int] = (16, 16)) -> core.Batch:
    cond = np.random.default_rng(0).integers(0, 256, (num, *size, 1), dtype=np.uint8)
    return {"x": jax.random.uniform(jax.random.key(5), (num, *size, 2), minval=-1.0), "cond": jnp.asarray(cond)}


def started(model: Pix2Pix) -> core.TrainState:
    return core.init(model, jax.random.key(0), batch_of())


@partial(jax.jit, static_argnums=0)
def advance(model: Pix2Pix, state: core.TrainState, key: jax.Array, batch: core.Batch):
    return model.train_step(state, key, batch)


def step(model: Pix2Pix, state: core.TrainState, batch: core.Batch | None = None):
    return advance(model, state, jax.random.key(100), batch_of() if batch is None else batch)


# --- sizes ---


@settings(max_examples=20, deadline=None)
@given(st.integers(17, 256), st.integers(17, 256), st.integers(1, 8))
def test_any_size_comes_back(height, width, depth):
    net = UNetGenerator(channels=(2, 3, 3, 3, 3, 3, 3, 3)[:depth])
    variables = jax.eval_shape(lambda: net.init(jax.random.key(0), jnp.zeros((1, 256, 256, 1)), 3))
    source = jax.ShapeDtypeStruct((2, height, width, 1), jnp.float32)
    assert jax.eval_shape(lambda v, s: net.apply(v, s, 3), variables, source).shape == (2, height, width, 3)


@pytest.mark.parametrize("size", [(17, 23), (256, 256)])
def test_sizes_other_than_the_trained(size):
    """Parameters of 16 x 16 images draw at any other size, from each pixel of the source."""
    state, batch = started(TINY), batch_of(1, size)
    x = core.sample(TINY, state, sample_keys(0, 1), batch["cond"])
    assert x.shape == (1, *size, 2) and np.all(np.isfinite(x)) and np.max(np.abs(x)) <= 1
    cut = batch["cond"].at[0, -1, -1].set(255 - batch["cond"][0, -1, -1])
    assert not np.allclose(core.sample(TINY, state, sample_keys(0, 1), cut)[0, -1, -1], x[0, -1, -1], atol=1e-5)


def test_an_odd_size_is_the_padded_one_cropped():
    """Of a network that does not normalize; the padding repeats the last row and column."""
    net, source = UNetGenerator(channels=(4,)), jax.random.normal(jax.random.key(0), (2, 17, 23, 1))
    variables = net.init(jax.random.key(1), source, 3)
    padded = jnp.pad(source, ((0, 0), (0, 1), (0, 1), (0, 0)), mode="edge")
    np.testing.assert_allclose(
        net.apply(variables, source, 3), net.apply(variables, padded, 3)[:, :17, :23], atol=1e-6
    )  # fmt: skip


# --- patches ---


@pytest.mark.parametrize(("layers", "side"), [(2, 16), (3, 34), (4, 70)])
def test_a_logit_sees_its_patch_and_nothing_else(layers, side):
    """Pixels that change the middle logit. Running averages replace batch statistics, which all pixels change."""
    critic, size = PatchCritic(channels=(2, 3, 3, 3)[:layers]), 2 * side
    source, x = (jax.random.normal(jax.random.key(i), (1, size, size, 1)) for i in (0, 1))
    variables = critic.init(jax.random.key(2), source, x)
    logits = critic.apply(variables, source, x)
    assert logits.shape[1:] == (critic.logits(size),) * 2
    middle = logits.shape[1] // 2
    for grads in jax.grad(lambda s, x: critic.apply(variables, s, x)[0, middle, middle], (0, 1))(source, x):
        moved = np.asarray(grads[0, ..., 0] != 0)
        assert moved.any(axis=0).sum() == moved.any(axis=1).sum() == side == critic.receptive_field


def test_the_published_critic_sees_70_pixels_and_judges_30_by_30():
    assert PatchCritic().receptive_field == 70 and PatchCritic().logits(256) == 30
    assert PatchCritic(channels=(64, 128, 256, 512, 512, 512)).receptive_field == 286  # the paper's ImageGAN


# --- a step ---


def softplus(x) -> np.ndarray:
    return np.log1p(np.exp(np.asarray(x, np.float64)))


def judged(model: Pix2Pix, params, source, x) -> np.ndarray:
    stats = started(model).extra["critic"]["real"]
    return model.critic.apply({"params": params, **stats}, source, x, True, mutable=["batch_stats"])[0]


def test_losses_are_those_of_equation_4():
    """Without dropout, from the networks alone: the critic before the step, and the one after it for the generator."""
    state, batch = started(PLAIN), batch_of()
    new, metrics = step(PLAIN, state)
    source = np.asarray(batch["cond"], np.float32) / 127.5 - 1
    fake = PLAIN.generator.apply({"params": state.params["gen"]}, source, 2)
    old = state.params["critic"]
    on_real, on_fake = judged(PLAIN, old, source, batch["x"]), judged(PLAIN, old, source, fake)
    critic_loss = 0.5 * (softplus(-on_real).mean() + softplus(on_fake).mean())
    gan = softplus(-judged(PLAIN, new.params["critic"], source, fake)).mean()
    l1 = np.abs(np.asarray(batch["x"] - fake, np.float64)).mean()
    expected = {"critic_loss": critic_loss, "gan": gan, "l1": l1, "loss": gan + 100 * l1}
    for name, value in expected.items():
        assert float(metrics[name]) == pytest.approx(value, rel=1e-4), name


def test_the_generator_descends_the_loss_of_its_fakes():
    """One optimizer step on the whole loss as a function of its parameters, judged by the new critic."""
    state, batch = started(PLAIN), batch_of()
    new, _ = step(PLAIN, state)
    source = to_signed(batch["cond"])

    def loss(params):
        fake = PLAIN.generator.apply({"params": params}, source, 2, True)
        logits = PLAIN.critic.apply(
            {"params": new.params["critic"], **state.extra["critic"]["real"]}, source, fake, True,
            mutable=["batch_stats"],
        )[0]  # fmt: skip
        return jnp.mean(jax.nn.softplus(-logits)) + 100 * jnp.mean(jnp.abs(batch["x"] - fake))

    grads = jax.jit(jax.grad(loss))(state.params["gen"])
    # Adam's first step hides a gradient's size: its first moment does not.
    moments = new.opt_state["gen"][0].mu
    for ours, theirs in zip(jax.tree.leaves(moments), jax.tree.leaves(grads), strict=True):
        np.testing.assert_allclose(ours, 0.5 * theirs, rtol=2e-3, atol=1e-5)


def test_statistics_of_the_passes_are_separate():
    """Other targets move those of the pass on real pairs alone, as fakes are the same."""
    state, batch = started(PLAIN), batch_of()
    stats = []
    for x in (batch["x"], 0.1 * batch["x"]):
        new, _ = step(PLAIN, state, {**batch, "x": x})
        stats.append({which: np.concatenate(jax.tree.leaves(new.extra["critic"][which])) for which in PASSES})
    np.testing.assert_array_equal(stats[0]["fake"], stats[1]["fake"])
    assert not np.allclose(stats[0]["real"], stats[1]["real"], atol=1e-4)
    assert not np.allclose(stats[0]["generator"], stats[0]["fake"], atol=1e-6)


def test_weights_choose_between_game_and_distance():
    """Without the adversarial loss the critic has no effect; without L1, targets act through the critic alone."""
    state, batch = started(PLAIN), batch_of()
    other = state.replace(params={**state.params, "critic": jax.tree.map(lambda p: 2 * p, state.params["critic"])})
    distance = replace(PLAIN, gan_weight=0.0)
    one, two = (step(distance, s)[0].params["gen"] for s in (state, other))
    assert all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two)))
    game = replace(PLAIN, l1_weight=0.0, critic_optimizer=replace(PLAIN.critic_optimizer, lr=1e-12))
    one, two = (step(game, state, {**batch, "x": x})[0].params["gen"] for x in (batch["x"], -batch["x"]))
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two)):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_a_few_pairs_are_learnt():
    state, history = started(PLAIN), []
    smooth = jnp.stack([jnp.full((16, 16, 2), value) for value in (-0.8, -0.2, 0.3, 0.9)])
    batch = batch_of() | {"x": smooth}
    for i in range(120):
        state, metrics = advance(PLAIN, state, jax.random.key(i), batch)
        history.append(float(metrics["l1"]))
    assert history[-1] < 0.5 * history[0]
    numbers = core.evaluate(PLAIN, state, sample_keys(0, 4), batch)
    assert np.mean(numbers["l1"]) < 0.5 * history[0]


# --- use ---


def test_noise_is_dropout():
    state, cond = started(TINY), batch_of(3)["cond"]
    cond = jnp.repeat(cond[:1], 3, axis=0)
    x = core.sample(TINY, state, sample_keys(0, 3), cond)
    assert not np.allclose(x[0], x[1], atol=1e-4)
    quiet = core.sample(replace(TINY, noise=False), state, sample_keys(0, 3), cond)
    np.testing.assert_allclose(quiet[0], quiet[1], atol=1e-6)
    # The mean over the noise is near, not equal: a tanh and norms lie behind it.
    assert np.abs(np.mean(x, axis=0) - quiet[0]).mean() < np.abs(x[0] - x[1]).mean()


def test_numbers_of_held_out_pairs():
    state, batch = started(PLAIN), batch_of()
    numbers = core.evaluate(PLAIN, state, sample_keys(0, 4), batch)
    assert set(numbers) == {"l1", "psnr", "ssim"}
    x, fake = np.asarray(batch["x"]), np.asarray(core.sample(PLAIN, state, sample_keys(0, 4), batch["cond"]))
    np.testing.assert_allclose(numbers["l1"], np.abs(x - fake).mean(axis=(1, 2, 3)), rtol=1e-5)
    levels = [np.round((a.astype(np.float64) + 1) / 2 * 255) for a in (x, fake)]
    error = ((levels[0] - levels[1]) ** 2).mean(axis=(1, 2, 3))
    np.testing.assert_allclose(numbers["psnr"], 10 * np.log10(255**2 / error), atol=0.02)
    # The window of the similarity does not fit into less.
    assert set(core.evaluate(PLAIN, state, sample_keys(0, 2), batch_of(2, (10, 16)))) == {"l1", "psnr"}


def test_jitter_is_shared_by_a_pair_and_another_for_each_example():
    ramp = jnp.broadcast_to(jnp.arange(20.0)[None, None, :, None], (64, 10, 20, 1))
    first, second = jitter(sample_keys(0, len(ramp)), (ramp, 2 * ramp), 1.5, mirror=True)
    np.testing.assert_allclose(second, 2 * first, rtol=1e-6)
    slopes = np.asarray(jnp.diff(first, axis=2))[:, 0, 5:-5, 0]
    np.testing.assert_allclose(np.abs(slopes), 1 / 1.5, rtol=1e-4)
    assert 16 < (slopes[:, 0] < 0).sum() < 48, "about half are mirrored"
    starts = np.asarray(jnp.min(first, axis=(1, 2, 3)))
    assert len(np.unique(starts.round(3))) > 5 and starts.max() > 4, "crops differ"
    (still,) = jitter(sample_keys(0, len(ramp)), (ramp,), 1.0, mirror=False)
    np.testing.assert_array_equal(still, ramp)


def test_what_cannot_be_trained_is_refused():
    batch = batch_of()
    with pytest.raises(UserError, match="pairs of images of one size are expected"):
        core.init(TINY, jax.random.key(0), {"x": batch["x"]})
    with pytest.raises(UserError, match="pairs of images of one size are expected"):
        core.init(TINY, jax.random.key(0), {**batch, "cond": batch["cond"][:, :8]})
    with pytest.raises(UserError, match=r"2 channels, model\.channels is 3"):
        core.init(replace(TINY, channels=3), jax.random.key(0), batch)
    with pytest.raises(UserError, match="too small for patches of 70 pixels"):
        core.init(replace(TINY, critic=PatchCritic()), jax.random.key(0), batch)
    with pytest.raises(UserError, match="one pixel after 4 halvings"):
        core.init(replace(TINY, generator=UNetGenerator(channels=(2,) * 5)), jax.random.key(0), batch)
    with pytest.raises(UserError, match="sources of shape none were given"):
        core.sample(TINY, started(TINY), sample_keys(0, 1))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    smoke = presets(EXPERIMENTS["pix2pix"])["smoke"]
    folder = tmp_path_factory.mktemp("pix2pix") / "run"
    train(replace(smoke, data=EmojiEdges(size=32), steps=10), folder)
    return folder


def test_a_users_picture_of_any_size_is_translated(run, tmp_path):
    drawing = np.random.default_rng(0).integers(0, 256, (17, 23), dtype=np.uint8)
    Image.fromarray(drawing).save(tmp_path / "drawing.png")
    request = [str(run), "--image", str(tmp_path / "drawing.png"), "--num", "2", "--out", str(tmp_path / "out")]
    commands.call(["sample", *request])
    x = load_file(tmp_path / "out" / "samples.safetensors")["x"]
    assert x.shape == (2, 17, 23, 3) and not np.array_equal(x[0], x[1])
    for i in range(2):
        with Image.open(tmp_path / "out" / f"{i}.png") as image:
            np.testing.assert_array_equal(np.asarray(image), x[i])
    commands.call(["sample", *request, "--run.model.no-noise"])
    assert load_file(tmp_path / "out" / "samples.safetensors")["x"].shape == (1, 17, 23, 3)
    with pytest.raises(UserError, match="--mask and --alpha need"):
        commands.call(["sample", *request, "--mask", str(tmp_path / "drawing.png")])


def test_distances_are_between_a_sample_and_its_own_target(run):
    """The mean absolute difference equals that of `evaluate`, also when the last batch is not full."""
    trained = restore(RunFolder(run))

    def distance(x, y):
        return jnp.mean(jnp.abs(x.astype(jnp.float32) - y.astype(jnp.float32)), axis=(1, 2, 3)) / 127.5

    numbers, count = held_out_numbers(trained, seed=3, limit=12, batch=8, distances={"distance": distance})
    assert count == 12
    assert numbers["distance"]["mean"] == pytest.approx(numbers["l1"]["mean"], abs=2e-3)


def test_lpips_is_measured_where_weights_are_named(run, tmp_path):
    """Random weights, recorded as such."""
    files = []
    for kind in ("alexnet", "lpips_alex"):
        shapes = store.flatten_shapes(KINDS[kind].template())
        rng = np.random.default_rng(0)
        arrays = {name: np.abs(rng.normal(size=s.shape) * 0.05).astype(s.dtype) for name, s in shapes.items()}
        files.append(str(tmp_path / f"{kind}.safetensors"))
        store.save(tmp_path / f"{kind}.safetensors", kind, arrays, "random", "0" * 64, False)
    commands.call(["evaluate", str(run), "--limit", "4", "--batch", "4", "--lpips", *files])
    said = json.loads((run / "evaluation.json").read_text())
    assert {"l1", "psnr", "ssim", "lpips_alex"} <= set(said["metrics"])
    assert said["metrics"]["lpips_alex"]["mean"] > 0 and not said["lpips"]["heads"]["published"]
    with pytest.raises(UserError, match="1 files, two are expected"):
        commands.call(["evaluate", str(run), "--lpips", files[0]])
    with pytest.raises(UserError, match="holds weights of 'alexnet', not vgg16"):
        commands.call(["evaluate", str(run), "--lpips", *files, "--lpips-net", "vgg"])


def test_only_images_of_images_have_such_distances():
    """Refused before anything is computed: there is no state to compute with."""
    smoke = presets(EXPERIMENTS["cvae"])["smoke"]
    with pytest.raises(UserError, match="makes no image of an image"):
        held_out_numbers(Trained(smoke, smoke.codec, None), limit=8, batch=8, distances={"d": lambda x, y: x})
