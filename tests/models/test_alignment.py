"""REPA: its loss against a loop, what it changes and what it does not, the codec that brings features."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import first_stage

from jaxgen import core
from jaxgen.core.configuration import from_json, to_json
from jaxgen.errors import UserError
from jaxgen.models.alignment import Alignment, Projector
from jaxgen.models.classifier import Classifier
from jaxgen.models.ddpm import DDPM
from jaxgen.models.flow_matching import FlowMatching
from jaxgen.nets.apply import apply, apply_mutable
from jaxgen.nets.conv import ConvEncoder
from jaxgen.nets.dit import HIDDEN, DiT
from jaxgen.nets.mlp import MLP
from jaxgen.nets.unet import UNet
from jaxgen.ops.samplers import Heun
from jaxgen.ops.schedules import Cosine
from jaxgen.runs.aligned import Aligned
from jaxgen.runs.folder import RunFolder
from jaxgen.runs.restore import restore

RNG = np.random.default_rng(0)
NETWORK = DiT(width=8, depth=3, heads=2, patch=2)
ALIGN = Alignment(weight=0.5, block=2, hidden=6)
MODEL = FlowMatching(shape=(8, 8, 1), network=NETWORK, sampler=Heun(steps=2, clip=0.0), align=ALIGN, ema_decay=0.0)
PLAIN = replace(MODEL, align=Alignment())
BATCH = {
    "x": RNG.normal(size=(6, 8, 8, 1)).astype(np.float32), "features": RNG.normal(size=(6, 4, 4, 5)).astype(np.float32)
}  # fmt: skip


@pytest.fixture(scope="module")
def start():
    return core.init(MODEL, core.run_key(0, core.INIT), BATCH)


@pytest.fixture(scope="module")
def state(start):
    """With parameters at random: those that start from zero would let nothing through."""
    rng = np.random.default_rng(1)
    params = jax.tree.map(lambda a: a + 0.3 * rng.normal(size=a.shape).astype(np.float32), start.params)
    return start.replace(params=params)


def equal(a, b) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def test_the_loss_is_a_loop_over_patches():
    tokens = RNG.normal(size=(2, 6, 8)).astype(np.float32)
    features = RNG.normal(size=(2, 2, 3, 5)).astype(np.float32)
    params = ALIGN.init(jax.random.key(0), 8, jnp.asarray(features))
    found = ALIGN.loss(params, jnp.asarray(tokens), (2, 3), jnp.asarray(features))
    weights = jax.tree.map(lambda a: np.asarray(a, np.float64), params)
    for b in range(2):
        total = 0.0
        for row in range(2):
            for column in range(3):
                h = tokens[b, 3 * row + column].astype(np.float64)
                for name in ("in", "middle", "out"):
                    h = h @ weights[name]["kernel"] + weights[name]["bias"]
                    h = h if name == "out" else h / (1 + np.exp(-h))
                y = features[b, row, column]
                total += h @ y / np.linalg.norm(h) / np.linalg.norm(y)
        assert float(found[b]) == pytest.approx(-0.5 * total / 6, rel=1e-4)


def test_features_of_another_grid_are_interpolated():
    """The same everywhere, they are the same on the finer grid."""
    params = ALIGN.init(jax.random.key(0), 8, jnp.zeros((1, 1, 1, 5)))
    tokens = jnp.asarray(RNG.normal(size=(2, 16, 8)).astype(np.float32))
    one = jnp.asarray(RNG.normal(size=(2, 1, 1, 5)).astype(np.float32))
    coarse, fine = (
        ALIGN.loss(params, tokens, (4, 4), jnp.broadcast_to(one, (2, n, n, 5))) for n in (2, 4)
    )  # fmt: skip
    np.testing.assert_allclose(coarse, fine, rtol=1e-5)


def test_hidden_tokens_are_those_of_a_shallower_network(state):
    """What is left after block n is what a network of n blocks leaves last."""
    x, t, params = BATCH["x"], jnp.linspace(0, 900, 6), state.params["network"]

    @jax.jit
    def hidden(params, depth_params):
        deep, kept = apply_mutable(NETWORK, {"params": params}, x, t, 1, mutable=[HIDDEN])
        shallow = NETWORK.clone(depth=2)
        _, last = apply_mutable(shallow, {"params": depth_params}, x, t, 1, mutable=[HIDDEN])
        return deep, apply(NETWORK, {"params": params}, x, t, 1), kept[HIDDEN]["tokens"][0], last[HIDDEN]["tokens"][0]

    two = {**params, "blocks": jax.tree.map(lambda a: a[:2], params["blocks"])}
    deep, plain, kept, last = hidden(params, two)
    assert kept.shape == (3, 6, 16, 8)
    np.testing.assert_allclose(kept[:2], last, atol=1e-5)
    np.testing.assert_allclose(deep, plain, atol=1e-6)


def test_without_weight_it_is_the_plain_model_to_the_bit(start, state):
    """Also where the data bring features; with weight, the network starts the same."""
    plain = core.init(PLAIN, core.run_key(0, core.INIT), {"x": BATCH["x"]})
    assert set(plain.params) == {"network"} and equal(plain.params["network"], start.params["network"])
    zero, params = replace(MODEL, align=replace(ALIGN, weight=0.0)), {"network": state.params["network"]}
    found = [
        jax.jit(jax.value_and_grad(lambda p, keys, m=model: m.loss(p, state, keys, BATCH)[0]))(
            params, core.sample_keys(0, 6)
        )
        for model in (PLAIN, zero)
    ]
    assert equal(*found)


def test_alignment_is_added_to_the_loss_and_reaches_the_first_blocks_alone(state):
    keys, data = core.sample_keys(0, 6), jax.tree.map(jnp.asarray, BATCH)

    @jax.jit
    def both(params):
        whole, _ = MODEL.loss(params, state, keys, data)
        plain, _ = PLAIN.loss(params, state, keys, data)

        def alone(params):
            x, t = data["x"], jnp.linspace(0.1, 0.9, 6)
            return jnp.mean(MODEL.answer_in_training(params, x, t, {"features": data["features"]}, None)[1])

        value, grad = jax.value_and_grad(alone)(params)
        return whole, plain, value, grad

    with jax.debug_key_reuse(False):  # the same draws twice are what is compared
        whole, plain, value, grad = both(state.params)
    assert -0.5 <= float(value) <= 0.5 and abs(float(whole - plain)) > 1e-4
    for path, leaf in jax.tree_util.tree_leaves_with_path(grad["network"]["blocks"]):
        size = np.abs(np.asarray(leaf)).reshape(3, -1).max(axis=1)
        assert size[2] == 0, path
        if "k" not in str(path[-1]):  # kernels and biases of keys may have none by symmetry
            assert np.all(size[:2] > 0), path
    assert all(float(jnp.abs(leaf).max()) > 0 for leaf in jax.tree.leaves(grad["projector"]))
    assert not any(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(grad["network"]["out"]))


def test_sampling_leaves_the_projector_out(state):
    without = state.replace(params={"network": state.params["network"]})
    one, two = (core.sample(MODEL, s, core.sample_keys(0, 2)) for s in (state, without))
    np.testing.assert_array_equal(one, two)


@pytest.mark.slow
def test_the_hybrid_loss_is_aligned_too(state):
    model = DDPM(shape=(8, 8, 1), network=NETWORK, schedule=Cosine(num_steps=20), objective="hybrid", align=ALIGN)
    state, data = core.init(model, core.run_key(0, core.INIT), BATCH), jax.tree.map(jnp.asarray, BATCH)
    with jax.debug_key_reuse(False):
        losses = [
            float(jax.jit(m.loss)(state.params, state, core.sample_keys(0, 6), data)[0])
            for m in (model, replace(model, align=replace(ALIGN, weight=1.0)), replace(model, align=Alignment()))
        ]
    assert losses[1] - losses[2] == pytest.approx(2 * (losses[0] - losses[2]), rel=1e-2)
    assert losses[0] != losses[2]


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"network": UNet(8, (1,), 1, ())}, "tokens of a DiT"),
        ({"align": replace(ALIGN, block=4)}, "block is 4 of 3"),
    ],
)
def test_what_cannot_be_aligned_is_refused(change, match):
    with pytest.raises(UserError, match=match):
        replace(MODEL, **change).check(BATCH)
    with pytest.raises(UserError, match="nothing is there to be aligned to"):
        MODEL.check({"x": BATCH["x"]})


# --- features ---------------------------------------------------------------------------------------------------


def test_a_classifiers_map_is_that_of_its_last_convolution():
    model = Classifier(shape=(8, 8, 1), trunk=ConvEncoder((3, 4)), num_classes=2, num_features=5)
    x = jnp.asarray(BATCH["x"])
    state = core.init(model, core.run_key(0, core.INIT), {"x": x, "cond": jnp.zeros(6, jnp.int32)})
    found = jax.jit(model.feature_map)(state, x)
    assert found.shape == (6, 2, 2, 4)
    trunk, h = state.params["network"]["trunk"], x
    layers = [name for name in trunk if "Conv" in name]
    for i, name in enumerate(sorted(layers)):
        dims = ("NHWC", "HWIO", "NHWC")
        h = jax.lax.conv_general_dilated(h, trunk[name]["kernel"], (2, 2), ((1, 1), (1, 1)), dimension_numbers=dims)
        h = h + trunk[name]["bias"][None, None, None]
        h = h if i else jax.nn.relu(h)
    np.testing.assert_allclose(found, h, atol=1e-5)
    with pytest.raises(UserError, match="MLP has no map of features"):
        flat = replace(model, trunk=MLP((4,)))
        start = core.init(flat, core.run_key(0, core.INIT), {"x": x, "cond": jnp.zeros(6, jnp.int32)})
        flat.feature_map(start, x)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return {name: first_stage(name, tmp_path_factory.getbasetemp()) for name in ("clip-smoke-0", "vae-smoke-0")}


def test_the_codec_brings_what_the_frozen_run_sees(runs):
    named = Aligned(run=str(runs["clip-smoke-0"]))
    assert from_json(to_json(named)) == named
    codec, raw = named.load(), RNG.integers(0, 256, (3, 16, 16, 3)).astype(np.uint8)
    batch = jax.jit(codec.encode)({"x": raw}, jax.random.key(0))
    trained = restore(RunFolder(runs["clip-smoke-0"]))
    pictures = raw.astype(np.float32) / 127.5 - 1
    np.testing.assert_allclose(batch["x"], pictures, atol=1e-6)
    expected = jax.jit(trained.model.feature_map)(trained.state, pictures)  # pyright: ignore[reportAttributeAccessIssue]
    assert expected.ndim == 4 and expected.shape[0] == 3
    np.testing.assert_allclose(batch["features"], expected, atol=1e-4)
    np.testing.assert_array_equal(codec.decode(batch["x"]), raw)
    assert codec.encode_once and codec.provenance["model"] == "CLIP"
    with pytest.raises(UserError, match="other weights"):
        named.load({**codec.provenance, "sha256": "0" * 64})


def test_runs_without_features_are_refused(runs, tmp_path):
    with pytest.raises(UserError, match="run of VAE, which has no features"):
        Aligned(run=str(runs["vae-smoke-0"])).load()
    with pytest.raises(UserError, match=r"classifier\.py digits --seed 0"):
        Aligned(run=str(tmp_path / "classifier-digits-0")).load()


def test_a_projector_has_three_layers():
    shapes = jax.tree.map(jnp.shape, Projector(6, 5).init(jax.random.key(0), jnp.zeros((1, 1, 8)))["params"])
    assert {name: layer["kernel"] for name, layer in shapes.items()} == {"in": (8, 6), "middle": (6, 6), "out": (6, 5)}
