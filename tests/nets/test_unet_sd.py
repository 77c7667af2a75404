"""The U-Net of Stable Diffusion 1.x: its published size, its schedule's and samplers' names, what it is told."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen import core
from jaxgen.core.configuration import check_fields
from jaxgen.core.model import with_field
from jaxgen.errors import UserError
from jaxgen.nets.autoencoder_kl import KLCoder
from jaxgen.nets.clip import TextTower, tower
from jaxgen.nets.unet_sd import SDUNet
from jaxgen.ops.named_samplers import SAMPLERS, name_of, named_sampler
from jaxgen.ops.pndm import PNDM
from jaxgen.ops.samplers import DDIM, DPMSolverPP, Euler
from jaxgen.ops.schedules import Linear, ScaledLinear

SMALL = SDUNet(widths=(8, 16), attention=(True, False), blocks=1, heads=2, groups=4)
X, T = jnp.zeros((2, 6, 5, 3)), jnp.array([1.0, 981.0])
CONTEXT = jnp.asarray(np.random.default_rng(0).normal(size=(2, 4, 12)), jnp.float32)


def params_of(network, scale=0.3, **told):
    params = jax.jit(lambda key: network.init(key, X, T, 3, **told), compiler_options=core.compiled.QUICK_TO_COMPILE)(
        jax.random.key(0)
    )
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda p: jnp.asarray(scale * rng.normal(size=p.shape), jnp.float32), params)


def test_published_numbers_of_parameters():
    """Of Stable Diffusion 1.5: 860 million, 123 million and 84 million."""
    text = TextTower(body=tower(768, 12, 12, causal=True))
    shapes = (
        jax.eval_shape(lambda: SDUNet().init(jax.random.key(0), jnp.zeros((1, 8, 8, 4)), jnp.zeros(1), 4,
                                             context=jnp.zeros((1, 77, 768)))),
        jax.eval_shape(lambda: text.init(jax.random.key(0), jnp.zeros((1, 77), jnp.int32), method="features")),
        jax.eval_shape(lambda: KLCoder().init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))),
    )  # fmt: skip
    assert [core.count_params(tree) for tree in shapes] == [859_520_964, 123_060_480, 83_653_863]


def test_context_class_and_time_matter_and_odd_sides_come_back():
    y = jnp.eye(2)
    params = params_of(SMALL, context=CONTEXT, y=y)
    apply = jax.jit(lambda t, context, y: SMALL.apply(params, X + 0.1, t, 3, context=context, y=y))
    base = apply(T, CONTEXT, y)
    assert base.shape == X.shape and base.dtype == jnp.float32
    for other in (apply(T + 1, CONTEXT, y), apply(T, CONTEXT + 0.1, y), apply(T, CONTEXT, y[::-1])):
        assert np.abs(other - base).max() > 1e-3
    np.testing.assert_allclose(with_remat(params, y), base, atol=1e-5)


def with_remat(params, y):
    """Parameters keep their names."""
    network = with_field(SMALL, "remat", True)
    assert network.remat
    return jax.jit(lambda: network.apply(params, X + 0.1, T, 3, context=CONTEXT, y=y))()


@pytest.mark.slow
def test_half_precision_is_near():
    params = params_of(SMALL, context=CONTEXT)
    full, half = (
        np.asarray(jax.jit(lambda n=n: n.apply(params, X + 0.1, T, 3, context=CONTEXT))())
        for n in (SMALL, with_field(SMALL, "dtype", jnp.bfloat16))
    )
    assert half.dtype == np.float32
    assert 0 < np.abs(full - half).max() < 0.1 * np.abs(full).max()


@pytest.mark.parametrize(("changes", "words"), [
    ({"heads": 3}, "widths has 8: a multiple of heads = 3"),
    ({"groups": 16}, "widths has 8: a multiple of heads = 2 and of groups = 16"),
    ({"attention": (True,)}, "attention has 1 entries: one for each of 2 widths"),
    ({"attention": ()}, "attention is"),
])  # fmt: skip
def test_settings_that_do_not_go_together_are_refused(changes, words):
    with pytest.raises(UserError, match=words):
        check_fields(SMALL.clone(**changes))
    with pytest.raises(UserError, match=r"\(H, W, C\)"):
        SMALL.check((16, 3))


def test_names_of_samplers():
    schedule = ScaledLinear(beta_end=0.013, offset=0)
    for name, (kind, fields) in SAMPLERS.items():
        sampler, timed = named_sampler(name, 7, DDIM(30, clip=2.0), schedule)
        assert (type(sampler), sampler.steps, sampler.clip) == (kind, 7, 2.0)
        assert timed == replace(schedule, **fields)
        assert name_of(sampler) == name
        assert len(sampler.table(timed).t) >= 7
    assert named_sampler("dpm++", 0, Euler(30, clip=0.0), Linear()) == (DPMSolverPP(30, clip=0.0), Linear())
    assert named_sampler("pndm", 0, DDIM(9), schedule)[0] == PNDM(9, clip=1.0)
    with pytest.raises(UserError, match=r"the sampler 'dpm' is unknown.*choose one of ddim, pndm, euler"):
        named_sampler("dpm", 0, DDIM(), schedule)
