"""DiffWave: the paper's schedules and loss on the library's diffusion, and what a waveform depends on."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import EXPERIMENTS

from jaxgen.core.capabilities import DrawsSound, Vocodes
from jaxgen.core.configuration import check_fields
from jaxgen.core.keys import sample_keys, split_each
from jaxgen.errors import UserError
from jaxgen.experiment import presets
from jaxgen.models.diffwave import FIFTY, DiffWave, DiffWaveVocoder
from jaxgen.nets.apply import apply
from jaxgen.nets.diffwave import DiffWaveNet
from jaxgen.ops.audio import Mel
from jaxgen.ops.samplers import DDIM

MEL = Mel(rate=4000, n_fft=64, hop=16, window=64, bands=8, high=1500.0)
NETWORK = DiffWaveNet(width=6, layers=4, cycle=3, hidden=8, rates=(4, 4))
SCHEDULE = replace(FIFTY, num_steps=10)
VOCODER = DiffWaveVocoder(network=NETWORK, schedule=SCHEDULE, shape=(128,), mel=MEL, segment=64, ema_decay=0.0)
CLASSES = DiffWave(network=NETWORK, schedule=SCHEDULE, shape=(40,), num_classes=3, mel=MEL, ema_decay=0.0)


def sounds(num=3, samples=128) -> jax.Array:
    rng = np.random.default_rng(0)
    return jnp.asarray(0.5 * np.sin(rng.uniform(0.05, 0.5, (num, 1)) * np.arange(samples)), jnp.float32)


def started(model, batch):
    """All parameters random, the last layer's too."""
    state, rng = jax.eval_shape(model.init, jax.random.key(0), batch), np.random.default_rng(0)
    return jax.tree.map(lambda a: np.float32(0.4) * rng.standard_normal(a.shape, np.float32), state)


@pytest.fixture(scope="module")
def state():
    return started(VOCODER, {"x": sounds()})


@pytest.fixture(scope="module")
def vocode(state):
    model = replace(VOCODER, sampler=DDIM(steps=4))
    program = jax.jit(lambda mel, length: model.vocode(state, sample_keys(0, len(mel)), mel, length))
    return lambda mel, length: np.asarray(program(mel, np.asarray(length, np.int32)))


def test_schedules_are_the_papers():
    """Table 1's: beta from 1e-4 to 0.05 in 50 steps, and to 0.02 in 200."""
    large = presets(EXPERIMENTS["diffwave"])["large"].model
    for schedule, steps, last in ((FIFTY, 50, 0.05), (large.schedule, 200, 0.02)):
        alpha, sigma = schedule.levels(np.arange(steps))
        abar = np.cumprod(1 - np.linspace(1e-4, last, steps))
        np.testing.assert_allclose(alpha, np.sqrt(abar), rtol=1e-12)
        np.testing.assert_allclose(sigma, np.sqrt(1 - abar), rtol=1e-12)


def test_sizes_are_the_papers():
    """BASE has 2.64 M parameters, LARGE 6.91 M: table 1 there. Within 3 %: the step's embedding is told otherwise."""
    for name, millions in (("ljspeech", 2.64), ("large", 6.91)):
        model = presets(EXPERIMENTS["diffwave"])[name].model
        batch = {"x": jax.ShapeDtypeStruct((1, 16_384), np.float32)}
        params = jax.eval_shape(model.init_params, jax.random.key(0), batch)
        assert sum(a.size for a in jax.tree.leaves(params)) == pytest.approx(millions * 1e6, rel=0.03)


def test_the_loss_is_the_papers(state):
    """Eq. 7 on segments and their mels: |eps - eps_theta(alpha x_0 + sigma eps, t, mel)|^2, by the same draws."""
    batch, params = {"x": sounds()}, state.params

    @jax.jit
    def by_hand(keys):
        keys, keys_segment = split_each(keys, 2)
        mel, x = VOCODER.pairs(keys_segment, batch)
        keys_t, keys_eps, *_ = split_each(keys, 4)
        t = jax.vmap(lambda key: jax.random.randint(key, (), 0, 10))(keys_t)
        eps = jax.vmap(lambda key: jax.random.normal(key, (64,)))(keys_eps)
        abar = jnp.asarray(np.cumprod(1 - np.linspace(5e-4, 0.25, 10)), jnp.float32)[t][:, None]
        noisy = jnp.sqrt(abar) * x + jnp.sqrt(1 - abar) * eps
        told = {"mel": 1 - mel / np.log(1e-5).astype(np.float32)}
        return jnp.mean((eps - apply(NETWORK, {"params": params["network"]}, noisy, t * 100.0, 1, **told)) ** 2)

    loss = jax.jit(lambda keys: VOCODER.loss(params, state, keys, batch)[0])(sample_keys(2, 3))
    np.testing.assert_allclose(loss, by_hand(sample_keys(2, 3)), rtol=1e-4)


def test_padding_and_neighbours_have_no_influence(vocode):
    mels = np.random.default_rng(1).normal(-4, 2, (3, 6, 8)).astype(np.float32)
    lengths = np.array([3, 6, 4])
    among, alone = vocode(mels, lengths), vocode(mels[:1, :3], lengths[:1])[0]
    assert alone.shape == (48,) and np.std(alone) > 1e-2
    np.testing.assert_allclose(among[0, :48], alone, atol=1e-5)
    assert not among[0, 48:].any() and among[1, 64:].any()
    other = np.where(np.arange(6)[None, :, None] < lengths[:, None, None], mels, np.nan).astype(np.float32)
    np.testing.assert_array_equal(vocode(other, lengths), among)
    assert not np.allclose(vocode(mels + 1, lengths)[1], among[1], atol=1e-3)


def test_what_they_can_do():
    assert isinstance(VOCODER, Vocodes) and isinstance(CLASSES, DrawsSound) and not isinstance(CLASSES, Vocodes)


def test_classes_are_drawn_and_guided():
    """By the machinery of all diffusion: without guidance a class's sample is not another's, and weight 1 is none."""
    model = replace(CLASSES, class_dropout=0.1, sampler=DDIM(steps=4))
    state = started(model, {"x": sounds(samples=40), "cond": jnp.arange(3)})
    draw = jax.jit(lambda cond: model.sample(state, sample_keys(0, 2), cond))
    a, b = draw(jnp.array([0, 0])), draw(jnp.array([1, 1]))
    assert a.shape == (2, 40) and not np.allclose(a, b, atol=1e-3)
    guided = jax.jit(lambda w: model.sample(state, sample_keys(0, 2), {"label": jnp.array([1, 1]), "guidance": w}))
    np.testing.assert_allclose(guided(jnp.ones(2)), b, atol=1e-4)
    assert not np.allclose(guided(jnp.full(2, 3.0)), b, atol=1e-3)


def test_what_cannot_be_trained_on_is_one_line():
    for model, message in (
        (replace(VOCODER, objective="hybrid"), "simple and none are expected"),
        (replace(VOCODER, num_classes=3), "a vocoder is told mels alone"),
        (replace(VOCODER, mel=Mel()), "makes 16 samples of a frame, mel has frames of 80 bands"),
    ):
        with pytest.raises(UserError, match=message):
            check_fields(model)
    for model, batch, message in (
        (VOCODER, {"x": np.zeros((2, 144), np.float32)}, "pass --model.shape 144"),
        (CLASSES, {"x": np.zeros((2, 8, 8, 3), np.uint8)}, "waveforms are expected"),
    ):
        with pytest.raises(UserError, match=message):
            model.check(batch)
