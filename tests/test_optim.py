"""Optimizer settings: the learning rate at known steps, clipping, and weight decay."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import ROOT

from jaxgen.core import abstract_state
from jaxgen.core.configuration import check_fields
from jaxgen.errors import UserError
from jaxgen.optim import Adam, decayed

PARAMS = {"kernel": jnp.array([[1.0, -2.0], [0.5, 3.0]]), "bias": jnp.array([1.0, 2.0]), "scale": jnp.array(2.0)}
GRADS = {"kernel": jnp.array([[0.1, 0.2], [-0.3, 0.4]]), "bias": jnp.array([0.5, -0.6]), "scale": jnp.array(0.7)}


def step(optimizer, grads, params=PARAMS):
    """The parameters after one update per entry of `grads`."""

    def run(params):
        state = optimizer.tx.init(params)
        for g in grads:
            updates, state = optimizer.tx.update(g, state, params)
            params = optax.apply_updates(params, updates)
        return params

    return jax.jit(run)(params)


def test_constant_rate():
    assert [float(Adam(lr=0.3).schedule(i)) for i in (0, 10, 10**6)] == pytest.approx([0.3] * 3)


def test_warmup_is_linear_and_its_first_step_moves():
    schedule = Adam(lr=0.4, warmup=10).schedule
    assert [float(schedule(i)) for i in (0, 1, 4, 9, 10, 500)] == pytest.approx([0.04, 0.08, 0.2, 0.4, 0.4, 0.4])
    assert float(Adam(lr=0.4, warmup=1).schedule(0)) == pytest.approx(0.4)
    moved = step(Adam(lr=0.4, warmup=10), [GRADS])
    np.testing.assert_allclose(np.abs(moved["bias"] - PARAMS["bias"]), 0.04, rtol=1e-4)  # the size of one step of Adam


def test_cosine_reaches_its_end_at_decay_steps():
    """These include the warm-up: halfway between steps 10 and 110, the rate is the mean of both ends."""
    schedule = Adam(lr=1.0, warmup=10, decay_steps=110, final=0.2).schedule
    at = {0: 0.1, 4: 0.5, 9: 1, 10: 1, 35: 0.2 + 0.8 * (1 + np.cos(np.pi / 4)) / 2, 60: 0.6, 110: 0.2, 10_000: 0.2}
    assert [float(schedule(i)) for i in at] == pytest.approx(list(at.values()), abs=1e-6)


def test_a_rate_that_would_fall_before_it_has_risen_is_refused():
    """Regression: it rose beyond decay_steps, and then fell to its end in one step."""
    with pytest.raises(UserError, match="warmup is 12, decay_steps 10"):
        check_fields(Adam(warmup=12, decay_steps=10))
    check_fields(Adam(warmup=10, decay_steps=10))


def test_half_life():
    schedule = Adam(lr=0.4, warmup=10, half_life=100).schedule
    assert [float(schedule(i)) for i in (9, 10, 60, 110, 310)] == pytest.approx([0.4, 0.4, 0.4 / 2**0.5, 0.2, 0.05])
    with pytest.raises(UserError, match="decay_steps 5 and half_life 7 were given: choose one"):
        check_fields(Adam(decay_steps=5, half_life=7))


def test_inverse_square_root_from_t_ref_on():
    """Eq. 67 of arXiv:2312.02696; the warm-up is part of the count."""
    schedule = Adam(lr=0.4, t_ref=100).schedule
    assert [float(schedule(i)) for i in (0, 99, 100, 400, 10_000)] == pytest.approx([0.4, 0.4, 0.4, 0.2, 0.04])
    schedule = Adam(lr=0.4, t_ref=100, warmup=10).schedule
    assert [float(schedule(i)) for i in (0, 9, 10, 99, 400)] == pytest.approx([0.04, 0.4, 0.4, 0.4, 0.2])
    with pytest.raises(UserError, match="half_life 7 and t_ref 9 were given: choose one"):
        check_fields(Adam(half_life=7, t_ref=9))


def test_adam_is_the_papers_algorithm_1():
    """Two steps, recomputed in float64 NumPy."""
    optimizer = Adam(lr=0.1, b1=0.8, b2=0.95, eps=1e-6)
    second = jax.tree.map(lambda g: 2 * g - 0.1, GRADS)
    got = step(optimizer, [GRADS, second])
    for name, value in PARAMS.items():
        p, m, v = np.asarray(value, np.float64), 0.0, 0.0
        for t, g in enumerate([GRADS[name], second[name]], start=1):
            g = np.asarray(g, np.float64)
            m, v = 0.8 * m + 0.2 * g, 0.95 * v + 0.05 * g**2
            p = p - 0.1 * (m / (1 - 0.8**t)) / (np.sqrt(v / (1 - 0.95**t)) + 1e-6)
        np.testing.assert_allclose(got[name], p, rtol=1e-5)


def test_weight_decay_shrinks_kernels_alone():
    """Without gradients a kernel shrinks by lr * decay, and everything else stays."""
    zero = jax.tree.map(jnp.zeros_like, GRADS)
    got = step(Adam(lr=0.1, weight_decay=0.5), [zero])
    np.testing.assert_allclose(got["kernel"], 0.95 * np.asarray(PARAMS["kernel"]), rtol=1e-6)
    np.testing.assert_array_equal(got["bias"], PARAMS["bias"])
    np.testing.assert_array_equal(got["scale"], PARAMS["scale"])


def test_clip_bounds_the_global_norm():
    """Measured in Adam's first moment, as its update is invariant to the gradient's norm."""
    norm = float(optax.tree.norm(GRADS))
    for clip, factor in [(norm / 4, 0.25), (4 * norm, 1.0), (0.0, 1.0)]:
        tx = Adam(clip=clip).tx
        _, state = jax.jit(tx.update)(GRADS, tx.init(PARAMS), PARAMS)
        (adam,) = [s for s in jax.tree.leaves(state, is_leaf=lambda s: hasattr(s, "mu")) if hasattr(s, "mu")]
        for got, grad in zip(jax.tree.leaves(adam.mu), jax.tree.leaves(GRADS)):
            np.testing.assert_allclose(got, 0.1 * factor * np.asarray(grad), rtol=1e-5)


MEANINGS = {
    # decayed: multiplies its inputs, or is an embedding
    "kernel": True,  # of dense layers and convolutions, stacked over depth or not
    "embedding": True,  # of classes, levels, a model's first token
    "tokens": True,  # GPT's embedding, which is also its head
    "positions": True,
    "class_token": False,  # CLIP's first token of a picture
    "answer": False,  # the prior's token whose output is the embedding
    "logit_scale": False,
    "logit_bias": False,
    "head": True,  # GPT's, if separate from its embedding
    "lu": True,  # the triangles of Glow's 1x1 convolution
    # not decayed
    "bias": False,
    "mean": False,  # of splats, as are the next four
    "quaternion": False,
    "opacity": False,
    "sh0": False,
    "sh": False,
    "scale": False,  # of normalization layers
    "shift": False,  # ActNorm's
    "log_scale": False,  # ActNorm's, and of splats
    # Of mels to the rate of sound, which starts as interpolation.
    **{f"{part}_{i}": False for part in ("kernel", "bias") for i in range(4)},
    "distances": False,  # T5's biases of attention
    "log_mass": False,  # of pixels' marginal
    "frequencies": False,  # of levels, an integer flow's
    "log_s": False,  # the diagonal of Glow's 1x1 convolution
    "gain": False,  # Glow's standardization; of an output that starts at zero
    "unit_kernel": False,  # whose magnitude stays one anyway
    "noise": False,  # StyleGAN's noise strengths
    "constant": False,  # StyleGAN's first map
    "table": False,  # a hash grid's features
    "codes": False,  # a codebook's
    "mu": False,  # of the Gaussian that an energy's flows start from
    "logvar": False,
    "flows": False,  # an energy's
}


def test_every_parameter_is_decayed_by_its_meaning(smoke):
    """For every script; new names must be added above."""
    batch = smoke.data.batch_at(smoke.seed, 0, smoke.batch_size)
    params = abstract_state(smoke.model, batch, smoke.codec.load()).params
    for path, chosen in jax.tree_util.tree_leaves_with_path(decayed(params)):
        *above, name = (jax.tree_util.keystr((part,), simple=True) for part in path)
        assert chosen == MEANINGS["codes" if above[-1:] == ["codes"] else name], jax.tree_util.keystr(path)


def test_every_name_of_a_network_has_a_meaning():
    """Also in layers that only larger presets than `smoke` have."""
    code = "".join(path.read_text() for path in (ROOT / "jaxgen" / "nets").glob("*.py"))
    names = set(re.findall(r"self\.param\(\s*\"(\w+)\"", code))
    assert len(names) > 5
    trees = {"steps", "w"}  # subtrees whose parameters have names of their own
    assert names - trees <= set(MEANINGS), names - trees - set(MEANINGS)


def test_settings_are_values():
    """So equal models share an executable; two optax transformations are never equal."""
    assert Adam(lr=0.1, clip=1.0) == Adam(lr=0.1, clip=1.0)
    assert hash(Adam(lr=0.1, clip=1.0)) == hash(Adam(lr=0.1, clip=1.0))
    assert len({Adam(), Adam(lr=0.1), Adam(b2=0.99), Adam(warmup=2)}) == 4
    assert Adam().tx != Adam().tx
