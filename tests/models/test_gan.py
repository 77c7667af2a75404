"""GAN training and networks: which data each step sees, which statistics it updates, and layers against PyTorch's."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxgen import core
from jaxgen.core import sample_keys
from jaxgen.errors import UserError
from jaxgen.models.adversarial import PASSES
from jaxgen.models.gan import GAN
from jaxgen.nets.gan import Conv2D, DCGANCritic, DCGANGenerator, Head, MLPCritic, MLPGenerator, SpectralNorm
from jaxgen.nets.resnet_gan import ResNetCritic, ResNetGenerator
from jaxgen.ops.gan import Hinge, Wasserstein
from jaxgen.ops.power_ema import exponent
from jaxgen.optim import Adam, RMSprop
from jaxgen.runs.checkpoint import Checkpoints

POINTS = GAN(
    shape=(3,), latent=2, generator=MLPGenerator(hidden=(8, 8), squash=False), critic=MLPCritic(hidden=(8,)),
)  # fmt: skip
IMAGES = GAN(
    shape=(8, 8, 1), latent=4, generator=DCGANGenerator(channels=(8, 4)), critic=DCGANCritic(channels=(4, 8)),
    ema_decay=0.9,
)  # fmt: skip


def batch_of(model: GAN, num: int = 12) -> core.Batch:
    batch = {"x": jax.random.uniform(jax.random.key(5), (num, *model.shape), minval=-1.0)}
    return batch | ({"cond": jnp.arange(num) % model.num_classes} if model.num_classes else {})


def started(model: GAN, num: int = 12) -> core.TrainState:
    return core.init(model, jax.random.key(0), batch_of(model, num))


def trained(model: GAN, state: core.TrainState, steps: int, batch: core.Batch | None = None):
    """The state after `steps` calls of one step, and the metrics of each."""
    step = jax.jit(model.train_step)
    batch = batch_of(model) if batch is None else batch
    history = []
    for i in range(steps):
        state, metrics = step(state, jax.random.key(100 + i), batch)
        history.append(metrics)
    return state, history


class Diary(nn.Module):
    """A critic that records the sum of the rows of each pass, [passes, 12], in its batch statistics."""

    @nn.compact
    def __call__(self, x, y=None, train=False):
        notes = self.variable("batch_stats", "notes", jnp.zeros, (8, 12))
        count = self.variable("batch_stats", "count", jnp.zeros, (), jnp.int32)
        if self.is_mutable_collection("batch_stats") and not self.is_initializing():
            notes.value = notes.value.at[count.value].set(jnp.sum(x, axis=0))
            count.value = count.value + 1
        return nn.Dense(1)(x)[:, 0]


def test_each_critic_step_sees_other_data_and_each_example_once():
    """Example i is the i-th basis vector, so a sum tells which examples a pass saw: three steps of four each."""
    model = GAN(shape=(12,), latent=2, generator=MLPGenerator(hidden=(8,), squash=False), critic=Diary(), n_critic=3)
    batch = {"x": jnp.eye(12)}
    state, _ = trained(model, core.init(model, jax.random.key(0), batch), 1, batch)
    passes = {which: state.extra["critic"][which]["batch_stats"] for which in PASSES}
    assert {which: int(passes[which]["count"]) for which in PASSES} == {"real": 3, "fake": 3, "generator": 1}
    seen = np.asarray(passes["real"]["notes"])[:3]
    np.testing.assert_array_equal(seen.sum(axis=1), [4, 4, 4])
    np.testing.assert_array_equal(seen.sum(axis=0), np.ones(12))
    # A contiguous piece of the batch, as a device holds, gives to each step: nothing moves between devices.
    np.testing.assert_array_equal(seen.reshape(3, 4, 3).sum(axis=2), np.ones((3, 4)))
    fakes = np.asarray(passes["fake"]["notes"])[:3]
    assert len(np.unique(fakes.round(4), axis=0)) == 3, "each step draws fakes of its own"
    counts = {name: [int(c) for c in leaves(state.opt_state[name], "count")] for name in ("critic", "gen")}
    assert set(counts["critic"]) == {3} and set(counts["gen"]) == {1}


def leaves(tree, name: str) -> list:
    """The leaves whose path ends in `name`."""
    return [leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree) if name in jax.tree_util.keystr(path)]


def test_statistics_of_the_passes_are_separate():
    """Real examples are around 5, fakes around 0; the running averages of a pass come from its own batches."""
    batch = {"x": 5 + 0.1 * jax.random.normal(jax.random.key(1), (12, 8, 8, 1))}
    state, _ = trained(IMAGES, core.init(IMAGES, jax.random.key(0), batch), 1, batch)
    stats = {which: state.extra["critic"][which]["batch_stats"]["BatchNorm_0"]["mean"] for which in PASSES}
    start = core.init(IMAGES, jax.random.key(0), batch)
    layer = Conv2D(4, 4, 2, bias=True)
    kernels = start.params["critic"]
    h = nn.leaky_relu(layer.apply({"params": kernels["Conv2D_0"]}, batch["x"]), 0.2)
    h = Conv2D(8, 4, 2, bias=False).apply({"params": kernels["Conv2D_1"]}, h)
    # Running averages start from 0 and take a tenth of the new.
    np.testing.assert_allclose(stats["real"], 0.1 * jnp.mean(h, axis=(0, 1, 2)), rtol=1e-4, atol=1e-6)
    assert np.max(np.abs(stats["real"])) > 10 * np.max(np.abs(stats["fake"]))
    assert not np.array_equal(stats["fake"], stats["generator"])


def test_samples_use_running_averages():
    """So samples do not depend on each other, unlike in training. The averages have moved from their start."""
    state, _ = trained(IMAGES, started(IMAGES), 3)
    many = IMAGES.sample(state, sample_keys(0, 6))
    np.testing.assert_allclose(IMAGES.sample(state, sample_keys(0, 1)), many[:1], atol=1e-6)
    fresh = state.replace(extra=started(IMAGES).extra)
    assert not np.allclose(IMAGES.sample(fresh, sample_keys(0, 6)), many, rtol=0.05, atol=0)


def test_samples_come_from_the_averaged_generator():
    state, _ = trained(IMAGES, started(IMAGES), 4)
    assert set(state.ema) == {"gen"}
    x = IMAGES.sample(state, sample_keys(0, 3))
    swapped = state.replace(params={**state.params, "gen": state.ema["gen"]}, ema=None)
    np.testing.assert_array_equal(IMAGES.sample(swapped, sample_keys(0, 3)), x)
    assert not np.allclose(IMAGES.sample(state.replace(ema=None), sample_keys(0, 3)), x, atol=1e-5)


def test_a_generator_has_power_function_averages_too():
    """Eq. 108 of arXiv:2312.02696 over three steps; the second length is kept where only training looks."""
    model, seen = replace(POINTS, ema_lengths=(0.1, 0.2)), []
    state, step = started(model), jax.jit(model.train_step)
    for i in range(3):
        state, _ = step(state, jax.random.key(i), batch_of(model))
        seen.append(state.params["gen"]["Dense_0"]["kernel"])
    for length, tree in model.running_averages(state).items():
        shares = np.diff((np.arange(4) / 3) ** (exponent(length) + 1))
        np.testing.assert_allclose(tree["gen"]["Dense_0"]["kernel"], np.tensordot(shares, seen, 1), atol=1e-6)
    assert state.sampling_params is state.ema and list(state.opt_state["averages"]) == ["0.2"]


# --- the fields that change a step ---


def test_weights_stay_in_the_box_after_every_step():
    model = replace(
        POINTS, objective=Wasserstein(), n_critic=3, clip_weights=0.05, critic=MLPCritic(hidden=(8,), bias=False),
        optimizer=RMSprop(lr=1e-2), critic_optimizer=RMSprop(lr=2e-2),
    )  # fmt: skip
    state = started(model)
    for _ in range(4):
        state, _ = trained(model, state, 1)
        weights = np.concatenate([np.ravel(p) for p in jax.tree.leaves(state.params["critic"])])
        assert np.max(np.abs(weights)) <= np.float32(0.05)
        assert np.mean(np.abs(weights) == np.float32(0.05)) > 0.1, "the box is felt"
    assert max(np.max(np.abs(p)) for p in jax.tree.leaves(state.params["gen"])) > 0.05


def test_rmsprop_is_pytorchs():
    torch = pytest.importorskip("torch")
    grads, p = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32), jnp.ones(3)
    theirs = torch.nn.Parameter(torch.ones(3))
    optimizer, tx = torch.optim.RMSprop([theirs], lr=0.1), RMSprop(lr=0.1).tx
    state = tx.init(p)
    for grad in grads:
        theirs.grad = torch.tensor(grad)
        optimizer.step()
        updates, state = tx.update(jnp.asarray(grad), state, p)
        p = p + updates
    np.testing.assert_allclose(p, theirs.detach().numpy(), rtol=1e-5)


def test_a_gradient_penalty_holds_the_critic_to_slope_one():
    """It flattens a steep critic within 180 critic steps."""
    model = replace(
        POINTS, objective=Wasserstein(), gradient_penalty=10.0, critic=MLPCritic(hidden=(16,), bias=False),
        critic_optimizer=Adam(lr=1e-2, b1=0.0, b2=0.9), n_critic=3,
    )  # fmt: skip
    state = started(model)
    state = state.replace(params={**state.params, "critic": jax.tree.map(lambda p: 4 * p, state.params["critic"])})
    _, history = trained(model, state, 60)
    penalties = [float(m["penalty"]) for m in history]
    assert penalties[0] > 50
    assert np.mean(penalties[-5:]) < 5


@pytest.mark.parametrize("name", ["r1", "r2"])
def test_zero_centred_penalties_of_a_linear_critic(name):
    """gamma |w|^2 / 2 for any data, computed on every other critic step with twice the weight."""
    model = replace(POINTS, critic=MLPCritic(hidden=()), n_critic=2, penalty_every=2, **{name: 3.0})
    state = started(model)
    w = state.params["critic"]["Head_0"]["Dense_0"]["kernel"]
    _, (metrics,) = trained(model, state, 1)
    # The mean over the two steps of 2 penalty and 0.
    assert metrics["penalty"] == pytest.approx(3 / 2 * float(jnp.sum(w**2)), rel=1e-5)


def test_penalties_refuse_batch_normalization():
    with pytest.raises(UserError, match="batch normalization mixes"):
        started(replace(IMAGES, gradient_penalty=10.0))


def test_instance_noise_fades():
    """A linear critic of known weight shows it in the spread of its logits: real examples are all zero."""
    model = replace(
        POINTS, critic=MLPCritic(hidden=()), instance_noise=2.0, instance_noise_steps=2,
        critic_optimizer=Adam(lr=1e-12), optimizer=Adam(lr=1e-12),
    )  # fmt: skip
    batch = {"x": jnp.zeros((4000, 3))}
    _, history = trained(model, core.init(model, jax.random.key(0), batch), 3, batch)
    logits = [abs(float(m["real_logit"])) for m in history]
    assert logits[0] > 1e-6 and logits[1] > 1e-6 and logits[2] < 1e-6


def test_bad_configurations_are_refused():
    with pytest.raises(UserError, match="n_critic is 0"):
        core.init(replace(POINTS, n_critic=0), jax.random.key(0), batch_of(POINTS))
    with pytest.raises(UserError, match=r"multiple of model\.n_critic = 5"):
        core.init(replace(POINTS, n_critic=5), jax.random.key(0), batch_of(POINTS))
    with pytest.raises(UserError, match="no labels"):
        core.init(replace(POINTS, num_classes=3), jax.random.key(0), batch_of(POINTS))
    with pytest.raises(UserError, match="label 3 is out of range"):
        replace(POINTS, num_classes=3).check_cond(jnp.array([0, 3]))


# --- classes ---

CONDITIONAL = (
    replace(POINTS, num_classes=4),
    replace(IMAGES, num_classes=4, critic=DCGANCritic(channels=(4, 8), projection=True)),
)


@pytest.mark.parametrize("model", CONDITIONAL, ids=["concatenation", "projection"])
def test_the_class_changes_sample_and_verdict_with_all_else_fixed(model):
    state, _ = trained(model, started(model), 2)
    samples = [model.sample(state, sample_keys(0, 2), jnp.full(2, c)) for c in (0, 0, 1)]
    np.testing.assert_array_equal(samples[0], samples[1])
    assert not np.allclose(samples[0], samples[2], atol=1e-4)
    variables = {"params": state.params["critic"], **state.extra["critic"]["real"]}
    verdicts = [model.critic.apply(variables, samples[0], jax.nn.one_hot(jnp.full(2, c), 4)) for c in (0, 1)]
    assert not np.allclose(*verdicts, atol=1e-6)


def test_projection_is_the_papers_formula():
    """f(x, y) = psi . phi(x) + b + V_y . phi(x), with phi taken from a critic without a class."""
    critic, x = MLPCritic(hidden=(6,), projection=True), jax.random.normal(jax.random.key(0), (5, 3))
    cond = np.array([0, 2, 1, 2, 0])
    params = jax.tree.map(np.asarray, critic.init(jax.random.key(1), x, jax.nn.one_hot(cond, 3))["params"])
    first, head = params["Dense_0"], params["Head_0"]
    phi = np.asarray(x) @ first["kernel"] + first["bias"]
    phi = np.where(phi > 0, phi, 0.2 * phi)
    expected = [
        phi[i] @ head["Dense_0"]["kernel"][:, 0] + head["Dense_0"]["bias"][0] + head["Dense_1"]["kernel"][c] @ phi[i]
        for i, c in enumerate(cond)
    ]
    np.testing.assert_allclose(critic.apply({"params": params}, x, jax.nn.one_hot(cond, 3)), expected, rtol=1e-4)


# --- spectral normalization ---


@pytest.mark.parametrize("layer", [nn.Dense(7), Conv2D(6, 3)], ids=["dense", "conv"])
def test_wrapper_divides_by_the_largest_singular_value(layer):
    x = jax.random.normal(jax.random.key(0), (2, 5, 5, 4))
    wrapped = SpectralNorm(layer)
    variables = wrapped.init(jax.random.key(1), x)
    params, spectral = variables["params"], variables["spectral"]
    for _ in range(100):
        _, new = wrapped.apply({"params": params, "spectral": spectral}, x, mutable=["spectral"])
        spectral = new["spectral"]
    (own,) = params.values()
    kernel = np.asarray(own["kernel"])
    sigma = np.linalg.svd(kernel.reshape(-1, kernel.shape[-1]))[1][0]
    expected = layer.apply({"params": {**own, "kernel": kernel / sigma}}, x)
    np.testing.assert_allclose(wrapped.apply({"params": params, "spectral": spectral}, x), expected, atol=1e-4)


def test_spectral_vectors_move_once_a_critic_step_and_survive_a_restart(tmp_path):
    model = replace(
        POINTS, critic=MLPCritic(hidden=(8,), spectral=True), objective=Hinge(), n_critic=2,
        critic_optimizer=Adam(lr=1e-12), ema_decay=0.5,
    )  # fmt: skip
    start = started(model)
    state, _ = trained(model, start, 3)
    # The kernel stands still, so six steps of the critic are six power iterations.
    kernel = np.asarray(start.params["critic"]["Dense_0"]["kernel"])
    u = np.asarray(start.extra["critic"]["spectral"]["spectral"]["SpectralNorm_0"]["u"])
    for _ in range(6):
        u = kernel.T @ (kernel @ u)
        u /= np.linalg.norm(u)
    got = state.extra["critic"]["spectral"]["spectral"]["SpectralNorm_0"]["u"]
    np.testing.assert_allclose(got, u, atol=1e-5)
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        checkpoints.save(state)
        checkpoints.wait()
        restored = checkpoints.restore(core.abstract_state(model, batch_of(model)))
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    jax.tree.map(np.testing.assert_array_equal, restored, jax.device_get(state))
    jax.tree.map(np.testing.assert_array_equal, trained(model, restored, 1), trained(model, state, 1))


# --- layers and networks against PyTorch's ---


def test_head_without_bias_has_none():
    params = Head(bias=False).init(jax.random.key(0), jnp.ones((2, 3)))["params"]
    assert set(params["Dense_0"]) == {"kernel"}


@pytest.mark.parametrize("up", ["none", "nearest", "transposed"])
def test_convolutions_are_pytorchs(up):
    torch = pytest.importorskip("torch")
    x = jax.random.normal(jax.random.key(0), (2, 6, 4, 3))
    layer = Conv2D(5, 4, 2, up=up)
    params = layer.init(jax.random.key(1), x)["params"]
    params = {**params, "bias": jnp.arange(5.0)}
    theirs = torch.tensor(np.asarray(x)).permute(0, 3, 1, 2)
    kernel, bias = torch.tensor(np.asarray(params["kernel"])), torch.arange(5.0)
    if up == "transposed":
        y = torch.nn.functional.conv_transpose2d(theirs, kernel.permute(2, 3, 0, 1), bias, stride=2, padding=1)
    elif up == "nearest":
        doubled = torch.nn.functional.interpolate(theirs, scale_factor=2)
        y = torch.nn.functional.conv2d(doubled, kernel.permute(3, 2, 0, 1), bias, padding=1)
    else:
        y = torch.nn.functional.conv2d(theirs, kernel.permute(3, 2, 0, 1), bias, stride=2, padding=1)
    np.testing.assert_allclose(layer.apply({"params": params}, x), y.permute(0, 2, 3, 1).numpy(), atol=1e-4)


@pytest.mark.parametrize("shape", [(28, 28, 1), (9, 14, 3)])
@pytest.mark.parametrize(
    ("generator", "critic"),
    [
        (DCGANGenerator((8, 8, 4), "nearest", 0.2), DCGANCritic((4, 8), 3, dropout=0.25)),
        (DCGANGenerator((8, 8, 4)), DCGANCritic((4, 8), normalize=False, spectral=True)),
        (ResNetGenerator((8, 4)), ResNetCritic((4, 8, 8))),
    ],
    ids=["dcgan32", "dcgan64", "resnet"],
)
def test_networks_take_images_of_any_size(generator, critic, shape):
    z = jnp.ones((2, 4))
    x = jax.eval_shape(lambda: generator.init_with_output(jax.random.key(0), z, shape)[0])
    assert x.shape == (2, *shape)
    logits = jax.eval_shape(lambda x: critic.init_with_output(jax.random.key(0), x)[0], x)
    assert (logits.shape, logits.dtype) == ((2,), jnp.float32)


def test_dcgan_starts_as_its_paper_says():
    """Every kernel from N(0, 0.02), scales from N(1, 0.02); of the 64-pixel network of the source sketches."""
    state = core.init(
        GAN(shape=(64, 64, 3), generator=DCGANGenerator((64, 32, 16, 8)), critic=DCGANCritic((8, 16, 32, 64))),
        jax.random.key(0), {"x": jnp.zeros((2, 64, 64, 3))},
    )  # fmt: skip
    for path, leaf in jax.tree_util.tree_leaves_with_path(state.params):
        name = jax.tree_util.keystr(path)
        if "kernel" in name:
            assert np.std(leaf) == pytest.approx(0.02, rel=0.2), name
            assert abs(np.mean(leaf)) < 0.004, name
        elif "scale" in name:
            assert 0 < np.std(leaf) < 0.04 and abs(np.mean(leaf) - 1) < 0.03, name
        else:
            assert not np.any(leaf), name


def test_residual_critic_pools_as_pytorch_does():
    torch = pytest.importorskip("torch")
    critic, x = ResNetCritic((3, 4), halvings=1, spectral=False), jax.random.normal(jax.random.key(0), (2, 6, 6, 2))
    params = critic.init(jax.random.key(1), x)["params"]

    def conv(name, h):
        kernel = torch.tensor(np.asarray(params[name]["kernel"])).permute(3, 2, 0, 1)
        return torch.nn.functional.conv2d(h, kernel, padding=kernel.shape[-1] // 2)

    relu, pool = torch.nn.functional.relu, lambda h: torch.nn.functional.avg_pool2d(h, 2)
    h = torch.tensor(np.asarray(x)).permute(0, 3, 1, 2)
    # As published: the shortcut of the first block pools, then convolves.
    h = pool(conv("Conv2D_1", relu(conv("Conv2D_0", h)))) + conv("Conv2D_2", pool(h))
    h = conv("Conv2D_4", relu(conv("Conv2D_3", relu(h)))) + conv("Conv2D_5", h)
    expected = relu(h).sum((2, 3)).numpy() @ np.asarray(params["Head_0"]["Dense_0"]["kernel"])
    np.testing.assert_allclose(critic.apply({"params": params}, x), expected[:, 0], rtol=1e-3, atol=1e-4)


def test_pictures_walk_and_compare_classes():
    model = CONDITIONAL[1]
    shown = model.pictures(started(model), sample_keys(0, 8), batch_of(model))
    assert shown["interpolation.png"].shape == (4, 11, 8, 8, 1)
    assert shown["classes.png"].shape == (4, 4, 8, 8, 1)
    assert POINTS.pictures(started(POINTS), sample_keys(0, 8), batch_of(POINTS)) == {}
