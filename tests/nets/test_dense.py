"""Our dense layers agree with Flax's, with flattened rows and with transposed kernels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxgen.nets.dense import Dense, dot_transposed, prefer_kernel_on_left, transpose_kernels


@pytest.mark.parametrize("rows", [1, 2, 3, 8, 64, 100])
def test_transposed_kernels_give_flaxs_outputs_and_gradients(rows):
    x = jax.random.normal(jax.random.key(0), (rows, 1, 12))
    plain, ours = nn.Dense(7), Dense(7)
    params = plain.init(jax.random.key(1), x)["params"]
    params = {**params, "bias": jnp.arange(7.0)}

    def value(layer, params, x):
        out = layer.apply({"params": params}, x)
        return jnp.sum(jnp.sin(out)), out

    both = jax.jit(jax.value_and_grad(value, argnums=(1, 2), has_aux=True), static_argnums=0)
    (_, expected), (dp, dx) = both(plain, params, x)
    (_, flat), _ = both(ours, params, x)
    (_, out), (tp, tx) = both(ours, transpose_kernels(params), x)
    np.testing.assert_allclose(flat, expected, atol=1e-5)
    np.testing.assert_allclose(out, expected, atol=1e-5)
    np.testing.assert_allclose(tx, dx, atol=1e-5)
    np.testing.assert_allclose(tp["kernel_transposed"].T, dp["kernel"], atol=1e-5)
    np.testing.assert_allclose(tp["bias"], dp["bias"], atol=1e-5)


def test_transposed_kernels_compute_in_the_requested_dtype():
    x = jnp.ones((4, 12))
    layer = Dense(7, use_bias=False, dtype=jnp.bfloat16)
    params = layer.init(jax.random.key(1), x)["params"]
    assert layer.apply({"params": transpose_kernels(params)}, x).dtype == jnp.bfloat16
    half = jnp.ones((4, 12), jnp.bfloat16)
    assert dot_transposed(half, half, jnp.float32).dtype == jnp.float32


def test_the_compiler_keeps_the_kernel_on_the_left():
    """Without the barrier it would swap the factors back, and repack the kernel at every step."""
    kernel, x = jnp.ones((7, 12)), jnp.ones((8, 12))
    assert prefer_kernel_on_left(8) and not prefer_kernel_on_left(2)
    text = jax.jit(dot_transposed).lower(x, kernel).compile().as_text()
    assert "f32[7,8]" in next(line for line in text.splitlines() if " dot(" in line)
