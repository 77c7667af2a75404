"""Layers and the U-Net that keep magnitudes: what they compute, at what magnitude, and forced weight normalization."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen import core
from jaxgen.errors import UserError
from jaxgen.models.ddpm import DDPM
from jaxgen.models.flow_matching import FlowMatching
from jaxgen.nets.magnitude import UNIT, MPAttention, MPConv, MPDense, MPFourier, forced
from jaxgen.nets.unet_mp import MPBlock, MPUNet, edm2_s
from jaxgen.optim import Adam, path_name

SCALED = MPUNet(width=8, mults=(1, 2), blocks=1, attention=(), head_dim=8, patch=2, time_scale=0.001)
RNG = np.random.default_rng(0)


def rms(x, axis=None):
    return np.sqrt(np.mean(np.asarray(x, np.float64) ** 2, axis=axis))


def normal(*shape):
    return jnp.asarray(RNG.normal(size=shape), jnp.float32)


def test_a_dense_layer_is_its_equation():
    """Eq. 47 in float64, with a kernel of any magnitude, and a gain."""
    x, w = RNG.normal(size=(5, 6)), 3 * RNG.normal(size=(6, 4))
    expected = 1.7 * x @ (w / np.linalg.norm(w, axis=0))
    found = MPDense(4).apply({"params": {UNIT: jnp.asarray(w, jnp.float32)}}, jnp.asarray(x, jnp.float32), 1.7)
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=1e-5)


def test_a_convolution_is_its_equation():
    x, w = RNG.normal(size=(2, 4, 5, 3)), RNG.normal(size=(3, 3, 3, 2))
    unit = w / np.sqrt(np.sum(w**2, axis=(0, 1, 2)))
    padded, expected = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))), np.zeros((2, 4, 5, 2))
    for i in range(4):
        for j in range(5):
            expected[:, i, j] = np.einsum("bhwi,hwio->bo", padded[:, i : i + 3, j : j + 3], unit)
    layer = jax.jit(MPConv(2).apply)
    found = layer({"params": {UNIT: jnp.asarray(w, jnp.float32)}}, jnp.asarray(x, jnp.float32))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_gradients_leave_the_magnitude_of_kernels_alone_to_first_order():
    """A layer does not depend on it, so that its gradient is at right angles to the kernel of each output."""
    x, w = normal(7, 6), normal(6, 4)
    slope = jax.grad(lambda w: jnp.sum(jnp.sin(MPDense(4).apply({"params": {UNIT: w}}, x))))(w)
    np.testing.assert_allclose(np.sum(slope * w, axis=0), 0, atol=1e-5)
    assert np.abs(slope).max() > 0.1


def test_layers_keep_the_magnitude_of_independent_inputs():
    x, key = normal(8, 8, 8, 64), jax.random.key(0)
    for layer in (MPConv(64), MPDense(64)):
        y, variables = layer.init_with_output(key, x)
        np.testing.assert_allclose(rms(y[:, 1:-1, 1:-1]), 1, atol=0.03)  # the border sees zeros outside
        np.testing.assert_allclose(rms(variables["params"][UNIT]), 1, atol=1e-5)
    t = normal(50)
    np.testing.assert_allclose(rms(MPFourier(512).apply({}, t)), 1, atol=0.03)
    block = MPBlock(64, decoder=True)
    y, _ = block.init_with_output(key, x, normal(8, 32))
    np.testing.assert_allclose(rms(y[:, 2:-2, 2:-2]), 1, atol=0.05)


def test_attention_is_by_cosine():
    """In float64: queries, keys and values of magnitude one for each head and pixel."""
    x = RNG.normal(size=(2, 2, 3, 8))
    layer = MPAttention(head_dim=4)
    variables = layer.init(jax.random.key(0), jnp.asarray(x, jnp.float32))
    params = jax.tree.map(lambda a: np.asarray(a, np.float64), variables["params"])

    def dense(x, w):
        return x @ (w / np.linalg.norm(w, axis=0))

    flat = x.reshape(2, 6, 8)
    parts = dense(flat, params["qkv"][UNIT]).reshape(2, 6, 3, 2, 4)
    q, k, v = np.moveaxis(parts / np.sqrt(np.mean(parts**2, -1, keepdims=True)), 2, 0)
    scores = np.exp(np.einsum("bqhd,bkhd->bhqk", q, k) / 2)
    y = np.einsum("bhqk,bkhd->bqhd", scores / scores.sum(-1, keepdims=True), v).reshape(2, 6, 8)
    expected = (0.7 * flat + 0.3 * dense(y, params["out"][UNIT])) / np.hypot(0.7, 0.3)
    found = layer.apply(variables, jnp.asarray(x, jnp.float32)).reshape(2, 6, 8)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_forced_weight_normalization_is_of_kernels_by_name():
    params = {"a": {UNIT: 5 * normal(3, 3, 4, 2), "kernel": normal(3, 2)}, UNIT: normal(6, 7), "gain": jnp.zeros(())}
    found = forced(params)
    for before, after in ((params["a"][UNIT], found["a"][UNIT]), (params[UNIT], found[UNIT])):
        np.testing.assert_allclose(after, np.asarray(before) / rms(before, tuple(range(before.ndim - 1))), rtol=1e-5)
    assert found["a"]["kernel"] is params["a"]["kernel"] and found["gain"] is params["gain"]


def test_a_step_of_any_optimizer_forces_what_it_moves():
    """By a pattern of parameters that are trained, the others keep every bit."""
    params = {"in": {UNIT: 5 * normal(6, 4)}, "out": {UNIT: 5 * normal(4, 2), "gain": jnp.ones(())}}
    optimizer, grads = Adam(lr=0.3), jax.tree.map(jnp.ones_like, params)
    moved, _ = optimizer.step(grads, optimizer.start(params), params)
    assert all(np.allclose(rms(moved[name][UNIT], 0), 1, atol=1e-6) for name in ("in", "out"))
    assert float(moved["out"]["gain"]) == pytest.approx(0.7, abs=1e-5)
    part = {"in": {UNIT: None}, "out": grads["out"]}
    moved, _ = optimizer.step(part, optimizer.start(params, "^out"), params, "^out")
    assert moved["in"][UNIT] is params["in"][UNIT]
    np.testing.assert_allclose(rms(moved["out"][UNIT], 0), 1, atol=1e-6)


@pytest.fixture(scope="module")
def unet():
    """(network, parameters without zeros, its output by parameters, x and class)."""
    network = MPUNet(width=8, mults=(1, 2), blocks=1, attention=(4,), head_dim=8)
    x, y = normal(2, 8, 8, 3), jnp.eye(5)[:2]
    params = jax.jit(lambda: network.init(jax.random.key(0), x, jnp.ones(2), 3, y)["params"])()
    params = jax.tree.map(lambda a: jnp.float32(0.5) if a.ndim == 0 else a, params)
    apply = jax.jit(lambda params, t, y: network.apply({"params": params}, x, t, 3, y))
    return network, params, apply, y


def test_the_unet_is_told_level_and_class_and_not_the_size_of_its_kernels(unet):
    _, params, apply, y = unet
    t = jnp.array([0.1, -0.4])
    out = apply(params, t, y)
    assert out.shape == (2, 8, 8, 3) and 0.2 < rms(out) < 1.0  # times the gain of one half
    assert np.abs(out - apply(params, t + 0.2, y)).max() > 0.01
    assert np.abs(out - apply(params, t, jnp.eye(5)[2:4])).max() > 0.01
    # Embeddings, which are no one-hot vectors, are told as loudly. Regression: by the root of as many entries more.
    embedding = normal(2, 5)
    np.testing.assert_allclose(apply(params, t, 4 * embedding), apply(params, t, 20 * embedding), atol=1e-4)
    larger = jax.tree.map(lambda a: a if a.ndim == 0 else 3 * a, params)
    np.testing.assert_allclose(apply(larger, t, y), out, atol=1e-4)
    names = [path_name(path).split("/")[-1] for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    assert set(names) == {UNIT, "gain"}  # no biases, no norms
    np.testing.assert_array_equal(apply({**params, "gain": jnp.zeros(())}, t, y), 0)


@pytest.mark.parametrize(
    "model", [DDPM(shape=(8, 8, 1), network=SCALED), FlowMatching(shape=(8, 8, 1), network=SCALED, num_classes=3)],
    ids=["ddpm", "flow"],
)  # fmt: skip
def test_any_diffusion_model_takes_it(model):
    batch = {"x": jnp.zeros((2, 8, 8, 1)), **({"cond": jnp.zeros(2, jnp.int32)} if model.num_classes else {})}
    model.check(batch)
    state = core.abstract_state(model, batch)
    _, metrics = jax.eval_shape(model.train_step, state, jax.random.key(0), batch)
    assert metrics["loss"].shape == ()


def test_sizes_are_the_papers():
    """Table 6: 280 M parameters of size S, with the classes of ImageNet."""
    x, y = jnp.zeros((1, 64, 64, 3)), jnp.zeros((1, 1000))
    shapes = jax.eval_shape(lambda: edm2_s().init(jax.random.key(0), x, jnp.ones(1), 3, y))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == pytest.approx(280e6, rel=2e-3)


def test_what_does_not_fit_is_refused(unet):
    network = unet[0]
    with pytest.raises(UserError, match="multiples of 2"):
        network.check((7, 8, 1))
    with pytest.raises(UserError, match="25 channels do not split into heads of 10"):
        MPUNet(width=25, mults=(1, 2), head_dim=10).check((8, 8, 1))
    with pytest.raises(UserError, match="reads none: take UNet"):
        network.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)), jnp.ones(1), 1, context=jnp.zeros((1, 2, 3)))
