"""The diffusion prior's transformer: what each token sees, and that padding is seen by none."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.errors import UserError
from jaxgen.nets.prior import AFTER, PriorTransformer, prior_mask
from jaxgen.nets.transformer import Transformer

NET = PriorTransformer(body=Transformer(width=8, depth=2, heads=2, causal=True))
L, D = 5, 4
SEEN = jnp.array([[True, True, True, False, False], [True] * 5])


def given(seed=0):
    rng = np.random.default_rng(seed)
    x, z = (jnp.float32(rng.normal(size=(2, D))) for _ in range(2))
    return {"x": x, "t": jnp.array([30.0, 700.0]), "context": jnp.float32(rng.normal(size=(2, L, 6))), "embedding": z}


@pytest.fixture(scope="module")
def params():
    one = given()
    told = (None, one["context"], SEEN, one["embedding"])
    shapes = jax.eval_shape(lambda: NET.init(jax.random.key(0), one["x"], one["t"], D, *told))["params"]
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda p: jnp.float32(0.4 * rng.normal(size=p.shape)), shapes)


def tokens_of(params, one, seen=SEEN):
    """The transformer's outputs at all tokens, f32[B, L + 4, width]."""
    kwargs = {"context": one["context"], "context_mask": seen, "embedding": one["embedding"]}
    found = jax.jit(
        lambda params, x, t, kwargs: NET.apply(
            {"params": params}, x, t, D, **kwargs,
            capture_intermediates=lambda module, name: isinstance(module, Transformer) and name == "__call__",
            mutable=["intermediates"],
        )
    )(params, one["x"], one["t"], kwargs)  # fmt: skip
    return found[1]["intermediates"]["body"]["__call__"][0]


def test_the_mask_by_hand():
    mask = np.asarray(prior_mask(SEEN))
    for b in range(2):
        for query in range(L + AFTER):
            for key in range(L + AFTER):
                padding = key < L and not SEEN[b, key]
                assert mask[b, query, key] == (not padding or query == key)


def test_the_order_is_text_embedding_time_picture_answer(params):
    """A change of each input reaches its own token and those after it, and no token before."""
    one, full = given(), jnp.ones((2, L), bool)
    base = np.asarray(tokens_of(params, one, full))
    changes = {
        2: {"context": one["context"].at[:, 2].add(1.0)},
        L: {"embedding": one["embedding"] + 1},
        L + 1: {"t": one["t"] + 40},
        L + 2: {"x": one["x"] + 1},
    }
    for place, change in changes.items():
        moved = np.abs(np.asarray(tokens_of(params, one | change, full)) - base).max(axis=(0, 2))
        assert np.all(moved[:place] == 0), place
        assert np.all(moved[place:] > 1e-4), place


def test_padding_is_seen_by_no_other_token(params):
    """Whatever stands there, and however many columns of it there are; nor is anything undefined without a text."""
    one = given()

    @jax.jit
    def answer(one, seen):
        return NET.apply({"params": params}, one["x"], one["t"], D, None, one["context"], seen, one["embedding"])

    base = answer(one, SEEN)
    other = one | {"context": one["context"].at[0, 3:].set(9.0)}
    np.testing.assert_array_equal(answer(other, SEEN), base)
    shorter = {name: a[:1] for name, a in one.items()} | {"context": one["context"][:1, :3]}
    np.testing.assert_allclose(answer(shorter, SEEN[:1, :3]), base[:1], atol=1e-5)
    assert np.abs(answer(one, jnp.ones_like(SEEN)) - base)[0].max() > 1e-3
    none = jnp.zeros_like(SEEN)
    np.testing.assert_array_equal(answer(one | {"context": one["context"] * 3}, none), answer(one, none))


def test_what_is_no_prior_is_refused():
    with pytest.raises(UserError, match=r"one vector \(D,\)"):
        NET.check((4, 4, 3))
    with pytest.raises(UserError, match="not causal"):
        PriorTransformer(body=Transformer(width=8, depth=1, heads=2)).check((4,))
