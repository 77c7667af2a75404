"""What else than samples is drawn by flow maps, on Gaussian data: guidance, posteriors, steering, images varied."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gaussian_flow import MEAN, STATE, STD, drawn, exact, keys, velocity

from jaxgen import core
from jaxgen.errors import UserError
from jaxgen.models.autoguided import Autoguided
from jaxgen.models.mean_flow import MeanFlow
from jaxgen.models.shortcut import Shortcut
from jaxgen.nets.dit import DiT
from jaxgen.ops import attention
from jaxgen.ops.guidance import Guidance
from jaxgen.ops.samplers import Leaps
from jaxgen.ops.schedules import Straight


def test_velocities_are_not_told_the_spans_of_leaps():
    """Regression: whoever asked for a prediction of x_0 was told of a leap over the whole time, at any time."""
    model = exact(MeanFlow)
    z, t, _ = drawn(32)
    z, t = jnp.float32(z), jnp.float32(t)
    x0 = model.denoiser(STATE.params)(z, t).x0
    np.testing.assert_allclose(x0, z - t[:, None] * velocity(z, t), atol=1e-4)


def test_autoguidance_leaps_as_the_sampler_does():
    """By itself, the guide changes nothing. Regression: one step was one of the velocity, to the mean of the data."""
    model = replace(exact(MeanFlow), guidance=Guidance(scale=2.0))
    pair = Autoguided(model=model, guide=exact(MeanFlow))
    found = pair.sample(pair.join(STATE, STATE), keys())
    np.testing.assert_allclose(found, model.sample(STATE, keys()), atol=1e-5)


def test_restoring_by_a_flow_map_is_that_of_its_ode():
    """The posterior of Gaussian data. Regression: a leap fitted y itself, whatever the noise."""
    model, y = exact(MeanFlow), jnp.array([[2.0, 1.0]])
    many = core.sample_keys(0, 4000)
    x = jax.jit(lambda: model.restore(STATE, many, jnp.tile(y, (4000, 1)), lambda x: x, 1.0, iterations=2))()
    precision = 1 + 1 / STD**2
    np.testing.assert_allclose(x.mean(axis=0), (y[0] + MEAN / STD**2) / precision, atol=0.08)
    np.testing.assert_allclose(x.std(axis=0), precision**-0.5, rtol=0.1)


def test_steering_is_finite_where_there_is_no_data():
    """Regression: flow matching starts where alpha is 0, and steered samples were NaN."""
    moved = exact(MeanFlow).steer(STATE, keys(), lambda x, keys: jnp.sum((x - 3) ** 2, axis=-1))
    assert np.all(np.isfinite(moved)) and np.mean(moved) > np.mean(exact(MeanFlow).sample(STATE, keys())) + 0.3


def test_one_leap_cannot_keep_an_image():
    """Regression: a sample was drawn that had nothing of it."""
    model, x = exact(MeanFlow), jnp.ones((64, 2))
    with pytest.raises(UserError, match="a sampler of 1 step would begin at pure noise"):
        model.vary(STATE, keys(), x, 0.3)
    more = replace(model, sampler=Leaps(steps=4))
    assert not np.allclose(more.vary(STATE, keys(), x, 0.3), more.vary(STATE, keys(), -x, 0.3))


@pytest.mark.parametrize(
    ("changed", "said"),
    [({"sampler": Leaps(steps=3)}, "a power of two"), ({"sampler": Leaps(steps=16)}, "a power of two"),
     ({"schedule": Straight(shift=3.0)}, "equally long")],
)  # fmt: skip
def test_shortcuts_take_steps_that_they_learnt(changed, said):
    assert exact(Shortcut, finest=8).problem() is None
    assert said in replace(exact(Shortcut, finest=8), **changed).problem()


def test_forward_mode_takes_no_kernel_without_it(monkeypatch):
    """Where a GPU is present. Regression: MeanFlow in bfloat16 asked cuDNN's kernel for a product with its Jacobian."""
    asked = []
    monkeypatch.setattr(attention, "_has_cuda", lambda: True)
    monkeypatch.setattr(jax.nn, "dot_product_attention", lambda q, k, v, **_: asked.append(q.shape) or v)
    model = MeanFlow(shape=(4, 4, 3), network=DiT(width=16, depth=1, heads=2, patch=2, dtype=jnp.bfloat16))
    batch = {"x": jnp.zeros((4, 4, 4, 3))}
    params = jax.eval_shape(model.init_params, jax.random.key(0), batch)
    asked.clear()
    jax.eval_shape(lambda p: model.loss(p, STATE, core.sample_keys(0, 4), batch)[0], params)
    assert asked == []
    jax.eval_shape(lambda p: model.answer(p, batch["x"], jnp.ones(4), {}), params)
    assert asked
