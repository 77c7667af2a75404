"""Guidance by CLIP: towards a known direction, row by row, and the latents of each family."""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import EXPERIMENTS

from jaxgen import core
from jaxgen.codecs import Pixels
from jaxgen.core import INIT
from jaxgen.core.capabilities import HasLatents, LatentSpace, Steers
from jaxgen.core.keys import normal_each
from jaxgen.core.types import TrainState
from jaxgen.experiment import presets
from jaxgen.models.clip_guidance import CANDIDATES, CLIPGuidance, Targets, guide
from jaxgen.models.ddpm import DDPM
from jaxgen.ops.cutouts import Cutouts
from jaxgen.ops.diffusion import Denoised
from jaxgen.ops.gaussian import off_shell
from jaxgen.ops.samplers import DDIM
from jaxgen.ops.schedules import Cosine

ONE = Cutouts(num=1)
TRACED = []


@dataclass(frozen=True)
class Sketch:
    """Pictures 2 x 2 in grey whose latents are their pixels; of class k, brighter by k."""

    shape = (2, 2, 1)
    num_classes: int = 0

    def latent_space(self, state, cond=None):
        offset = 0.0 if cond is None else cond[:, None] * 0.1

        def decode(z):
            TRACED.append(z.shape)
            return (0.3 * z + offset).reshape(-1, 2, 2, 1)

        return LatentSpace(lambda keys: normal_each(keys, (4,)), decode, lambda z: 0.01 * jnp.sum(z**2, axis=1))


@dataclass(frozen=True)
class Eye:
    """Embeds a picture as its pixels, scaled to length 1."""

    shape = (2, 2, 1)

    def logit_scale(self, params):
        return params

    def embed_images(self, params, x):
        u = x.reshape(len(x), -1) + 1e-6
        return u / jnp.linalg.norm(u, axis=1, keepdims=True)

    def embed_text(self, params, text, mask=None):
        raise NotImplementedError


def guided(settings, vectors, weights, cond=None, num=0, model=Sketch()):
    targets = Targets(jnp.asarray(vectors, jnp.float32), jnp.asarray(weights, jnp.float32))
    state = TrainState(jnp.int32(0), {}, {}, None, {})
    keys = core.sample_keys(0, num or len(vectors))
    return guide(settings, model, Eye(), Pixels(), state, jnp.float32(10.0), keys, targets, cond)


def unit(*values):
    v = np.asarray(values, np.float32)
    return v / np.linalg.norm(v)


SETTINGS = CLIPGuidance(steps=80, lr=0.2, cutouts=ONE, candidates=4)
DIRECTIONS = np.stack([unit(1, -1, 1, -1), unit(-1, -1, 1, 1), unit(1, 2, -1, -2)])[:, None]


def test_pictures_turn_to_their_targets():
    made = guided(SETTINGS, DIRECTIONS, np.ones((3, 1)))
    similarity = np.asarray(made.similarity)
    assert similarity.shape == (80, 3) and (similarity[-1] > 0.95).all() and (similarity[-1] > similarity[0]).all()
    x = 2 * np.asarray(made.x, np.float32).reshape(3, 4) / 255 - 1
    cosines = np.sum(x / np.linalg.norm(x, axis=1, keepdims=True) * DIRECTIONS[:, 0], axis=1)
    np.testing.assert_allclose(cosines, similarity[-1], atol=0.01)


def test_rows_depend_on_their_own_key_and_target():
    together = guided(SETTINGS, DIRECTIONS, np.ones((3, 1)))
    alone = guided(SETTINGS, DIRECTIONS[:1], np.ones((1, 1)))
    np.testing.assert_allclose(alone.similarity[:, 0], together.similarity[:, 0], atol=1e-6)
    np.testing.assert_array_equal(alone.x[0], together.x[0])


def test_other_targets_need_no_other_program():
    guided(SETTINGS, DIRECTIONS, np.ones((3, 1)))
    before = len(TRACED)
    guided(SETTINGS, DIRECTIONS[::-1], np.full((3, 1), 0.5))
    assert before and len(TRACED) == before


def test_parts_of_no_weight_change_nothing():
    padded = np.concatenate([DIRECTIONS, DIRECTIONS[::-1]], axis=1)
    made, plain = guided(SETTINGS, padded, [[1, 0]] * 3), guided(SETTINGS, DIRECTIONS, np.ones((3, 1)))
    np.testing.assert_allclose(made.similarity, plain.similarity, atol=1e-5)


def test_a_negative_part_is_kept_away_from():
    towards, away = unit(1, 1, 1, -1)[None, None], unit(1, -1, 0, 0)[None, None]
    both = guided(SETTINGS, np.concatenate([towards, away], axis=1), [[1.0, -0.5]])
    plain = guided(SETTINGS, towards, [[1.0]])

    def cosine(made, v):
        x = 2 * np.asarray(made.x, np.float32).reshape(4) / 255 - 1
        return float(x @ v.reshape(4) / np.linalg.norm(x))

    assert cosine(both, away) < cosine(plain, away) - 0.1 and cosine(both, towards) > 0.6


def test_the_nearest_condition_is_kept():
    """A class that is bright is chosen for a bright target, and kept on the way."""
    made = guided(
        replace(SETTINGS, candidates=12, steps=5), np.stack([unit(1, 1, 1, 1)] * 2)[:, None], np.ones((2, 1)),
        jnp.array([-9, 9, -8]), model=Sketch(num_classes=3),
    )  # fmt: skip
    assert list(np.asarray(made.cond)) == [9, 9]
    assert np.asarray(made.start).mean() > 200


def test_every_condition_is_tried():
    cond = jnp.full(CANDIDATES + 9, -9).at[-1].set(9)
    settings, bright = replace(SETTINGS, candidates=0, steps=1), unit(1, 1, 1, 1)[None, None]
    made = guided(settings, bright, np.ones((1, 1)), cond, model=Sketch(num_classes=3))
    assert list(np.asarray(made.cond)) == [9]


def test_a_film_has_no_more_frames_than_steps():
    """Regression: further frames stayed black."""
    made = guided(replace(SETTINGS, steps=3, frames=8), DIRECTIONS, np.ones((3, 1)))
    assert made.film.shape[0] == 3
    np.testing.assert_array_equal(made.film[-1], made.x)


def test_a_film_ends_with_the_picture():
    made = guided(replace(SETTINGS, frames=7), DIRECTIONS, np.ones((3, 1)))
    assert made.film.shape == (7, 3, 2, 2, 1)
    np.testing.assert_array_equal(made.film[-1], made.x)
    np.testing.assert_array_equal(made.film[0], made.start)


# --- diffusion ---


@dataclass(frozen=True, kw_only=True)
class Normal(DDPM):
    """Of data N(0, 1): x_0hat = alpha x_t / (alpha^2 + sigma^2)."""

    def denoiser(self, params, cond=None, guided=True, sampling=False):
        def denoise(x, t):
            alpha, sigma = self.schedule.at(t, x.ndim)
            return Denoised(alpha * x / (alpha**2 + sigma**2))

        return denoise


def test_steering_by_a_linear_loss_is_exact():
    """N(0, 1) exp(a x) is N(a, 1): a loss that is linear in x_0hat shifts samples by a, whatever the step."""
    model = Normal(shape=(2, 2, 1), schedule=Cosine(num_steps=1000), sampler=DDIM(steps=250, clip=0.0))
    assert isinstance(model, Steers)
    state = TrainState(jnp.int32(0), {}, {}, None, {})
    slope = jnp.array([0.3, -0.2, 0.1, 0.0]).reshape(1, 2, 2, 1)
    keys = core.sample_keys(0, 500)
    x = model.steer(state, keys, lambda x, keys: -jnp.sum(slope * x, axis=(1, 2, 3)))
    plain = model.sample(state, core.sample_keys(0, 500))
    np.testing.assert_allclose(jnp.mean(x - plain, axis=0)[None], slope, atol=0.02)
    np.testing.assert_allclose(jnp.std(x), 1.0, atol=0.05)


def test_no_loss_steers_nowhere():
    model = Normal(shape=(2, 2, 1), schedule=Cosine(num_steps=1000), sampler=DDIM(steps=10))
    state = TrainState(jnp.int32(0), {}, {}, None, {})
    keys = core.sample_keys(0, 3)
    still = model.steer(state, keys, lambda x, keys: jnp.zeros(len(x)))
    np.testing.assert_allclose(still, model.sample(state, core.sample_keys(0, 3)), atol=1e-5)


@dataclass(frozen=True, kw_only=True)
class Shifted(Normal):
    """Of data N(cond, 1)."""

    def denoiser(self, params, cond=None, guided=True, sampling=False):
        shift = cond.reshape(-1, 1, 1, 1).astype(jnp.float32)

        def denoise(x, t):
            alpha, sigma = self.schedule.at(t, x.ndim)
            return Denoised(shift + alpha * (x - alpha * shift) / (alpha**2 + sigma**2))

        return denoise


def test_a_diffusion_model_draws_the_nearest_of_its_classes():
    """And what no loss steers is the sample that was found."""
    model = Shifted(shape=(2, 2, 1), schedule=Cosine(num_steps=1000), sampler=DDIM(steps=10, clip=0.0), num_classes=3)
    settings, bright = replace(SETTINGS, strength=0.0, candidates=0), np.stack([unit(1, 1, 1, 1)] * 2)[:, None]
    made = guided(settings, bright, np.ones((2, 1)), jnp.array([-3, 0, 3]), model=model)
    assert list(np.asarray(made.cond)) == [3, 3]
    assert np.abs(np.asarray(made.x, int) - np.asarray(made.start, int)).max() <= 1


# --- the latents of each family ---


def started(script):
    experiment = presets(EXPERIMENTS[script])["smoke"]
    batch = experiment.data.batch_at(0, 0, experiment.batch_size)
    return experiment.model, core.init(experiment.model, core.run_key(0, INIT), batch, experiment.codec)


@pytest.mark.parametrize("script", ["gan", "cgan", "vae", "stylegan2", "vqvae", "vit_vqgan"])
def test_latents_decode_to_samples(script):
    """And a gradient goes through, to each latent."""
    model, state = started(script)
    assert isinstance(model, HasLatents)
    keys = core.sample_keys(1, 4)
    cond = jnp.arange(4) if getattr(model, "num_classes", 0) else None
    if script == "stylegan2":
        model = replace(model, sampler=replace(model.sampler, noise=False, psi=0.7))
    space = model.latent_space(state, cond)
    latents = space.draw(keys)
    np.testing.assert_allclose(space.decode(latents), model.sample(state, core.sample_keys(1, 4), cond), atol=2e-5)
    grads = jax.grad(lambda latents: jnp.sum(jnp.sin(space.decode(latents)) ** 2))(latents)
    assert all((np.abs(g).reshape(4, -1).max(axis=1) > 0).all() for g in jax.tree.leaves(grads))
    assert space.cost(latents).shape == (4,)


def test_costs_are_least_where_samples_are():
    """Of codes nothing; of styles that differ between layers more than of one for all."""
    model, state = started("vqvae")
    space = model.latent_space(state)
    zs = space.draw(core.sample_keys(1, 3))
    np.testing.assert_allclose(space.cost(zs), 0, atol=1e-6)
    assert (np.asarray(space.cost([z + 0.1 for z in zs])) > 0).all()
    z = normal_each(core.sample_keys(2, 200), (64,))
    lengths = np.linalg.norm(z, axis=1)
    np.testing.assert_allclose(off_shell(z), (lengths - 8) ** 2, rtol=1e-3, atol=1e-5)
    assert float(jnp.mean(off_shell(z))) < 0.7 < float(jnp.min(off_shell(1.5 * z)))


def test_guided_codes_are_codes():
    """Pictures of a VQ model are of its codes however far its latents moved."""
    model, state = started("vqvae")
    settings = CLIPGuidance(steps=3, lr=1.0, cutouts=ONE, candidates=1)
    bright = Targets(jnp.ones((2, 1, 64)) / 8, jnp.ones((2, 1)))

    class Big(Eye):
        shape = (8, 8, 1)

    made = guide(settings, model, Big(), Pixels(), state, jnp.float32(10.0), core.sample_keys(0, 2), bright)
    assert made.x.shape == (2, 8, 8, 1) and (np.asarray(made.similarity[-1]) > np.asarray(made.similarity[0])).all()
