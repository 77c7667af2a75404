"""WaveNet: cached sampling is uncached sampling, probabilities sum to one, and what a waveform depends on."""

import itertools
import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.core.capabilities import DrawsSound, Vocodes
from jaxgen.core.configuration import check_fields
from jaxgen.core.keys import sample_keys
from jaxgen.errors import UserError
from jaxgen.models.wavenet import WaveNet, WaveNetVocoder
from jaxgen.nets.wavenet import WaveNetNet
from jaxgen.ops.audio import Mel
from jaxgen.ops.wave_outputs import Logistics, MuLaw, Normal

MEL = Mel(rate=4000, n_fft=64, hop=16, window=64, bands=8, high=1500.0)
NETWORK = WaveNetNet(width=6, skip=6, layers=4, cycle=3, size=3, rates=(4, 4))
"""Three taps: queues hold two dilations."""
CLASSES = WaveNet(network=NETWORK, output=MuLaw(16), shape=(40,), num_classes=3, mel=MEL, ema_decay=0.0)
VOCODER = WaveNetVocoder(network=NETWORK, output=MuLaw(16), mel=MEL, segment=64, ema_decay=0.0)


def sounds(num=3, samples=128) -> np.ndarray:
    rng = np.random.default_rng(0)
    x = 0.5 * np.sin(rng.uniform(0.05, 0.5, (num, 1)) * np.arange(samples)) + 0.02 * rng.standard_normal((num, samples))
    return x.astype(np.float32)


def started(model, batch, scale=0.7):
    """Parameters so large that what is drawn depends on all that was drawn before."""
    state, rng = jax.eval_shape(model.init, jax.random.key(0), batch), np.random.default_rng(0)
    return jax.tree.map(lambda a: np.float32(scale) * rng.standard_normal(a.shape, np.float32), state)


@pytest.fixture(scope="module")
def of_classes():
    return started(CLASSES, {"x": sounds(samples=40), "cond": np.arange(3)})


@pytest.fixture(scope="module")
def draw_classes(of_classes):
    return jax.jit(lambda keys, label: CLASSES.sample(of_classes, keys, label))


@pytest.fixture(scope="module")
def of_mels():
    return started(VOCODER, {"x": sounds()})


# --- sampling ---


@pytest.mark.parametrize("output", [MuLaw(16), Logistics(3), Normal()])
def test_cached_sampling_is_uncached_sampling(output):
    """Of classes, tokens, and of mels, values: all samples are those of the whole network run for each of them."""
    told = isinstance(output, MuLaw)
    model = replace(CLASSES if told else VOCODER, output=output, temperature=0.8)
    mel = np.random.default_rng(0).normal(-4, 2, (2, 3, 8)).astype(np.float32)
    cond = jnp.array([0, 1]) if told else {"mel": mel, "length": np.array([3, 3])}
    state = started(model, {"x": sounds(samples=40 if told else 64), "cond": np.arange(3)}, 0.7 if told else 0.3)
    fast, slow = (
        jax.jit(replace(model, cached=cached).sample)(state, sample_keys(1, 2), cond) for cached in (True, False)
    )
    assert np.std(fast) > 0.01 and not np.allclose(fast[0], fast[1])
    np.testing.assert_allclose(fast, slow, atol=1e-5)


def test_a_sample_is_what_its_probabilities_say(of_classes, draw_classes):
    """Sample t is drawn by the network's answer to the samples before it, as in training, and by u_t of its key."""
    label = jnp.array([2, 0])

    @jax.jit
    def again(x):
        answer = CLASSES.answer(of_classes.params, x, CLASSES.told(label))
        u = jax.vmap(lambda key: jax.random.uniform(key, (40, 2)))(sample_keys(3, 2))
        return CLASSES.output.draw(answer, u)

    x = draw_classes(sample_keys(3, 2), label)
    # Another level would be farther away.
    np.testing.assert_allclose(again(x), x, atol=1e-5)
    assert np.std(x) > 0.1


def test_probabilities_of_all_waveforms_sum_to_one():
    """Of three samples with four levels each, told a class, by enumeration."""
    model = replace(CLASSES, output=MuLaw(4))
    state = started(model, {"x": sounds(samples=40), "cond": np.arange(3)})
    levels = np.array(list(itertools.product(range(4), repeat=3)))
    y = 2 * levels / 3 - 1
    x = jnp.asarray(np.sign(y) * (4 ** np.abs(y) - 1) / 3, jnp.float32)
    log_p = jax.jit(lambda x, y: model.log_prob(state.params, x, model.told(y)))(x, jnp.full(64, 1))
    total = np.exp(np.asarray(log_p, np.float64).sum(axis=1))
    np.testing.assert_allclose(total.sum(), 1, atol=1e-5)
    assert total.max() > 2 / 64


def test_classes_change_the_sample(draw_classes):
    a, b = (draw_classes(sample_keys(0, 2), jnp.full(2, label)) for label in (0, 1))
    assert not np.allclose(a, b)


def test_padding_and_neighbours_have_no_influence(of_mels):
    """A mel alone, among longer ones, and padded by anything: the same samples, and zeros after them."""
    program = jax.jit(lambda mel, length: VOCODER.vocode(of_mels, sample_keys(0, len(mel)), mel, length))
    mels = np.random.default_rng(1).normal(-4, 2, (3, 6, 8)).astype(np.float32)
    lengths = np.array([3, 6, 4], np.int32)
    among = np.asarray(program(mels, lengths))
    alone = program(mels[:1, :3], lengths[:1])[0]
    assert alone.shape == (48,) and np.std(alone) > 1e-2
    np.testing.assert_allclose(among[0, :48], alone, atol=1e-6)
    assert not among[0, 48:].any() and not among[2, 64:].any() and among[1, 64:].any()
    other = np.where(np.arange(6)[None, :, None] < lengths[:, None, None], mels, np.nan).astype(np.float32)
    np.testing.assert_array_equal(program(other, lengths), among)


# --- numbers ---


def test_bits_are_those_of_the_probabilities(of_mels):
    """The loss of segments and the evaluation of whole examples are means of -log2 p."""
    batch, params = {"x": jnp.asarray(sounds())}, of_mels.params

    @jax.jit
    def segments(keys):
        mel, x = VOCODER.pairs(keys, batch)
        assert x.shape == (3, 64)
        return VOCODER.log_prob(params, x, {"mel": 1 - mel / math.log(1e-5)})

    @jax.jit
    def whole(keys):
        told = VOCODER.told(VOCODER.sample_cond(3, batch))
        return VOCODER.log_prob(params, batch["x"], told), VOCODER.evaluate(of_mels, keys, batch)["bits_per_sample"]

    loss = jax.jit(lambda keys: VOCODER.loss(params, of_mels, keys, batch)[0])(sample_keys(0, 3))
    np.testing.assert_allclose(loss, -np.mean(segments(sample_keys(0, 3))) / math.log(2), rtol=1e-5)
    log_p, found = whole(sample_keys(0, 3))
    np.testing.assert_allclose(found, -np.mean(log_p, axis=1) / math.log(2), rtol=1e-5)


def test_what_they_can_do():
    assert isinstance(VOCODER, Vocodes) and isinstance(VOCODER, DrawsSound)
    assert not isinstance(CLASSES, Vocodes) and isinstance(CLASSES, DrawsSound)


def test_what_cannot_be_trained_on_is_one_line():
    for fields, message in (
        ({"mel": Mel()}, "makes 16 samples of a frame, mel has frames of 80 bands every 256"),
        ({"segment": 63}, "segment 63: an n_fft that differs"),
        ({"segment": 16}, "more than 24 are expected"),
    ):
        with pytest.raises(UserError, match=message):
            check_fields(replace(VOCODER, **fields))
    for model, batch, message in (
        (VOCODER, {"x": np.zeros((2, 8, 8, 3), np.uint8)}, "waveforms are expected"),
        (VOCODER, {"x": np.zeros((2, 48), np.float32)}, "examples have 48 samples: a multiple of 16"),
        (CLASSES, {"x": np.zeros((2, 50), np.float32)}, "model.shape is .40,.: pass --model.shape 50"),
        (CLASSES, {"x": np.zeros((2, 40), np.float32)}, "the data has no labels"),
    ):
        with pytest.raises(UserError, match=message):
            model.check(batch)
    with pytest.raises(UserError, match="label 3 is out of range"):
        CLASSES.check_cond(np.array([3]))
    with pytest.raises(UserError, match="mels are expected as condition"):
        VOCODER.check_cond(np.array([3]))
