"""What networks share: applying a module under precise types, and concatenating a condition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxgen.nets.apply import apply, apply_mutable
from jaxgen.nets.condition import concat_condition


def test_apply_returns_the_output_and_apply_mutable_the_collections_too():
    norm, x = nn.BatchNorm(), jnp.arange(6.0).reshape(3, 2)
    variables = norm.init(jax.random.key(0), x, use_running_average=True)
    output, changed = apply_mutable(norm, variables, x, mutable=["batch_stats"], use_running_average=False)
    np.testing.assert_allclose(changed["batch_stats"]["mean"], 0.01 * x.mean(0), rtol=1e-5)
    np.testing.assert_allclose(apply(norm, variables, x, use_running_average=True), x, rtol=1e-4)
    assert output.shape == x.shape
    with pytest.raises(TypeError, match="use apply_mutable"):
        apply(norm, variables, x, mutable=["batch_stats"], use_running_average=False)


@pytest.mark.parametrize("shape", [(2, 3), (2, 4, 5, 3)])
def test_a_condition_is_repeated_at_every_pixel(shape):
    x, y = jnp.ones(shape, jnp.bfloat16), jnp.eye(2)
    joined = concat_condition(x, y)
    assert (joined.shape, joined.dtype) == ((*shape[:-1], 5), x.dtype)
    for i in range(2):
        np.testing.assert_array_equal(joined[i, ..., 3:], np.broadcast_to(y[i], (*shape[1:-1], 2)))
    assert concat_condition(x, None) is x
    np.testing.assert_array_equal(concat_condition(x, x), jnp.concatenate([x, x], axis=-1))
