"""CycleGAN: its loss by hand, the history of translations against a loop, and what it refuses."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxgen import core
from jaxgen.core import sample_keys
from jaxgen.errors import UserError
from jaxgen.models.cyclegan import CycleGAN
from jaxgen.nets.cyclegan import BothWays, ResNetTranslator, TwoCritics
from jaxgen.nets.pix2pix import PatchCritic


class Scaled(nn.Module):
    """A translation that multiplies by a number: as simple as a loss by hand needs."""

    start: float = 1.0

    @nn.compact
    def __call__(self, x, out, train=False):
        return x[..., :1].repeat(out, axis=-1) * self.param("kernel", nn.initializers.constant(self.start), ())


class Mean(nn.Module):
    """A critic whose only logit is the mean."""

    def check(self, shape):
        """Takes any shape."""

    @nn.compact
    def __call__(self, source, x, train=False):
        return jnp.mean(x, axis=(1, 2)) * self.param("kernel", nn.initializers.constant(0.5), ())


CRITICS = TwoCritics(Mean(), Mean())
MODEL = CycleGAN(
    generator=BothWays(Scaled(0.5), Scaled(3.0)), critic=CRITICS, channels=1, cycle_weight=4.0, identity_weight=2.0,
    history=0,
)  # fmt: skip
RNG = np.random.default_rng(0)
S, X = (RNG.uniform(-1, 1, (6, 4, 4, 1)).astype(np.float32) for _ in range(2))
BATCH = {"x": jnp.asarray(X), "cond": jnp.asarray(S)}


def test_the_generators_loss_is_equation_3():
    state = MODEL.init(jax.random.key(0), BATCH)
    fakes = MODEL._fakes(state.params["gen"], state, sample_keys(0, 6), BATCH)
    value, seen = MODEL.generator_loss(state, lambda *_: fakes, state.params["gen"], sample_keys(0, 6), BATCH)
    there, back = 0.5, 3.0
    gan = sum(np.mean((0.5 * f.mean(axis=(1, 2)) - 1) ** 2) for f in (back * X, there * S))
    cycle = np.mean(np.abs(there * back * S - S)) + np.mean(np.abs(there * back * X - X))
    same = np.mean(np.abs(there * X - X)) + np.mean(np.abs(back * S - S))
    np.testing.assert_allclose(value, gan + 4 * cycle + 2 * same, rtol=1e-5)
    np.testing.assert_allclose(seen.metrics["cycle"], cycle, rtol=1e-5)


def test_the_critics_loss_is_that_of_least_squares():
    state = MODEL.init(jax.random.key(0), BATCH)
    fakes = MODEL._fakes(state.params["gen"], state, sample_keys(0, 6), BATCH)
    value, _ = MODEL.critic_loss(state, lambda *_: fakes, state.params["critic"], sample_keys(0, 6), BATCH)
    expected = 0.0
    for real, fake in ((S, 3.0 * X), (X, 0.5 * S)):
        on_real, on_fake = (0.5 * a.mean(axis=(1, 2)) for a in (real, fake))
        expected += 0.5 * (0.5 * np.mean((on_real - 1) ** 2) + 0.5 * np.mean(on_fake**2))
    np.testing.assert_allclose(value, expected, rtol=1e-5)


@pytest.mark.parametrize("history", [12, 16])
def test_history_fills_up_and_then_swaps(history):
    """Every image that is shown or kept was translated before; half are old ones once the history is full. Regression:
    a history that is no multiple of a batch showed its empty places."""
    model = replace(MODEL, history=history)
    past = model.init(jax.random.key(0), BATCH).extra["critic"]["history"]
    remembered = jax.jit(model._remembered)
    known: set[float] = set()
    old = 0
    for step in range(40):
        numbers = 1000 * step + np.arange(6.0) + 1
        fakes = (
            jnp.asarray(np.broadcast_to(-numbers[:, None, None, None], (6, 4, 4, 1)), jnp.float32),
            jnp.asarray(np.broadcast_to(numbers[:, None, None, None], (6, 4, 4, 1)), jnp.float32),
        )
        (source, x), past = remembered(past, sample_keys(step, 6), fakes)
        known |= set(numbers)
        shown, kept = np.asarray(x)[:, 0, 0, 0], np.asarray(past["x"])[:, 0, 0, 0]
        np.testing.assert_array_equal(np.asarray(source)[:, 0, 0, 0], -shown)  # both kinds go together
        if step < 2:
            np.testing.assert_array_equal(shown, numbers)
            assert set(kept) == known | ({0.0} if step == 0 or history > 12 else set())
            continue
        assert set(shown) <= known
        swapped = shown != numbers
        np.testing.assert_array_equal(np.isin(numbers, kept), swapped)  # kept where an old one was shown instead
        old += int(swapped.sum())
    assert 0.35 < old / (38 * 6) < 0.65


def test_translations_that_undo_each_other_have_no_cycle_error():
    model = replace(MODEL, generator=BothWays(Scaled(0.5), Scaled(2.0)))
    state = model.init(jax.random.key(0), BATCH)
    found = model.evaluate(state, sample_keys(0, 6), BATCH)
    np.testing.assert_allclose(found["cycle_source"], 0, atol=1e-6)
    np.testing.assert_allclose(found["cycle_target"], 0, atol=1e-6)


def test_it_learns_a_change_of_sign_without_pairs():
    """Targets are bright, sources negatives of such images: both translations come to change the sign, by factors that
    undo each other. No pair is ever seen."""
    rng = np.random.default_rng(1)
    bright = np.clip(0.6 + 0.3 * rng.normal(size=(2, 64, 8, 8, 1)), -1, 1).astype(np.float32)
    adam = replace(MODEL.optimizer, lr=2e-2)
    model = CycleGAN(
        generator=BothWays(Scaled(0.1), Scaled(0.1)), critic=CRITICS, channels=1, cycle_weight=1.0, history=0,
        optimizer=adam, critic_optimizer=adam,
    )  # fmt: skip
    batch = {"x": jnp.asarray(bright[0]), "cond": jnp.asarray(-bright[1])}
    state = core.init(model, jax.random.key(0), batch)
    step = jax.jit(model.train_step)
    for i in range(200):
        state, _ = step(state, jax.random.key(i), batch)
    there, back = (float(state.params["gen"][name]["kernel"]) for name in ("there", "back"))
    assert there < -0.5
    assert back < -0.5
    np.testing.assert_allclose(there * back, 1, atol=0.05)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"channels": 3}, "targets have 1 channels"),
        ({"history": 3}, "less than a batch of 6"),
        ({"accumulate": 2}, "whole batches"),
        ({"generator": BothWays(ResNetTranslator(4, 1, 3), ResNetTranslator(4, 1, 1))}, "do not pass 3 halvings"),
        ({"critic": TwoCritics(PatchCritic((4, 8)), PatchCritic((4, 8)))}, "too small for patches"),
    ],
)
def test_what_does_not_fit_is_refused(change, words):
    with pytest.raises(UserError, match=words):
        replace(MODEL, **change).check(BATCH)


def test_pictures_of_any_size_are_translated_to_as_large_ones():
    """Regression: sides were rounded up to what the halvings divide."""
    network = ResNetTranslator(width=4, blocks=1, halvings=2)
    params = network.init(jax.random.key(0), jnp.zeros((1, 16, 16, 3)), 3)
    source = jax.random.normal(jax.random.key(1), (1, 14, 17, 3))
    whole = jnp.pad(source, ((0, 0), (0, 2), (0, 3), (0, 0)), mode="edge")
    out = jax.jit(network.apply, static_argnums=2)(params, source, 3)
    np.testing.assert_allclose(out, network.apply(params, whole, 3)[:, :14, :17], atol=1e-5)
