"""Diffusion over clips: given frames are kept, told and drawn; reconstruction guidance against closed forms."""

import re
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from tiny_diffusion import Tiny, state_of

from jaxgen import core
from jaxgen.codecs import Pixels
from jaxgen.errors import UserError
from jaxgen.inference.sampling import guided
from jaxgen.models.edm import EDM
from jaxgen.models.video import BLOCKS, VideoDiffusion, future_psnr
from jaxgen.nets.video import VideoUNet
from jaxgen.ops.diffusion import Denoised
from jaxgen.ops.guidance import reconstructing
from jaxgen.ops.samplers import Euler, Start
from jaxgen.ops.schedules import Cosine, Karras

SHAPE = (4, 2, 2, 1)


class OverTime(nn.Module):
    """A linear map of each pixel's frames, and of time and class."""

    def check(self, shape):
        """Takes any shape."""

    @nn.compact
    def __call__(self, x, t, out, y=None, context=None, train=False):
        mixed = nn.Dense(x.shape[1], name="frames")(jnp.moveaxis(x, 1, -1))
        return Tiny()(jnp.moveaxis(mixed, -1, 1), t, out, y)


TOLD = VideoDiffusion(
    network=OverTime(), shape=SHAPE, sampler=Euler(6, clip=0.0), given=2, num_classes=3, class_dropout=0.5,
    ema_decay=0.0,
)  # fmt: skip
PLAIN = replace(TOLD, given=0)
RAW = np.random.default_rng(0).integers(0, 256, (5, *SHAPE), dtype=np.uint8)
BATCH = {"x": Pixels().encode({"x": jnp.asarray(RAW)}, jax.random.key(0))["x"], "cond": jnp.array([0, 1, 2, 0, 1])}
LABELS = BATCH["cond"]


@pytest.fixture(scope="module")
def states():
    return {model: state_of(model, BATCH) for model in (TOLD, PLAIN)}


def test_clips_take_no_guide():
    """It would sample past the frames that are given."""
    trained: Any = SimpleNamespace(experiment=SimpleNamespace(model=TOLD), name="run")
    with pytest.raises(UserError, match="samples in a way of its own"):
        guided(trained, trained)


@pytest.mark.parametrize("model", [TOLD, PLAIN])
def test_given_frames_come_out_as_they_went_in(model, states):
    """To the level, of every clip as many as it was given; the others do not."""
    levels = np.arange(256, dtype=np.uint8).reshape(16, *SHAPE)
    given = jnp.arange(16, dtype=jnp.int32) % (3 if model.given else 5)
    cond = {"label": jnp.zeros(16, jnp.int32), "frames": jnp.asarray(levels), "given": given}
    raw = np.asarray(core.sample(model, states[model], core.sample_keys(0, 16), cond, Pixels()))
    for i, count in enumerate(given):
        np.testing.assert_array_equal(raw[i, :count], levels[i, :count])
        assert count == 4 or not np.array_equal(raw[i, count:], levels[i, count:])


def test_only_given_frames_are_told(states):
    """What stands in the others has no effect, and without any it is the unconditional sample."""
    draw = jax.jit(lambda cond: TOLD.sample(states[TOLD], core.sample_keys(1, 5), cond))
    cond = TOLD.continuing(BATCH["x"], 2, LABELS)
    first = draw(cond)
    other = draw({**cond, "frames": cond["frames"].at[:, 2:].set(0.3)})
    np.testing.assert_allclose(first, other, atol=1e-6)
    assert np.abs(draw({**cond, "frames": cond["frames"].at[:, 1].add(0.5)}) - first)[:, 2:].max() > 1e-3
    none = draw({**cond, "given": jnp.zeros(5, jnp.int32)})
    np.testing.assert_allclose(none, draw(LABELS), atol=1e-5)


def test_a_model_of_whole_clips_is_edm(states):
    """The same loss, and the same samples."""
    same = ("network", "shape", "sampler", "num_classes", "class_dropout", "ema_decay")
    plain = EDM(**{name: getattr(PLAIN, name) for name in same})
    for ours, theirs in (
        (PLAIN.loss(states[PLAIN].params, states[PLAIN], core.sample_keys(0, 5), BATCH)[0],
         plain.loss(states[PLAIN].params, states[PLAIN], core.sample_keys(0, 5), BATCH)[0]),
        (PLAIN.sample(states[PLAIN], core.sample_keys(0, 5), LABELS),
         plain.sample(states[PLAIN], core.sample_keys(0, 5), LABELS)),
    ):  # fmt: skip
        np.testing.assert_array_equal(ours, theirs)


def test_training_gives_as_many_frames_as_it_says():
    """None of half the clips, one and two of a quarter each; the class goes as often as without frames."""
    cond = TOLD.condition({"x": jnp.zeros((4000, *SHAPE)), "cond": jnp.zeros(4000, jnp.int32)})
    drawn = jax.jit(TOLD.drop)(core.sample_keys(0, 4000), cond)
    share = np.bincount(drawn["given"], minlength=3) / 4000
    np.testing.assert_allclose(share, [0.5, 0.25, 0.25], atol=0.03)
    assert abs(np.mean(np.asarray(drawn["label"]) == -1) - 0.5) < 0.03
    mask = TOLD.seen_frames(jnp.array([0, 3]))
    np.testing.assert_array_equal(mask[:, :, 0, 0, 0], [[0, 0, 0, 0], [1, 1, 1, 0]])


# --- blocks ---

LONG = (7, 2, 2, 1)
BLOCKWISE = replace(TOLD, shape=LONG, block=3)
CLIPS = {"x": jnp.asarray(np.random.default_rng(1).uniform(-1, 1, (5, *LONG)), jnp.float32), "cond": LABELS}


@pytest.fixture(scope="module")
def blockwise():
    return state_of(BLOCKWISE, CLIPS)


def test_blocks_go_on_from_one_another(blockwise):
    """Three frames, then one at a time from the last two: by hand the same, and of each clip by itself."""
    one = replace(TOLD, shape=(3, *LONG[1:]))
    draw = jax.jit(lambda keys, cond: one.sample(blockwise, keys, cond))
    keys = core.sample_keys(4, 5)
    frames = draw(keys, LABELS)
    for i in range(4):
        last = jnp.concatenate([frames[:, -2:], jnp.zeros((5, 1, *LONG[1:]))], axis=1)
        cond = {"label": LABELS, "frames": last, "given": jnp.full(5, 2, jnp.int32)}
        further = draw(jax.vmap(jax.random.fold_in, (0, None))(keys, BLOCKS + i), cond)
        frames = jnp.concatenate([frames, further[:, 2:]], axis=1)
    whole = jax.jit(lambda keys, cond: BLOCKWISE.sample(blockwise, keys, cond))
    np.testing.assert_allclose(whole(keys, LABELS), frames, atol=2e-5)
    np.testing.assert_allclose(whole(keys[2:3], LABELS[2:3]), frames[2:3], atol=2e-5)
    np.testing.assert_array_equal(whole(keys, BLOCKWISE.continuing(CLIPS["x"], 2, LABELS))[:, :2], CLIPS["x"][:, :2])


def test_training_cuts_blocks_anywhere(blockwise):
    """The loss is that of a cut of each clip; all five cuts come, none more often than others."""
    draw = jax.vmap(lambda k: jax.random.randint(jax.random.fold_in(k, 7), (), 0, 5))
    place = np.asarray(draw(core.sample_keys(0, 1000)))
    np.testing.assert_allclose(np.bincount(place, minlength=5) / 1000, 0.2, atol=0.04)
    cut = jnp.stack([clip[i : i + 3] for clip, i in zip(CLIPS["x"], place)])
    loss = BLOCKWISE.loss(blockwise.params, blockwise, core.sample_keys(0, 5), CLIPS)[0]
    cuts = {**CLIPS, "x": cut}
    of_cuts = BLOCKWISE.of_block.loss(blockwise.params, blockwise, core.sample_keys(0, 5), cuts)[0]
    np.testing.assert_allclose(loss, of_cuts, rtol=1e-6)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"block": 2}, "block is 2, given 2 of 7 frames"),
        ({"block": 8}, "no more than a clip"),
        ({"given": 0}, "one at least"),
        ({"block": 5}, "do not make 7"),
    ],
)
def test_blocks_that_make_no_clip(change, words):
    with pytest.raises(UserError, match=words):
        replace(BLOCKWISE, **change).check(CLIPS)
    with pytest.raises(UserError, match="the network sees 3 of 7 frames"):
        BLOCKWISE.denoiser({})


# --- reconstruction guidance, on Gaussian clips whose denoiser is known ---

RHO = 0.9
COVARIANCE = np.array([[1.0, RHO], [RHO, 1.0]])


def gaussian_denoiser(schedule):
    """E[x_0 | x_t] of x_0 ~ N(0, COVARIANCE) for x: f32[B, 2]."""

    def denoise(x, t):
        alpha, sigma = schedule.at(t, 2)

        def one(x, alpha, sigma):
            total = alpha**2 * COVARIANCE + sigma**2 * jnp.eye(2)
            return alpha * jnp.asarray(COVARIANCE, jnp.float32) @ jnp.linalg.solve(total, x)

        return Denoised(jax.vmap(one)(x, alpha[:, 0], sigma[:, 0]))

    return denoise


def test_reconstruction_guidance_is_equation_8():
    """Of a linear denoiser x0 = J x, the guided x0^b is x0^b + w alpha J_ab (known - x0^a), J computed in NumPy."""
    schedule, t = Cosine(100), 60
    x, known, weight = np.array([[0.7, -0.4]]), np.array([[1.5, 9.0]]), 3.0
    alpha, sigma = (float(a[0, 0]) for a in schedule.at(jnp.array([t]), 2))
    J = alpha * COVARIANCE @ np.linalg.inv(alpha**2 * COVARIANCE + sigma**2 * np.eye(2))
    x0 = J @ x[0]
    expected = [x0[0], x0[1] + weight * alpha * J[0, 1] * (known[0, 0] - x0[0])]
    mask = jnp.array([[True, False]])
    guided = reconstructing(gaussian_denoiser(schedule), schedule, jnp.float32(known), mask, weight)
    got = guided(jnp.float32(x), jnp.array([t])).x0[0]
    np.testing.assert_allclose(got, expected, rtol=1e-3)


def test_continuing_by_reconstruction_follows_the_given_frame():
    """The second frame given the first, a, is N(rho a, 1 - rho^2). By replacement alone its mean falls short."""
    schedule, a, num = Karras(sigma_max=20.0), 1.2, 2000
    start = Start(image=jnp.full((num, 2), a), mask=jnp.broadcast_to(jnp.array([[True, False]]), (num, 2)))
    plain = gaussian_denoiser(schedule)

    def mean(weight):
        denoise = reconstructing(plain, schedule, start.image, start.mask, weight) if weight else plain
        sampler = Euler(40, clip=0.0)
        x = jax.jit(lambda keys: sampler(denoise, schedule, keys, (2,), start))(core.sample_keys(0, num))
        np.testing.assert_array_equal(x[:, 0], np.float32(a))
        return float(x[:, 1].mean())

    replaced, guided = mean(0.0), mean(4.0)
    assert abs(guided - RHO * a) < 0.1 < RHO * a - replaced


# --- numbers ---


def test_psnr_is_of_frames_to_come_alone():
    x = jnp.zeros((2, *SHAPE))
    guess = x.at[:, :2].set(1.0).at[0, 3, 0, 0, 0].set(0.5).at[1, 2:].set(7.0)
    expected = [10 * np.log10(4 / (0.25 / 8)), 10 * np.log10(4 / 1.0)]
    np.testing.assert_allclose(future_psnr(guess, x, 2), expected, rtol=1e-5)


def test_evaluation_continues_without_the_class_and_beside_copies(states):
    numbers = TOLD.evaluate(states[TOLD], core.sample_keys(0, 5), BATCH)
    assert set(numbers) == {"weighted_mse", "continuation_psnr", "copy_psnr"}
    copied = np.repeat(np.asarray(BATCH["x"])[:, 1:2], 4, axis=1)
    error = ((copied - np.asarray(BATCH["x"]))[:, 2:] ** 2).mean(axis=(1, 2, 3, 4))
    np.testing.assert_allclose(numbers["copy_psnr"], 10 * np.log10(4 / error), rtol=1e-4)
    assert np.all(np.asarray(TOLD.continuing(BATCH["x"], 2)["label"]) == -1)
    other = TOLD.evaluate(states[TOLD], core.sample_keys(0, 5), {**BATCH, "cond": (LABELS + 1) % 3})
    np.testing.assert_array_equal(other["continuation_psnr"], numbers["continuation_psnr"])
    shown = TOLD.pictures(states[TOLD], core.sample_keys(0, 5), BATCH)["continued.gif"]
    assert shown.shape == (2, 5, *SHAPE)
    np.testing.assert_array_equal(shown[1, :, :2], shown[0, :, :2])


@pytest.mark.parametrize(
    ("cond", "message"),
    [
        ({"label": LABELS, "frames": RAW}, "has no given"),
        ({"label": LABELS, "frames": RAW[:, 1:], "given": np.ones(5, np.int32)}, "frames have shape"),
        ({"label": LABELS, "frames": RAW, "given": np.full(5, 3, np.int32)}, "3 frames are given: 0 to 2"),
        ({"frames": RAW, "given": np.ones(5, np.int32)}, "no condition was given"),
        ({"label": LABELS + 1, "frames": RAW, "given": np.ones(5, np.int32)}, "label 3 is out of range"),
    ],
)
def test_conditions_are_checked(cond, message):
    TOLD.check_cond(TOLD.continuing(RAW, 2))
    TOLD.check_cond(LABELS)
    with pytest.raises(UserError, match=message) as error:
        TOLD.check_cond(cond)
    assert "\n" not in str(error.value)


def test_settings_that_cannot_work_are_refused():
    TOLD.check(BATCH)
    with pytest.raises(UserError, match="given is 4 of 4 frames"):
        replace(TOLD, given=4).check(BATCH)
    with pytest.raises(UserError, match=re.escape("clips (F, H, W, C) are")):
        replace(TOLD, shape=(4, 2, 2)).check({**BATCH, "x": BATCH["x"][..., 0]})


def test_clips_of_texts_are_continued_under_their_texts():
    """Regression: pictures and numbers of a model of captions failed, as the continuation was told no text."""
    network = VideoUNet(width=8, mults=(1,), blocks=1, attention=())
    model = VideoDiffusion(network=network, shape=(4, 8, 8, 1), given=1).captioned(8)
    batch = {
        "x": jnp.zeros((2, 4, 8, 8, 1)), "text": jnp.zeros((2, 8), jnp.int32), "text_mask": jnp.ones((2, 8), bool),
    }  # fmt: skip
    state = jax.eval_shape(model.init, jax.random.key(0), batch)
    keys = core.sample_keys(0, 2)
    assert set(jax.eval_shape(model.pictures, state, keys, batch)) == {"continued.gif"}
    assert "continuation_psnr" in jax.eval_shape(model.evaluate, state, keys, batch)
