"""VQ-VAE: codes of images and back, one level and two."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen import core
from jaxgen.codecs import Pixels
from jaxgen.core.mesh import Layout
from jaxgen.data import Digits
from jaxgen.errors import UserError
from jaxgen.models.vqvae import VQVAE
from jaxgen.nets.vqvae import VQNetwork
from jaxgen.ops.quantize import Codebook
from jaxgen.optim import Adam

TWO = VQVAE(
    shape=(7, 10, 1), codebook=Codebook(size=8, dim=4),
    network=VQNetwork(width=8, hidden=4, blocks=1, halvings=(1, 1)), optimizer=Adam(lr=1e-2),
)  # fmt: skip
X = np.random.default_rng(0).normal(size=(16, 7, 10, 1)).astype(np.float32)


@pytest.fixture(scope="module")
def two():
    """Two levels of codes for an image that does not halve evenly."""
    return core.init(TWO, core.run_key(0, core.INIT), {"x": X})


def test_size_in_is_size_out_whatever_halves_evenly(two):
    assert TWO.maps == ((2, 3), (4, 5))
    assert TWO.num_tokens == 26
    rebuilt, found = jax.jit(TWO._rebuild)(TWO.weights(two), two.extra["codes"], X)
    assert rebuilt.shape == X.shape
    assert [f.indices.shape for f in found] == [(16, 2, 3), (16, 4, 5)]


def test_a_state_has_the_types_of_the_next(two):
    """A number without a type of its own at step 0 would have the step compiled twice."""
    assert not [a for a in jax.tree.leaves(two) if a.weak_type]


def test_decoded_codes_are_the_reconstruction(two):
    """All that the decoder knows of an image is its codes, of all levels."""
    tokens = jax.jit(TWO.encode_codes)(two, X)
    assert tokens.shape == (16, 26)
    assert tokens.dtype == jnp.int32
    rebuilt, _ = jax.jit(TWO._rebuild)(TWO.weights(two), two.extra["codes"], X)
    np.testing.assert_allclose(jax.jit(TWO.decode_codes)(two, tokens), rebuilt, atol=1e-5)


def test_a_latent_comes_back_as_the_reconstruction():
    model = replace(TWO, network=VQNetwork(width=8, hidden=4, blocks=1, halvings=(1,)))
    state = core.init(model, core.run_key(0, core.INIT), {"x": X})
    z = jax.jit(model.to_latent)(state, X, jax.random.key(0))
    assert z.shape == (16, 4, 5, 4)
    rebuilt = model.decode_codes(state, model.encode_codes(state, X))
    np.testing.assert_allclose(model.from_latent(state, z), rebuilt, atol=1e-5)
    with pytest.raises(UserError, match="2 maps of codes"):
        TWO.to_latent(state, X, jax.random.key(0))


def test_maps_of_one_size_are_refused():
    with pytest.raises(UserError, match="two of one size"):
        replace(TWO, shape=(2, 2, 1)).check({"x": jnp.zeros((1, 2, 2, 1))})


def test_tokens_that_are_no_codes_are_refused(two):
    with pytest.raises(UserError, match="token 8 is out of range: codes go from 0 to 7"):
        TWO.decode_codes(two, jnp.full((1, 26), 8))
    with pytest.raises(UserError, match=r"\[B, 26\] is expected"):
        TWO.decode_codes(two, jnp.zeros((1, 25), jnp.int32))


def test_codebooks_learn_alike_on_any_mesh(two):
    """Uses and sums are of the whole batch, not of a device's part of it: also the codes that restart."""
    batches = {"x": np.stack([X] * 3)}
    key = core.run_key(0, core.TRAIN)
    alone, metrics = core.train_steps(TWO, jax.tree.map(jnp.copy, two), key, batches)
    layout = Layout.make("data=4")
    spread = jax.tree.map(layout.put, two, layout.state(two))
    placed = layout.put(batches, layout.batch(1))
    spread, spread_metrics = core.train_steps(
        TWO, spread, layout.put(key, layout.everywhere), placed, None, None, False, layout
    )  # fmt: skip
    for a, b in zip(jax.tree.leaves(alone.extra), jax.tree.leaves(spread.extra)):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(metrics["perplexity_4x5"], spread_metrics["perplexity_4x5"], rtol=1e-3)


BY_GRADIENT = Codebook(size=32, dim=8, decay=0.0, cosine=True)


@pytest.mark.parametrize("codebook", [Codebook(size=32, dim=8), pytest.param(BY_GRADIENT, marks=pytest.mark.slow)])
def test_digits_are_rebuilt_by_a_codebook_in_use(codebook):
    """Better than by a decoder that knows nothing of the image; most codes stand for something."""
    steps, batch = 200, 32
    model = VQVAE(
        shape=(8, 8, 1), codebook=codebook, network=VQNetwork(width=16, hidden=8, blocks=1, halvings=(1,)),
        optimizer=Adam(lr=3e-3),
    )  # fmt: skip
    raw = Digits().arrays("train")
    indices = np.stack([Digits().indices_at(0, step, batch) for step in range(steps)])
    state = core.init(model, core.run_key(0, core.INIT), {"x": raw["x"][:batch]}, Pixels())
    data = {"x": jnp.asarray(raw["x"])}
    state, metrics = core.train_steps(model, state, core.run_key(0, core.TRAIN), indices, Pixels(), data)
    test = Pixels().encode({"x": Digits().arrays("test")["x"]}, None)["x"]
    mse = np.mean(core.evaluate(model, state, core.sample_keys(0, len(test)), {"x": test})["mse"])
    assert mse < 0.3 * np.mean((test - test.mean(0)) ** 2)
    assert metrics["usage"][-1] > 0.9
    assert metrics["perplexity"][-1] > 12
