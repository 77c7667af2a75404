"""Diffusion models: the network's inputs, losses, guidance, sampling and editing."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_form import Mixture
from flax import linen as nn
from tiny_diffusion import BATCH, IMAGES, LABELS, MODEL, Tiny, state_of

from jaxgen import core
from jaxgen.core.configuration import check_fields
from jaxgen.errors import UserError
from jaxgen.models.edm import EDM
from jaxgen.models.flow_matching import FlowMatching
from jaxgen.models.score_matching import ScoreMatching
from jaxgen.models.super_resolution import SuperResolution
from jaxgen.nets.time_mlp import TimeMLP
from jaxgen.nets.unet import time_embedding
from jaxgen.ops.diffusion import Denoised, q_sample, variational_bound
from jaxgen.ops.samplers import DDIM, Ancestral, Heun, Start
from jaxgen.ops.schedules import Cosine, Geometric, Linear
from jaxgen.optim import Adam

# --- regressions of the network's arguments ---


@pytest.fixture(scope="module")
def images():
    """(params, output, one image repeated four times)."""
    params = state_of(IMAGES, {"x": jnp.zeros((4, 4, 4, 1)), "cond": jnp.zeros(4, int)}).params
    x = jnp.float32(np.tile(np.random.default_rng(1).normal(size=(1, 4, 4, 1)), (4, 1, 1, 1)))
    return params, jax.jit(IMAGES.answer), x


def test_the_network_uses_time(images):
    """Regression: the network ignored its argument t."""
    params, answer, x = images
    eps = np.asarray(answer(params, x, jnp.array([0, 1, 50, 99]), {"y": jnp.zeros((4, 3))}))
    for i in range(3):
        assert np.abs(eps[i] - eps[i + 1]).max() > 1e-3
    same = np.asarray(answer(params, x, jnp.full(4, 50), {"y": jnp.zeros((4, 3))}))
    np.testing.assert_allclose(same, np.broadcast_to(eps[2], same.shape), atol=1e-5)


def test_the_network_uses_the_label(images):
    params, answer, x = images
    eps = np.asarray(answer(params, x, jnp.full(4, 50), IMAGES.inputs(params, jnp.array([0, 1, 2, 2]))))
    assert min(np.abs(eps[i] - eps[j]).max() for i, j in [(0, 1), (0, 2), (1, 2)]) > 1e-3
    np.testing.assert_allclose(eps[2], eps[3], atol=1e-5)


def test_time_embedding_tells_all_times_apart():
    e = np.asarray(time_embedding(jnp.arange(1000), 32), np.float64)
    t = np.arange(1000)[:, None] * 10_000.0 ** (-np.arange(16) / 16)
    np.testing.assert_allclose(e, np.concatenate([np.cos(t), np.sin(t)], 1), atol=1e-3)
    # Rows have norm 4, so two are equal where their product is 16.
    assert (e @ e.T - 16 * np.eye(1000)).max() < 16 - 0.005


# --- losses ---


def test_loss_is_one_for_a_network_that_says_nothing():
    """The last layer starts at zero, so the first loss is E eps^2 = 1, at any time and for any data."""
    batch = {"x": jnp.zeros((512, 4, 4, 1)) + 0.5, "cond": jnp.zeros(512, jnp.int32)}

    @jax.jit
    def first(key, batch):
        state = IMAGES.init(key, batch)
        return IMAGES.loss(state.params, state, core.fold_each(jax.random.fold_in(key, 1), jnp.arange(512)), batch)[0]

    assert abs(float(first(jax.random.key(0), batch)) - 1) < 5 * np.sqrt(2 / (512 * 16))


@pytest.mark.parametrize("kind", ["eps", "x0", "v"])
def test_min_snr_weights_are_the_papers(kind):
    """Section 3.4 of arXiv:2303.09556, for each quantity that the network may predict."""
    model = replace(MODEL, kind=kind, min_snr=5.0)
    t = np.array([0, 10, 40, 99])
    snr = np.exp(model.schedule.logsnr(t))
    expected = {"eps": np.minimum(snr, 5) / snr, "x0": np.minimum(snr, 5), "v": np.minimum(snr, 5) / (snr + 1)}[kind]
    got = model.weight(*model.schedule.at(jnp.asarray(t), 3))
    np.testing.assert_allclose(got[:, 0, 0], expected, rtol=1e-3)
    np.testing.assert_array_equal(replace(model, min_snr=0.0).weight(*model.schedule.at(jnp.asarray(t), 3)), 1)


def test_a_v_model_answers_v():
    model = replace(MODEL, kind="v")
    x0, eps = jax.random.normal(jax.random.key(0), (2, 5, 4, 2))
    t = jnp.array([0, 20, 50, 80, 99])
    alpha, sigma = model.schedule.at(t, 3)
    v = model.target(x0, eps, alpha, sigma)
    np.testing.assert_allclose(v, alpha * eps - sigma * x0, atol=1e-6)
    np.testing.assert_allclose(model.x0_of(v, q_sample(model.schedule, x0, t, eps), alpha, sigma), x0, atol=1e-5)


def test_edms_loss_is_the_weighted_error_of_its_denoiser():
    """F's squared error is lambda |D - x_0|^2, lambda = (sigma^2 + s^2) / (sigma s)^2, and starts at about 1."""
    model = EDM(network=Tiny(), shape=(4, 2), sigma_data=0.7, ema_decay=0.0)
    params = state_of(model).params
    x0, eps = 0.7 * jax.random.normal(jax.random.key(0), (2, 5, 4, 2))
    sigma = jnp.array([0.01, 0.1, 0.7, 3.0, 60.0])
    x = x0 + sigma[:, None, None] * eps
    denoised = model.denoiser(params)(x, sigma).x0
    weight = (sigma**2 + 0.49) / (0.7 * sigma) ** 2
    expected = weight * jnp.mean((denoised - x0) ** 2, axis=(1, 2))
    np.testing.assert_allclose(model.errors(params, x0, sigma, eps, {}, None), expected, rtol=2e-3)
    # What the network sees and is asked for has the variance of a standard normal, at any level.
    many0, many = jax.random.normal(jax.random.key(1), (2, 20_000, 1))
    for level in (0.05, 1.0, 20.0):
        at = jnp.ones((1, 1)), jnp.full((1, 1), level)
        seen = model.scale_in(*at) * (0.7 * many0 + level * many)
        np.testing.assert_allclose([seen.std(), model.target(0.7 * many0, many, *at).std()], 1, atol=0.03)


@pytest.mark.parametrize(
    "model",
    [MODEL, EDM(shape=(4, 2)), FlowMatching(shape=(4, 2)), FlowMatching(shape=(4, 2), logit_std=1.0, logit_mean=-0.5),
     ScoreMatching(shape=(4, 2))],
    ids=["ddpm", "edm", "flow", "flow, logit-normal", "score"],
)  # fmt: skip
def test_numbers_are_measured_at_the_times_of_training(model):
    """`times_to_evaluate` are quantiles of the distribution of `draw_times`."""
    model = replace(model, evaluate_times=200)
    t, weight = model.draw_times(core.sample_keys(0, 20_000), None)
    np.testing.assert_array_equal(weight, 1)
    got = np.quantile(np.asarray(t, np.float64), [0.1, 0.3, 0.5, 0.7, 0.9])
    expected = np.quantile(model.times_to_evaluate(), [0.1, 0.3, 0.5, 0.7, 0.9])
    np.testing.assert_allclose(got, expected, rtol=0.06, atol=1.0 if t.dtype == jnp.int32 else 0.0)


LEARNED = replace(MODEL, objective="hybrid", class_dropout=0.0, num_classes=0)


def test_the_hybrid_losses_bound_teaches_the_variance_alone():
    """The gradient in the mean's half of the output is that of the simple loss; in the other half it is not zero."""
    batch = {"x": jnp.tanh(jax.random.normal(jax.random.key(3), (6, 4, 2)))}
    state = state_of(LEARNED, batch)
    eps, t = jax.random.normal(jax.random.key(4), (6, 4, 2)), jnp.array([0, 5, 30, 60, 80, 99])

    def grads(model):
        total = jax.jit(jax.grad(lambda p: jnp.sum(model.errors(p, batch["x"], t, eps, {}, None))))
        return total(state.params)["network"]["x"]["bias"]

    hybrid, plain = grads(LEARNED), grads(replace(LEARNED, vlb_weight=0.0))
    np.testing.assert_allclose(hybrid[:2], plain[:2], rtol=1e-5)
    assert np.all(np.abs(hybrid[2:]) > 1e-6)
    np.testing.assert_array_equal(plain[2:], 0)
    assert np.abs(grads(replace(LEARNED, objective="vlb"))[:2] - plain[:2]).max() > 1e-3


def test_the_vlb_loss_is_the_bound_on_average():
    """Over all times, with the same x_t, they equal the terms of `variational_bound`."""
    model = replace(LEARNED, objective="vlb", schedule=Cosine(10))
    x0 = jnp.round(jnp.tanh(jax.random.normal(jax.random.key(3), (3, 4, 2))) * 127.5 + 127.5) / 127.5 - 1
    params = state_of(model, {"x": x0}).params
    bound = jax.jit(lambda keys: variational_bound(model.denoiser(params), model.schedule, x0, keys)[1])
    term = jax.jit(lambda t, eps: model.errors(params, x0, t, eps, {}, None) / 10)
    terms, keys = bound(core.sample_keys(0, 3)), core.sample_keys(0, 3)
    for i in range(10):
        eps = core.normal_each(core.fold_each(keys, i), (4, 2))
        np.testing.assert_allclose(term(jnp.full(3, 9 - i), eps), terms[i], rtol=1e-3, err_msg=str(i))


def test_importance_sampling_keeps_the_expectation():
    """Equation 18: p_t is proportional to the root mean square of the history, and the weights correct for it."""
    model = replace(MODEL, importance=True, schedule=Linear(50))
    state = state_of(model)
    np.testing.assert_allclose(model.time_probabilities(state.extra), 1 / 50, rtol=1e-6)
    history = jnp.abs(jax.random.normal(jax.random.key(0), (50, 10))) + jnp.linspace(0.1, 3, 50)[:, None]
    state = state.replace(extra={"history": history, "seen": jnp.full(50, 10)})
    p = np.asarray(model.time_probabilities(state.extra), np.float64)
    rms = np.sqrt(np.mean(np.asarray(history, np.float64) ** 2, axis=1))
    np.testing.assert_allclose(p, 0.999 * rms / rms.sum() + 0.001 / 50, rtol=1e-4)
    t, weight = model.draw_times(core.sample_keys(1, 50_000), state)
    np.testing.assert_allclose(weight, 1 / (50 * p[np.asarray(t)]), rtol=1e-4)
    seen = np.bincount(np.asarray(t), minlength=50) / 50_000
    np.testing.assert_allclose(seen, p, atol=5 * np.sqrt(p.max() / 50_000))


def test_the_history_holds_the_last_ten_losses_of_each_time():
    model = replace(MODEL, importance=True, schedule=Cosine(12), num_classes=0, class_dropout=0.0)
    state = state_of(model)
    seen = {t: [] for t in range(12)}
    step = jax.jit(model.train_step)
    num = len(BATCH["x"])
    each = lambda key: core.fold_each(key, jnp.arange(num))  # noqa: E731
    look = jax.jit(lambda state, key: model.times_and_errors(state.params, state, each(key), BATCH))
    for i in range(40):
        key = jax.random.key(i)
        t, _, errors = look(state, jax.random.key(i))
        for time, error in zip(np.asarray(t), np.asarray(errors)):
            seen[int(time)].append(float(error))
        state, metrics = step(state, key, BATCH)
        assert all(value.shape == () for value in metrics.values())
    assert max(len(v) for v in seen.values()) > 10
    for t, losses in seen.items():
        kept = np.sort(np.asarray(state.extra["history"][t]))
        expected = np.sort(np.pad(losses[-10:], (0, max(0, 10 - len(losses)))))
        np.testing.assert_allclose(kept, expected, rtol=1e-4)
        assert state.extra["seen"][t] == len(losses)


def test_the_history_holds_the_last_ten_of_many_losses_of_one_time():
    """The step writes no place twice, of which one could not say which write stays."""
    model = replace(MODEL, importance=True, schedule=Cosine(2), num_classes=0, class_dropout=0.0)
    batch = {"x": jnp.asarray(np.random.default_rng(0).normal(size=(64, 2)), jnp.float32)}
    state, key = state_of(model, batch), jax.random.key(0)
    t, _, errors = model.times_and_errors(state.params, state, core.fold_each(key, jnp.arange(64)), batch)
    after, _ = jax.jit(model.train_step)(state, key, batch)
    for time in range(2):
        losses = np.asarray(errors)[np.asarray(t) == time]
        assert len(losses) > 20 and after.extra["seen"][time] == len(losses)
        np.testing.assert_allclose(np.sort(after.extra["history"][time]), np.sort(losses[-10:]), rtol=1e-4)


@pytest.mark.parametrize("kind", ["velocity", "v", "x0"])
def test_flow_matching_starts_from_noise_by_any_prediction_that_it_takes(kind):
    model = FlowMatching(kind=kind, network=TimeMLP(8, 1), shape=(2,), sampler=Heun(steps=4, clip=0.0))
    check_fields(model)
    drawn = jax.jit(model.sample)(state_of(model, {"x": jnp.zeros((4, 2))}), core.sample_keys(0, 64))
    assert np.all(np.isfinite(drawn))


def test_flow_matching_does_not_cut_points_off():
    """Of the exact prediction of standard normal data, E[x0 | x_t] = (1 - t) x_t / ((1 - t)^2 + t^2)."""
    model = FlowMatching(shape=(2,))

    def exact(x, t):
        alpha, sigma = model.schedule.at(t, x.ndim)
        return Denoised(alpha * x / (alpha**2 + sigma**2))

    x = np.asarray(model.sampler(exact, model.schedule, core.sample_keys(0, 4000), model.shape))
    assert abs(x.std() - 1) < 0.04 and np.abs(x).max() > 2.5


# --- what is made with a model ---


def test_interpolation_ends_in_both_samples():
    model, state = replace(MODEL, num_classes=0, class_dropout=0.0), state_of(replace(MODEL, num_classes=0))
    ends = [model.sample(state, core.sample_keys(seed, 3)) for seed in (0, 1)]
    for weight, end in zip((0.0, 1.0), ends):
        got = model.interpolate(state, core.sample_keys(0, 3), core.sample_keys(1, 3), jnp.full(3, weight))
        np.testing.assert_allclose(got, end, atol=1e-3)
    middle = model.interpolate(state, core.sample_keys(0, 3), core.sample_keys(1, 3), jnp.full(3, 0.5))
    assert all(np.abs(middle - end).max() > 0.01 for end in ends)


def test_images_come_back_from_their_noise():
    """Along the ODE and back, in a model of Gaussian data with the exact network."""

    class Exact(nn.Module):
        """The velocity of N(0, 0.5^2) data on straight lines."""

        @nn.compact
        def __call__(self, x, t, out, y=None, context=None, train=False):
            t = (t / 1000)[:, None]
            variance = (1 - t) ** 2 / 4 + t**2
            return x * (t - (1 - t) / 4) / variance

    model = FlowMatching(network=Exact(), shape=(4,), sampler=Heun(100, clip=0.0), ema_decay=0.0)
    state = core.TrainState(step=jnp.int32(0), params={"network": {}}, opt_state={})
    x = jax.random.normal(jax.random.key(0), (5, 4)) / 2
    noise, log_p, _ = jax.jit(model.to_noise)(state, core.sample_keys(0, 5), x)
    np.testing.assert_allclose(noise, 2 * x, atol=5e-3)
    expected = np.sum(-2 * np.asarray(x) ** 2 - 0.5 * np.log(2 * np.pi / 4), axis=1)
    np.testing.assert_allclose(log_p, expected, atol=0.02)
    back = model._sample(state, core.sample_keys(0, 5), None, Start(noise=noise))
    np.testing.assert_allclose(back, x, atol=5e-3)


def test_inpainting_and_variation_reach_the_sampler():
    model, state = replace(MODEL, sampler=Ancestral(5)), state_of(MODEL)
    image = jnp.tanh(jax.random.normal(jax.random.key(1), (3, 4, 2)))
    mask = (jnp.arange(4) < 2).reshape(1, 4, 1)
    got = model.inpaint(state, core.sample_keys(0, 3), image, mask, LABELS, resample=2)
    np.testing.assert_array_equal(got[:, :2], image[:, :2])
    assert np.abs(got[:, 2:] - image[:, 2:]).max() > 0.1
    varied = model.vary(state, core.sample_keys(0, 3), image, 0.2, LABELS)
    assert not np.allclose(varied, model.sample(state, core.sample_keys(0, 3), LABELS))


def test_super_resolution_sees_the_small_image():
    model = SuperResolution(network=Tiny(), shape=(4, 8, 1), factor=2, sampler=DDIM(3), ema_decay=0.0)
    batch = {"x": jnp.tanh(jax.random.normal(jax.random.key(1), (3, 4, 8, 1)))}
    model.check(batch)
    small = model.condition(batch)["image"]
    np.testing.assert_allclose(small[1, 0, 3, 0], batch["x"][1, :2, 6:, 0].mean(), rtol=1e-5)
    state = state_of(model, batch)
    one = core.sample(model, state, core.sample_keys(0, 3), {"image": small})
    other = core.sample(model, state, core.sample_keys(0, 3), {"image": -small})
    assert np.abs(one - other).max() > 1e-3
    # Raw pixels are taken too, and say the same.
    raw = jnp.round((small + 1) * 127.5).astype(jnp.uint8)
    rounded = core.sample(model, state, core.sample_keys(0, 3), {"image": raw.astype(jnp.float32) / 127.5 - 1})
    np.testing.assert_allclose(core.sample(model, state, core.sample_keys(0, 3), {"image": raw}), rounded, atol=1e-5)
    with pytest.raises(UserError, match=r"\(2, 4, 1\) is expected"):
        model.check_cond(None)
    with pytest.raises(UserError, match="do not shrink by 3"):
        replace(model, factor=3).check(batch)
    # Grids and scores ask for each small image as the class it is of.
    cond = replace(model, num_classes=4).sample_cond(5, {**batch, "cond": jnp.array([3, 0, 2])})
    np.testing.assert_allclose(cond["image"], small[jnp.array([0, 1, 2, 0, 1])])
    assert cond["label"].tolist() == [3, 0, 2, 3, 0]


def test_the_score_of_a_mixture_is_recovered():
    """By denoising score matching at ten noise levels: near the data, within a sixth of its magnitude."""
    data = Mixture()
    model = ScoreMatching(
        network=TimeMLP(width=64, depth=2), shape=(1,), schedule=Geometric(10, 0.1, 3.0), sigma_data=0.7,
        ema_decay=0.99, optimizer=Adam(lr=3e-3, decay_steps=1500),
    )  # fmt: skip
    rng = np.random.default_rng(0)
    k = rng.choice(2, size=(1500, 256, 1), p=data.weight)
    batches = {"x": jnp.float32(data.mean[k] + data.std[k] * rng.normal(size=k.shape))}
    state = core.init(model, jax.random.key(0), {"x": batches["x"][0]})
    state, _ = core.train_steps(model, state, jax.random.key(1), batches)
    score = jax.jit(lambda x, t: model.score(state.sampling_params, x, t))
    for t in (0, 4, 9):
        alpha, sigma = model.schedule.levels(t)
        x = data.quantile(np.linspace(0.05, 0.95, 50), alpha, sigma)
        exact = (data.x0(x, alpha, sigma) - x) / sigma**2
        got = np.asarray(score(jnp.float32(x)[:, None], jnp.full(50, t)))[:, 0]
        assert np.sqrt(np.mean((got - exact) ** 2)) < 0.16 * np.sqrt(np.mean(exact**2)), t


def test_samplers_export_with_a_symbolic_batch():
    """As `jax.export` needs it: the batch size stays symbolic, with guidance and without."""
    model, state = replace(MODEL, sampler=Heun(3)), state_of(MODEL)
    (b,) = jax.export.symbolic_shape("b")
    keys = jax.ShapeDtypeStruct((b, 2), jnp.uint32)
    cond = {"label": jax.ShapeDtypeStruct((b,), jnp.int32), "guidance": jax.ShapeDtypeStruct((b,), jnp.float32)}

    def program(data, cond):
        return model.sample(state, jax.random.wrap_key_data(data), cond)

    exported = jax.export.export(jax.jit(program))(keys, cond)
    given = {"label": LABELS, "guidance": jnp.full(3, 2.0)}
    got = exported.call(jax.random.key_data(core.sample_keys(0, 3)), given)
    np.testing.assert_allclose(got, core.sample(model, state, core.sample_keys(0, 3), given), atol=1e-5)
