"""StyleGAN and StyleGAN2: layers, and what training and sampling do with styles."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxgen import core
from jaxgen.core import sample_keys
from jaxgen.errors import UserError
from jaxgen.models.projector import Projector, structure
from jaxgen.models.stylegan import StyleGAN, Truncated
from jaxgen.nets.stylegan import AdaIN, StyleGANGenerator, doublings, widths
from jaxgen.nets.stylegan2 import StyleGAN2Critic, StyleGAN2Generator, minibatch_deviation
from jaxgen.ops.augment import Augment
from jaxgen.optim import Adam
from jaxgen.runs.checkpoint import Checkpoints

MODEL = StyleGAN(
    shape=(8, 8, 2), latent=6, generator=StyleGAN2Generator(style=6, depth=2, channel_base=64, channel_max=8),
    critic=StyleGAN2Critic(channel_base=64, channel_max=8), penalty_every=3, path_every=2, ema_decay=0.9,
    augment_target=0.6, augment_images=1000, augment_p=0.2,
)  # fmt: skip
FIRST = replace(MODEL, generator=StyleGANGenerator(style=6, depth=2, channel_base=64, channel_max=8))
# Of one size, without what takes long to compile, for what does not hang on it.
SMALL = replace(
    MODEL, shape=(4, 4, 2), path_length=0.0, r1=0.0, augment_p=0.0, augment_target=0.0, ema_decay=0.0,
)  # fmt: skip
FULL = replace(MODEL, shape=(4, 4, 2))
BOTH = pytest.mark.parametrize("model", [MODEL, FIRST], ids=["StyleGAN2", "StyleGAN"])


def normal(*shape, seed=0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


def batch_of(model, num=8):
    batch = {"x": jnp.tanh(normal(num, *model.shape))}
    return batch | ({"cond": jnp.arange(num) % model.num_classes} if model.num_classes else {})


def started(model, num=8):
    return core.init(model, jax.random.key(0), batch_of(model, num))


@partial(jax.jit, static_argnums=0)
def train_step(model, state, key, batch):
    return model.train_step(state, key, batch)


def trained(model, state, steps, num=8):
    history = []
    for i in range(steps):
        state, metrics = train_step(model, state, jax.random.key(100 + i), batch_of(model, num))
        history.append(jax.tree.map(float, metrics))
    return state, history


def silent(state):
    """The same with noise strengths of zero, and no average."""

    def still(path, p):
        return 0 * p if "'noise'" in jax.tree_util.keystr(path) else p

    return state.replace(params=jax.tree_util.tree_map_with_path(still, state.params), ema=None)


@pytest.fixture(scope="module")
def states():
    """A state for each model, with visible noise, averages unlike the parameters, and a mean of w."""

    def state(model):
        start = started(model)
        params = jax.tree.map(lambda p: p + 0.1 * normal(*p.shape), start.params)
        extra = {**start.extra, "gen": jax.tree.map(lambda mean: normal(*mean.shape), start.extra["gen"])}
        return start.replace(params=params, extra=extra)

    return {model: state(model) for model in (MODEL, FIRST)}


# --- layers ---


def test_adain_gives_each_map_the_styles_mean_and_deviation():
    x, w = normal(3, 8, 8, 4), normal(3, 5, seed=1)
    layer = AdaIN()
    params = layer.init(jax.random.key(0), x, w, None)["params"]
    y = layer.apply({"params": params}, x, w, None)
    dense = params["EqualDense_0"]
    scale, shift = np.split(np.asarray(w @ dense["kernel"] / 5**0.5 + dense["bias"][None]), 2, axis=-1)
    np.testing.assert_allclose(jnp.mean(y, axis=(1, 2)), shift, atol=1e-5)
    np.testing.assert_allclose(jnp.std(y, axis=(1, 2)), np.abs(1 + scale), rtol=1e-4)


def test_minibatch_deviation_is_of_neighbours():
    x = normal(6, 2, 3, 4)
    y = minibatch_deviation(x, 4)  # 4 does not divide 6: groups of 3
    np.testing.assert_array_equal(y[..., :4], x)
    for start in (0, 3):
        expected = np.sqrt(np.var(np.asarray(x[start : start + 3]), axis=0) + 1e-8).mean()
        np.testing.assert_allclose(y[start : start + 3, ..., 4], expected, rtol=1e-5)


def test_sizes_and_widths():
    assert [doublings((n, n, 3)) for n in (4, 8, 28, 32, 64, 256, 1024)] == [0, 1, 2, 3, 4, 6, 8]
    assert doublings((48, 64, 3)) == 3
    assert widths(32_768, 512, 8) == [512, 512, 512, 512, 512, 256, 128, 64, 32]
    for model in (MODEL, FIRST):
        assert model.generator.layers((1024, 1024, 3)) == 18
    assert MODEL.generator.noise_sizes((16, 24, 3)) == [(4, 6), (8, 12), (8, 12), (16, 24), (16, 24)]
    with pytest.raises(UserError, match="100 x 100 image cannot be halved to 4 to 7 pixels a side, only to 25 x 25"):
        doublings((100, 100, 3))
    with pytest.raises(UserError, match="9 x 9"):
        started(replace(MODEL, shape=(9, 9, 2)))


@pytest.mark.slow
def test_the_rate_is_equalized():
    """Parameters start at deviation 1 and images keep theirs from layer to layer."""
    model = replace(MODEL, shape=(16, 16, 3), generator=StyleGAN2Generator(32, 8, 512, 32), latent=32)
    state = core.init(model, jax.random.key(0), {"x": jnp.zeros((4, 16, 16, 3))})
    large = [(path, p) for path, p in jax.tree_util.tree_leaves_with_path(state.params) if p.size > 500]
    for path, kernel in large:
        expected = 100 if "mapping" in jax.tree_util.keystr(path) else 1
        assert float(jnp.std(kernel)) == pytest.approx(expected, rel=0.1)
    w = model.style_of(state, normal(200, 32))
    assert 0.5 < float(jnp.std(w)) < 2
    assert 0.5 < float(jnp.std(model.sample(state, sample_keys(0, 8)))) < 4


# --- styles ---


@BOTH
def test_styles_cross_over_at_one_layer(model, states):
    """From that layer on, styles are another latent's. Any layer but the first may be it; without mixing none is."""
    always = replace(model, mixing=1.0, shape=(32, 32, 2))
    state, z = states[model], normal(200, 6)
    params, stats = state.params["gen"], state.extra["gen"]
    ws, _ = always._mixed(params, stats, z, None, sample_keys(3, len(z)))
    w = always._styles(params, stats, z, None)[0]
    own = np.all(np.asarray(ws == w[:, None]), axis=2)
    assert ws.shape == (200, 8, 6)
    start = own.sum(axis=1)
    np.testing.assert_array_equal(own, np.arange(8)[None] < start[:, None])
    assert set(start) == set(range(1, 8))
    assert np.all(np.asarray(ws[:, -1:] == ws) | own[..., None])  # one other latent, to the end
    never, _ = replace(always, mixing=0.0)._mixed(params, stats, z, None, sample_keys(3, len(z)))
    np.testing.assert_array_equal(never, jnp.repeat(w[:, None], 8, axis=1))
    some, _ = replace(always, mixing=0.5)._mixed(params, stats, z, None, sample_keys(3, len(z)))
    assert 0.35 < np.mean(np.all(np.asarray(some == w[:, None]), axis=(1, 2))) < 0.65


@BOTH
def test_no_truncation_and_all(model, states):
    """psi 1 leaves w unchanged; psi 0 gives every key the image of the mean of w; in between, only the given layers."""
    state = states[model]
    quiet = replace(model, sampler=Truncated(psi=0.0, noise=False))
    x = quiet.sample(state, sample_keys(0, 3))
    ws = jnp.broadcast_to(model.mean_style(state)[None, None], (1, 4, 6))
    np.testing.assert_allclose(x, jnp.repeat(model.synthesize(state.ema["gen"], ws), 3, axis=0), atol=1e-4)
    assert float(jnp.max(jnp.abs(model.mean_style(state)))) > 0
    w = normal(3, 6)
    np.testing.assert_array_equal(model.truncated(state, w, 1.0), jnp.repeat(w[:, None], 4, axis=1))
    half = model.truncated(state, w, 0.5, 1)
    np.testing.assert_allclose(half[:, 0], (w + model.mean_style(state)[None]) / 2, atol=1e-6)
    np.testing.assert_array_equal(half[:, 1:], jnp.repeat(w[:, None], 3, axis=1))


@BOTH
def test_without_noise_the_image_follows_from_z(model, states):
    """Bitwise, for any noise strengths. With noise, two draws give two images of one style."""
    state = states[model].replace(ema=None)
    quiet = replace(model, sampler=Truncated(noise=False))
    x = quiet.sample(state, sample_keys(0, 3))
    np.testing.assert_array_equal(quiet.sample(state, sample_keys(0, 3)), x)
    np.testing.assert_array_equal(quiet.sample(silent(state), sample_keys(0, 3)), x)
    noisy = model.sample(state, sample_keys(0, 3))
    assert not np.allclose(noisy, x, atol=1e-3)
    np.testing.assert_array_equal(model.sample(state, sample_keys(0, 3)), noisy)
    ws = jnp.repeat(normal(1, 1, 6), 4, axis=1)
    two = [model.synthesize(state.params["gen"], ws, model._noise(sample_keys(seed, 1))) for seed in (0, 1)]
    assert not np.allclose(*two, atol=1e-3)


@BOTH
def test_the_way_between_two_samples_ends_at_them(model, states):
    state, (first, second) = states[model], (sample_keys(0, 2), sample_keys(1, 2))
    quiet = replace(model, sampler=Truncated(noise=False, psi=0.8))
    for weight, keys in ((0.0, sample_keys(0, 2)), (1.0, sample_keys(1, 2))):
        x = quiet.interpolate(state, first, second, jnp.full(2, weight))
        np.testing.assert_allclose(x, quiet.sample(state, keys), atol=1e-5)


def test_classes_change_the_sample():
    model = replace(SMALL, num_classes=3)
    state, history = trained(model, started(model), 2)
    assert all(np.isfinite(v) for metrics in history for v in metrics.values())
    samples = [model.sample(state, sample_keys(0, 2), jnp.full(2, c)) for c in (0, 0, 1)]
    np.testing.assert_array_equal(samples[0], samples[1])
    assert not np.allclose(samples[0], samples[2], atol=1e-3)
    logits = [model.critic.apply({"params": state.params["critic"]}, samples[0], jnp.eye(3)[c : c + 1]) for c in (0, 1)]
    assert not np.allclose(*logits, atol=1e-6)


# --- what training keeps ---


def test_running_values_move_and_survive_a_restart(tmp_path):
    """w_avg by the batch's mean, the path length's by its decay, p and its counts: bitwise the same after a restart."""
    state, history = trained(FULL, started(FULL), 5)
    extra = state.extra
    assert float(jnp.abs(FULL.mean_style(state)).min()) > 0
    assert 0 < float(extra["path"]["mean"]) == pytest.approx(history[-1]["path_length"])
    assert float(extra["critic"]["augment"]["p"]) != pytest.approx(0.2)
    assert int(extra["critic"]["augment"]["passes"]) == 1
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        checkpoints.save(state)
        checkpoints.wait()
        restored = checkpoints.restore(core.abstract_state(FULL, batch_of(FULL)))
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    jax.tree.map(np.testing.assert_array_equal, restored.extra, jax.device_get(state.extra))
    jax.tree.map(np.testing.assert_array_equal, trained(FULL, restored, 2), trained(FULL, state, 2))


def test_the_mean_of_w_is_a_running_mean():
    generator = replace(MODEL.generator, w_decay=0.75)
    variables = generator.init(jax.random.key(0), jnp.ones((1, 6)), MODEL.shape)
    z, mean = normal(16, 6), jnp.zeros(6)
    for _ in range(3):
        w, new = generator.apply(variables, z, None, True, mutable=["batch_stats"], method="styles")
        variables = {**variables, **new}
        mean = 0.75 * mean + 0.25 * jnp.mean(w, axis=0)
    np.testing.assert_allclose(variables["batch_stats"]["running"]["w_avg"], mean, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("sign", [1, -1])
def test_the_augmentation_follows_real_logits(sign):
    """The critic is always sure: p rises by 8 * 4 / 1000 every fourth step, or falls to zero and no further."""
    model = replace(
        SMALL, augment_p=0.05, augment_target=0.6, critic_optimizer=Adam(lr=1e-12), augment=Augment(geometry=False)
    )
    state = started(model)
    critic = state.params["critic"]
    critic["EqualDense_1"]["bias"] = critic["EqualDense_1"]["bias"] + sign * 1e4
    _, history = trained(model, state, 13)
    p = [metrics["augment_p"] for metrics in history]
    expected = [max(0.0, 0.05 + sign * 0.032 * (step // 4)) for step in range(13)]
    np.testing.assert_allclose(p, expected, atol=1e-6)
    assert {metrics["real_sign"] for metrics in history} == {float(sign)}


@pytest.mark.slow
def test_a_fixed_probability_stays():
    model = replace(SMALL, augment_p=0.3, augment=Augment(geometry=False))
    _, history = trained(model, started(model), 5)
    assert {round(metrics["augment_p"], 6) for metrics in history} == {0.3}
    assert "augment" not in started(SMALL).extra["critic"]


class Linear(nn.Module):
    """A generator x = sum over layers of ws A, whose Jacobian is A; styles are latents."""

    def setup(self):
        self.matrix = self.param("matrix", nn.initializers.normal(), (3, 2, 12))

    @nn.nowrap
    def layers(self, shape):
        return 3

    @nn.nowrap
    def noise_sizes(self, shape):
        return [(2, 2)]

    def styles(self, z, y=None, train=False):
        return z

    def synthesize(self, ws, shape, noise=None):
        return jnp.einsum("bls,lsp->bp", ws, self.matrix).reshape(-1, *shape)

    def __call__(self, z, shape, y=None, train=False):
        return self.synthesize(jnp.repeat(z[:, None], 3, axis=1), shape)


def test_path_lengths_of_a_linear_generator():
    """E |A^T y|^2 = |A|^2 / pixels, the mean over layers; the penalty's gradient is taken every `path_every` steps."""
    model = replace(MODEL, shape=(2, 2, 3), latent=2, generator=Linear(), critic=StyleGAN2Critic(64, 8))
    params = {"matrix": normal(3, 2, 12)}
    state = core.TrainState(
        step=jnp.zeros((), jnp.int32), params={"gen": params}, opt_state={},
        extra={"gen": {"batch_stats": {}}},
    )  # fmt: skip
    lengths = model.path_lengths(params, state, sample_keys(0, 20_000), None)
    expected = float(jnp.mean(jnp.sum(params["matrix"] ** 2, axis=(1, 2)))) / 4
    assert float(jnp.mean(lengths**2)) == pytest.approx(expected, rel=0.03)


@pytest.mark.slow
def test_penalties_are_lazy():
    """Path lengths at every second step, R1 at every third; the mean length follows by its decay."""
    _, history = trained(FULL, started(FULL), 6)
    assert [m["path_penalty"] > 0 for m in history] == [True, False] * 3
    assert [m["penalty"] > 0 for m in history] == [True, False, False] * 2
    lengths = [m["path_length"] for m in history]
    assert lengths[0] == lengths[1] and lengths[2] == lengths[3] != lengths[1]
    assert "path" not in started(SMALL).extra


# --- the projector ---


@BOTH
def test_an_image_of_the_generator_is_found_again(model, states):
    """It is much nearer than the mean image; examples of a batch are independent."""
    quick, state = replace(model, projector=Projector(steps=120)), silent(states[model])
    x = model.synthesize(state.params["gen"], model._repeated(model.style_of(state, normal(2, 6, seed=3))))
    found = jax.jit(quick.project)(state, sample_keys(0, 2), x)
    assert found.distance.shape == (120, 2)
    assert np.all(found.distance[-1] < 0.35 * found.distance[0])
    for level in found.noise:
        np.testing.assert_allclose(jnp.mean(level, axis=(1, 2, 3)), 0, atol=1e-5)
        np.testing.assert_allclose(jnp.std(level, axis=(1, 2, 3)), 1, rtol=1e-3)
    alone = jax.jit(quick.project)(state, sample_keys(0, 1), x[:1])
    np.testing.assert_allclose(alone.distance[:20], found.distance[:20, :1], rtol=1e-2)


def test_variations_lead_from_the_projection_to_samples(states):
    model, state = replace(MODEL, projector=Projector(steps=30)), states[MODEL]
    x = batch_of(model, 2)["x"]
    vary = jax.jit(model.vary, static_argnums=3)
    found = jax.jit(model.project)(state, core.fold_each(sample_keys(0, 2), 2), x)
    back = model.synthesize(state.ema["gen"], model._repeated(found.w), found.noise)
    np.testing.assert_allclose(vary(state, sample_keys(0, 2), x, 0.0), back, atol=1e-4)
    far = vary(state, sample_keys(0, 2), x, 1.0)
    own = model._repeated(model.style_of(state, model._latents(sample_keys(0, 2))))
    np.testing.assert_allclose(far, model.synthesize(state.ema["gen"], own, found.noise), atol=1e-4)


def test_structure_is_none_of_white_noise_and_much_of_smooth():
    white, smooth = normal(2, 32, 32, 1), jnp.tile(jnp.linspace(-1.7, 1.7, 32)[None, :, None, None], (2, 1, 32, 1))
    assert np.all(structure((white,)) < 0.2)
    assert np.all(structure((smooth,)) > 1)
