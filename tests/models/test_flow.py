"""The flow as a model: densities that integrate to one, probabilities of pixels that sum to one, samples and noise."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from tiny_flow import start

from jaxgen import core
from jaxgen.codecs import Dequantize
from jaxgen.core import TrainState
from jaxgen.data import Digits
from jaxgen.errors import UserError
from jaxgen.experiment import Experiment
from jaxgen.models.flow import Flow
from jaxgen.models.shared import density_picture
from jaxgen.nets.conditioners import CouplingMLP
from jaxgen.nets.flows import CouplingStep, Flat, Identity, LinearStep, MultiScale, Repeat
from jaxgen.nets.made import MADE, MAFStep
from jaxgen.nets.marginal import Marginal
from jaxgen.ops.bijectors import Spline

NET = CouplingMLP((8,))
FLOWS = {
    "realnvp": Repeat(CouplingStep(NET), 2),
    "maf": Repeat(MAFStep(MADE((8,), smooth=True)), 2),
    "nsf": Repeat(LinearStep(NET, Spline(bins=4, reach=3.0)), 2),
}


def state_of(params):
    return TrainState(step=jnp.zeros((), jnp.int32), params=params, opt_state={})


@pytest.mark.parametrize("name", FLOWS)
def test_density_integrates_to_one(name):
    """On a grid x = sinh(v), which is fine near the points and reaches the tails of a flow."""
    model = Flow(shape=(2,), bits=0, flow=FLOWS[name])
    _, variables = start(model.flow, (2,), seed=3, scale=0.1)
    v = np.linspace(-8, 8, 401)
    side, width = 0.04 * np.sinh(v), 0.04 * np.cosh(v) * (v[1] - v[0])
    grid = np.float32(np.stack(np.meshgrid(side, side), -1).reshape(-1, 2))
    state, keys = state_of({"flow": variables["params"]}), core.sample_keys(0, len(grid))
    nll = core.evaluate(model, state, keys, {"x": jnp.asarray(grid)})["nll"]
    mass = np.exp(-np.asarray(nll, np.float64)).reshape(401, 401) * width * width[:, None]
    np.testing.assert_allclose(mass.sum(), 1, atol=1e-2)


@pytest.mark.parametrize("dequantizer", [Identity(), Repeat(CouplingStep(CouplingMLP((4,))), 1)])
@pytest.mark.parametrize("logit_alpha", [0.0, 1e-6])
def test_probabilities_of_all_images_sum_to_one(dequantizer, logit_alpha):
    """16 images of two pixels of two bits. The mean of p / q over draws has no bias, so the sum has none; what remains
    is that of the draws and, without the logit, what the flow puts beyond [0, 1)."""
    model = Flow(
        shape=(2,), bits=2, logit_alpha=logit_alpha, flow=FLOWS["realnvp"], dequantizer=dequantizer,
        importance_samples=3000,
    )  # fmt: skip
    levels = np.stack(np.meshgrid(np.arange(4), np.arange(4)), -1).reshape(16, 2)
    x = jnp.asarray(levels / 4, jnp.float32)
    params = model.init_params(jax.random.key(0), {"x": x})
    params = jax.tree.map(lambda a: a + 0.2 * jnp.sin(7 * jnp.arange(a.size, dtype=a.dtype)).reshape(a.shape), params)
    found = core.evaluate(model, state_of(params), core.sample_keys(1, 16), {"x": x})
    log_p = -np.asarray(found["nll"], np.float64)
    np.testing.assert_allclose(found["bits_per_dim"], -log_p / (2 * np.log(2)), rtol=1e-5)

    # What the flow puts within [0, 1)^2, by its own density on a grid.
    side = (np.arange(256) + 0.5) / 256
    grid = jnp.asarray(np.stack(np.meshgrid(side, side), -1).reshape(-1, 2), jnp.float32)
    density = np.exp(np.asarray(jax.jit(model.log_prob)(params, grid), np.float64)).reshape(4, 64, 4, 64)
    each = density.mean(axis=(1, 3)).T.reshape(16) / 16
    order = np.lexsort(levels.T[::-1])
    np.testing.assert_allclose(np.exp(log_p)[order], each, atol=0.02, rtol=0.15)
    np.testing.assert_allclose(np.exp(log_p).sum(), each.sum(), rtol=0.05)
    if logit_alpha:
        assert abs(each.sum() - 1) < 0.05


def test_dequantization_keeps_levels_and_the_identity_is_uniform():
    model = Flow(shape=(64, 64, 1), bits=8)
    levels = np.random.default_rng(0).integers(256, size=(2, 64, 64, 1), dtype=np.uint8)
    codec = Dequantize(noise=False)
    x = codec.encode({"x": jnp.asarray(levels)}, jax.random.key(0))["x"]
    noisy, log_q = jax.jit(model.dequantize)({}, core.sample_keys(0, 2), x)
    np.testing.assert_array_equal(log_q, 0)
    np.testing.assert_array_equal(codec.decode(noisy), levels)
    u = np.asarray((noisy - x) * 256, np.float64)
    assert abs(u.mean() - 1 / 2) < 5 * np.sqrt(1 / 12 / u.size)
    assert abs(u.var() - 1 / 12) < 5 * np.sqrt(1 / 180 / u.size)


IMAGE = Flow(
    shape=(4, 4, 1), bits=4, logit_alpha=0.05, num_classes=3, temperature=0.5,
    flow=Flat(Repeat(MAFStep(MADE((16,))), 2)),
)  # fmt: skip


def test_samples_are_scaled_noise_decoded_and_encode_is_the_inverse():
    """Through the whole model: logit, flow, class."""
    x = jnp.asarray(np.random.default_rng(0).integers(16, size=(8, 4, 4, 1)) / 16, jnp.float32)
    cond = jnp.arange(8, dtype=jnp.int32) % 3
    params = jax.tree.map(lambda a: a + 0.05, IMAGE.init_params(jax.random.key(0), {"x": x, "cond": cond}))
    state = state_of(params)
    samples = core.sample(IMAGE, state, core.sample_keys(1, 8), cond)
    z, logdet = jax.jit(IMAGE.encode)(params, samples, jax.nn.one_hot(cond, 3))
    np.testing.assert_allclose(z, 0.5 * core.normal_each(core.sample_keys(1, 8), IMAGE.shape), atol=1e-3)
    assert np.all(np.isfinite(logdet))
    cold = core.sample(replace(IMAGE, temperature=0.0), state, core.sample_keys(2, 2), cond[:1].repeat(2))
    np.testing.assert_array_equal(cold[0], cold[1])
    other = core.sample(IMAGE, state, core.sample_keys(1, 8), (cond + 1) % 3)
    assert not np.allclose(samples, other)


def test_pictures_of_a_density():
    """Darkest where the density is highest, white where it is zero, with y upwards."""

    def log_density(x):
        return -jnp.sum((x - jnp.array([[1.0, 0.5]])) ** 2, axis=-1) / 0.02

    picture = np.asarray(density_picture(log_density, jnp.array([[0.0, 1.0], [-0.5, 0.0]]), size=49))
    assert picture.shape == (49, 49, 3) and picture.dtype == np.uint8
    row, column = np.unravel_index(picture.sum(-1).argmin(), (49, 49))
    assert (row, column) == (14, 44)
    assert picture[-1, 0].tolist() == [255, 255, 255]
    model = Flow(shape=(2,), bits=0, flow=FLOWS["realnvp"])
    x = jax.random.normal(jax.random.key(0), (50, 2))
    state = state_of(model.init_params(jax.random.key(1), {"x": x}))
    shown = core.pictures(model, state, core.sample_keys(0, 50), {"x": x})
    assert shown["density.png"].shape[-1] == 3 and shown["latents.png"].shape == (2, 50, 2)


@pytest.mark.parametrize(
    "change, said",
    [
        ({"bits": 9}, "bits is 9"),
        ({"logit_alpha": 0.5}, "logit_alpha is 0.5"),
        ({"bits": 0, "logit_alpha": 0.1}, "continuous data take 0"),
        ({"shape": (7, 8, 1)}, "examples have shape"),
        ({"flow": MultiScale(levels=4)}, "8x8x1 does not"),
        ({"flow": Marginal(Identity()), "logit_alpha": 0.05}, "a Marginal, of pixel levels"),
        ({"flow": Marginal(Identity()), "bits": 0}, "a Marginal, of pixel levels"),
        ({"bits": 5}, "codec.bits 8"),
    ],
)
def test_refusals(change, said):
    model = replace(Flow(shape=(8, 8, 1), flow=Flat(FLOWS["maf"])), **change)
    with pytest.raises(UserError, match=said):
        Experiment(model=model, data=Digits(), codec=Dequantize()).check()


def test_a_flow_without_parameters_is_one():
    """The identity flow: log p is that of the noise, and training changes nothing."""
    model = Flow(flow=Identity(), shape=(2,), bits=0)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(8, 2)), jnp.float32)
    state = core.init(model, core.run_key(0, core.INIT), {"x": x})
    found = core.evaluate(model, state, core.sample_keys(0, 8), {"x": x})
    np.testing.assert_allclose(found["nll"], -stats.norm.logpdf(np.asarray(x)).sum(1), rtol=1e-5)
    state, _ = core.train_steps(model, state, core.run_key(0, core.TRAIN), {"x": x[None]})
    assert int(state.step) == 1
