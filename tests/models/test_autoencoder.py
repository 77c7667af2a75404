"""The autoencoder against PCA, and the density of its latents against scikit-learn's."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.mixture import GaussianMixture

from jaxgen import core
from jaxgen.codecs import Pixels
from jaxgen.data import Digits
from jaxgen.errors import UserError
from jaxgen.models.autoencoder import Autoencoder
from jaxgen.nets.conv import ConvDecoder, ConvEncoder
from jaxgen.nets.mlp import MLP
from jaxgen.optim import Adam

STEPS, BATCH = 1500, 64
DIGITS = Autoencoder(
    shape=(8, 8, 1), latent=8, encoder=MLP(hidden=(128,)), decoder=MLP(hidden=(128,)), components=4, memory=512,
    optimizer=Adam(lr=3e-3, decay_steps=STEPS),
)  # fmt: skip


@pytest.fixture(scope="module")
def trained():
    data = Digits().arrays("train")
    indices = np.stack([Digits().indices_at(0, step, BATCH) for step in range(STEPS)])
    raw = {"x": data["x"][:BATCH]}
    state = core.init(DIGITS, core.run_key(0, core.INIT), raw, Pixels())
    data = {"x": jnp.asarray(data["x"])}
    return core.train_steps(DIGITS, state, core.run_key(0, core.TRAIN), indices, Pixels(), data)[0]


def test_reconstruction_beats_pca_of_equal_width(trained):
    """On held-out digits. Linear maps with a squared error could do no better than PCA."""
    train, test = (Pixels().encode({"x": Digits().arrays(s)["x"]}, None)["x"] for s in ("train", "test"))
    pca = PCA(8).fit(np.asarray(train).reshape(len(train), -1))
    flat = np.asarray(test).reshape(len(test), -1)
    pca_mse = np.mean((pca.inverse_transform(pca.transform(flat)) - flat) ** 2)
    ours = core.evaluate(DIGITS, trained, core.sample_keys(0, len(test)), {"x": test})["mse"]
    assert np.mean(ours) < 0.8 * pca_mse


def test_density_of_the_latents_is_like_scikit_learns(trained):
    """Both find a local optimum, so the likelihoods are close but not equal; a single Gaussian is far worse."""
    z = np.asarray(trained.extra["latents"])
    assert np.all(np.isfinite(z)), "the ring is full"
    ours = float(jnp.mean(jax.jit(DIGITS.density)(trained).log_prob(jnp.asarray(z))))
    theirs = GaussianMixture(4, random_state=0, reg_covar=1e-3 * z.var(0).mean()).fit(z).score(z)
    single = GaussianMixture(1).fit(z).score(z)
    assert abs(ours - theirs) < 0.25 * (theirs - single)


def test_samples_lie_near_the_data(trained):
    x = np.asarray(core.sample(DIGITS, trained, core.sample_keys(0, 64))).reshape(64, -1)
    data = np.asarray(Pixels().encode({"x": Digits().arrays("train")["x"]}, None)["x"]).reshape(-1, 64)
    noise = data.mean(0) + data.std(0) * np.random.default_rng(0).normal(size=(64, 64))

    def nearest(y):
        """Mean distance to the nearest data point."""
        return np.sqrt(((y[:, None] - data[None]) ** 2).sum(-1).min(1)).mean()

    assert nearest(x) < 0.7 * nearest(noise)


# --- the ring ---

TINY = Autoencoder(
    shape=(3,), latent=2, encoder=MLP(hidden=()), decoder=MLP(hidden=()), memory=10, components=2,
    optimizer=Adam(lr=0.0),
)  # fmt: skip


@pytest.mark.parametrize(("steps", "size"), [(1, 4), (3, 4), (7, 4), (2, 13)])
def test_the_ring_holds_the_most_recent_examples(steps, size):
    """With fixed parameters (learning rate 0), the latents are those of the last ten examples, in any order."""
    x = np.random.default_rng(0).normal(size=(steps, size, 3)).astype(np.float32)
    state = core.init(TINY, jax.random.key(0), {"x": x[0]})
    z = np.asarray(TINY.encode(state.params, x.reshape(-1, 3)))
    state, _ = core.train_steps(TINY, state, jax.random.key(1), {"x": x})
    ring = np.asarray(state.extra["latents"])
    ring = ring[~np.isnan(ring[:, 0])]
    # Of a batch larger than the ring, its first ten.
    expected = z.reshape(steps, size, 2)[:, :10].reshape(-1, 2)[-10:]
    np.testing.assert_allclose(ring[np.argsort(ring[:, 0])], expected[np.argsort(expected[:, 0])], atol=1e-5)


def test_a_ring_not_yet_full_gives_the_density_of_what_is_there():
    model = replace(TINY, components=1, memory=8)
    x = np.random.default_rng(0).normal(size=(1, 4, 3)).astype(np.float32)
    state, _ = core.train_steps(model, core.init(model, jax.random.key(0), {"x": x[0]}), jax.random.key(1), {"x": x})
    z = np.asarray(state.extra["latents"])[:4]
    density = model.density(state)
    np.testing.assert_allclose(density.mean[0], z.mean(0), atol=1e-5)
    cov = np.asarray(density.chol[0] @ density.chol[0].T)
    np.testing.assert_allclose(cov, np.cov(z.T, bias=True), atol=5e-3 * np.trace(cov))


def test_a_fresh_state_samples_finite_numbers():
    state = core.init(TINY, jax.random.key(0), {"x": jnp.ones((4, 3))})
    x = core.sample(TINY, state, core.sample_keys(0, 5))
    assert x.shape == (5, 3)
    assert np.all(np.isfinite(x))
    assert np.std(x) > 0


# --- loss and shapes ---


def test_loss_is_squared_error_and_half_the_penalised_latents():
    model = replace(TINY, latent_penalty=0.3)
    x = jnp.float32(np.random.default_rng(0).normal(size=(4, 3)))
    state = core.init(model, jax.random.key(0), {"x": x})
    z = model.encode(state.params, x)
    error = np.square(x - model.decode(state.params, z)).sum(-1).mean()
    loss, seen = model.seen(state.params, state, core.sample_keys(0, len(x)), {"x": x})
    metrics = seen.metrics
    np.testing.assert_allclose(loss, error + 0.15 * np.square(z).sum(-1).mean(), rtol=1e-5)
    np.testing.assert_allclose(metrics["mse"], error / 3, rtol=1e-5)


def test_convolutional_networks_take_odd_sizes():
    shape = (17, 23, 3)
    encoder, decoder = ConvEncoder(channels=(4, 8)), ConvDecoder(channels=(8, 4))
    model = Autoencoder(shape=shape, latent=2, memory=8, components=2, encoder=encoder, decoder=decoder)
    batch = {"x": jnp.zeros((4, *shape))}
    state = core.abstract_state(model, batch)
    keys = core.sample_keys(0, 3)
    assert jax.eval_shape(model.sample, state, keys).shape == (3, *shape)
    shown = jax.eval_shape(model.pictures, state, keys, batch)
    assert shown["reconstruction.png"].shape == (2, 4, *shape)
    assert shown["interpolation.png"].shape == (2, 11, *shape)
    with pytest.raises(UserError, match=r"pass --model\.shape 17 22 3"):
        model.check({"x": jnp.zeros((4, 17, 22, 3))})
