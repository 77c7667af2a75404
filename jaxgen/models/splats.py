"""3-D Gaussian splatting, arXiv:2308.04079: a scene as ellipsoids of fog, drawn front to back.

In a batch, x are whole pictures and cond their cameras (see `jaxgen.ops.splatting`). A sample is the picture that a
camera sees; it depends on no key. The loss is

    (1 - lambda) mean |C - x| + lambda (1 - SSIM(C, x))                               (eq. 7, lambda = `similarity`)

There are `capacity` slots for splats, whose number grows and falls among them (`jaxgen.ops.densification`): arrays keep
their shapes, and one program trains from the first step to the last.
"""

from collections.abc import Hashable
from dataclasses import dataclass, replace
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp
import optax
from annotated_types import Ge, Le

from jaxgen.codecs import Pixels
from jaxgen.core.codec import Codec
from jaxgen.core.model import GenerativeModel
from jaxgen.core.ranges import Fraction, NonNegative, OptionalCount, Positive, Samples, Shape
from jaxgen.core.types import Batch, Metrics, PyTree, TrainState
from jaxgen.errors import UserError
from jaxgen.metrics.image import SSIM_SMALLEST, unit_ssim
from jaxgen.ops import splatting
from jaxgen.ops.densification import EMPTY, Densification, Params, densified, is_splat
from jaxgen.ops.rasterizing import Tiling, rendered
from jaxgen.ops.splatting import CAMERA, Gaussians, camera_of
from jaxgen.ops.volume import Rendered
from jaxgen.optim import Adam, trained, with_frozen

SLIGHT = 0.1
"""Opacity of splats at the start."""
REST = 20
"""By what the learning rate of colours is divided for harmonics above the constant one."""


@dataclass(frozen=True, kw_only=True)
class SplatAdam(Adam):
    """Adam with a learning rate for each kind of parameter. `lr` is that of places, in units of the scene's extent; it
    alone follows the schedule."""

    lr: NonNegative = 1.6e-4
    scale: NonNegative = 5e-3
    """Rate of the logarithms of scales."""
    rotation: NonNegative = 1e-3
    """Rate of quaternions."""
    opacity: NonNegative = 5e-2
    """Rate of the logits of opacities."""
    colour: NonNegative = 2.5e-3
    """Rate of the constant harmonic; the others have a twentieth of it."""
    eps: Positive = 1e-15

    def problem(self) -> str | None:
        if self.weight_decay:
            return f"weight_decay is {self.weight_decay}, but zero is no simpler splat: leave it at 0"
        return super().problem()

    @property
    def tx(self) -> optax.GradientTransformation:
        rates: dict[str, float | optax.Schedule] = {
            "mean": self.schedule, "log_scale": self.scale, "quaternion": self.rotation, "opacity": self.opacity,
            "sh0": self.colour, "sh": self.colour / REST,
        }  # fmt: skip
        whole: dict[Hashable, optax.GradientTransformation] = {
            name: optax.scale_by_learning_rate(rate) for name, rate in rates.items()
        }

        def names(params: PyTree) -> PyTree:
            return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key, params)

        clip = [optax.clip_by_global_norm(self.clip)] if self.clip else []
        return optax.chain(*clip, self.direction(), optax.multi_transform(whole, names))


class Drawn(NamedTuple):
    """One picture of a step. mse, dropped: f32[]; seen: bool[N], the splats in it."""

    loss: jax.Array
    mse: jax.Array
    dropped: jax.Array
    seen: jax.Array


@dataclass(frozen=True, kw_only=True)
class Splats(GenerativeModel):
    """x: f32[B, H, W, 3] in [0, 1], over white where the scene is transparent; cond: cameras f32[B, 18]. With
    `random_background` a batch also needs alpha: uint8[B, H, W, 1]. Masks are counted: bool[B, H, W, 1]."""

    shape: Shape = (64, 64, 3)
    """(H, W, 3) of a picture."""
    capacity: Samples = 16_384
    """Slots for splats."""
    initial: Samples = 4096
    """Splats at the start, at random places."""
    bound: Positive = 1.0
    """They lie in [-bound, bound]^3."""
    extent: Positive = 4.4
    """Size of the scene, as the distance of its cameras from their centre, by which rates and sizes are scaled."""
    degree: Annotated[int, Ge(0), Le(3)] = 3
    """Of the harmonics by which colours depend on the direction."""
    degree_every: OptionalCount = 1000
    """Steps after which the next degree of harmonics counts; 0 for all from the start."""
    similarity: Fraction = 0.2
    """Weight of structural similarity in the loss."""
    optimizer: SplatAdam = SplatAdam()
    densification: Densification = Densification()
    low_pass: NonNegative = 0.3
    """Variance in px^2 of the filter that no splat is narrower than."""
    tile: Annotated[int, Ge(1), Le(64)] = 8
    """Side of a tile in pixels."""
    pairs: Samples = 1 << 16
    """Pairs of a splat and a tile in one picture. Where there are more, the farthest are left out."""
    background: tuple[Fraction, Fraction, Fraction] = (1.0, 1.0, 1.0)
    """RGB behind the scene in pictures. Other than white, it needs data with alpha."""
    random_background: bool = False
    """Give every picture of training its own random background, so that white surfaces and empty space differ."""

    def problem(self) -> str | None:
        if len(self.shape) != 3 or self.shape[2] != 3:
            return f"shape is {self.shape}: pictures (H, W, 3) are expected"
        if self.initial > self.capacity:
            return f"initial is {self.initial}, capacity {self.capacity}: no more than that many is expected"
        if self.similarity and min(self.shape[:2]) < SSIM_SMALLEST:
            return f"shape is {self.shape}: similarity needs {SSIM_SMALLEST} pixels a side; set similarity to 0"

    def natural_codec(self) -> Codec | None:
        return Pixels(low=0.0, high=1.0)

    def check(self, batch: Batch) -> None:
        x = tuple(batch["x"].shape[1:])
        if len(x) != 3:
            raise UserError(f"examples have shape {x}: whole pictures are expected, as WholeViews gives them")
        if x != tuple(self.shape):
            raise UserError(
                f"pictures have shape {x}, model.shape is {tuple(self.shape)}: pass --model.shape "
                f"{' '.join(map(str, x))}"
            )
        self.check_cond(batch.get("cond"))
        if "alpha" not in batch and (self.random_background or self.background != (1.0, 1.0, 1.0)):
            raise UserError("a background other than white needs data with alpha: leave it and random_background out")

    def check_cond(self, cond: PyTree) -> None:
        shape = tuple(getattr(cond, "shape", ()))
        if len(shape) != 2 or shape[1] != CAMERA:
            raise UserError(f"cameras of shape {shape or 'none'} were given: pass f32[N, {CAMERA}], as WholeViews has")

    # --- the scene ---

    def tiling(self, size: tuple[int, int]) -> Tiling:
        """How a picture of size (H, W) is cut: a larger one than those of training has as many more pairs."""
        more = -(-size[0] * size[1] // (self.shape[0] * self.shape[1]))
        return Tiling(size, self.tile, self.pairs * max(1, more))

    def gaussians(self, params: Params, step: jax.Array) -> Gaussians:
        """The splats; `step` says which degrees of harmonics count."""
        sh = params["sh0"][:, None]
        if self.degree:
            order = jnp.array([degree for degree in range(1, self.degree + 1) for _ in range(2 * degree + 1)])
            there = (order <= step // max(1, self.degree_every)) | (self.degree_every == 0)
            sh = jnp.concatenate([sh, params["sh"] * there[None, :, None]], axis=1)
        opacity = jax.nn.sigmoid(params["opacity"])
        return Gaussians(params["mean"], params["log_scale"], params["quaternion"], opacity, sh)

    def init(self, key: jax.Array, batch: Batch) -> TrainState:
        key_mean, key_turn, key_colour = jax.random.split(key, 3)
        n, there = self.capacity, jnp.arange(self.capacity) < self.initial
        # About the distance to the nearest of as many random points.
        apart = 0.55 * 2 * self.bound / self.initial ** (1 / 3)
        params = {
            "mean": jax.random.uniform(key_mean, (n, 3), minval=-self.bound, maxval=self.bound),
            "log_scale": jnp.full((n, 3), jnp.log(apart), jnp.float32),
            "quaternion": jax.random.normal(key_turn, (n, 4)),
            "opacity": jnp.where(there, jnp.log(SLIGHT / (1 - SLIGHT)), EMPTY).astype(jnp.float32),
            "sh0": jax.random.uniform(key_colour, (n, 3), minval=-0.5, maxval=0.5) / splatting.C0,
        }
        if self.degree:
            params["sh"] = jnp.zeros((n, (self.degree + 1) ** 2 - 1, 3))
        params = {"splats": params}
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            opt_state={"all": self._adam.start(params, self.trainable)},
            extra={"gradient": jnp.zeros(n), "views": jnp.zeros(n)},
        )

    @property
    def _adam(self) -> SplatAdam:
        return replace(self.optimizer, lr=self.optimizer.lr * self.extent)

    # --- training ---

    def train_step(self, state: TrainState, key: jax.Array, batch: Batch) -> tuple[TrainState, Metrics]:
        """One step of the optimizer, after which some slots are filled or emptied where that is due."""
        key_background, key_slots = jax.random.split(key)
        backgrounds = jnp.broadcast_to(jnp.array(self.background), (len(batch["x"]), 3))
        if self.random_background:
            backgrounds = jax.random.uniform(key_background, backgrounds.shape)
        views = dict(batch, background=backgrounds)
        # The gradient in this, added to places in pictures, is that of each splat's place in each picture.
        moved = jnp.zeros((len(backgrounds), self.capacity, 2))

        def loss(part: PyTree, moved: jax.Array) -> tuple[jax.Array, Drawn]:
            params = with_frozen(part, state.params)["splats"]
            drawn = jax.lax.map(lambda view: self._drawn(params, state.step, *view), (views, moved))
            return jnp.mean(drawn.loss), drawn

        part = trained(state.params, self.trainable)
        (value, drawn), (grads, shifts) = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(part, moved)
        params, opt_state = self._adam.step(grads, state.opt_state["all"], state.params, self.trainable)
        state = state.replace(step=state.step + 1, params=params, opt_state={"all": opt_state})
        # Of the loss of each picture, in halves of its sides.
        shifts = shifts * len(shifts) * jnp.array([self.shape[1], self.shape[0]])[None, None] / 2
        length = jnp.sqrt(jnp.sum(shifts**2, axis=-1))
        state = state.replace(extra={
            "gradient": state.extra["gradient"] + jnp.sum(length, axis=0),
            "views": state.extra["views"] + jnp.sum(drawn.seen, axis=0),
        })  # fmt: skip
        state, lacking = self._with_slots(state, key_slots)
        mse = jnp.mean(drawn.mse)
        return state, {
            "loss": value, "mse": mse, "psnr": -10 * jnp.log10(jnp.maximum(mse, 1e-10)),
            "splats": jnp.sum(is_splat(state.params["splats"]["opacity"])).astype(jnp.float32),
            "dropped": jnp.mean(drawn.dropped), "lacking": lacking, "grad_norm": optax.tree.norm(grads),
        }  # fmt: skip

    def _drawn(self, params: Params, step: jax.Array, view: Batch, moved: jax.Array) -> Drawn:
        """One picture, of a batch without its leading axis, and its loss."""
        camera, size = camera_of(view["cond"]), self._size
        splats = splatting.project(self.gaussians(params, step), camera, size, self.low_pass)
        shown, background = splats._replace(mean=splats.mean + moved), view["background"]
        seen, dropped = rendered(shown, camera, self.tiling(size), background)
        x, rgb = self._over(view, background), seen.rgb
        if "counted" in view:  # elsewhere they are the same
            rgb = jnp.where(view["counted"], rgb, x)
        error = jnp.mean(jnp.abs(rgb - x))
        if self.similarity:
            unlike = 1 - unit_ssim(rgb[None], x[None])[0]
            error = (1 - self.similarity) * error + self.similarity * unlike
        mean, extent = splats.mean, splats.extent
        inside = (extent > 0) & (mean + extent > 0) & (mean - extent < jnp.array(size[::-1])[None])
        return Drawn(error, jnp.mean((rgb - x) ** 2), dropped, jnp.all(inside, axis=-1))

    def _with_slots(self, state: TrainState, key: jax.Array) -> tuple[TrainState, jax.Array]:
        """The state with slots filled and emptied, and opacities reset, where that is due after its last step, and how
        many splats found no slot."""
        rules, last = self.densification, state.step - 1

        def fill(state: TrainState) -> tuple[TrainState, jax.Array]:
            mean = state.extra["gradient"] / jnp.maximum(state.extra["views"], 1.0)
            new = densified(state.params["splats"], mean, key, rules, self.extent)
            extra = jax.tree.map(jnp.zeros_like, state.extra)
            opt_state = jax.tree.map(
                lambda a: jnp.where(new.fresh.reshape(-1, *[1] * (a.ndim - 1)), 0, a) if a.ndim else a, state.opt_state
            )
            return state.replace(params={"splats": new.params}, opt_state=opt_state, extra=extra), new.lacking

        def reset(state: TrainState) -> TrainState:
            splats, most = state.params["splats"], jnp.log(rules.reset_to / (1 - rules.reset_to))
            opt_state = jax.tree_util.tree_map_with_path(
                lambda path, a: jnp.zeros_like(a) if a.ndim and path[-1].key == "opacity" else a, state.opt_state
            )
            faded = {**splats, "opacity": jnp.minimum(splats["opacity"], most)}
            return state.replace(params={"splats": faded}, opt_state=opt_state)

        none = jnp.zeros(())
        if rules.every:
            state, none = jax.lax.cond(rules.due(last, rules.every), fill, lambda state: (state, none), state)
        if rules.reset_every:
            state = jax.lax.cond(rules.due(last, rules.reset_every), reset, lambda state: state, state)
        return state, none

    # --- use ---

    @property
    def _size(self) -> tuple[int, int]:
        """Height and width of the pictures."""
        return self.shape[0], self.shape[1]

    def _over(self, view: Batch, background: jax.Array) -> jax.Array:
        """Pictures, which are over white, composited over another background, f32[3]."""
        if "alpha" not in view:
            return view["x"]
        behind = background.reshape(*[1] * (view["x"].ndim - 1), 3)
        return view["x"] + (1 - view["alpha"].astype(jnp.float32) / 255) * (behind - 1)

    def render_views(self, state: TrainState, cameras: jax.Array, size: tuple[int, int]) -> Rendered:
        """What cameras f32[N, 18] see, with leading axes [N, H, W]; size: (H, W). One after another: in the memory of
        one."""
        gaussians = self.gaussians(state.sampling_params["splats"], state.step)
        background = jnp.array(self.background)

        def one(numbers: jax.Array) -> Rendered:
            camera = camera_of(numbers)
            splats = splatting.project(gaussians, camera, size, self.low_pass)
            return rendered(splats, camera, self.tiling(size), background)[0]

        return jax.lax.map(one, cameras)

    def sample(self, state: TrainState, keys: jax.Array, cond: PyTree = None) -> jax.Array:
        """The pictures that cameras f32[len(keys), 18] see, f32[len(keys), H, W, 3]."""
        return self.render_views(state, cond, self._size).rgb

    def sample_cond(self, num: int, batch: Batch) -> jax.Array:
        """The cameras of `batch`, repeated as needed."""
        return jnp.asarray(batch["cond"])[jnp.arange(num) % len(batch["cond"])]

    def evaluate(self, state: TrainState, keys: jax.Array, batch: Batch) -> Metrics:
        """`mse`, `psnr` in dB and, of pictures that are large enough, `ssim` of each picture, f32[B]."""
        x = self._over(batch, jnp.array(self.background))
        rgb = jnp.clip(self.render_views(state, batch["cond"], self._size).rgb, 0, 1)
        counted = jnp.broadcast_to(batch["counted"], x.shape) if "counted" in batch else jnp.ones(x.shape, bool)
        mse = jnp.mean((rgb - x) ** 2, axis=(1, 2, 3), where=counted)
        found = {"mse": mse, "psnr": -10 * jnp.log10(jnp.maximum(mse, 1e-10))}
        if "counted" in batch or min(self._size) < SSIM_SMALLEST:  # SSIM compares neighbourhoods, which masks cut
            return found
        return {**found, "ssim": unit_ssim(rgb, x)}

    def pictures(self, state: TrainState, keys: jax.Array, batch: Batch) -> dict[str, jax.Array]:
        """Rows of the true pictures, the rendered ones, depth (near is bright) and opacity."""
        seen = self.render_views(state, batch["cond"], self._size)
        near, far = (batch["cond"][:, i, None, None] for i in (-2, -1))
        bright = seen.opacity * jnp.clip((far - seen.depth) / (far - near), 0, 1)
        grey = [jnp.broadcast_to(a[..., None], seen.rgb.shape) for a in (bright, seen.opacity)]
        return {"views.png": jnp.stack([self._over(batch, jnp.array(self.background)), seen.rgb, *grey])}
