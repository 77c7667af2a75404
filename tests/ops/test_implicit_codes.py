"""FSQ and LFQ: codes and indices one to one, rounding against loops, the gradient through it, entropies over all codes,
and a VQ-VAE with each."""

import itertools
import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen import core
from jaxgen.core.configuration import check_fields, from_json, to_json
from jaxgen.errors import UserError
from jaxgen.models.vqvae import VQVAE
from jaxgen.nets.vqvae import VQNetwork
from jaxgen.ops.implicit_codes import FSQ, LFQ
from jaxgen.ops.quantize import Running, straight_through
from jaxgen.optim import Adam

RNG = np.random.default_rng(0)
QUANTIZERS = [FSQ(levels=(8, 5, 2)), FSQ(levels=(3,)), LFQ(bits=1), LFQ(bits=6)]
MODEL = VQVAE(
    shape=(8, 8, 1), codebook=FSQ(levels=(5, 4)), network=VQNetwork(width=8, hidden=4, blocks=1, halvings=(1,)),
    optimizer=Adam(lr=1e-2),
)  # fmt: skip
X = RNG.normal(size=(8, 8, 8, 1)).astype(np.float32)


def z_of(quantizer, scale=2.0):
    return (scale * RNG.normal(size=(3, 4, 5, quantizer.dim))).astype(np.float32)


@pytest.mark.parametrize("quantizer", QUANTIZERS)
def test_codes_and_indices_are_one_to_one(quantizer):
    """Each index has a code of its own, which is found again by its index, and no vector has another code."""
    codes = np.asarray(quantizer.codes(Running(None, None, None)))
    assert codes.shape == (quantizer.size, quantizer.dim)
    assert len(np.unique(codes, axis=0)) == quantizer.size
    assert np.abs(codes).max() <= 1
    again = quantizer.near(jnp.asarray(codes), jnp.asarray(codes[None, None]))
    np.testing.assert_array_equal(again.indices[0, 0], np.arange(quantizer.size))
    np.testing.assert_array_equal(again.q[0, 0], codes)
    found = quantizer.find(jnp.asarray(codes), jnp.asarray(z_of(quantizer)))
    np.testing.assert_array_equal(found.q, codes[np.asarray(found.indices)])
    assert found.indices.dtype == jnp.int32


def test_fsq_is_the_published_rounding():
    """Appendix A.1, number by number in float64; every level of each is reached."""
    quantizer, z = FSQ(levels=(8, 5, 2)), z_of(FSQ(levels=(8, 5, 2)), 4.0)
    found = quantizer.find(jnp.zeros(0), jnp.asarray(z))
    for place in np.ndindex(z.shape[:3]):
        index, basis = 0, 1
        for i, levels in enumerate(quantizer.levels):
            scale, offset = (levels - 1) * (1 - 1e-3) / 2, 0.5 if levels % 2 == 0 else 0.0
            bounded = math.tanh(float(z[place][i]) + math.tan(offset / scale)) * scale - offset
            digit = round(bounded) + levels // 2
            assert 0 <= digit < levels
            assert float(found.q[place][i]) == pytest.approx(digit / (levels // 2) - 1, abs=1e-6)
            index, basis = index + digit * basis, basis * levels
        assert int(found.indices[place]) == index
    line = jnp.broadcast_to(jnp.linspace(-4, 4, 101).reshape(1, 1, -1, 1), (1, 1, 101, 3))
    reached = quantizer.compared(line) * jnp.array([4, 2, 1]).reshape(1, 1, 1, -1)
    for i, levels in enumerate(quantizer.levels):
        assert len(np.unique(np.round(reached[..., i]))) == levels


def test_the_gradient_of_fsq_is_that_of_the_bound():
    """The decoder's, through the tanh, as if nothing were rounded."""
    quantizer, z = FSQ(levels=(8, 5)), jnp.asarray(z_of(FSQ(levels=(8, 5))))
    weight = jnp.asarray(RNG.normal(size=z.shape).astype(np.float32))

    def through(z, exact):
        found = quantizer.find(jnp.zeros(0), z)
        return jnp.sum(weight * (found.z if exact else straight_through(found.z, found.q)))

    rounded, exact = (jax.grad(through)(z, exact) for exact in (False, True))
    np.testing.assert_array_equal(rounded, exact)
    half = np.array([4, 2])
    slope = 1 - np.tanh(np.asarray(z) + np.tan(np.array([0.5, 0]) / (np.array([7, 4]) * 0.4995))) ** 2
    expected = np.asarray(weight) * slope * np.array([7, 4]) * 0.4995 / half
    np.testing.assert_allclose(rounded, expected, rtol=1e-4, atol=1e-6)
    assert float(quantizer.loss(quantizer.find(jnp.zeros(0), z))) == 0


def test_the_gradient_of_lfq_is_the_decoders():
    quantizer = LFQ(bits=3, entropy=0.0, commitment=0.5)
    z = jnp.asarray(z_of(quantizer))
    weight = jnp.asarray(RNG.normal(size=z.shape).astype(np.float32))

    def through(z):
        found = quantizer.find(jnp.zeros(0), z)
        return jnp.sum(weight * straight_through(found.z, found.q))

    np.testing.assert_array_equal(jax.grad(through)(z), weight)
    pull = jax.grad(lambda z: quantizer.loss(quantizer.find(jnp.zeros(0), z)))(z)
    np.testing.assert_allclose(pull, np.asarray(z - jnp.where(z > 0, 1, -1)) / z.size, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(("bits", "temperature"), [(1, 1.0), (5, 1.0), (5, 0.3)])
def test_entropies_are_those_over_all_codes(bits, temperature):
    """Softmax of squared distances to every code, in float64 loops."""
    quantizer = LFQ(bits=bits, temperature=temperature)
    z = RNG.normal(size=(2, 3, 3, bits)).astype(np.float32)
    codes = np.array(list(itertools.product((-1.0, 1.0), repeat=bits)))
    each, total = 0.0, np.zeros(len(codes))
    for vector in z.reshape(-1, bits).astype(np.float64):
        p = np.exp(-np.array([np.sum((vector - c) ** 2) for c in codes]) / temperature)
        p /= p.sum()
        each -= sum(v * math.log(v) for v in p if v > 0)
        total += p
    mean = total / 18
    found_each, found_whole = jax.jit(quantizer.entropies)(z)
    assert float(found_each) == pytest.approx(each / 18, rel=1e-4)
    assert float(found_whole) == pytest.approx(-np.sum(mean * np.log(mean)), rel=1e-4)
    found = quantizer.find(jnp.zeros(0), jnp.asarray(z))
    loss = 0.25 * np.mean((z - np.where(z > 0, 1, -1)) ** 2) + 0.1 * (each / 18 + np.sum(mean * np.log(mean)))
    assert float(quantizer.loss(found)) == pytest.approx(loss, rel=1e-4)


def test_entropies_of_groups_bound_that_of_all_bits():
    z = jnp.asarray(RNG.normal(size=(40, 1, 1, 6)).astype(np.float32))
    (each, whole), (same, bound) = (replace(LFQ(bits=6), group=g).entropies(z) for g in (6, 4))
    assert float(same) == pytest.approx(float(each), rel=1e-6)
    assert float(whole) < float(bound) <= 6 * math.log(2) + 1e-5


def test_an_entropy_loss_spreads_codes():
    """Descent on the entropies alone: vectors that all had one code come to have many, each far from a border."""
    quantizer = LFQ(bits=3, commitment=0.0, entropy=1.0)
    z = jnp.asarray(0.1 + 0.05 * RNG.normal(size=(64, 1, 1, 3)).astype(np.float32))
    grad = jax.jit(jax.grad(lambda z: quantizer.loss(quantizer.find(jnp.zeros(0), z))))
    before = quantizer.find(jnp.zeros(0), z).indices
    for _ in range(200):
        z = z - 2.0 * grad(z)
    after = quantizer.find(jnp.zeros(0), z)
    assert len(np.unique(before)) < 5
    assert len(np.unique(after.indices)) == 8
    assert float(jnp.mean(jnp.abs(after.z))) > 0.5


def test_use_is_counted():
    quantizer = LFQ(bits=2)
    _, running = quantizer.start(jax.random.key(0), jnp.zeros((5, 2, 2, 2)))
    np.testing.assert_array_equal(running.count, [5] * 4)
    z = jnp.asarray([[[[1.0, -1.0], [1.0, -1.0], [-1.0, 1.0]]]])
    running, _, metrics = quantizer.update(jax.random.key(0), running, quantizer.find(jnp.zeros(0), z))
    np.testing.assert_allclose(running.count, [4.95, 4.97, 4.96, 4.95], rtol=1e-6)
    assert float(metrics["usage"]) == 0.5
    entropy = -(2 / 3 * math.log(2 / 3) + 1 / 3 * math.log(1 / 3))
    assert float(metrics["perplexity"]) == pytest.approx(math.exp(entropy), rel=1e-5)


@pytest.mark.parametrize("codebook", [FSQ(levels=(5, 4)), LFQ(bits=4)])
def test_a_first_stage_of_implicit_codes(codebook):
    """Decoded codes and latents are the reconstruction; a step keeps the state's types; no parameter is a code's."""
    model = replace(MODEL, codebook=codebook)
    assert from_json(to_json(model)) == model
    state = core.init(model, core.run_key(0, core.INIT), {"x": X})
    assert set(state.params) == {"network"} and not [a for a in jax.tree.leaves(state) if a.weak_type]
    batches = {"x": np.stack([X] * 2)}
    state, metrics = core.train_steps(model, state, core.run_key(0, core.TRAIN), batches)
    assert metrics["perplexity"].shape == (2,)

    @jax.jit
    def all_of(state, keys):
        tokens = model.encode_codes(state, X)
        rebuilt, found = model._rebuild(model.weights(state), state.extra["codes"], X)
        z, space = model.to_latent(state, X, jax.random.key(0)), model.latent_space(state)
        drawn = model._drawn(state, keys)
        latents = model._vectors(model._codes(model.weights(state), state.extra["codes"]), drawn)
        back = model.decode_codes(state, tokens), model.from_latent(state, z)
        return rebuilt, back, tokens, found[0].indices, space.decode(latents), model.decode_codes(state, drawn)

    rebuilt, back, tokens, indices, from_latents, from_tokens = all_of(state, core.sample_keys(0, 3))
    np.testing.assert_array_equal(tokens, np.asarray(indices).reshape(8, 16))
    for again in back:
        np.testing.assert_allclose(again, rebuilt, atol=1e-5)
    # Latents of samples decode to these samples.
    np.testing.assert_allclose(from_latents, from_tokens, atol=1e-5)


def test_too_many_codes_are_refused():
    with pytest.raises(UserError, match="levels make 1,048,576 codes"):
        check_fields(FSQ(levels=(1024, 1024)))
    with pytest.raises(UserError, match="bits"):
        check_fields(LFQ(bits=19))
