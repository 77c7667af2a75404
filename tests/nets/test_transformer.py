"""The transformer: its settings, cached steps against whole passes, and dependence of outputs on inputs."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.errors import UserError
from jaxgen.nets.transformer import Placement, Transformer
from jaxgen.ops.attention import Dropout, attention, cached_attention, rotate
from jaxgen.ops.placement import TENSOR_RULES

KINDS = {
    "gpt2": {"causal": True},
    "post_norm": {"causal": True, "pre_norm": False, "scaled": False, "std": 0.0},
    "llama": {"causal": True, "rms": True, "swiglu": True, "rotary": True, "bias": False, "groups": 2, "hidden": 24},
}


def network(**fields) -> Transformer:
    return Transformer(width=16, depth=3, heads=4, **fields)


def normal(*shape: int, seed: int = 0) -> jax.Array:
    return jnp.float32(np.random.default_rng(seed).normal(size=shape))


def randomised(net: Transformer, *args) -> dict:
    """Random parameters, large enough that each of them matters."""
    shapes = jax.eval_shape(lambda key: net.init(key, *args), jax.random.key(0))
    leaves, tree = jax.tree.flatten(shapes)
    return jax.tree.unflatten(tree, [0.3 * normal(*p.shape, seed=i) for i, p in enumerate(leaves)])


def slow_attention(q, k, v, mask):
    """One query and head at a time, in float64."""
    q, k, v = (np.asarray(a, np.float64) for a in (q, k, v))
    out = np.zeros_like(q)
    shared = q.shape[2] // k.shape[2]
    for b, t, h in np.ndindex(q.shape[:3]):
        score = k[b, :, h // shared] @ q[b, t, h] / math.sqrt(q.shape[-1])
        weight = np.exp(score) * mask[b, t]
        out[b, t, h] = weight @ v[b, :, h // shared] / weight.sum()
    return out


@pytest.mark.parametrize("groups", [4, 2, 1])
def test_attention_equals_the_slow_reference(groups):
    q, k, v = normal(2, 5, 4, 6), normal(2, 5, groups, 6, seed=1), normal(2, 5, groups, 6, seed=2)
    below = np.broadcast_to(np.tri(5, dtype=bool), (2, 5, 5))
    some = below & (np.arange(5) >= np.array([0, 2])[:, None])[:, None] | np.eye(5, dtype=bool)
    np.testing.assert_allclose(attention(q, k, v), slow_attention(q, k, v, np.ones((2, 5, 5))), atol=1e-5)
    np.testing.assert_allclose(attention(q, k, v, causal=True), slow_attention(q, k, v, below), atol=1e-5)
    expected = slow_attention(q, k, v, some)
    np.testing.assert_allclose(attention(q, k, v, causal=True, mask=jnp.asarray(some)), expected, atol=1e-5)
    kept = cached_attention(q, *(a.swapaxes(1, 2).reshape(-1, 5, 6) for a in (k, v)), jnp.asarray(some))
    np.testing.assert_allclose(kept, expected, atol=1e-5)


def test_dropout_of_attention_weights_keeps_the_mean():
    q, k, v = (normal(1, 3, 2, 4, seed=i) for i in range(3))
    keys = jax.random.split(jax.random.key(0), 4000)
    drawn = jax.vmap(lambda key: attention(q, k, v, dropout=Dropout(0.5, key)))(keys)
    assert float(jnp.std(drawn, axis=0).min()) > 0.05
    np.testing.assert_allclose(drawn.mean(0), attention(q, k, v), atol=0.1)


def test_rotary_products_depend_on_distance_only():
    q, k, at = normal(1, 1, 1, 8), normal(1, 1, 1, 8, seed=1), lambda p: jnp.full((1, 1), p)
    products = [float(jnp.sum(rotate(q, at(p)) * rotate(k, at(p - 3)))) for p in (3, 10, 500)]
    np.testing.assert_allclose(products, products[0], rtol=1e-3)
    assert abs(products[0] - float(jnp.sum(rotate(q, at(3)) * rotate(k, at(1))))) > 1e-3
    np.testing.assert_array_equal(rotate(q, at(0)), q)


@pytest.mark.parametrize("kind", KINDS)
def test_cached_steps_equal_the_whole_pass(kind):
    """On ragged rows: the first token of the second row is padding, and its positions start after that."""
    net = network(**KINDS[kind])
    x, positions = normal(2, 7, 16), jnp.array([[0], [-1]]) + jnp.arange(7)[None]
    real = positions >= 0
    mask = (jnp.tri(7, dtype=bool)[None] & real[:, None]) | jnp.eye(7, dtype=bool)[None]
    params = randomised(net, x)

    @jax.jit
    def both(params, x):
        whole = net.apply(params, x, positions=positions, mask=mask)
        _, (k, v) = net.apply(params, x[:, :3], positions[:, :3], mask[:, :3, :3], method="keep")
        empty = net.empty_cache(2, 9)
        start = [(a.at[:, :3].set(k[i]), b.at[:, :3].set(v[i])) for i, (a, b) in enumerate(empty)]
        seen, steps = jnp.pad(mask, ((0, 0), (0, 0), (0, 2))), []
        for rows in (2, 8):  # kernels as they are, and transposed
            layers, cache, out = net.decode_params(params["params"], rows), start, []
            for at in ((3, 4), (4, 7)):  # one token, then three at once
                part = slice(*at)
                place = Placement(positions[:, part], seen[:, part], slot=at[0])
                h, cache = net.decode(layers, cache, x[:, part], place)
                out.append(h)
            steps.append(jnp.concatenate(out, axis=1))
        return whole[:, 3:], steps

    whole, (plain, transposed) = both(params, x)
    np.testing.assert_allclose(plain, whole, atol=1e-4)
    np.testing.assert_allclose(transposed, whole, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_outputs_depend_on_all_tokens_up_to_their_own(kind):
    net, x = network(**KINDS[kind]), normal(1, 5, 16)
    params = randomised(net, x)
    jacobian = jax.jit(jax.jacrev(lambda x: net.apply(params, x)[0, :, :4].sum(-1)))(x)[:, 0]
    size = np.abs(jacobian).max(axis=-1)
    np.testing.assert_array_equal(size[~np.tri(5, dtype=bool)], 0)
    assert size[np.tri(5, dtype=bool)].min() > 1e-6


def test_without_causal_every_token_sees_all_and_order_does_not_matter():
    net, x = network(), normal(1, 5, 16)
    params = randomised(net, x)
    out = net.apply(params, x)
    np.testing.assert_allclose(net.apply(params, x[:, ::-1])[:, ::-1], out, atol=1e-4)
    assert float(jnp.abs(net.apply(params, x.at[:, 4, 0].add(1.0)) - out)[:, 0].max()) > 1e-3


def test_a_context_is_attended_to():
    net, x, context = network(), normal(2, 3, 16), normal(2, 6, 10, seed=1)
    params = randomised(net, x, context)
    out = net.apply(params, x, context)
    np.testing.assert_allclose(net.apply(params, x, context[:, ::-1]), out, atol=1e-4)
    assert float(jnp.abs(net.apply(params, x, context + 1) - out).max()) > 1e-2
    assert set(params["params"]["blocks"]["cross_attention"]) == {"query", "key", "value", "out"}


def test_residuals_start_small_and_layers_are_stacked():
    net = Transformer(width=64, depth=8, heads=4)
    params = jax.jit(net.init)(jax.random.key(0), normal(1, 2, 64))["params"]["blocks"]
    assert params["self_attention"]["qkv"]["kernel"].shape == (8, 64, 192)
    stds = {f"{part}/{layer}": float(params[part][layer]["kernel"].std()) for part, layer in (
        ("self_attention", "qkv"), ("token_mlp", "up"), ("self_attention", "out"), ("token_mlp", "down")
    )}  # fmt: skip
    expected = {"self_attention/qkv": 0.02, "token_mlp/up": 0.02} | dict.fromkeys(
        ("self_attention/out", "token_mlp/down"), 0.02 / 4
    )
    assert stds == pytest.approx(expected, rel=0.05)
    # Layers start from different random numbers.
    assert not np.allclose(params["token_mlp"]["up"]["kernel"][0], params["token_mlp"]["up"]["kernel"][1])


def test_remat_changes_no_gradient_and_dropout_acts_in_training_only():
    x = normal(2, 4, 16)
    plain, again = network(causal=True, dropout=0.5), network(causal=True, dropout=0.5, remat=True)
    params = randomised(plain, x)

    def loss(net, train):
        def of(params):
            return jnp.sum(net.apply(params, x, train=train, rngs={"dropout": jax.random.key(1)}) ** 2)

        return jax.jit(jax.value_and_grad(of))(params)

    (quiet, _), (one, grads), (two, grads_again) = loss(plain, False), loss(plain, True), loss(again, True)
    assert float(quiet) == pytest.approx(float(jnp.sum(plain.apply(params, x) ** 2)), rel=1e-5)
    assert float(one) != pytest.approx(float(quiet), rel=1e-3)
    assert float(two) == pytest.approx(float(one), rel=1e-5)
    for a, b in zip(jax.tree.leaves(grads), jax.tree.leaves(grads_again)):
        np.testing.assert_allclose(a, b, atol=1e-4 * float(jnp.abs(b).max()))


def test_tensor_rules_split_every_kernel():
    """Each kernel is split at the output, but those of `out` and `down` at the input. There are no other kernels."""
    for fields in KINDS.values():
        shapes = jax.eval_shape(network(**fields).init, jax.random.key(0), normal(1, 2, 16), normal(1, 2, 16))
        for path, leaf in jax.tree_util.tree_flatten_with_path(shapes["params"])[0]:
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            if name.endswith("kernel"):
                axes = [axis for rule, axis in TENSOR_RULES if rule.search(name)]
                assert axes == [-2 if name.split("/")[-2] in ("out", "down") else -1], name
                assert leaf.shape[0] == 3


@pytest.mark.parametrize(
    ("fields", "message"), [({"heads": 3}, "multiple of 4 and of heads"), ({"groups": 3}, "divisor of heads")]
)
def test_sizes_that_do_not_fit_are_refused(fields, message):
    with pytest.raises(UserError, match=message):
        Transformer(**{"width": 16, "heads": 4, **fields}).check()
