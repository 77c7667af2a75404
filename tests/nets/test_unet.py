"""The U-Net's options (scale and shift by time, resampling blocks, cross-attention, remat) and its presets' sizes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.errors import UserError
from jaxgen.nets.unet import ResBlock, UNet, adm64, ddpm32, improved32
from jaxgen.ops.patches import depth_to_space, space_to_depth
from jaxgen.ops.resize import double, halve

PLAIN = UNet(width=8, mults=(1, 2), blocks=1, attention=(4,), head_dim=8)
ADM = PLAIN.clone(scale_shift=True, resample_blocks=True, cross_attention=(8,))


def normal(*shape, seed=0):
    return jnp.float32(np.random.default_rng(seed).normal(size=shape))


def randomised(shapes, scale=0.3):
    leaves, tree = jax.tree.flatten(shapes)
    return jax.tree.unflatten(tree, [scale * normal(*p.shape, seed=i) for i, p in enumerate(leaves)])


def inputs(network):
    context = normal(2, 5, 6, seed=9) if network.cross_attention else None
    return normal(2, 8, 8, 2), jnp.array([3.0, 700.0]), 4, jnp.eye(2), context


def params_of(network):
    x, t, out, y, context = inputs(network)
    return jax.eval_shape(lambda key: network.init(key, x, t, out, y, context), jax.random.key(0))


def test_patches_become_pixels_with_more_channels():
    x = normal(2, 8, 12, 3)
    small = space_to_depth(x, 4)
    np.testing.assert_array_equal(small[1, 1, 2], x[1, 4:8, 8:12].reshape(-1))
    np.testing.assert_array_equal(depth_to_space(small, 4), x)


def test_a_network_with_patches_equals_the_plain_one_on_patches():
    x, t, out, y, _ = inputs(PLAIN)
    patched = PLAIN.clone(patch=2)
    shapes = jax.eval_shape(lambda key: patched.init(key, x, t, out, y), jax.random.key(0))
    params = randomised(shapes)
    expected = PLAIN.apply(params, space_to_depth(x, 2), t, 4 * out, y)
    np.testing.assert_allclose(patched.apply(params, x, t, out, y), depth_to_space(expected, 2), atol=1e-5)
    with pytest.raises(UserError, match="in patches of 2: height and width must be multiples of 4"):
        patched.check((8, 6, 2))


@pytest.mark.parametrize(
    ("network", "shape", "out", "classes", "millions"),
    [
        (ddpm32(), (32, 32, 3), 3, 0, 35.7),
        (improved32(), (32, 32, 3), 6, 0, 52.5),
        (adm64(), (64, 64, 3), 6, 1000, 295.9),
    ],
    ids=["ddpm32", "improved32", "adm64"],
)  # fmt: skip
def test_presets_have_the_papers_numbers_of_parameters(network, shape, out, classes, millions):
    x, y = jnp.zeros((1, *shape)), jnp.zeros((1, classes)) if classes else None
    shapes = jax.eval_shape(lambda key: network.init(key, x, jnp.zeros(1), out, y), jax.random.key(0))
    assert sum(p.size for p in jax.tree.leaves(shapes)) / 1e6 == pytest.approx(millions, abs=0.06)


@pytest.mark.slow
def test_every_parameter_of_adm_has_a_gradient():
    """With random parameters, a forgotten input, skip, time or context would show as a gradient of zero."""
    x, t, out, y, context = inputs(ADM)
    params, weight = randomised(params_of(ADM)), normal(2, 8, 8, 4, seed=5)
    loss = jax.jit(jax.grad(lambda p: jnp.sum(weight * ADM.apply(p, x, t, out, y, context))))
    for path, grad in jax.tree_util.tree_flatten_with_path(loss(params))[0]:
        name = jax.tree_util.keystr(path)
        if "key" in name and "bias" in name:
            continue  # a bias of all keys does not change the softmax
        size = jnp.abs(grad).max(axis=(*range(grad.ndim - 2), -1))
        assert float(size.min()) > 1e-7, name


@pytest.mark.slow
def test_remat_changes_nothing_but_memory():
    """Parameter names, output and gradients are the same."""
    network = UNet(width=8, mults=(1,), blocks=1, attention=(8,), head_dim=8, dropout=0.3)
    x, t, out, y, _ = inputs(network)
    again = network.clone(remat=True)
    assert params_of(again) == params_of(network)
    params = randomised(params_of(network))

    def value_and_grad(network, p):
        def loss(p):
            return jnp.sum(jnp.sin(network.apply(p, x, t, out, y, train=True, rngs={"dropout": jax.random.key(1)})))

        return jax.value_and_grad(loss)(p)

    one, other = jax.jit(lambda p: [value_and_grad(n, p) for n in (again, network)])(params)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other)):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)
    assert "remat" in str(jax.make_jaxpr(lambda p: again.apply(p, x, t, out, y))(params))


def test_context_is_attended_to_at_its_heights():
    names = [name for name in params_of(ADM)["params"] if "ross" in name.lower()]
    # Height 8 has one block on the way down and two on the way up; the middle attends too.
    assert sorted(names) == [*(f"CrossAttentionBlock_{i}" for i in range(3)), "middle_cross_attention"]
    x, t, out, y, context = inputs(ADM)
    params = randomised(params_of(ADM))
    apply = jax.jit(lambda c: ADM.apply(params, x, t, out, y, c))
    one, other = apply(context), apply(context.at[1].set(0))
    np.testing.assert_allclose(one[0], other[0], atol=1e-5)
    assert np.abs(one[1] - other[1]).max() > 1e-3
    # The order of tokens does not matter.
    np.testing.assert_allclose(apply(context[:, ::-1]), one, atol=1e-4)


def test_a_network_that_is_told_texts_adds_the_mean_of_those_seen_to_the_time():
    """Tokens that are masked count neither in attention nor in the mean."""
    told = PLAIN.told_texts((8, 8, 2))
    assert told.cross_attention == PLAIN.attention == (4,)
    assert PLAIN.clone(attention=()).told_texts((8, 8, 2)).cross_attention == (4,)
    x, t, out, y, context = inputs(told)
    params, seen = randomised(params_of(told)), jnp.arange(5) < 3
    apply = jax.jit(lambda c, mask: told.apply(params, x, t, out, y, c, jnp.broadcast_to(mask, (2, 5))))
    np.testing.assert_allclose(apply(context, seen), apply(context.at[:, 3:].set(99.0), seen), atol=1e-5)
    # Without attention, only the mean is left: its weight times the mean is what the time gains.
    no_heads = jax.tree.map_with_path(lambda path, p: 0 * p if "ross" in jax.tree_util.keystr(path) else p, params)
    only = jax.jit(lambda c: told.apply(no_heads, x, t, out, y, c))
    mean = jnp.broadcast_to(context.mean(axis=1, keepdims=True), context.shape)
    np.testing.assert_allclose(only(context), only(mean), atol=1e-4)
    assert np.abs(only(context) - only(2 * context)).max() > 1e-3


def test_a_context_without_cross_attention_is_refused():
    x, t, out, y, context = inputs(ADM)
    with pytest.raises(UserError, match="a context was given"):
        PLAIN.init(jax.random.key(0), x, t, out, y, context)
    with pytest.raises(UserError, match="no context was given"):
        ADM.init(jax.random.key(0), x, t, out, y)


def test_widths_that_no_power_of_two_divides():
    network = UNet(50, (1,), 1, (), head_dim=50)
    network.check((4, 4, 1))
    params = network.init(jax.random.key(0), jnp.zeros((1, 4, 4, 1)), jnp.zeros(1), 1)["params"]
    assert params["middle_in"]["GroupNorm_0"]["scale"].shape == (50,)
    with pytest.raises(UserError, match=r"200 channels do not split into heads of 64: .*head-dim"):
        UNet(200, (1,), 1, (), head_dim=64).check((8, 8, 1))


def test_scale_shift_acts_on_the_output_of_the_norm():
    """With a scale of -1, the second half of a block does not depend on the image."""
    block, x, embedding = ResBlock(8, scale_shift=True), normal(2, 4, 4, 8), jnp.ones((2, 3))
    params = randomised(jax.eval_shape(lambda: block.init(jax.random.key(0), x, embedding)))
    gains = jnp.concatenate([jnp.full(8, -1.0), jnp.ones(8)])
    params["params"]["Dense_0"] = {"kernel": jnp.zeros((3, 16)), "bias": gains}
    change = block.apply(params, x, embedding) - x
    # Away from the border, where the convolution sees zeros.
    np.testing.assert_allclose(change[:, 1:3, 1:3], jnp.broadcast_to(change[:1, 1:2, 1:2], (2, 2, 2, 8)), atol=1e-5)


@pytest.mark.parametrize(("resample", "op"), [(-1, halve), (1, double)])
def test_resampling_blocks_start_as_plain_resampling(resample, op):
    """Because their last convolution starts at zero."""
    block, x = ResBlock(4, resample=resample), normal(2, 6, 4, 4)
    got, _ = block.init_with_output(jax.random.key(0), x, jnp.ones((2, 3)))
    np.testing.assert_array_equal(got, op(x))


def test_halve_and_double():
    x = normal(1, 4, 6, 2)
    np.testing.assert_allclose(halve(x)[0, 1, 2], x[0, 2:4, 4:6].mean((0, 1)), rtol=1e-5)
    np.testing.assert_array_equal(double(x)[0, 5, 3], x[0, 2, 1])
    np.testing.assert_allclose(halve(double(x)), x, rtol=1e-6)
    odd = halve(x[:, :3, :5])  # the last row and column count twice
    assert odd.shape[1:3] == (2, 3)
    np.testing.assert_allclose(odd[0, 1, 1], x[0, 2, 2:4].mean(0), rtol=1e-5)
    np.testing.assert_allclose(odd[0, 1, 2], x[0, 2, 4], rtol=1e-6)
