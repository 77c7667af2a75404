"""Text to 3-D: a radiance field that looks like a text from all sides, taught by a frozen model of pictures.

The field of a NeRF renders views from random cameras; no picture of the object exists. C(theta, p): a view from camera
p in front of a random background, T(theta, p): the fraction of light that passes the scene. The loss is

    mean_p strength * L(C(theta, p), text) + lambda * -min(tau, mean T(theta, p))         (eq. 7 of arXiv:2112.01455)

L by CLIP (Dream Fields, arXiv:2112.01455) is a^2 / 2, a the angle between the embeddings of text and view, over random
cutouts. L by a text-to-image diffusion model (DreamFusion, arXiv:2209.14988) is known by its gradient alone,
w(t) (eps_hat(x_t; text, t) - eps) dx / dtheta (eq. 3), x the view, or its latent; here it is divided by the size of x.
The run that the codec names decides which it is (`runs.prompted`): every batch brings its teacher.

Densities count only in a ball about the scene's centre of mass, a running mean, at which all cameras look.
"""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from jaxgen.codecs import Pixels
from jaxgen.core.codec import Codec, static
from jaxgen.core.gradients import Seen
from jaxgen.core.keys import fold_each, normal_each, split_each, uniform_each
from jaxgen.core.model import LossModel
from jaxgen.core.ranges import Decay, NonNegative, Positive, Shape
from jaxgen.core.types import Batch, Metrics, PyTree, TrainState
from jaxgen.errors import UserError
from jaxgen.models.clip_guidance import Judge
from jaxgen.models.diffusion import Diffusion
from jaxgen.models.nerf import NeRF
from jaxgen.ops import volume
from jaxgen.ops.backgrounds import Backgrounds
from jaxgen.ops.cameras import columns
from jaxgen.ops.cutouts import Cutouts
from jaxgen.ops.distillation import Distillation, Transmittance, noise_error, pulled
from jaxgen.ops.views import CAMERA, ball_crossing, view_rays
from jaxgen.ops.volume import Rendered

SHOWN = 8
TIMES = 4
"""At which `evaluate` measures a diffusion model's error."""


@struct.dataclass
class Teacher:
    """A frozen model that knows what the text looks like, with all that it needs.

    model: `ScoresText`, as CLIP, or a `Diffusion` of texts, with its params. told: the text as the model takes it, of
    one example: `Targets`, or a condition. codec: from pictures to x of the diffusion model.
    """

    params: PyTree
    told: PyTree
    codec: Codec
    model: Any = static(None)

    def for_each(self, count: int) -> "Teacher":
        """The teacher of `count` examples: every array has that leading axis, as all arrays of a batch."""
        return jax.tree.map(lambda a: jnp.broadcast_to(a[None], (count, *a.shape)), self)

    @property
    def one(self) -> "Teacher":
        """What `for_each` was called of."""
        return jax.tree.map(lambda a: a[0], self)

    def told_each(self, count: int) -> PyTree:
        """`told` of `count` examples."""
        return jax.tree.map(lambda a: jnp.broadcast_to(a, (count, *a.shape[1:])), self.told)


class Seen3D(NamedTuple):
    """Views of the scene alone. rgb: f32[B, H, W, 3], over black. opacity: f32[B, H, W, 1]. mass: f32[B], the sum of
    all weights along rays. moment: f32[B, 3], the sum of the places that have them, times weight. distortion: f32[B],
    the mean over rays of their weights' (`ops.volume`)."""

    rgb: jax.Array
    opacity: jax.Array
    mass: jax.Array
    moment: jax.Array
    distortion: jax.Array

    def over(self, background: jax.Array) -> jax.Array:
        """The views in front of a background f32[B or 1, H or 1, W or 1, 3]."""
        return self.rgb + (1 - self.opacity) * background

    @property
    def transmittance(self) -> jax.Array:
        """The mean over each view's pixels, f32[B]."""
        return 1 - jnp.mean(self.opacity, axis=(1, 2, 3))


@dataclass(frozen=True, kw_only=True)
class TextTo3D(LossModel):
    """x: f32[B, H, W, 3] in [0, 1], not looked at; cond: cameras f32[B, 13] (see `ops.views`); teacher: `Teacher`. A
    sample is the view of a camera; it depends on no key."""

    shape: Shape = (32, 32, 3)
    """(H, W, 3) of a view."""
    scene: NeRF = field(default_factory=lambda: NeRF(coarse=32, fine=0, bound=1.5))
    """The field, defined in [-bound, bound]^3, how rays pass it, the colour behind it in pictures, and the weight of
    the rays' distortion, which turns fog into surfaces. Its other settings of training are not used."""
    radius: Positive = 1.0
    """Of the ball that holds the scene."""
    follow: Decay = 0.99
    """Decay of the running mean of the centre of mass; 0 leaves the centre at the origin."""
    strength: NonNegative = 1.0
    """Weight of what the teacher says."""
    transmittance: Transmittance = Transmittance()
    backgrounds: Backgrounds = Backgrounds()
    cutouts: Cutouts = Cutouts(colour=0.0, noise=0.0)
    """Of each view, as CLIP sees them."""
    distillation: Distillation = Distillation()
    """By a diffusion model."""

    def problem(self) -> str | None:
        if len(self.shape) != 3 or self.shape[2] != 3:
            return f"shape is {self.shape}: views (H, W, 3) are expected"
        if self.scene.occupancy.resolution:
            return "scene.occupancy.resolution is set, but training here keeps no such grid: leave it at 0"
        if self.scene.disparity:
            return "scene.disparity is for scenes without bounds, but this one lies in a ball: leave it out"
        if self.radius > self.scene.bound:
            return f"radius is {self.radius}, scene.bound {self.scene.bound}: a ball within the field is expected"

    def natural_codec(self) -> Codec:
        return Pixels(low=0.0, high=1.0)

    def fitted(self, shape: tuple[int, ...], num_classes: int) -> "TextTo3D":
        raise UserError("TextTo3D learns from a text and a trained run, not from pictures: leave --images out")

    def check(self, batch: Batch) -> None:
        x = tuple(batch["x"].shape[1:])
        if x != tuple(self.shape):
            raise UserError(f"views have shape {x}, model.shape is {tuple(self.shape)}: set data.size and it alike")
        self.check_cond(batch.get("cond"))
        taught = teacher_of(batch).model
        if isinstance(taught, Diffusion) and self.distillation.scale != 1 and not taught.guidable:
            raise UserError(
                f"distillation.scale is {self.distillation.scale}, but the diffusion model was trained without "
                "class_dropout: pass --model.distillation.scale 1"
            )

    def check_cond(self, cond: PyTree) -> None:
        shape = tuple(getattr(cond, "shape", ()))
        if len(shape) != 2 or shape[1] != CAMERA:
            raise UserError(f"cameras of shape {shape or 'none'} were given: pass f32[N, {CAMERA}], as Cameras has")

    # --- the field ---

    @property
    def bound(self) -> float:
        """The scene lies in [-bound, bound]^3 about its centre, the origin of `render` and `at_points`."""
        return self.radius

    @property
    def background(self) -> tuple[float, float, float]:
        """Behind the scene in pictures."""
        return self.scene.background

    @property
    def _size(self) -> tuple[int, int]:
        """Height and width of a view."""
        return self.shape[0], self.shape[1]

    @property
    def _behind(self) -> jax.Array:
        """f32[1, 1, 1, 3]."""
        return jnp.array(self.background).reshape(1, 1, 1, 3)

    def init_params(self, key: jax.Array, batch: Batch) -> dict[str, PyTree]:
        return self.scene.init_params(key, batch)

    def init_extra(self, key: jax.Array, batch: Batch) -> dict[str, PyTree]:
        """centre: f32[3], where cameras look."""
        return {"centre": jnp.zeros(3)}

    def _rays(self, origin: jax.Array, direction: jax.Array, radius: jax.Array, centre: jax.Array) -> jax.Array:
        """Rays f32[N, 9] through the ball about `centre`, from origins relative to it."""
        origin = origin + centre[None]
        ends = ball_crossing(origin, direction, centre, self.radius)
        return jnp.concatenate([origin, direction, jnp.stack([*ends, radius], axis=-1)], axis=-1)

    def views(self, params: PyTree, centre: jax.Array, cameras: jax.Array, keys: jax.Array | None = None) -> Seen3D:
        """What cameras f32[B, 13] see. keys [B]: intervals along rays are then jittered."""
        count, (height, width) = len(cameras), self._size
        origin, direction, radius = (a.reshape(-1, *a.shape[2:]) for a in view_rays(cameras, (height, width)))
        rays = self._rays(origin, direction, radius, centre)
        if keys is not None:
            keys = jax.vmap(lambda key: jax.random.split(key, height * width))(keys).reshape(-1)
        found = self.scene.passes(params, rays, jnp.zeros((1, 3)), keys)[-1]
        rgb, _, opacity = found.rendered
        origin, direction, near, far, _ = columns(rays)
        middle = near[:, None] + (far - near)[:, None] * (found.s[:, 1:] + found.s[:, :-1]) / 2
        # The sum of w (o + t d) over t, and then over rays.
        mass, along = (jnp.sum(a, axis=-1) for a in (found.w, found.w * middle))
        moment = mass[:, None] * origin + along[:, None] * direction
        by_view = [a.reshape(count, height * width, -1) for a in (mass, moment, volume.distortion(found.s, found.w))]
        shape = (count, height, width)
        return Seen3D(
            rgb=rgb.reshape(*shape, 3), opacity=opacity.reshape(*shape, 1), mass=jnp.sum(by_view[0], axis=(1, 2)),
            moment=jnp.sum(by_view[1], axis=1), distortion=jnp.mean(by_view[2], axis=(1, 2)),
        )  # fmt: skip

    # --- training ---

    def seen(self, params: PyTree, state: TrainState, keys: jax.Array, batch: Batch) -> tuple[jax.Array, Seen]:
        keys_rays, keys_background, keys_teacher = split_each(keys, 3)
        seen = self.views(params, state.extra["centre"], batch["cond"], keys_rays)
        background = self.backgrounds(keys_background, self._size, self._behind[0, 0, 0])
        taught = self._taught(teacher_of(batch).one, seen.over(background), keys_teacher)
        prior = self.transmittance(seen.transmittance, state.step)
        loss = jnp.mean(
            self.strength * taught + self.transmittance.weight * prior + self.scene.distortion_weight * seen.distortion
        )
        metrics = {"taught": jnp.mean(taught), "transmittance": jnp.mean(seen.transmittance)}
        masses = jax.lax.stop_gradient((jnp.mean(seen.moment, axis=0), jnp.mean(seen.mass)))
        return loss, Seen(metrics, extra=masses)

    def _taught(self, teacher: Teacher, images: jax.Array, keys: jax.Array) -> jax.Array:
        """L of images f32[B, H, W, 3] in [0, 1], f32[B]."""
        told = teacher.told_each(len(images))
        if isinstance(teacher.model, Diffusion):
            keys_x, keys_t, keys_eps = split_each(keys, 3)
            x = model_space(teacher, images, keys_x)
            t = self.distillation.time(teacher.model.schedule, uniform_each(keys_t, ()))
            error, alpha, sigma = self._noise_error(teacher, told, x, t, normal_each(keys_eps, x.shape[1:]))
            return pulled(x, self.distillation.weight(alpha, sigma) * error) / x[0].size
        judge, signed = Judge(teacher.model, teacher.params), 2 * images - 1
        return judge.far(self.cutouts, keys, signed, told) / teacher.model.logit_scale(teacher.params)

    def _noise_error(
        self, teacher: Teacher, told: PyTree, x: jax.Array, t: jax.Array, eps: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        model, frozen = teacher.model, jax.lax.stop_gradient(x)
        if self.distillation.scale != 1:
            told = {**told, "guidance": jnp.full(len(x), self.distillation.scale, jnp.float32)}
        denoise = model.denoiser(teacher.params, told, guided=self.distillation.scale != 1)
        return noise_error(denoise, model.schedule, frozen, t, eps)

    def train_step(self, state: TrainState, key: jax.Array, batch: Batch) -> tuple[TrainState, Metrics]:
        centre = state.extra["centre"]
        state, seen = self._step(state, key, batch)
        if not self.follow:
            return state, seen.metrics
        moment, mass = seen.extra
        here = jnp.where(mass > 1e-6, moment / jnp.maximum(mass, 1e-6), centre)
        centre = self.follow * centre + (1 - self.follow) * here
        # The ball stays where the field is defined.
        room = self.scene.bound - self.radius
        centre = centre * jnp.minimum(1, room / jnp.maximum(jnp.linalg.norm(centre), 1e-6))
        return state.replace(extra={**state.extra, "centre": centre}), seen.metrics

    # --- use ---

    def sample(self, state: TrainState, keys: jax.Array, cond: PyTree = None) -> jax.Array:
        """What cameras f32[len(keys), 13] see: f32[len(keys), H, W, 3] in [0, 1]."""
        return self._shown(state, cond)[0]

    def _shown(self, state: TrainState, cameras: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Views before the scene's background, made one at a time, and their opacity f32[N, H, W, 1]."""
        params, centre = state.sampling_params, state.extra["centre"]

        def one(camera: jax.Array) -> tuple[jax.Array, jax.Array]:
            seen = self.views(params, centre, camera[None])
            return seen.over(self._behind)[0], seen.opacity[0]

        return jax.lax.map(one, cameras)

    def sample_cond(self, num: int, batch: Batch) -> jax.Array:
        """The cameras of `batch`, repeated as needed."""
        return jnp.asarray(batch["cond"])[jnp.arange(num) % len(batch["cond"])]

    def evaluate(self, state: TrainState, keys: jax.Array, batch: Batch) -> Metrics:
        """Of each camera's view: `transmittance`, and by CLIP `similarity`, the cosine of view and text, or by a
        diffusion model `noise_error`, the mean squared error of its noise at `TIMES` times. f32[B] each."""
        images, opacity = self._shown(state, batch["cond"])
        transmittance = 1 - jnp.mean(opacity, axis=(1, 2, 3))
        teacher = teacher_of(batch).one
        told = teacher.told_each(len(images))
        if not isinstance(teacher.model, Diffusion):
            judge = Judge(teacher.model, teacher.params)
            return {"similarity": judge.similarity(2 * images - 1, told), "transmittance": transmittance}
        x = model_space(teacher, images, fold_each(keys, TIMES))

        def add(total: jax.Array, i: jax.Array) -> tuple[jax.Array, None]:
            t = self.distillation.time(teacher.model.schedule, jnp.full(len(x), (i + 0.5) / TIMES))
            error, *_ = self._noise_error(teacher, told, x, t, normal_each(fold_each(keys, i), x.shape[1:]))
            return total + jnp.mean(error**2, axis=tuple(range(1, x.ndim))) / TIMES, None

        error, _ = jax.lax.scan(add, jnp.zeros(len(x)), jnp.arange(TIMES))
        return {"noise_error": error, "transmittance": transmittance}

    def pictures(self, state: TrainState, keys: jax.Array, batch: Batch) -> dict[str, jax.Array]:
        """Rows of views and of their opacity."""
        images, opacity = self._shown(state, batch["cond"][:SHOWN])
        return {"views.png": jnp.stack([images, jnp.broadcast_to(opacity, images.shape)])}

    def render(self, state: TrainState, rays: jax.Array) -> Rendered:
        """The rendering along rays f32[N, 9], whose origins are relative to the scene's centre."""
        origin, direction, _, _, radius = columns(rays)
        return self.scene.render(state, self._rays(origin, direction, radius, state.extra["centre"]))

    def at_points(self, state: TrainState, x: jax.Array, d: jax.Array) -> tuple[jax.Array, jax.Array]:
        """sigma f32[N] and rgb f32[N, 3] at points f32[N, 3] relative to the scene's centre, seen along d."""
        sigma, rgb = self.scene.at_points(state, x + state.extra["centre"][None], d)
        return jnp.where(jnp.sum(x**2, axis=-1) <= self.radius**2, sigma, 0.0), rgb


def teacher_of(batch: Batch) -> Teacher:
    """Of a batch. Raises UserError where there is none."""
    teacher: Any = batch.get("teacher")
    if not isinstance(teacher, Teacher):
        raise UserError("the data has no teacher: take the codec Prompted(run=..., prompt=...), which names one")
    return teacher


def model_space(teacher: Teacher, images: jax.Array, keys: jax.Array) -> jax.Array:
    """x of the teacher, a diffusion model, of images f32[B, H, W, 3] in [0, 1]; differentiable."""

    def one(image: jax.Array, key: jax.Array) -> jax.Array:
        return teacher.codec.encode({"x": 255 * image[None]}, key)["x"][0]

    return jax.vmap(one)(images, keys)
