"""Path length of a run's samples: against its closed form, and by the command."""

import json
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import EXPERIMENTS
from flax import linen as nn

from jaxgen import __main__ as commands
from jaxgen import core
from jaxgen.codecs import Identity, Pixels
from jaxgen.errors import UserError
from jaxgen.experiment import presets
from jaxgen.metrics.ppl import lerp
from jaxgen.scoring.path_length import Distance, Paths, by_features, check_model, ppl
from jaxgen.train.loop import train

MATRIX = jnp.asarray(np.random.default_rng(0).normal(size=(3, 12)).astype(np.float32))
STATE = core.TrainState(step=jnp.zeros((), jnp.int32), params={}, opt_state={})


@dataclass(frozen=True)
class Line:
    """Images that are linear in their latents, two of which the key gives."""

    latent_ways = ("w",)

    def latent_path(self, state, keys, cond=None, way="w"):
        first, second = (core.normal_each(core.fold_each(keys, i), (3,)) for i in (0, 1))
        return lambda z: (z @ MATRIX).reshape(-1, 2, 2, 3), first, second, lerp


def test_a_straight_way_has_the_length_of_its_slope():
    """|A (b - a)|^2, whatever t and however the paths are dealt out; a codec's range is taken out."""

    def squared(params, x, y):
        return params * jnp.sum((x - y) ** 2, axis=(1, 2, 3))

    distance = Distance("x", squared, jnp.float32(3), {})
    trained = SimpleNamespace(model=Line(), codec=Pixels(), state=STATE)
    found = [ppl(trained, distance, "w", Paths(seed=0, num=40, batch=batch), None) for batch in (40, 9)]
    keys = core.sample_keys(0, 40)
    _, a, b, _ = Line().latent_path(None, keys)
    # Images in [-1, 1] are twice as far apart as in [0, 1].
    slopes = np.sort(3 * np.sum((np.asarray(b - a) @ np.asarray(MATRIX) / 2) ** 2, axis=1))
    # Of 40, no more than the outermost one goes at each end, if the percentile lies past it.
    settings = {"eps": 1e-4, "trim": 1.0, "path": "lerp in w", "precision": "float32"}
    assert found[0]["metric"] == "ppl_x" and found[0]["settings"] == settings
    assert found[0]["values"]["ppl_x"] == pytest.approx(slopes.mean(), rel=0.02)
    assert found[1]["values"]["ppl_x"] == pytest.approx(found[0]["values"]["ppl_x"], rel=0.02)


class Curve(nn.Module):
    """Images of latents by a dense layer."""

    dtype: Any = None

    @nn.compact
    def __call__(self, z):
        return jnp.tanh(nn.Dense(12, dtype=self.dtype)(z)).astype(jnp.float32)


@dataclass(frozen=True)
class Network:
    """As `Line`, by a network."""

    network: Any = Curve()
    latent_ways = ("w",)

    def latent_path(self, state, keys, cond=None, way="w"):
        first, second = (core.normal_each(core.fold_each(keys, i), (3,)) for i in (0, 1))
        return lambda z: self.network.apply(state.params, z).reshape(-1, 2, 2, 3), first, second, lerp


def test_runs_in_half_precision_are_measured_in_whole():
    """Over 1e-4 of a path, what bf16 rounds is larger than what changes."""

    def squared(params, x, y):
        return jnp.sum((x - y) ** 2, axis=(1, 2, 3))

    state = STATE.replace(params=Curve().init(jax.random.key(0), jnp.zeros((1, 3))))
    distance, paths = Distance("x", squared, {}, {}), Paths(seed=0, num=40, batch=40)
    found = [
        ppl(SimpleNamespace(model=Network(Curve(dtype)), codec=Pixels(), state=state), distance, "w", paths, None)
        for dtype in (None, jnp.bfloat16)
    ]
    assert found[0]["values"]["ppl_x"] == found[1]["values"]["ppl_x"]


def test_features_are_compared_by_direction():
    x, y = (jnp.asarray(np.random.default_rng(i).uniform(size=(2, 1, 1, 4)), jnp.float32) for i in (0, 1))

    def flat(params, images):
        return params * images.reshape(-1, 4)

    rows = [np.asarray(v).reshape(2, 4) for v in (x, y)]
    a, b = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in rows)
    got = by_features("flat", flat, 7.0, {}).apply(7.0, x, y)
    np.testing.assert_allclose(got, np.sum((a - b) ** 2, axis=1), rtol=1e-5)


def test_what_has_no_path_is_refused():
    with pytest.raises(UserError, match="object has no path between latents"):
        check_model(object(), Pixels())
    with pytest.raises(UserError, match="unrounded"):
        check_model(Line(), Identity())


@pytest.mark.parametrize("script", ["gan", "stylegan2"])
def test_both_ends_of_a_step_share_their_noise(script):
    """Latents apart by nothing give the same image; samples lie on the way's images."""
    experiment = presets(EXPERIMENTS[script])["smoke"]
    batch = experiment.codec.encode(experiment.data.batch_at(0, 0, 8), jax.random.key(0))
    model, state = experiment.model, core.init(experiment.model, jax.random.key(0), batch)
    state = state.replace(params=jax.tree.map(lambda p: p + 0.1, state.params), ema=None)
    generate, a, b, way = model.latent_path(state, core.sample_keys(0, 3))
    x, y = jnp.split(generate(jnp.concatenate([a, a])), 2)
    np.testing.assert_allclose(x, y, atol=1e-6)
    assert not np.allclose(a, b)
    np.testing.assert_allclose(way(a, b, jnp.zeros(3)), a, atol=1e-5)
    np.testing.assert_allclose(way(a, b, jnp.ones(3)), b, atol=1e-5)


@pytest.mark.slow
def test_the_command_takes_it_by_a_classifier(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXGEN_CACHE", str(tmp_path / "cache"))
    for name in ("classifier", "gan"):
        train(presets(EXPERIMENTS[name])["smoke"], tmp_path / name)
    flags = ["--metrics", "fid,ppl", "--num", "50", "--classifier", str(tmp_path / "classifier"), "--batch", "20"]
    commands.call(["evaluate", str(tmp_path / "gan"), *flags])
    _, record, unit = json.loads((tmp_path / "gan" / "scores.json").read_text())
    assert unit["metric"] == "ppl_digits_cnn_z_unit" and unit["protocol"]["path"].startswith("slerp in z, unit")
    assert record["protocol"]["path"] == "slerp in z, lengths from end to end linear"
    assert record["metric"] == "ppl_digits_cnn"
    assert record["values"]["ppl_digits_cnn"] > 0
    assert record["protocol"]["num"] == 50 and record["protocol"]["eps"] == 1e-4
    assert len(record["protocol"]["weights"]) == 16
    with pytest.raises(UserError, match="leave --of out"):
        commands.call(["evaluate", str(tmp_path / "gan"), *flags, "--of", "test"])
