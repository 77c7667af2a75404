"""Text to 3-D: the views of a field, its centre, and what a teacher's gradient does to it."""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import EXPERIMENTS
from flax import linen as nn

from jaxgen import core
from jaxgen.codecs import Pixels
from jaxgen.core.keys import normal_each, split_each, uniform_each
from jaxgen.core.types import TrainState
from jaxgen.data import Cameras
from jaxgen.errors import UserError
from jaxgen.experiment import presets
from jaxgen.models.clip_guidance import Targets
from jaxgen.models.ddpm import DDPM
from jaxgen.models.nerf import NeRF
from jaxgen.models.text_to_3d import Teacher
from jaxgen.ops import cameras
from jaxgen.ops.backgrounds import Backgrounds
from jaxgen.ops.cutouts import Cutouts
from jaxgen.ops.diffusion import Denoised
from jaxgen.ops.distillation import Distillation, Transmittance
from jaxgen.ops.schedules import Linear
from jaxgen.optim import Adam

SMOKE = presets(EXPERIMENTS["text_to_3d"])["smoke"].model
DATA = Cameras(size=8, train_views=40, test_views=4)
PLAIN = Backgrounds(plain=1.0)


class Blob(nn.Module):
    """A soft ball of one colour about a place in units of the field's bound."""

    cones = False

    @nn.compact
    def __call__(self, x, d, var=None):
        colour = self.param("colour", nn.initializers.constant(0.8), (3,))
        place = self.param("place", nn.initializers.zeros, (3,))
        apart = jnp.sum((x - jnp.broadcast_to(place, x.shape)) ** 2, axis=-1)
        return 20 * jnp.exp(-apart / 0.02), jnp.broadcast_to(colour, x.shape)


@dataclass(frozen=True)
class Eye:
    """Embeds a picture as its pixels, scaled to length 1."""

    shape = (8, 8, 3)

    def logit_scale(self, params):
        return params["scale"]

    def embed_images(self, params, x):
        u = x.reshape(len(x), -1) + 1e-6
        return u / jnp.linalg.norm(u, axis=1, keepdims=True)


@dataclass(frozen=True, kw_only=True)
class Shrinks(DDPM):
    """Predicts that all noise is in x_t's own direction: x0 = x_t params["gain"]."""

    def denoiser(self, params, cond=None, guided=True, sampling=False):
        return lambda x, t: Denoised(x * params["gain"])


def clip_teacher(picture):
    vector = jnp.asarray(picture, jnp.float32).reshape(1, 1, -1)
    told = Targets(vector / jnp.linalg.norm(vector), jnp.ones((1, 1)))
    return Teacher({"scale": jnp.float32(10.0)}, told, Pixels(), Eye())


def batch_of(teacher, split="train", count=4, data=DATA):
    raw = data.batch_at(0, 0, count, split)
    return {"x": raw["x"] / 255.0, "cond": jnp.asarray(raw["cond"]), "teacher": teacher.for_each(count)}


def disc():
    """A red disc on white, in [-1, 1]."""
    y, x = np.mgrid[:8, :8] - 3.5
    return np.where((y**2 + x**2 < 8)[..., None], [1.0, -1.0, -1.0], 1.0)


def with_blob(**fields):
    scene = NeRF(network=Blob(), coarse=24, fine=0, bound=1.5)
    return replace(SMOKE, scene=scene, ema_decay=0.0, optimizer=Adam(lr=0.0), **fields)


def blob_at(*place):
    """The state of `with_blob` with its ball there."""
    params = {"field": {"colour": jnp.full(3, 0.8), "place": jnp.array(place)}}
    opt_state = {"all": Adam(lr=0.0).start(params, None)}
    return TrainState(jnp.int32(0), params, opt_state, None, {"centre": jnp.zeros(3)})


def test_a_teacher_is_one_for_all_examples():
    teacher = clip_teacher(disc())
    for a, b in zip(jax.tree.leaves(teacher), jax.tree.leaves(teacher.for_each(5).one)):
        np.testing.assert_array_equal(a, b)
    assert all(len(leaf) == 5 for leaf in jax.tree.leaves(teacher.for_each(5)))
    assert teacher.told_each(3).vectors.shape == (3, 1, 192)


def test_the_objective_improves_and_views_come_near():
    """CLIP's loss falls over a few steps, and unseen views look more like the text."""
    model = replace(SMOKE, backgrounds=PLAIN, cutouts=Cutouts(num=2, noise=0.0, colour=0.0), ema_decay=0.0)
    batch = batch_of(clip_teacher(disc()))
    state = core.init(model, jax.random.key(0), batch)
    many = jax.tree.map(lambda a: jnp.broadcast_to(a, (40, *a.shape)), batch)
    held_out = batch_of(clip_teacher(disc()), "test")
    before = core.evaluate(model, state, core.sample_keys(0, 4), held_out)
    state, metrics = core.train_steps(model, state, jax.random.key(1), many)
    after = core.evaluate(model, state, core.sample_keys(0, 4), held_out)
    assert np.mean(metrics["taught"][-10:]) < 0.8 * np.mean(metrics["taught"][:10])
    assert np.all(after["similarity"] > before["similarity"] + 0.05)


def test_score_distillation_reaches_the_field_by_the_chain_rule():
    """grad of the loss = J^T w(t) (eps_hat - eps) / size, J the Jacobian of the views; nothing of the denoiser's."""
    model = with_blob(
        backgrounds=PLAIN, transmittance=Transmittance(weight=0.0), strength=2.0,
        distillation=Distillation(scale=1.0, weighting=0.5),
    )  # fmt: skip
    taught = Shrinks(schedule=Linear(50), shape=(8, 8, 3))
    teacher = Teacher({"gain": jnp.float32(0.4)}, {}, Pixels(), taught)
    batch = batch_of(teacher)
    state = blob_at(0.1, 0.0, 0.0)

    @jax.jit
    def slope(params, keys):
        return jax.grad(lambda params: model.seen(params, state, keys, batch)[0])(params)

    @jax.jit
    def drawn(params, keys):
        keys_rays, _, keys_teacher = split_each(keys, 3)
        _, keys_t, keys_eps = split_each(keys_teacher, 3)
        views = model.views(params, jnp.zeros(3), batch["cond"], keys_rays).over(jnp.ones((1, 1, 1, 3)))
        t = model.distillation.time(taught.schedule, uniform_each(keys_t, ()))
        return 2 * views - 1, t, normal_each(keys_eps, (8, 8, 3))

    @jax.jit
    def chain(params, keys, pull):
        return jax.vjp(lambda params: drawn(params, keys)[0], params)[1](pull)[0]

    got = slope(state.params, core.sample_keys(3, 4))
    x, t, eps = (np.asarray(a) for a in drawn(state.params, core.sample_keys(3, 4)))
    alpha, sigma = (level.reshape(4, 1, 1, 1) for level in taught.schedule.levels(np.asarray(t)))
    noised = alpha * x + sigma * eps
    pull = sigma * ((noised - alpha * 0.4 * noised) / sigma - eps)  # p = 1/2: w = sigma
    wanted = chain(state.params, core.sample_keys(3, 4), jnp.asarray(2.0 * pull / (8 * 8 * 3) / 4, jnp.float32))
    for name in ("colour", "place"):
        np.testing.assert_allclose(got["field"][name], wanted["field"][name], rtol=1e-3, atol=1e-7)


def test_guidance_is_asked_of_the_diffusion_model():
    """With a scale other than 1, the condition says it and the denoiser is guided."""
    asked = []

    @dataclass(frozen=True, kw_only=True)
    class Notes(Shrinks):
        def denoiser(self, params, cond=None, guided=True, sampling=False):
            asked.append((guided, "guidance" in cond))
            return super().denoiser(params, cond)

    teacher = Teacher({"gain": jnp.float32(0.4)}, {}, Pixels(), Notes(schedule=Linear(50), shape=(8, 8, 3)))
    for scale in (1.0, 7.0):
        model = with_blob(distillation=Distillation(scale=scale))
        jax.eval_shape(model._taught, teacher, jnp.zeros((2, 8, 8, 3)), core.sample_keys(0, 2))
    assert asked == [(False, False), (True, True)]


def test_cameras_follow_the_centre_of_mass():
    """It settles where the density is, and the ball stays within the field."""
    model, batch = with_blob(follow=0.8), batch_of(clip_teacher(disc()))
    many = jax.tree.map(lambda a: jnp.broadcast_to(a, (30, *a.shape)), batch)
    for place, end in (((0.2, -0.1, 0.1), (0.3, -0.15, 0.15)), ((0.6, 0.0, 0.0), (0.5, 0.0, 0.0))):
        state, _ = core.train_steps(model, blob_at(*place), jax.random.key(1), many)
        np.testing.assert_allclose(state.extra["centre"], end, atol=0.04)


@pytest.fixture(scope="module")
def aside():
    """A field with a blob, not where its centre is said to be."""
    return with_blob(), blob_at(0.2, 0.0, 0.0).replace(extra={"centre": jnp.array([0.1, 0.2, 0.0])})


def test_a_view_is_what_its_rays_render(aside):
    """The sample of a camera equals the rendering along the rays that `jaxgen render` makes of its pose."""
    model, state = aside
    views = DATA.views("test")
    seen = core.sample(model, state, core.sample_keys(0, 4), DATA.arrays("test")["cond"])
    rays = np.concatenate([cameras.view_rays(p, k, (8, 8), 0.0, 8.0) for p, k in zip(views.poses, views.intrinsics)])
    rendered = jax.jit(model.render)(state, rays)
    np.testing.assert_allclose(np.asarray(rendered.rgb).reshape(seen.shape), seen, atol=2e-5)
    assert seen.min() < 0.9 < seen.max()


def test_densities_are_relative_to_the_centre_and_end_at_the_ball(aside):
    model, state = aside
    x = np.array([[0.2, -0.2, 0.0], [0.0, 0.0, 0.0], [0.8, 0.8, 0.8], [0.0, 0.99, 0.0]], np.float32)
    sigma, rgb = jax.jit(model.at_points)(state, jnp.asarray(x), jnp.zeros((4, 3)))
    there = (x + np.array([0.1, 0.2, 0.0])) / 1.5 - [0.2, 0.0, 0.0]
    wanted = 20 * np.exp(-np.sum(there**2, axis=1) / 0.02) * (np.linalg.norm(x, axis=1) <= 1)
    np.testing.assert_allclose(sigma, wanted, rtol=1e-3, atol=1e-6)
    assert sigma[0] > 19 and sigma[2] == 0
    np.testing.assert_allclose(rgb, 0.8, rtol=1e-6)


def test_the_distortion_of_a_ray_counts_by_its_weight():
    """The loss grows by distortion_weight times the views' mean distortion, and by nothing else."""
    batch, state = batch_of(clip_teacher(disc())), blob_at(0.0, 0.0, 0.0)
    model = with_blob(backgrounds=PLAIN)

    @jax.jit
    def losses(keys):
        both = [replace(model, scene=replace(model.scene, distortion_weight=weight)) for weight in (0.0, 2.0)]
        spread = model.views(state.params, jnp.zeros(3), batch["cond"], split_each(keys, 3)[0]).distortion
        return *(one.seen(state.params, state, keys, batch)[0] for one in both), jnp.mean(spread)

    with jax.debug_key_reuse(False):
        without, with_it, spread = losses(core.sample_keys(0, 4))
    np.testing.assert_allclose(with_it - without, 2 * spread, rtol=1e-3)
    assert spread > 1e-3


def test_what_does_not_go_together_is_refused():
    batch = batch_of(clip_teacher(disc()))
    without = {name: value for name, value in batch.items() if name != "teacher"}
    with pytest.raises(UserError, match="no teacher"):
        SMOKE.check(without)
    with pytest.raises(UserError, match=r"set data\.size"):
        replace(SMOKE, shape=(9, 9, 3)).check(batch)
    with pytest.raises(UserError, match="cameras of shape"):
        SMOKE.check_cond(np.zeros((4, 9)))
    unguided = Teacher({}, {}, Pixels(), Shrinks(schedule=Linear(50), shape=(8, 8, 3)))
    with pytest.raises(UserError, match=r"distillation\.scale 1"):
        SMOKE.check(batch_of(unguided))
    with pytest.raises(UserError, match="ball within the field"):
        core.init(replace(SMOKE, radius=2.0), jax.random.key(0), batch)
