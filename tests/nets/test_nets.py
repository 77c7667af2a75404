"""Our layers against Flax's and XLA's, in values and gradients; the networks' shapes, checks and dtypes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import lax

from jaxgen import core
from jaxgen.errors import UserError
from jaxgen.models.vae import VAE
from jaxgen.nets.conv import Conv, ConvDecoder, ConvEncoder, DoubleConv, UpConv, halved
from jaxgen.nets.mlp import MLP
from jaxgen.nets.norm import BatchNorm, GroupNorm
from jaxgen.nets.unet import UNet
from jaxgen.ops.attention import attention
from jaxgen.ops.conv import DIMS, NARROW, conv, upconv
from jaxgen.ops.sums import channel_sums

RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def fresh():
    """Each test draws the same numbers, whichever tests ran before it."""
    RNG.bit_generator.state = np.random.default_rng(0).bit_generator.state


def normal(*shape):
    return jnp.float32(RNG.normal(size=shape))


def randomised(params, scale=0.3):
    """Random parameters of these shapes, since layers that start at zero hide errors."""
    return jax.tree.map(lambda p: scale * normal(*p.shape), params)


def close(got, expected, tol=1e-4):
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected)):
        np.testing.assert_allclose(a, b, rtol=tol, atol=tol * max(1.0, float(jnp.abs(b).max())))


# --- normalization ---


@pytest.mark.parametrize(("shape", "groups"), [((3, 4, 5, 8), 4), ((2, 8), 2), ((2, 3, 6), 1), ((2, 3, 3, 6), 6)])
def test_group_norm_is_flaxs(shape, groups):
    x, weight = normal(*shape) * 3 + 2, normal(*shape)
    ours, theirs = GroupNorm(groups), nn.GroupNorm(groups)
    shapes = jax.eval_shape(ours.init, jax.random.key(0), x)
    assert shapes == jax.eval_shape(theirs.init, jax.random.key(0), x)
    params = randomised(shapes, 1.0)

    def value_and_grads(module, p, x):
        return jax.value_and_grad(lambda p, x: jnp.sum(weight * module.apply(p, x)), (0, 1))(p, x)

    close(*jax.jit(lambda p, x: [value_and_grads(module, p, x) for module in (ours, theirs)])(params, x))


def test_group_norm_takes_moments_in_f32():
    """With bfloat16 inputs and outputs, where a sum of 4,096 ones would stop growing at 256."""
    x = (normal(1, 64, 64, 4) + 3).astype(jnp.bfloat16)
    module = GroupNorm(1)
    y = module.apply(module.init(jax.random.key(0), x), x)
    assert y.dtype == jnp.bfloat16
    x = np.asarray(x, np.float64)
    np.testing.assert_allclose(np.asarray(y, np.float64), (x - x.mean()) / x.std(), atol=0.03)


def test_group_norm_refuses_groups_that_do_not_divide():
    with pytest.raises(UserError, match="3 channels do not divide into 8 groups"):
        GroupNorm(8).init(jax.random.key(0), jnp.zeros((1, 2, 2, 3)))


@pytest.mark.parametrize("in_use", [False, True])
@pytest.mark.parametrize("shape", [(3, 4, 5, 8), (16, 8), (4, 3, 6)])
def test_batch_norm_is_flaxs(shape, in_use):
    """In training with its running statistics, and in use; gradients, and those of a gradient's norm."""
    x, weight = normal(*shape) * 3 + 2, normal(*shape)
    ours, theirs = BatchNorm(in_use), nn.BatchNorm(in_use, momentum=0.9, epsilon=1e-5)
    shapes = jax.eval_shape(ours.init, jax.random.key(0), x)
    assert shapes == jax.eval_shape(theirs.init, jax.random.key(0), x)
    variables = jax.tree.map(lambda a: 1 + jax.random.uniform(jax.random.key(1), a.shape), shapes)

    def results(module, variables, x):
        def value(x):
            y, changed = module.apply(variables, x, mutable="batch_stats")
            return jnp.sum(weight * jnp.sin(y)), changed

        def size(x):
            return jnp.sum(jax.grad(value, has_aux=True)(x)[0] ** 2)

        def loss(params):
            return jnp.sum(weight * module.apply(variables | {"params": params}, x, mutable="batch_stats")[0])

        return value(x), jax.grad(size)(x), jax.grad(loss)(variables["params"])

    close(*jax.jit(lambda v, x: [results(module, v, x) for module in (ours, theirs)])(variables, x))


def test_channel_sums_are_numpys_in_both_modes():
    x, tangent = normal(3, 4, 5, 6), normal(3, 4, 5, 6)
    value, moved = jax.jvp(channel_sums, (x,), (tangent,))
    close((value, moved), tuple(jnp.float32(np.asarray(a, np.float64).sum((1, 2))) for a in (x, tangent)))
    weight = normal(3, 6)
    grad = jax.grad(lambda x: jnp.sum(weight * channel_sums(x)))(x)
    np.testing.assert_array_equal(grad, np.broadcast_to(weight[:, None, None], x.shape))


# --- convolution ---


def direct(x, kernel, strides, pads):
    return lax.conv_general_dilated(x, kernel, strides, pads, dimension_numbers=DIMS)


def loss_of(op):
    """A loss whose second derivatives are not zero."""
    return lambda x, kernel, *how: jnp.sum(jnp.sin(op(x, kernel, *how)))


CONVS = [
    # height, width, kernel h, kernel w, strides
    (7, 9, 3, 3, (1, 1)), (8, 8, 3, 3, (2, 2)), (7, 9, 3, 3, (2, 2)), (9, 7, 4, 4, (2, 2)), (6, 5, 1, 1, (1, 1)),
    (7, 8, 1, 1, (2, 2)), (7, 7, 2, 2, (1, 1)), (11, 6, 5, 5, (3, 3)), (10, 13, 2, 5, (3, 1)), (5, 5, 5, 3, (1, 2)),
    (2, 2, 3, 3, (1, 1)), (2, 2, 4, 4, (2, 2)), (8, 7, 1, 2, (3, 3)), (1, 2, 3, 3, (1, 1)),
]  # fmt: skip


@pytest.mark.parametrize(
    ("height", "width", "h", "w", "strides", "padding"),
    [(*how, "SAME") for how in CONVS]
    + [(*how, "VALID") for how in CONVS[::4]]
    + [(3, 3, 5, 5, (2, 2), "SAME"), (2, 2, 4, 4, (2, 2), ((1, 1), (1, 1))), (6, 6, 2, 4, (1, 3), ((2, 0), (2, 2)))],
)
def test_conv_and_its_gradients_are_xlas(height, width, h, w, strides, padding):
    pads = padding
    if isinstance(padding, str):
        pads = tuple(lax.padtype_to_pads((height, width), (h, w), strides, padding))
    x, kernel = normal(2, height, width, NARROW + 1), normal(h, w, NARROW + 1, 4)
    how = (strides, pads)

    @jax.jit
    def both(x, kernel):
        return [(op(x, kernel, *how), jax.grad(loss_of(op), (0, 1))(x, kernel, *how)) for op in (conv, direct)]

    close(*both(x, kernel))


def test_gradient_equals_that_of_a_numpy_loop():
    """One tap at a time, as a reference that is independent of XLA."""
    x, kernel, dy = normal(1, 5, 4, 2), normal(3, 2, 2, 3), normal(1, 3, 2, 3)
    padded = np.pad(np.asarray(x, np.float64), ((0, 0), (1, 1), (0, 0), (0, 0)))
    d_kernel, d_x = np.zeros((3, 2, 2, 3)), np.zeros_like(padded)
    for a in range(3):
        for b in range(2):
            for p in range(3):
                for q in range(2):
                    d_kernel[a, b] += np.outer(padded[0, 2 * p + a, 2 * q + b], dy[0, p, q])
                    d_x[0, 2 * p + a, 2 * q + b] += np.asarray(kernel, np.float64)[a, b] @ np.asarray(dy[0, p, q])
    _, vjp = jax.vjp(lambda x, k: conv(x, k, (2, 2), ((1, 1), (0, 0))), x, kernel)
    close(vjp(dy), (jnp.float32(d_x[:, 1:-1]), jnp.float32(d_kernel)))


@pytest.mark.parametrize("strides", [(1, 1), (2, 2)])
def test_second_derivatives_of_conv_are_xlas(strides):
    """As a gradient penalty needs them."""
    x, kernel = normal(2, 5, 6, 2), normal(3, 3, 2, 3)

    def penalty(op, x, kernel):
        return jnp.sum(jax.grad(loss_of(op))(x, kernel, strides, ((1, 1), (1, 1))) ** 2)

    close(*jax.jit(lambda x, k: [jax.grad(penalty, (1, 2))(op, x, k) for op in (conv, direct)])(x, kernel))


@pytest.fixture
def optimised():
    """Enables XLA's usual passes, which rewrite convolutions and which other tests leave out."""
    before = jax.config.values["jax_disable_most_optimizations"]
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


def test_conv_inside_an_optimised_scan(optimised):
    """Three steps of gradient descent, where `conv` computes its gradients differently from XLA."""
    x, kernel = normal(4, 8, 8, 2), normal(3, 3, 2, 3)

    def descend(op):
        def step(kernel, x):
            loss, grad = jax.value_and_grad(loss_of(op), 1)(x, kernel, (2, 2), ((0, 1), (0, 1)))
            return kernel - 0.01 * grad, loss

        return jax.jit(lambda k: lax.scan(step, k, jnp.stack([x, 2 * x, -x])))(kernel)

    close(descend(conv), descend(direct))


def test_conv_layer_is_linens():
    x = normal(2, 7, 9, 3)
    ours, theirs = Conv(5, 3, 2), nn.Conv(5, (3, 3), (2, 2), padding="SAME")
    params = ours.init(jax.random.key(0), x)
    close(params, theirs.init(jax.random.key(0), x))
    close(ours.apply(params, x), theirs.apply(params, x))


@pytest.mark.parametrize("size", [(1, 1), (4, 4), (5, 3)])
def test_upconv_is_the_transposed_convolution(size):
    """Against `lax.conv_transpose` of the flipped kernel, where PyTorch's padding 1 is (2, 2) for a kernel of 4, and
    against a loop over y[o] += x[i] kernel[o + 1 - 2 i], o = 2 i - 1 + k."""
    x, kernel = normal(2, *size, 3), normal(4, 4, 3, 2)

    def transposed(x, kernel):
        flipped = kernel[::-1, ::-1]
        return lax.conv_transpose(x, flipped, (2, 2), ((2, 2), (2, 2)), dimension_numbers=DIMS)

    @jax.jit
    def both(x, kernel):
        return [(op(x, kernel), jax.grad(loss_of(op), (0, 1))(x, kernel)) for op in (upconv, transposed)]

    ours, theirs = both(x, kernel)
    close(ours, theirs)

    height, width = size
    full = np.zeros((2, 2 * height + 2, 2 * width + 2, 2))
    for i in range(height):
        for j in range(width):
            patch = np.einsum("bi,hwio->bhwo", np.asarray(x[:, i, j], np.float64), np.asarray(kernel, np.float64))
            full[:, 2 * i : 2 * i + 4, 2 * j : 2 * j + 4] += patch
    np.testing.assert_allclose(ours[0], full[:, 1:-1, 1:-1], atol=1e-4)


def test_upconv_layer_adds_its_bias():
    x = normal(1, 3, 3, 2)
    params = {"kernel": jnp.zeros((4, 4, 2, 5)), "bias": jnp.arange(5.0)}
    y = UpConv(5).apply({"params": params}, x)
    np.testing.assert_array_equal(y, np.broadcast_to(np.arange(5), (1, 6, 6, 5)))


# --- networks ---


@pytest.mark.parametrize(("size", "times"), [(17, 0), (17, 1), (17, 2), (23, 3), (1, 4), (64, 6)])
def test_halved_is_the_size_after_strided_layers(size, times):
    expected = size
    for _ in range(times):
        expected = (expected + 1) // 2
    assert halved(size, times) == expected


UNETS = [UNet(width=8, mults=(1, 2), blocks=1, attention=(4,), head_dim=8), UNet(8, (1, 2, 2), 1, ())]


def unet_inputs(shape, batch=2):
    return normal(batch, *shape), jnp.linspace(0, 900, batch), 3, jnp.eye(batch)


@pytest.mark.parametrize("network", UNETS)
@pytest.mark.parametrize("shape", [(8, 8, 3), (4, 12, 1), (16, 8, 2)])
def test_unet_keeps_height_and_width(network, shape):
    network.check(shape)
    x, t, out, y = unet_inputs(shape)
    eps = jax.eval_shape(lambda: network.init_with_output(jax.random.key(0), x, t, out, y)[0])
    assert (eps.shape, eps.dtype) == ((2, *shape[:2], 3), jnp.float32)


@pytest.mark.parametrize("shape", [(6, 8, 3), (8, 6, 3), (8, 8)])
def test_unet_refuses_sizes_that_it_cannot_halve(shape):
    with pytest.raises(UserError, match="multiples of 4") as error:
        UNETS[1].check(shape)
    assert "\n" not in str(error.value)


@pytest.fixture
def unet():
    network = UNETS[0]
    inputs = unet_inputs((8, 8, 2))
    shapes = jax.eval_shape(lambda key: network.init(key, *inputs[:2], 3, inputs[3]), jax.random.key(0))
    return network, inputs, randomised(shapes)


def test_unet_output_starts_at_zero(unet):
    network, (x, t, out, y), _ = unet
    eps, _ = jax.jit(lambda key: network.init_with_output(key, x, t, out, y))(jax.random.key(0))
    np.testing.assert_array_equal(eps, 0)


def test_every_unet_parameter_has_a_gradient(unet):
    """With random parameters, a forgotten input, skip or time would show as a gradient of zero."""
    network, (x, t, out, y), params = unet
    weight = normal(2, 8, 8, 3)
    loss = jax.jit(jax.grad(lambda p: jnp.sum(weight * network.apply(p, x, t, out, y))))
    for path, grad in jax.tree_util.tree_flatten_with_path(loss(params))[0]:
        size = jnp.abs(grad).max(axis=(*range(grad.ndim - 2), -1))  # per input channel, for kernels
        assert float(size.min()) > 1e-6, jax.tree_util.keystr(path)


def test_unet_attends_at_the_given_heights(unet):
    """Heights are 8 and 4: `attention=(4,)` gives one block on the way down, two on the way up, and the middle's."""
    x, t, out, y = unet[1]
    for heights, count in [((4,), 4), ((), 1)]:
        network = unet[0].clone(attention=heights)
        params = jax.eval_shape(lambda network=network: network.init(jax.random.key(0), x, t, out, y))["params"]
        assert sum("attention" in name.lower() for name in params) == count


def test_dropout_acts_in_training_only(unet):
    network, (x, t, out, y), params = unet
    dropping = network.clone(dropout=0.5)
    apply = jax.jit(lambda key: dropping.apply(params, x, t, out, y, train=True, rngs={"dropout": key}))
    assert not np.allclose(apply(jax.random.key(0)), apply(jax.random.key(1)))
    programs = [jax.make_jaxpr(lambda p, m=m: m.apply(p, x, t, out, y))(params) for m in (network, dropping)]
    assert str(programs[0]) == str(programs[1])


def operand_types(jaxpr):
    """The dtypes of operands of matrix products and convolutions, in a program and its inner programs."""
    for eqn in jaxpr.eqns:
        if eqn.primitive.name in ("dot_general", "conv_general_dilated"):
            yield from (v.aval.dtype for v in eqn.invars)
        for inner in eqn.params.values():
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                yield from operand_types(inner)


NETWORKS = {
    "mlp": (MLP((16,)), lambda m, x, c: (x, (6, 5), c)),
    "encoder": (ConvEncoder((8, 8)), lambda m, x, c: (x, (7,), c)),
    "decoder": (ConvDecoder((8, 8)), lambda m, x, c: (x.reshape(3, -1), (5, 7, 2), c)),
    "unet": (UNETS[0], lambda m, x, c: (x, jnp.arange(3.0), 3, c)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_bfloat16_networks_compute_in_bfloat16_and_return_f32(name):
    network, arguments = NETWORKS[name]
    arguments = arguments(network, normal(3, 4, 4, 2), jnp.eye(3))
    low = core.with_field(network, "dtype", jnp.bfloat16)
    arrays, static = arguments[0], arguments[1:]
    shapes = jax.eval_shape(lambda key: low.init(key, arrays, *static), jax.random.key(0))
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype(jnp.float32)}
    params = randomised(shapes)
    half, full = jax.jit(lambda p: [module.apply(p, arrays, *static) for module in (low, network)])(params)
    assert half.dtype == full.dtype == jnp.float32
    error = float(jnp.abs(half - full).max() / jnp.abs(full).max())
    assert 0 < error < 0.1
    products = list(operand_types(jax.make_jaxpr(lambda p: low.apply(p, arrays, *static))(params).jaxpr))
    assert products and set(products) == {jnp.dtype(jnp.bfloat16)}


def test_with_field_reaches_every_network_of_a_model():
    model = core.with_field(VAE(encoder=ConvEncoder(), decoder=MLP()), "dtype", jnp.bfloat16)
    assert model.encoder.dtype == model.decoder.dtype == jnp.bfloat16
    assert model == VAE(encoder=ConvEncoder(dtype=jnp.bfloat16), decoder=MLP(dtype=jnp.bfloat16))


@pytest.mark.parametrize("shape", [(17, 23, 3), (1, 1, 1), (8, 8, 1)])
def test_convolutional_networks_accept_any_size(shape):
    encoder, decoder = ConvEncoder((4, 4, 4)), ConvDecoder((4, 4, 4))

    def both(key):
        x, z, y = jnp.zeros((2, *shape)), jnp.zeros((2, 5)), jnp.eye(2)
        return encoder.init_with_output(key, x, (5,), y)[0], decoder.init_with_output(key, z, shape, y)[0]

    z, x = jax.eval_shape(both, jax.random.key(0))
    assert (z.shape, x.shape) == ((2, 5), (2, *shape))


def test_double_conv_equals_doubling_then_convolution():
    x = jax.random.normal(jax.random.key(0), (2, 5, 7, 3))
    module = DoubleConv(4)
    params = module.init(jax.random.key(1), x)
    doubled = jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)
    expected = nn.Conv(4, (3, 3), padding="SAME").apply(params, doubled)
    np.testing.assert_allclose(module.apply(params, x), expected, atol=1e-5)


@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_attention_equals_jaxs(scale):
    """Also with scores so large that an unshifted exponential would overflow."""
    q, k, v = jax.random.normal(jax.random.key(0), (3, 2, 6, 4, 8))

    def through(function):
        return lambda q, k, v: jnp.sum(jnp.sin(function(q * scale, k, v)))

    np.testing.assert_allclose(attention(q * scale, k, v), jax.nn.dot_product_attention(q * scale, k, v), atol=1e-5)
    ours = jax.grad(through(attention), (0, 1, 2))(q, k, v)
    theirs = jax.grad(through(jax.nn.dot_product_attention), (0, 1, 2))(q, k, v)
    for a, b in zip(ours, theirs):
        np.testing.assert_allclose(a, b, atol=1e-4 * scale)
