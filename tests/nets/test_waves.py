"""Networks of raw sound against loops of NumPy in float64, and what their outputs depend on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.nets.diffwave import DiffWaveNet
from jaxgen.nets.unet import time_embedding
from jaxgen.nets.wavenet import WaveNetNet
from jaxgen.nets.waves import MelUpsampler, up

CAUSAL = WaveNetNet(width=4, skip=6, layers=4, cycle=3, size=2, rates=(2, 4))
"""Dilations 1, 2, 4, 1."""
BOTH = DiffWaveNet(width=4, layers=4, cycle=3, size=3, hidden=8, rates=(2, 4))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def randomized(net, *args):
    """Parameters f64 of a network of these arguments, all of which matter: biases and last layers start at zero."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda key: net.init(key, *args), jax.random.key(0))
    return jax.tree.map(lambda a: 0.5 * rng.standard_normal(a.shape), shapes)


def f32(tree):
    return jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), tree)


def dense(p, x):
    return x @ p["kernel"] + p.get("bias", 0)


def up_by_loops(h, kernel):
    length, bands = h.shape
    rate = len(kernel) // 2
    out = np.zeros((rate * length, bands))
    for n in range(rate * length):
        for m in range(bands):
            for i in range(length):
                for q in range(3):
                    place = n + rate // 2 - rate * i
                    if 0 <= place < 2 * rate and 0 <= m + q - 1 < bands:
                        out[n, m] += h[i, m + q - 1] * kernel[place, q]
    return out


def upsampled_by_loops(p, mel, rates):
    for i, _ in enumerate(rates):
        mel = up_by_loops(mel, p[f"kernel_{i}"]) + p[f"bias_{i}"]
        mel = np.where(mel > 0, mel, 0.4 * mel)
    return mel


def gated_by_loops(p, taps, local, y, width):
    h = dense(p["dilated"], taps) + dense(p["mel"], local) + dense(p["label"], y)
    z = dense(p["out"], np.tanh(h[:width]) * sigmoid(h[width:]))
    return z[:width], z[width:]


def test_up_is_a_transposed_convolution():
    rng = np.random.default_rng(1)
    for rate in (2, 6):
        h, kernel = rng.standard_normal((2, 5, 3)), rng.standard_normal((2 * rate, 3))
        found = jax.jit(up)(f32(h), f32(kernel))
        np.testing.assert_allclose(found, [up_by_loops(row, kernel) for row in h], atol=1e-5)


def test_upsampling_starts_as_linear_interpolation():
    """Between the middles of frames, in each band by itself."""
    net, mel = MelUpsampler((2, 4)), np.random.default_rng(0).uniform(0.1, 1, (1, 6, 3)).astype(np.float32)
    out = jax.jit(lambda mel: net.apply(net.init(jax.random.key(0), mel), mel))(mel)
    twice = np.interp((np.arange(12) + 0.5) / 2, np.arange(6) + 0.5, mel[0, :, 1])
    expected = np.interp((np.arange(48) + 0.5) / 4, np.arange(12) + 0.5, twice)
    np.testing.assert_allclose(out[0, 8:-8, 1], expected[8:-8], atol=1e-6)


@pytest.fixture(scope="module")
def causal():
    x, mel, y = np.zeros((1, 16), np.float32), np.zeros((1, 2, 3), np.float32), np.eye(2, dtype=np.float32)[:1]
    return randomized(CAUSAL, x, 0, 5, mel, None, y)


def test_wavenet_is_its_equations(causal):
    """Sample by sample, each layer written out."""
    rng = np.random.default_rng(2)
    x, mel, y = rng.standard_normal(16), rng.uniform(0, 1, (2, 3)), np.array([0.0, 1.0])
    p, width = causal["params"], 4
    local = upsampled_by_loops(p["upsampler"], mel, (2, 4))
    h = [dense(p["entry"]["value"], np.array([value])) for value in x]
    total = [0.0] * 16
    for i, dilation in enumerate((1, 2, 4, 1)):
        before = [np.concatenate([h[t - dilation] if t >= dilation else np.zeros(width), h[t]]) for t in range(16)]
        for t in range(16):
            more, skip = gated_by_loops(p[f"gated_{i}"], before[t], local[t], y, width)
            h[t], total[t] = h[t] + more, total[t] + skip
    expected = [dense(p["exit"]["out"], np.maximum(0, dense(p["exit"]["hidden"], np.maximum(0, s)))) for s in total]
    found = jax.jit(lambda x, mel, y: CAUSAL.apply(f32(causal), x, 0, 5, mel, None, y))
    np.testing.assert_allclose(found(*(f32(a)[None] for a in (x, mel, y)))[0], expected, atol=2e-4)


def test_wavenet_sees_its_field_alone(causal):
    """The Jacobian is zero for later samples and for those before the field, 1 + 1 + 2 + 4 + 1 samples, and only
    there."""
    assert CAUSAL.field == 9
    variables, x = f32(causal), jnp.asarray(np.random.default_rng(3).standard_normal(24), jnp.float32)
    mel, y = jnp.ones((1, 3, 3)), jnp.eye(2)[:1]
    slope = jax.jit(jax.jacfwd(lambda x: jnp.sum(CAUSAL.apply(variables, x[None], 0, 5, mel, None, y)[0], axis=-1)))(x)
    t, s = np.indices(slope.shape)
    seen = np.asarray(slope) != 0
    assert not seen[(s > t) | (s <= t - 9)].any()
    # A rectifier may be shut at a sample; at most it is not.
    assert seen[s == t].mean() > 0.5 and seen[s == t - 8].mean() > 0.5


@pytest.fixture(scope="module")
def diffusing():
    x, mel, y = np.zeros((1, 16), np.float32), np.zeros((1, 2, 3), np.float32), np.eye(2, dtype=np.float32)[:1]
    return randomized(BOTH, x, jnp.ones(1), 1, y, mel)


def test_diffwave_is_its_equations(diffusing):
    rng = np.random.default_rng(4)
    x, mel, y = rng.standard_normal(16), rng.uniform(0, 1, (2, 3)), np.array([0.0, 1.0])
    p = diffusing["params"]
    local = upsampled_by_loops(p["upsampler"], mel, (2, 4))
    step = np.asarray(time_embedding(jnp.array([7.0]), 128), np.float64)[0]
    for i in range(2):
        step = dense(p[f"step_{i}"], step)
        step = step * sigmoid(step)
    h = [np.maximum(0, dense(p["in"], np.array([value]))) for value in x]
    total = [0.0] * 16
    for i, dilation in enumerate((1, 2, 4, 1)):
        told = [one + dense(p[f"told_{i}"], step) for one in h]
        around = [(t - dilation, t, t + dilation) for t in range(16)]
        taps = [np.concatenate([told[s] if 0 <= s < 16 else np.zeros(4) for s in row]) for row in around]
        for t in range(16):
            more, skip = gated_by_loops(p[f"layer_{i}"], taps[t], local[t], y, 4)
            h[t], total[t] = (h[t] + more) / np.sqrt(2), total[t] + skip
    expected = [dense(p["out"], np.maximum(0, dense(p["hidden"], s / np.sqrt(4))))[0] for s in total]
    found = jax.jit(lambda x, y, mel: BOTH.apply(f32(diffusing), x, jnp.array([7.0]), 1, y, mel))
    np.testing.assert_allclose(found(*(f32(a)[None] for a in (x, y, mel)))[0], expected, atol=2e-4)


def test_diffwave_sees_both_sides_alike(diffusing):
    """Eight samples before and after, 1 + 2 + 4 + 1, and none beyond."""
    assert BOTH.field == 17
    variables, x = f32(diffusing), jnp.asarray(np.random.default_rng(5).standard_normal(32), jnp.float32)
    mel, y = jnp.ones((1, 4, 3)), jnp.eye(2)[:1]
    slope = jax.jit(jax.jacfwd(lambda x: BOTH.apply(variables, x[None], jnp.array([7.0]), 1, y, mel)[0]))(x)
    t, s = np.indices(slope.shape)
    seen = np.asarray(slope) != 0
    assert not seen[abs(t - s) > 8].any()
    assert all(seen[s == t + by].mean() > 0.3 for by in (-8, 0, 8))


def test_the_step_of_diffusion_matters(diffusing):
    variables, x, mel, y = f32(diffusing), jnp.ones((1, 16)), jnp.ones((1, 2, 3)), jnp.eye(2)[:1]
    told = jax.jit(lambda t: BOTH.apply(variables, x, t, 1, y, mel))
    early, late = told(jnp.array([1.0])), told(jnp.array([500.0]))
    assert not np.allclose(early, late, atol=1e-2)


def test_problems():
    assert CAUSAL.problem() is None and BOTH.problem() is None
    assert "even rates" in (CAUSAL.clone(rates=(3, 5)).problem() or "")
    assert "odd number of taps" in (BOTH.clone(size=2).problem() or "")
