"""The diffusion transformer: tokens of patches, gates that start at zero, the paper's sizes, one scanned block."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxgen.errors import UserError
from jaxgen.nets.dit import DiT, DiTBlock, dit
from jaxgen.nets.transformer import sinusoids
from jaxgen.nets.unet import time_embedding
from jaxgen.ops.placement import TENSOR_RULES

NET = DiT(width=16, depth=3, heads=2, patch=2)


def normal(*shape, seed=0):
    return jnp.float32(np.random.default_rng(seed).normal(size=shape))


def randomised(shapes, scale=0.3):
    leaves, tree = jax.tree.flatten(shapes)
    return jax.tree.unflatten(tree, [scale * normal(*p.shape, seed=i) for i, p in enumerate(leaves)])


X, T, Y = normal(2, 4, 6, 3), jnp.array([10.0, 600.0]), jnp.eye(2)


@pytest.fixture(scope="module")
def params():
    return randomised(jax.eval_shape(lambda key: NET.init(key, X, T, 5, Y), jax.random.key(0)))


@pytest.mark.parametrize(("size", "millions"), [("S", 32.9), ("B", 130.3), ("L", 457.8), ("XL", 674.8)])
def test_sizes_are_those_of_table_1(size, millions):
    """With latents of 32 x 32 x 4, a learned variance, 1,000 classes and the null class."""
    x, y = jnp.zeros((1, 32, 32, 4)), jnp.zeros((1, 1001))
    shapes = jax.eval_shape(lambda key: dit(size).init(key, x, jnp.zeros(1), 8, y), jax.random.key(0))
    assert sum(p.size for p in jax.tree.leaves(shapes)) / 1e6 == pytest.approx(millions, abs=0.06)


def test_output_starts_at_zero_and_blocks_as_the_identity():
    out, _ = jax.jit(lambda key: NET.init_with_output(key, X, T, 5, Y))(jax.random.key(0))
    assert (out.shape, out.dtype) == ((2, 4, 6, 5), jnp.float32)
    np.testing.assert_array_equal(out, 0)
    block, tokens = DiTBlock(heads=2), normal(2, 6, 16)
    np.testing.assert_array_equal(block.init_with_output(jax.random.key(0), tokens, normal(2, 16))[0], tokens)


def test_every_parameter_has_a_gradient(params):
    weight = normal(2, 4, 6, 5, seed=3)
    grads = jax.jit(jax.grad(lambda p: jnp.sum(weight * NET.apply(p, X, T, 5, Y))))(params)
    for path, grad in jax.tree_util.tree_flatten_with_path(grads)[0]:
        name = jax.tree_util.keystr(path)
        # In the stacked biases of queries, keys and values, those of keys have no effect: check the largest gradient.
        assert float(jnp.abs(grad).max()) > 1e-6, name
        if "blocks" in name:
            assert float(jnp.abs(grad).max(axis=range(1, grad.ndim)).min()) > 1e-7, f"a layer of {name}"


def test_the_scanned_block_equals_a_loop_over_blocks(params):
    """With remat too."""
    p = params["params"]
    tokens = nn.Dense(16).apply({"params": p["patches"]}, X.reshape(2, 2, 2, 3, 2, 3).swapaxes(2, 3).reshape(2, 6, 12))
    expected = jax.jit(lambda p: NET.apply(p, X, T, 5, Y))(params)
    embedding = nn.Dense(16).apply({"params": p["time_in"]}, time_embedding(T, 256))
    embedding = nn.Dense(16).apply({"params": p["time_out"]}, nn.silu(embedding)) + Y @ p["label"]["kernel"]
    tokens += sinusoids(2, 3, 16)[None]
    for i in range(3):
        layer = jax.tree.map(lambda a, i=i: a[i], p["blocks"])
        tokens = DiTBlock(heads=2).apply({"params": layer}, tokens, embedding)
    shift, scale = jnp.split(nn.Dense(32).apply({"params": p["out_modulation"]}, nn.silu(embedding)), 2, axis=-1)
    tokens = nn.LayerNorm(use_bias=False, use_scale=False).apply({}, tokens) * (1 + scale[:, None]) + shift[:, None]
    patches = nn.Dense(20).apply({"params": p["out"]}, tokens)
    got = patches.reshape(2, 2, 3, 2, 2, 5).swapaxes(2, 3).reshape(2, 4, 6, 5)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)
    again = jax.jit(lambda p: NET.clone(remat=True).apply(p, X, T, 5, Y))(params)
    np.testing.assert_allclose(again, expected, rtol=1e-4, atol=1e-4)


def test_outputs_depend_on_the_position_of_a_patch(params):
    """Equal patches give different outputs, and the positions of all patches differ."""
    out = NET.apply(params, jnp.ones((1, 4, 6, 3)), T[:1], 5, Y[:1])
    patches = np.asarray(out).reshape(2, 2, 3, 2, 5).swapaxes(1, 2).reshape(6, -1)
    assert min(np.abs(patches[i] - patches[j]).max() for i in range(6) for j in range(i)) > 1e-3
    embedding = sinusoids(5, 7, 32)
    assert embedding.shape == (35, 32)
    distance = np.abs(embedding[:, None] - embedding[None]).max(-1) + np.eye(35)
    assert distance.min() > 0.1
    # Columns come first: neighbours in a row share the second half.
    np.testing.assert_array_equal(embedding[0, 16:], embedding[1, 16:])
    np.testing.assert_array_equal(embedding[0, :16], embedding[7, :16])


def test_time_and_class_are_used(params):
    apply = jax.jit(lambda t, y: NET.apply(params, X[:1], t, 5, y))
    base = apply(T[:1], Y[:1])
    assert np.abs(apply(T[1:], Y[:1]) - base).max() > 1e-3
    assert np.abs(apply(T[:1], Y[1:]) - base).max() > 1e-3


def test_kernels_are_split_over_a_tensor_axis_by_rule(params):
    """qkv and up are split at their outputs, out and down at their inputs."""
    matched = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(params["params"]["blocks"])[0]:
        name = "params/network/blocks/" + jax.tree_util.keystr(path, simple=True, separator="/")
        matched[name.removeprefix("params/network/blocks/")] = any(rule.search(name) for rule, _ in TENSOR_RULES)
        assert leaf.shape[0] == 3
    split = {name for name, hit in matched.items() if hit}
    assert split == {f"self_attention/{n}" for n in ("qkv/kernel", "qkv/bias", "out/kernel")} | {
        f"token_mlp/{n}" for n in ("up/kernel", "up/bias", "down/kernel")
    }


@pytest.mark.parametrize(
    ("network", "shape", "message"),
    [(NET, (5, 4, 3), "multiples of 2"), (NET, (8, 8), "multiples of 2"), (NET.clone(heads=3), (4, 4, 3), "heads = 3")],
)
def test_sizes_that_do_not_divide_are_refused(network, shape, message):
    NET.check((4, 6, 3))
    with pytest.raises(UserError, match=message):
        network.check(shape)


def test_a_context_is_attended_to_where_it_is_not_masked():
    context, mask = normal(2, 3, 4), jnp.array([[True, True, False], [True, True, True]])
    params = randomised(jax.eval_shape(lambda: NET.init(jax.random.key(0), X, T, 5, Y, context, mask)))
    assert {"cross_attention"} < set(params["params"]["blocks"])

    @jax.jit
    def apply(context, mask=None):
        return NET.apply(params, X, T, 5, Y, context, mask)

    base = apply(context, mask)
    np.testing.assert_allclose(apply(context.at[0, 2].set(9.0), mask), base, atol=1e-5)
    assert np.abs(apply(context.at[0, 1].set(9.0), mask) - base)[0].max() > 1e-3
    np.testing.assert_allclose(apply(context[:, ::-1], mask[:, ::-1]), base, atol=1e-5)
    np.testing.assert_allclose(apply(context, jnp.ones((2, 3), bool)), apply(context), atol=1e-5)
    assert np.all(np.isfinite(apply(context, jnp.zeros((2, 3), bool))))
