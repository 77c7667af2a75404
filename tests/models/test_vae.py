"""The VAE's bounds in a linear-Gaussian model, where log p(x) is known; its loss term by term; refused inputs."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from jaxgen import core
from jaxgen.core import TrainState
from jaxgen.errors import UserError
from jaxgen.models.vae import VAE
from jaxgen.nets.conv import ConvDecoder, ConvEncoder
from jaxgen.nets.mlp import MLP
from jaxgen.ops.likelihood import Bernoulli, DiscretizedLogistic, Gaussian
from jaxgen.ops.variational import Planar, Radial

# --- x = W z + b + std eps, with orthogonal columns in W: the posterior of z is then diagonal ---

STD, NUM = 0.5, 400
RNG = np.random.default_rng(0)
W = np.linalg.qr(RNG.normal(size=(5, 2)))[0] * [1.5, 0.7]
B = RNG.normal(size=5)
X = RNG.normal(size=(NUM, 2)) @ W.T + B + STD * RNG.normal(size=(NUM, 5))
LOG_P = scipy.stats.multivariate_normal(B, W @ W.T + STD**2 * np.eye(5)).logpdf(X)
LINEAR = VAE(
    shape=(5,), latent=2, encoder=MLP(hidden=()), decoder=MLP(hidden=()), likelihood=Gaussian(learned=False, std=STD)
)


def linear_state(shift=0.0):
    """The model above with its exact posterior as encoder, mu and logvar off by `shift`."""
    var = 1 / (1 + np.diag(W.T @ W) / STD**2)
    gain = var[:, None] * W.T / STD**2
    raw = 10 * np.arctanh((np.log(var) + shift) / 10)  # undoes the bound of logvar
    encoder = {"kernel": np.concatenate([gain.T, np.zeros((5, 2))], 1), "bias": np.concatenate([shift - gain @ B, raw])}
    params = {"encoder": {"Dense_0": encoder}, "decoder": {"Dense_0": {"kernel": W.T, "bias": B}}}
    return TrainState(step=jnp.zeros((), jnp.int32), params=jax.tree.map(jnp.float32, params), opt_state={})


def bounds(k, shift):
    """ELBO and IWAE-k of each x, float64[NUM]."""
    model = replace(LINEAR, importance_samples=k)
    metrics = core.evaluate(model, linear_state(shift), core.sample_keys(k, NUM), {"x": jnp.float32(X)})
    return [-np.asarray(metrics[name], np.float64) for name in ("nelbo", "iwae")]


def test_with_the_exact_posterior_every_bound_is_log_p():
    """The importance weight is then constant, so IWAE-k is exact; the ELBO has the error of its draws."""
    elbo, iwae = bounds(64, 0.0)
    np.testing.assert_allclose(iwae, LOG_P, atol=2e-4)
    gap = elbo - LOG_P
    assert abs(gap.mean()) < 5 * gap.std() / np.sqrt(NUM)
    assert gap.std() < 0.3


def test_bounds_are_ordered_and_iwae_rises_with_k():
    """arXiv:1509.00519, theorem 1. The gap of the ELBO is KL(q || p(z | x)), here known too."""
    elbo, one = bounds(1, 0.5)
    _, five = bounds(5, 0.5)
    many_elbo, many = bounds(200, 0.5)
    assert elbo.mean() < five.mean() - 0.1 < many.mean() - 0.2
    assert many.mean() < LOG_P.mean() + 5 * (many - LOG_P).std() / np.sqrt(NUM)
    assert LOG_P.mean() - many.mean() < 0.05
    # One sample's bound is the ELBO, but for which of its terms are in closed form.
    assert abs((one - elbo).mean()) < 5 * (one - elbo).std() / np.sqrt(NUM)
    var = 1 / (1 + np.diag(W.T @ W) / STD**2)
    kl = 0.5 * np.sum(np.exp(0.5) - 1 - 0.5 + 0.25 / var)
    np.testing.assert_allclose((LOG_P - many_elbo).mean(), kl, rtol=0.05)


def test_loss_of_the_linear_model_is_minus_the_elbo():
    state, batch = linear_state(0.5), {"x": jnp.float32(X)}
    draws = [jax.jit(LINEAR.loss)(state.params, state, core.sample_keys(i, len(X)), batch)[0] for i in range(20)]
    np.testing.assert_allclose(np.mean(draws), -bounds(200, 0.5)[0].mean(), rtol=0.02)


# --- flows as the posterior, arXiv:1505.05770 ---

FLOWS = [Planar(2), Radial(2)]


def flow_state(posterior, scale):
    """The state above, and flows whose parameters depend on x."""
    state, rng = linear_state(0.3), np.random.default_rng(1)
    dense, outputs = state.params["encoder"]["Dense_0"], posterior.outputs(2)
    kernel = np.concatenate([dense["kernel"], 0.1 * scale * rng.normal(size=(5, outputs))], 1)
    bias = np.concatenate([dense["bias"], scale * rng.normal(size=outputs)])
    encoder = {"Dense_0": jax.tree.map(jnp.float32, {"kernel": kernel, "bias": bias})}
    return state.replace(params={**state.params, "encoder": encoder})


@pytest.mark.parametrize("posterior", FLOWS, ids=["planar", "radial"])
def test_bounds_of_a_moved_posterior_meet_log_p(posterior):
    """The mean of p(x, z) / q(z | x) is p(x) for any flow whose log-determinant is right; the ELBO lies below."""
    model = replace(LINEAR, posterior=posterior, importance_samples=3000)
    state, batch = flow_state(posterior, 0.4), {"x": jnp.float32(X[:60])}
    values = core.evaluate(model, state, core.sample_keys(0, 60), batch)
    nelbo, iwae, kl = (np.asarray(values[name], np.float64) for name in ("nelbo", "iwae", "kl"))
    np.testing.assert_allclose(-iwae, LOG_P[:60], atol=0.3)
    assert abs((iwae + LOG_P[:60]).mean()) < 0.02
    assert np.mean(nelbo + LOG_P[:60]) > 0.05 and np.all(kl > 0)
    loss = jax.jit(model.loss)
    draws = [loss(state.params, state, core.sample_keys(i, 60), batch) for i in range(40)]
    np.testing.assert_allclose(np.mean([float(value) for value, _ in draws]), nelbo.mean(), rtol=0.02)
    np.testing.assert_allclose(np.mean([float(m["kl"]) for _, m in draws]), kl.mean(), rtol=0.05)


def test_a_flow_that_moves_nothing_is_the_gaussian():
    """Its KL is estimated, where the Gaussian's is in closed form."""
    model = replace(LINEAR, posterior=Radial(3), importance_samples=500)
    state = flow_state(model.posterior, 0.0)
    keys, batch = core.sample_keys(0, 60), {"x": jnp.float32(X[:60])}
    moved = core.evaluate(model, state, keys, batch)
    plain = core.evaluate(replace(LINEAR, importance_samples=500), linear_state(0.3), keys, batch)
    np.testing.assert_allclose(moved["iwae"], plain["iwae"], atol=1e-4)
    np.testing.assert_allclose(moved["nelbo"], plain["nelbo"], atol=0.3)
    assert abs(np.mean(moved["nelbo"] - plain["nelbo"])) < 0.02


def test_free_bits_and_flows_are_refused():
    with pytest.raises(UserError, match=r"leave model\.free_bits at 0"):
        replace(SMALL, posterior=Planar(2), free_bits=0.1).check(BATCH)


# --- the loss, term by term ---

SMALL = VAE(shape=(3, 2, 1), latent=3, encoder=MLP(hidden=(8,)), decoder=MLP(hidden=(8,)), importance_samples=2)
BATCH = {"x": jnp.float32(RNG.random((6, 3, 2, 1)) > 0.5), "cond": jnp.arange(6) % 4}


@pytest.fixture(scope="module")
def state():
    return core.init(SMALL, jax.random.key(0), BATCH)


def terms(model, state, step=0):
    state = state.replace(step=jnp.asarray(step))
    loss, metrics = jax.jit(model.loss)(state.params, state, core.sample_keys(1, len(BATCH["x"])), BATCH)
    return float(loss), {name: float(value) for name, value in metrics.items()}


def test_the_kl_scales_with_beta(state):
    without, metrics = terms(replace(SMALL, beta=0.0), state)
    np.testing.assert_allclose(without, metrics["reconstruction"], rtol=1e-6)
    assert metrics["kl"] > 0.01
    for beta in (1.0, 4.0):
        loss, same = terms(replace(SMALL, beta=beta), state)
        np.testing.assert_allclose(loss - without, beta * metrics["kl"], rtol=1e-4)
        # What is reported is the bound, whatever beta trains.
        np.testing.assert_allclose(same["nelbo"], without + metrics["kl"], rtol=1e-6)


@pytest.mark.parametrize(("step", "share"), [(0, 0.1), (4, 0.5), (9, 1.0), (1000, 1.0)])
def test_kl_warmup_grows_linearly(state, step, share):
    """The first step has a tenth of beta, the tenth has all of it."""
    model = replace(SMALL, kl_warmup=10, beta=2.0)
    loss, metrics = terms(model, state, step)
    np.testing.assert_allclose(loss - metrics["reconstruction"], 2 * share * metrics["kl"], rtol=1e-4)


def test_free_bits_are_a_floor_of_each_dimension(state):
    mu, logvar = SMALL.encode(state.params, BATCH["x"])
    each = np.mean(0.5 * (np.square(mu) + np.exp(logvar) - 1 - logvar), axis=0)
    floor = float(np.median(each))
    loss, metrics = terms(replace(SMALL, free_bits=floor), state)
    np.testing.assert_allclose(loss - metrics["reconstruction"], np.maximum(each, floor).sum(), rtol=1e-4)
    np.testing.assert_allclose(metrics["kl"], each.sum(), rtol=1e-4)


def test_encoder_variance_is_bounded(state):
    """Regression: an unclamped log variance overflowed exp."""
    wild = jax.tree.map(lambda p: p * 1e4, state.params)
    _, logvar = SMALL.encode(wild, BATCH["x"])
    assert np.abs(logvar).max() <= 10
    assert np.abs(logvar).max() > 9
    keys = core.sample_keys(0, len(BATCH["x"]))
    loss, gradient = jax.value_and_grad(lambda p: SMALL.loss(p, state, keys, BATCH)[0])(wild)
    assert np.isfinite(loss) and all(np.all(np.isfinite(g)) for g in jax.tree.leaves(gradient))


# --- conditions and shapes ---


def test_the_condition_changes_the_sample_with_the_latent_fixed():
    model = replace(SMALL, num_classes=4)
    state = core.init(model, jax.random.key(0), BATCH)

    def sample(cond):
        return np.asarray(core.sample(model, state, jnp.broadcast_to(jax.random.key(5), 4), cond))

    x = sample(jnp.arange(4))
    assert min(np.abs(x[i] - x[j]).max() for i in range(4) for j in range(i)) > 1e-3
    same = sample(jnp.full(4, 2))
    np.testing.assert_allclose(same, np.broadcast_to(x[2], same.shape), atol=1e-6)
    assert model.sample_cond(8, BATCH).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


@pytest.mark.parametrize(
    ("model", "batch", "message"),
    [
        (SMALL, {"x": jnp.zeros((2, 28, 28, 1))}, r"shape \(28, 28, 1\).*pass --model.shape 28 28 1"),
        (replace(SMALL, num_classes=4), {"x": BATCH["x"]}, "no labels"),
        (replace(SMALL, num_classes=3), BATCH, "label 3 is out of range: labels go from 0 to 2"),
        (replace(SMALL, num_classes=3), {**BATCH, "cond": jnp.full(6, -1)}, "label -1 is out of range"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(model, batch, message):
    with pytest.raises(UserError, match=message) as error:
        model.check(batch)
    assert "\n" not in str(error.value)


def test_init_checks_and_sample_wants_typed_keys(state):
    with pytest.raises(UserError, match=r"model\.shape"):
        core.init(SMALL, jax.random.key(0), {"x": jnp.zeros((2, 28, 28, 1))})
    with pytest.raises(UserError, match="sample_keys"):
        core.sample(SMALL, state, jax.random.key(0))
    with pytest.raises(UserError, match="sample_keys"):
        core.sample(SMALL, state, jax.random.PRNGKey(0))


def test_a_conditional_model_wants_a_class_it_knows():
    model = VAE(shape=(4, 4, 1), latent=2, num_classes=3, encoder=MLP(hidden=(8,)), decoder=MLP(hidden=(8,)))
    batch = {"x": jnp.zeros((3, 4, 4, 1)), "cond": jnp.arange(3)}
    with pytest.raises(UserError, match="label 3 is out of range"):
        core.init(model, jax.random.key(0), {**batch, "cond": jnp.arange(1, 4)})
    started = core.init(model, jax.random.key(0), batch)
    with pytest.raises(UserError, match="no condition"):
        core.sample(model, started, core.sample_keys(0, 2))
    with pytest.raises(UserError, match="label -1 is out of range"):
        core.sample(model, started, core.sample_keys(0, 2), jnp.array([0, -1]))


CONV = {"encoder": ConvEncoder(channels=(4, 8)), "decoder": ConvDecoder(channels=(8, 4))}


@pytest.mark.parametrize(
    "model",
    [
        VAE(shape=(7,), latent=2, likelihood=Gaussian()),
        VAE(shape=(5, 3, 2), latent=2, likelihood=DiscretizedLogistic(), num_classes=4),
        VAE(shape=(17, 23, 3), latent=2, likelihood=Gaussian(), num_classes=4, **CONV),
        VAE(shape=(17, 23, 1), latent=2, likelihood=Bernoulli(), **CONV),
    ],
    ids=lambda model: "x".join(map(str, model.shape)) + type(model.likelihood).__name__,
)
def test_any_shape_of_data(model):
    """Regression: 784 was hard-coded. Odd sizes too, which a convolutional network does not halve evenly."""
    model = replace(model, importance_samples=2)
    batch = {"x": jnp.zeros((6, *model.shape)), "cond": jnp.arange(6) % 4}
    state = core.init(model, jax.random.key(0), batch)
    cond = model.sample_cond(3, batch)
    keys = core.sample_keys(0, 3)
    assert jax.eval_shape(model.sample, state, keys, cond).shape == (3, *model.shape)
    values = core.evaluate(model, state, core.sample_keys(1, 6), batch)
    assert all(v.shape == (6,) and np.all(np.isfinite(v)) for v in values.values())
    assert ("iwae_bits_per_dim" in values) == model.likelihood.discrete
    shown = jax.eval_shape(model.pictures, state, keys, batch)
    assert {name: p.shape[:2] for name, p in shown.items()} == {
        "reconstruction.png": (2, 6), "traversal.png": (2, 11), "interpolation.png": (3, 11)
    }  # fmt: skip
    assert all(p.shape[2:] == model.shape for p in shown.values())


def test_pictures_start_and_end_where_they_say(state):
    """An interpolation runs from one reconstruction to another."""
    shown = core.pictures(SMALL, state, core.sample_keys(0, 3), BATCH)
    rebuilt = shown["reconstruction.png"][1]
    np.testing.assert_array_equal(shown["reconstruction.png"][0], BATCH["x"])
    np.testing.assert_allclose(shown["interpolation.png"][:, 0], rebuilt[:3], atol=1e-5)
    np.testing.assert_allclose(shown["interpolation.png"][:, -1], rebuilt[3:], atol=1e-5)


def test_bits_per_dim_of_a_fair_coin():
    """Logits are 0 for any z: one bit per pixel."""
    state = core.init(SMALL, jax.random.key(0), BATCH)
    zero = jax.tree.map(jnp.zeros_like, state.params)  # q = N(0, 1) = p(z | x) as well
    values = core.evaluate(SMALL, state.replace(params=zero), core.sample_keys(1, 6), BATCH)
    np.testing.assert_allclose(values["iwae_bits_per_dim"], 1, rtol=1e-5)
    np.testing.assert_allclose(values["nelbo"], 6 * np.log(2), rtol=1e-5)
