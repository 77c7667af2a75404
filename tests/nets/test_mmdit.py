"""The multimodal diffusion transformer: two streams in one attention."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.errors import UserError
from jaxgen.nets.mmdit import MMDiT, MMDiTBlock

NET = MMDiT(width=16, depth=2, heads=2, patch=2)


def normal(*shape, seed=0):
    return jnp.float32(np.random.default_rng(seed).normal(size=shape))


X, T, CONTEXT = normal(2, 4, 6, 3), jnp.array([10.0, 600.0]), normal(2, 3, 5, seed=1)
MASK = jnp.array([[True, True, False], [True, True, True]])


@pytest.fixture(scope="module")
def params():
    shapes = jax.eval_shape(lambda: NET.init(jax.random.key(0), X, T, 4, None, CONTEXT, MASK))
    leaves, tree = jax.tree.flatten(shapes)
    return jax.tree.unflatten(tree, [0.3 * normal(*p.shape, seed=i) for i, p in enumerate(leaves)])


def test_pictures_and_words_attend_to_one_another(params):
    """A word changes every token of its picture and no other picture; padding changes nothing."""
    apply = jax.jit(lambda x, c, m: NET.apply(params, x, T, 4, None, c, m))
    base = apply(X, CONTEXT, MASK)
    assert base.shape == (2, 4, 6, 4)
    np.testing.assert_allclose(apply(X, CONTEXT.at[0, 2].set(9.0), MASK), base, atol=1e-5)
    changed = np.abs(apply(X, CONTEXT.at[0, 1].set(9.0), MASK) - base)
    assert changed[0].max(axis=-1).min() > 1e-5 and changed[1].max() < 1e-5
    np.testing.assert_allclose(apply(X, CONTEXT[:, ::-1], MASK[:, ::-1]), base, atol=1e-5)
    np.testing.assert_allclose(apply(X, CONTEXT, jnp.ones((2, 3), bool)), apply(X, CONTEXT, None), atol=1e-5)
    assert np.all(np.isfinite(apply(X, CONTEXT, jnp.zeros((2, 3), bool))))
    far = np.abs(apply(X.at[0, 0, 0].set(3.0), CONTEXT, MASK) - base)
    assert far[0, 2:, 2:].max() > 1e-4


def test_a_block_is_the_plain_formula():
    """Against loops over heads, with all modulation drawn at random."""
    block, width, heads = MMDiTBlock(heads=2), 8, 2
    image, text, embedding = normal(1, 3, width), normal(1, 2, width, seed=1), normal(1, width, seed=2)
    shapes = jax.eval_shape(lambda: block.init(jax.random.key(0), (image, text), embedding))
    leaves, tree = jax.tree.flatten(shapes)
    params = jax.tree.unflatten(tree, [0.5 * normal(*p.shape, seed=i + 3) for i, p in enumerate(leaves)])
    found = block.apply(params, (image, text), embedding)
    p = jax.tree.map(lambda a: np.asarray(a, np.float64), params["params"])

    def dense(name, h):
        return h @ p[name]["kernel"] + p[name]["bias"]

    def norm(h):
        return (h - h.mean(-1, keepdims=True)) / np.sqrt(h.var(-1, keepdims=True) + 1e-6)

    def rms(name, h):
        return h / np.sqrt((h**2).mean(-1, keepdims=True) + 1e-6) * p[name]["scale"]

    e = np.asarray(embedding[0], np.float64)
    gains = {s: np.split(dense(f"{s}_modulation", e / (1 + np.exp(-e))), 6) for s in ("image", "text")}
    qkv = {}
    for s, h in (("image", image), ("text", text)):
        shift, scale = gains[s][:2]
        rows = dense(f"{s}_qkv", norm(np.asarray(h[0], np.float64)) * (1 + scale) + shift).reshape(-1, heads, 3, 4)
        qkv[s] = rms(f"{s}_norm_q", rows[:, :, 0]), rms(f"{s}_norm_k", rows[:, :, 1]), rows[:, :, 2]
    q, k, v = (np.concatenate([qkv["image"][i], qkv["text"][i]]) for i in range(3))
    joint = np.zeros((5, heads, 4))
    for n in range(heads):
        weight = np.exp(q[:, n] @ k[:, n].T / 2)
        joint[:, n] = weight / weight.sum(axis=1, keepdims=True) @ v[:, n]
    joint = joint.reshape(5, width)
    for s, h, new, got in (("image", image, joint[:3], found[0]), ("text", text, joint[3:], found[1])):
        _, _, gate, shift, scale, gate_mlp = gains[s]
        h = np.asarray(h[0], np.float64) + gate * dense(f"{s}_out", new)
        mlp = p[f"{s}_mlp"]
        up = (norm(h) * (1 + scale) + shift) @ mlp["up"]["kernel"] + mlp["up"]["bias"]
        up = np.asarray(jax.nn.gelu(jnp.asarray(up)), np.float64)
        h = h + gate_mlp * (up @ mlp["down"]["kernel"] + mlp["down"]["bias"])
        np.testing.assert_allclose(got[0], h, rtol=2e-3, atol=2e-4)


def test_it_starts_as_no_change_and_needs_a_text():
    params = NET.init(jax.random.key(0), X, T, 4, None, CONTEXT, MASK)
    np.testing.assert_array_equal(NET.apply(params, X, T, 4, None, CONTEXT, MASK), 0)
    with pytest.raises(UserError, match="given no text"):
        NET.init(jax.random.key(0), X, T, 4)
    with pytest.raises(UserError, match="multiples of 2"):
        NET.check((3, 4, 3))
