"""HiFi-GAN: what a waveform depends on, the losses by hand, and steps of training."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen import core
from jaxgen.core.capabilities import Vocodes
from jaxgen.core.configuration import check_fields
from jaxgen.core.keys import fold_each, sample_keys
from jaxgen.errors import UserError
from jaxgen.models.hifigan import HiFiGAN
from jaxgen.nets.apply import apply
from jaxgen.nets.hifigan import Generator, WaveCritic, halved
from jaxgen.ops.audio import Mel, log_mel
from jaxgen.optim import Adam

MEL = Mel(rate=4000, n_fft=64, hop=16, window=64, bands=8, high=1500.0)
MODEL = HiFiGAN(
    generator=Generator(
        bands=8, channels=8, rates=(4, 4), up_sizes=(8, 6), sizes=(3, 5), dilations=((1, 3), (2,)), twice=True
    ),
    critic=WaveCritic(
        periods=(3,), period_widths=(4,), scales=2, scale_widths=(4, 8), scale_sizes=(5, 9), scale_strides=(1, 4),
        scale_groups=(1, 2),
    ),
    mel=MEL, segment=128, optimizer=Adam(lr=2e-3, b1=0.8, b2=0.99), critic_optimizer=Adam(lr=2e-3, b1=0.8, b2=0.99),
)  # fmt: skip


def batch_of(num: int = 3, samples: int = 256) -> core.Batch:
    """Tones of random pitch."""
    rng = np.random.default_rng(0)
    time, pitch = np.arange(samples)[None], rng.uniform(0.05, 0.5, (num, 1))
    x = 0.5 * np.sin(pitch * time) + 0.02 * rng.standard_normal((num, samples))
    return {"x": jnp.asarray(x, jnp.float32)}


@pytest.fixture(scope="module")
def state() -> core.TrainState:
    """At the start, where weights are large enough for outputs to differ."""
    return jax.device_get(core.init(MODEL, jax.random.key(0), batch_of()))


@pytest.fixture(scope="module")
def vocode(state):
    program = jax.jit(lambda mel, length: MODEL.vocode(state, sample_keys(0, len(mel)), mel, length))
    return lambda mel, length: np.asarray(program(mel, np.asarray(length, np.int32)))


# --- what a waveform depends on ---


def test_padding_and_neighbours_have_no_influence(vocode):
    """A mel alone, among longer ones, and padded by anything: the same samples, and zeros after them."""
    mels = np.random.default_rng(1).normal(-4, 2, (3, 20, 8)).astype(np.float32)
    lengths = [5, 20, 13]
    among = vocode(mels, lengths)
    for i, length in enumerate(lengths):
        alone = vocode(mels[i : i + 1, :length], [length])[0]
        assert alone.shape == (length * 16,) and alone.std() > 1e-3
        np.testing.assert_allclose(among[i, : length * 16], alone, atol=1e-6)
        assert not among[i, length * 16 :].any()
    other = np.where(np.arange(20)[None, :, None] < np.array(lengths)[:, None, None], mels, np.nan).astype(np.float32)
    np.testing.assert_array_equal(vocode(other, lengths), among)


def test_frames_have_their_place(vocode):
    """A change of frame f changes samples around f hop alone, on both sides: the receptive field is in the middle."""
    mel = np.random.default_rng(2).normal(-4, 2, (1, 40, 8)).astype(np.float32)
    changed = mel.copy()
    changed[0, 20] += 3
    (places,) = np.nonzero(vocode(mel, [40])[0] != vocode(changed, [40])[0])
    before, after = 20 * 16 - places.min(), places.max() - (21 * 16 - 1)
    assert 0 < before < 12 * 16 and abs(before - after) <= 16


def test_a_mel_knows_what_is_beside_its_segment():
    """Segments are drawn by their keys, all of them; frame f of a mel is around sample (f + 1/2) hop of the segment,
    with the samples that are there in the place of a reflection."""
    batch, keys = batch_of(), fold_each(jax.random.key(3), jnp.arange(3))
    mel, x = MODEL.pairs(keys, batch)
    assert mel.shape == (3, 8, 8) and x.shape == (3, 128)
    whole = np.asarray(batch["x"])
    starts = []
    for row in range(3):
        (start,) = [i for i in range(129) if np.array_equal(whole[row, i : i + 128], x[row])]
        starts.append(start)
        if 24 <= start <= 256 - 128 - 24:
            wide = jnp.asarray(whole[row, start - 24 : start + 128 + 24])
            np.testing.assert_allclose(mel[row], log_mel(wide, MEL, centred=False), atol=1e-5)
    assert len(set(starts)) > 1
    # Inside, where no frame reaches an end, both ways of continuing agree.
    np.testing.assert_allclose(MODEL.mels(x)[:, 2:-2], mel[:, 2:-2], atol=1e-4)
    assert not np.allclose(MODEL.mels(x)[:, 0], mel[:, 0], atol=1e-3)


def test_halved():
    """Means of four samples, one every two, zeros at both ends counted."""
    for n in (8, 9):
        x = np.random.default_rng(0).standard_normal((2, n)).astype(np.float32)
        padded = np.pad(x, ((0, 0), (2, 2)))
        expected = [padded[:, 2 * i : 2 * i + 4].mean(axis=1) for i in range(n // 2 + 1)]
        np.testing.assert_allclose(halved(jnp.asarray(x)), np.stack(expected, axis=1), atol=1e-6)


# --- training ---


@partial(jax.jit, static_argnums=0)
def advance(model, state, key, batch):
    return model.train_step(state, key, batch)


def judged(params, extra, x):
    return apply(MODEL.critic, {"params": params, **extra}, x)


def test_losses_are_the_papers(state):
    """A step's numbers, from eqs. 1 to 6 written out: the critics' loss by the critics before, the generator's by those
    after the step."""
    batch, key = batch_of(), jax.random.key(4)
    new, metrics = advance(MODEL, state, key, batch)
    mel, x = MODEL.pairs(fold_each(key, jnp.arange(3)), batch)
    fake = apply(MODEL.generator, {"params": state.params["gen"]}, mel)
    # The step on true and fake improves the singular vector before it uses it.
    spectral = new.extra["critic"]["spectral"]
    assert not np.array_equal(
        *(s.extra["critic"]["spectral"]["spectral"]["scale_0"]["convs_0"]["u"] for s in (state, new))
    )
    real, made = (judged(state.params["critic"], spectral, a) for a in (x, fake))
    loss = sum(np.mean((r - 1) ** 2) + np.mean(f**2) for r, f in zip(real.logits, made.logits))
    np.testing.assert_allclose(metrics["critic_loss"], loss, rtol=1e-4)
    real, made = (judged(new.params["critic"], spectral, a) for a in (x, fake))
    adversarial = sum(np.mean((f - 1) ** 2) for f in made.logits)
    features = sum(np.mean(np.abs(r - f)) for r, f in zip(real.features, made.features))
    high = replace(MEL, high=2000.0)
    edge = ((0, 0), (24, 24))
    phi = [np.asarray(log_mel(jnp.pad(a, edge, mode="reflect"), high, centred=False)) for a in (x, fake)]
    assert phi[0].shape == (3, 8, 8)
    distance = np.mean(np.abs(phi[0] - phi[1]))
    np.testing.assert_allclose(metrics["mel_l1"], distance, rtol=1e-4)
    np.testing.assert_allclose(metrics["loss"], adversarial + 2 * features + 45 * distance, rtol=1e-4)


def test_steps_bring_the_mel_nearer(state):
    """On one batch: the distance of mels falls by a quarter at least; critics tell both apart, all is finite."""
    batch, now, numbers = batch_of(), state, []
    for i in range(60):
        now, metrics = advance(MODEL, now, jax.random.key(i), batch)
        numbers.append({name: float(value) for name, value in metrics.items()})
    assert all(np.isfinite(value) for one in numbers for value in one.values())
    first, last = (np.mean([one["mel_l1"] for one in some]) for some in (numbers[:5], numbers[-5:]))
    assert last < 0.75 * first, (first, last)
    assert numbers[-1]["real_logit"] > numbers[-1]["fake_logit"]


@pytest.mark.slow
def test_parts_of_a_batch_give_the_same_step(state):
    batch = {"x": jnp.concatenate([batch_of()["x"], batch_of()["x"][:, ::-1]])[:4]}
    key = jax.random.key(5)
    whole, numbers = advance(MODEL, state, key, batch)
    parts, again = advance(replace(MODEL, accumulate=2), state, key, batch)
    for name in numbers:
        np.testing.assert_allclose(again[name], numbers[name], rtol=2e-3, err_msg=name)
    for a, b in zip(jax.tree.leaves(whole.opt_state["gen"]), jax.tree.leaves(parts.opt_state["gen"])):
        np.testing.assert_allclose(a, b, rtol=1e-2, atol=1e-3 * max(1e-3, float(np.abs(a).max())))


def test_silence_has_a_gradient(state):
    """Of nothing but zeros, where the magnitude of a spectrum has no derivative."""
    _, metrics = advance(MODEL, state, jax.random.key(6), {"x": jnp.zeros((3, 256))})
    assert all(np.isfinite(value) for value in metrics.values())
    grad = jax.grad(lambda x: jnp.sum(MODEL.mels(x, True)))(jnp.zeros((1, 128)))
    assert np.all(np.isfinite(grad))


# --- errors ---


def test_it_vocodes():
    assert isinstance(MODEL, Vocodes) and MODEL.mel.bands == 8


@pytest.mark.parametrize(
    "change, words",
    [
        ({"mel": Mel()}, "the network makes 16 samples of a frame of 8 bands, mel has frames of 80 bands every 256"),
        ({"segment": 100}, "a segment of whole hops"),
        ({"segment": 16}, "more than 24 are expected"),
        ({"generator": MODEL.generator.clone(up_sizes=(8, 5))}, "a kernel of 5 cannot upsample by 4"),
        ({"generator": MODEL.generator.clone(sizes=(3, 4))}, "sizes has 4: odd"),
        ({"generator": MODEL.generator.clone(sizes=(3,))}, "1 sizes 2 dilations"),
        ({"generator": MODEL.generator.clone(channels=6)}, "a multiple of 4 is expected"),
        ({"critic": MODEL.critic.clone(scale_groups=(1, 3))}, "4 and 8 channels are not of 3 groups"),
        ({"critic": MODEL.critic.clone(scale_sizes=(5,))}, "have 2, 1, 2, 2 numbers"),
        ({"critic": MODEL.critic.clone(periods=(3, 3))}, "each once is expected"),
    ],
)
def test_settings_that_do_not_go_together(change, words):
    with pytest.raises(UserError, match=words):
        check_fields(replace(MODEL, **change))


@pytest.mark.parametrize(
    "x, words",
    [
        (np.zeros((2, 8, 8, 3), np.uint8), "waveforms are expected"),
        (np.zeros((2, 100), np.float32), "100 samples: a multiple of 16"),
        (np.zeros((2, 64), np.float32), "of at least 128"),
        (np.zeros((2, 128), np.int32), "waveforms are expected"),
    ],
)
def test_data_of_another_kind(x, words):
    with pytest.raises(UserError, match=words):
        MODEL.check({"x": x})


@pytest.mark.parametrize(
    "cond, words",
    [
        (None, "`mel` and their frames `length`"),
        ({"mel": np.zeros((2, 5, 7)), "length": np.zeros(2, int)}, r"\[N, F, 8\]"),
        ({"mel": np.zeros((2, 5, 8)), "length": np.zeros(3, int)}, r"\[N, F, 8\]"),
        ({"mel": np.zeros((2, 5, 8)), "length": np.array([1, 6])}, "outside 0 to 5"),
    ],
)
def test_conditions_that_are_none(cond, words):
    with pytest.raises(UserError, match=words):
        MODEL.check_cond(cond)
