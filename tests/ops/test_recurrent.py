"""Recurrent layers whose weight gradients come after the scan, against the gradient of a plain loop."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.ops.recurrent import hidden, lstm, masked_lstm, recurrent

S, B, H = 6, 3, 4


def cell(others, carry, u, extra):
    """An LSTM that looks at something else too, and is scaled by step."""
    h, c = lstm(u + jnp.tanh(carry[0] @ others), carry[1])
    return (h * extra, c), h * extra + c


def arrays(seed=0):
    rng = np.random.default_rng(seed)
    sizes = (H, 4 * H), (H, 4 * H), (B, H), (B, H), (S, B, 4 * H), (S, B, 1)
    return [jnp.asarray(rng.normal(size=size), jnp.float32) for size in sizes]


@pytest.mark.parametrize("remat", [False, True])
def test_outputs_and_gradients_are_those_of_a_loop(remat):
    kernel, others, h, c, drive, extra = arrays()

    def loop(kernel, others, carry, drive):
        total = 0.0
        for t in range(S):
            carry, out = cell(others, carry, drive[t] + carry[0] @ kernel, extra[t])
            total += jnp.sum(jnp.sin(out) * (t + 1))
        return total

    def scan(kernel, others, carry, drive):
        out = recurrent(cell, hidden, kernel, others, carry, drive, extra, remat)
        return jnp.sum(jnp.sin(out) * jnp.arange(1.0, S + 1)[:, None, None])

    given = kernel, others, (h, c), drive
    expected, found = (jax.value_and_grad(f, (0, 1, 2, 3))(*given) for f in (loop, scan))
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected)):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_a_masked_cell_begins_anew_after_what_is_not_real():
    kernel, _, h, _, drive, _ = arrays()
    start = jnp.zeros_like(h)
    real = jnp.arange(S)[:, None, None] >= jnp.array([0, 2, 5])[None, :, None]
    out = recurrent(masked_lstm, hidden, kernel, (), (start, start), drive, real)
    for b, first in enumerate([0, 2, 5]):
        alone = recurrent(
            masked_lstm, hidden, kernel, (), (start[:1], start[:1]), drive[first:, b : b + 1],
            jnp.ones((S - first, 1, 1), bool),
        )  # fmt: skip
        np.testing.assert_allclose(out[first:, b], alone[:, 0], atol=1e-6)
        assert not np.any(out[:first, b])
