"""Neural radiance fields, arXiv:2003.08934, with cones (mip-NeRF, arXiv:2103.13415) and proposals (arXiv:2111.12077).

In a batch, cond is rays (see `jaxgen.ops.cameras`) and x the colours seen along them. A sample is the colour that the
field renders along a ray; it depends on no key. sigma, rgb: the field's density and colour; s, t: edges of a ray's
intervals, in [0, 1] and in units of length; w: the intervals' weights (see `jaxgen.ops.volume`). The loss is the
squared error of

    C(r) = sum_i w_i rgb_i + (1 - sum_i w_i) background                                         (eq. 3)

summed over two passes: a coarse one along even intervals, a fine one along intervals drawn from the coarse weights.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxgen.codecs import Pixels
from jaxgen.core.codec import Codec
from jaxgen.core.keys import split_each, uniform_each
from jaxgen.core.model import LossModel
from jaxgen.core.ranges import Fraction, NonNegative, OptionalSize, Positive, Samples, Size
from jaxgen.core.types import Batch, Metrics, PyTree, TrainState
from jaxgen.errors import UserError
from jaxgen.nets.apply import apply
from jaxgen.nets.nerf import NeRFMLP, ProposalMLP
from jaxgen.ops import occupancy, volume
from jaxgen.ops.cameras import RAY, columns
from jaxgen.ops.encodings import box_crossing, frustum_gaussians
from jaxgen.ops.occupancy import Occupancy
from jaxgen.ops.volume import Rendered


class Pass(NamedTuple):
    """One pass along rays: its edges, its weights and its rendering, None where only weights were computed."""

    s: jax.Array
    w: jax.Array
    seen: Rendered | None

    @property
    def rendered(self) -> Rendered:
        """`seen` of a pass that renders."""
        if self.seen is None:
            raise ValueError("this pass has weights alone")
        return self.seen


class Skip(NamedTuple):
    """How a pass skips empty space."""

    cells: jax.Array  # bool[resolution, ...]: the occupied cells
    size: int  # points in one call of the network
    complete: bool
    """Call the network as often as all points need, so that no ray depends on others. Else, as in training, call it
    once and leave out the rays of points beyond `size`."""


@dataclass(frozen=True, kw_only=True)
class NeRF(LossModel):
    """x: f32[B, 3] in [0, 1], over white where the scene is transparent; cond: rays f32[B, 9]. With
    `random_background` a batch also needs alpha: uint8[B, 1]."""

    network: nn.Module = field(default_factory=NeRFMLP)
    """(x, d, var) -> sigma, rgb."""
    coarse: Size = 64
    """Intervals of the first pass."""
    fine: OptionalSize = 128
    """Intervals of the second pass, drawn from the first one's weights; 0 for one pass."""
    shared: bool = False
    """One network for both passes, as in mip-NeRF; the fine pass then has only its own intervals."""
    cone: bool = False
    """Treat a pixel as a cone, and query the field for means over parts of it."""
    coarse_weight: NonNegative = 1.0
    """Weight of the coarse pass in the loss."""
    distortion_weight: NonNegative = 0.0
    """Weight of the last pass's distortion, a penalty that concentrates a ray's weights."""
    bound: Positive = 1.5
    """The scene lies in [-bound, bound]^3."""
    box: bool = True
    """Clip rays to that box; without, they go from near to far."""
    disparity: bool = False
    """Space intervals evenly in inverse distance, for deep scenes."""
    occupancy: Occupancy = Occupancy()
    """The occupancy grid that skips empty space in a single pass."""
    background: tuple[Fraction, Fraction, Fraction] = (1.0, 1.0, 1.0)
    """RGB behind the scene in pictures. Other than white, it needs data with alpha."""
    random_background: bool = False
    """Give every training ray its own random background, so that white surfaces and empty space differ."""
    chunk: Samples = 256
    """Rays rendered at once. It bounds the memory that a picture takes and does not change the picture."""
    remat: bool = False
    """Recompute the network's activations in the backward pass."""

    def problem(self) -> str | None:
        if self.occupancy.resolution and (self.fine or self.cone or not self.box):
            return "an occupancy grid needs a single pass of points in the box: set fine 0, no cone, and box"
        if self.cone and not getattr(self.network, "cones", True):
            return f"{type(self.network).__name__} takes points alone: leave model.cone out"

    def natural_codec(self) -> Codec | None:
        return Pixels(low=0.0, high=1.0)

    def check(self, batch: Batch) -> None:
        if self.occupancy.resolution and self.accumulate > 1:
            raise UserError("the occupied points of a whole batch share one budget: leave model.accumulate at 1")
        x, cond = tuple(batch["x"].shape[1:]), tuple(getattr(batch.get("cond"), "shape", ()))
        if x != (3,) or cond[1:] != (RAY,):
            raise UserError(
                f"examples have shape {x}, conditions {cond[1:] or 'none'}: colours (3,) and rays ({RAY},) are "
                "expected, as AnalyticScene and SceneFolder give them"
            )
        if "alpha" not in batch and (self.random_background or self.background != (1.0, 1.0, 1.0)):
            raise UserError("a background other than white needs data with alpha: leave it and random_background out")

    @property
    def _background(self) -> jax.Array:
        """The background of pictures, f32[1, 3]."""
        return jnp.array(self.background)[None]

    def _over(self, batch: Batch, background: jax.Array) -> jax.Array:
        """The colours of a batch, which are over white, composited over another background, f32[B or 1, 3]."""
        if "alpha" not in batch:
            return batch["x"]
        clear = 1 - batch["alpha"].astype(jnp.float32) / 255
        return batch["x"] + clear * (background - 1)

    # --- the field ---

    @property
    def last(self) -> str:
        """The name of the network that renders pictures."""
        return "fine" if self.fine and not self.shared else "field"

    def networks(self) -> dict[str, nn.Module]:
        """Every network by its name in the parameters."""
        names = ("coarse", "fine") if self.fine and not self.shared else ("field",)
        return dict.fromkeys(names, self.network)

    def init_params(self, key: jax.Array, batch: Batch) -> dict[str, PyTree]:
        x = jnp.zeros((1, 3))
        networks = self.networks()
        keys = jax.random.split(key, len(networks))
        return {name: net.init(k, x, x, x)["params"] for (name, net), k in zip(networks.items(), keys)}

    def init_extra(self, key: jax.Array, batch: Batch) -> dict[str, PyTree]:
        return {"occupancy": self.occupancy.start()} if self.occupancy.resolution else {}

    def query(
        self, params: PyTree, name: str, x: jax.Array, d: jax.Array, var: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """sigma f32[...] and rgb f32[..., 3] of the network `name` at points x in the scene's units, seen along d."""

        def field(params: PyTree, x: jax.Array, d: jax.Array, var: jax.Array | None) -> tuple[jax.Array, jax.Array]:
            return apply(self.networks()[name], {"params": params}, x, d, var)

        field = jax.checkpoint(field) if self.remat else field
        return field(params[name], x / self.bound, d, None if var is None else var / self.bound**2)

    def _ends(self, rays: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Where intervals begin and end along rays, f32[B] each."""
        origin, direction, near, far, _ = columns(rays)
        return box_crossing(origin, direction, near, far, self.bound) if self.box else (near, far)

    def _edges(self, rays: jax.Array, s: jax.Array) -> jax.Array:
        """t of s."""
        return volume.distances(s, *self._ends(rays), self.disparity)

    def _query_intervals(self, params: PyTree, name: str, rays: jax.Array, t: jax.Array) -> tuple[jax.Array, jax.Array]:
        """sigma f32[B, N] and rgb f32[B, N, 3] of the intervals between the edges t, f32[B, N + 1]."""
        origin, direction, _, _, radius = columns(rays)
        if self.cone:
            x, var = frustum_gaussians(origin, direction, radius, t)
        else:
            x, var = origin[:, None] + direction[:, None] * ((t[:, 1:] + t[:, :-1]) / 2)[..., None], None
        return self.query(params, name, x, jnp.broadcast_to(direction[:, None], x.shape), var)

    # --- passes ---

    def _render_pass(self, params: PyTree, name: str, rays: jax.Array, s: jax.Array, background: jax.Array) -> Pass:
        """The pass of the network `name` along intervals with the edges s."""
        t = self._edges(rays, s)
        sigma, rgb = self._query_intervals(params, name, rays, t)
        w = volume.weights(sigma, jnp.diff(t, axis=-1))
        return Pass(s, w, volume.composite(w, rgb, t, background))

    def passes(
        self, params: PyTree, rays: jax.Array, background: jax.Array, keys: jax.Array | None = None
    ) -> tuple[Pass, ...]:
        """The passes along rays, in order; the last one renders pictures. With keys, intervals are jittered."""
        keys_coarse, keys_fine = (None, None) if keys is None else split_each(keys, 2)
        s = volume.stratified(len(rays), self.coarse, keys_coarse)
        if not self.fine:
            return (self._render_pass(params, "field", rays, s, background),)
        first = self._render_pass(params, "field" if self.shared else "coarse", rays, s, background)
        w = jax.lax.stop_gradient(first.w)
        s = volume.resample(s, volume.blurred(w) if self.cone else w, self.fine + 1, keys_fine)
        if not self.shared:
            s = jnp.sort(jnp.concatenate([first.s, s], axis=-1), axis=-1)
        return first, self._render_pass(params, self.last, rays, s, background)

    def _skipping_pass(
        self, params: PyTree, skip: Skip, rays: jax.Array, background: jax.Array, keys: jax.Array | None
    ) -> tuple[Pass, jax.Array]:
        """The pass that queries the network only in occupied cells, and which rays had all points queried, bool[B]."""
        size = skip.size
        s = volume.stratified(len(rays), self.coarse, keys)
        t = self._edges(rays, s)
        origin, direction, *_ = columns(rays)
        x = origin[:, None] + direction[:, None] * ((t[:, 1:] + t[:, :-1]) / 2)[..., None]
        delta = jnp.diff(t, axis=-1)
        wanted = occupancy.lookup(skip.cells, x / self.bound) & (delta > 0)
        total, flat = wanted.size, x.reshape(-1, 3)

        def fill(index: jax.Array, sigma: jax.Array, rgb: jax.Array) -> tuple[jax.Array, jax.Array]:
            """sigma and rgb with the field's values at the points `index`, i32[size]; the index `total` is dropped."""
            at = jnp.minimum(index, total - 1)
            new_sigma, new_rgb = self.query(params, "field", flat[at], direction[at // self.coarse])
            return sigma.at[index].set(new_sigma, mode="drop"), rgb.at[index].set(new_rgb, mode="drop")

        sigma, rgb = jnp.zeros(total), jnp.zeros((total, 3))
        if skip.complete:
            turns = -(-total // size)
            index, _ = occupancy.pack(wanted, turns * size)
            count = jnp.sum(wanted)

            def body(carry):
                turn, sigma, rgb = carry
                return turn + 1, *fill(jax.lax.dynamic_slice(index, (turn * size,), (size,)), sigma, rgb)

            start = (jnp.zeros((), jnp.int32), sigma, rgb)
            _, sigma, rgb = jax.lax.while_loop(lambda carry: carry[0] * size < count, body, start)
            whole = jnp.ones(len(rays), bool)
        else:
            index, whole = occupancy.pack(wanted, size)
            sigma, rgb = fill(index, sigma, rgb)
        w = volume.weights(sigma.reshape(delta.shape), delta)
        return Pass(s, w, volume.composite(w, rgb.reshape(x.shape), t, background)), whole

    # --- training ---

    def loss(self, params: PyTree, state: TrainState, keys: jax.Array, batch: Batch) -> tuple[jax.Array, Metrics]:
        keys_pass, keys_background = split_each(keys, 2)
        rays, background = batch["cond"], self._background
        if self.random_background:
            background = uniform_each(keys_background, batch["x"].shape[1:])
        x = self._over(batch, background)
        extra, whole = {}, jnp.ones(len(x))
        if self.occupancy.resolution:
            cells = self.occupancy.occupied(state.extra["occupancy"], state.step)
            size = len(x) * min(self.occupancy.budget, self.coarse)
            only, whole = self._skipping_pass(params, Skip(cells, size, False), rays, background, keys_pass)
            passes, whole = (only,), whole.astype(jnp.float32)
            extra = {"whole": jnp.mean(whole), "occupied": jnp.mean(cells.astype(jnp.float32))}
        else:
            passes = self.passes(params, rays, background, keys_pass)
        share = whole / jnp.maximum(jnp.sum(whole), 1)
        errors = [jnp.sum(share * jnp.mean((p.seen.rgb - x) ** 2, axis=-1)) for p in passes[:-1] if p.seen is not None]
        error = jnp.sum(share * jnp.mean((passes[-1].rendered.rgb - x) ** 2, axis=-1))
        total = error + self.coarse_weight * sum(errors)
        if self.distortion_weight:
            extra["distortion"] = jnp.sum(share * volume.distortion(passes[-1].s, passes[-1].w))
            total += self.distortion_weight * extra["distortion"]
        more, extra_loss = self.regularizers(passes)
        return total + extra_loss, {"mse": error, **extra, **more}

    def regularizers(self, passes: tuple[Pass, ...]) -> tuple[Metrics, jax.Array | float]:
        """Further terms of the loss: metrics to log, and their weighted sum."""
        return {}, 0.0

    def train_step(self, state: TrainState, key: jax.Array, batch: Batch) -> tuple[TrainState, Metrics]:
        """One step of the optimizer; every `occupancy.every` steps it also updates some cells of the grid."""
        key_loss, key_grid = jax.random.split(key)
        step = state.step
        state, metrics = super().train_step(state, key_loss, batch)
        metrics["psnr"] = -10 * jnp.log10(jnp.maximum(metrics["mse"], 1e-10))
        if not self.occupancy.resolution:
            return state, metrics

        def update(grid: jax.Array) -> jax.Array:
            places = self.occupancy.places(step // self.occupancy.every)
            x = self.occupancy.points(places, key_grid) * self.bound
            sigma, _ = self.query(state.params, "field", x, jnp.zeros_like(x))
            return self.occupancy.seen(grid, places, sigma)

        grid = jax.lax.cond(step % self.occupancy.every == 0, update, lambda grid: grid, state.extra["occupancy"])
        return state.replace(extra={**state.extra, "occupancy": grid}), metrics

    # --- use ---

    def render(self, state: TrainState, rays: jax.Array) -> Rendered:
        """The rendering along rays f32[N, 9], `chunk` at a time."""
        params, background = state.sampling_params, self._background
        if not self.occupancy.resolution:
            return in_chunks(lambda rays: self.passes(params, rays, background)[-1].rendered, rays, self.chunk)
        cells = self.occupancy.occupied(state.extra["occupancy"], state.step)
        size = self.chunk * min(self.occupancy.budget, self.coarse)

        def skipping(rays: jax.Array) -> Rendered:
            return self._skipping_pass(params, Skip(cells, size, True), rays, background, None)[0].rendered

        return in_chunks(skipping, rays, self.chunk)

    def sample(self, state: TrainState, keys: jax.Array, cond: PyTree = None) -> jax.Array:
        """The colours along rays f32[len(keys), 9]: f32[len(keys), 3] in [0, 1]."""
        return self.render(state, cond).rgb

    def check_cond(self, cond: PyTree) -> None:
        shape = getattr(cond, "shape", ())
        if len(shape) != 2 or shape[1] != RAY:
            raise UserError(f"rays of shape {shape or 'none'} were given: pass f32[N, {RAY}] as the condition")

    def sample_cond(self, num: int, batch: Batch) -> jax.Array:
        """The rays of `batch`, repeated as needed."""
        return jnp.asarray(batch["cond"])[jnp.arange(num) % len(batch["cond"])]

    def evaluate(self, state: TrainState, keys: jax.Array, batch: Batch) -> Metrics:
        """`mse`, f32[B]: the squared error of each ray, averaged over colours. Its mean in dB is not a picture's PSNR;
        `jaxgen render` computes that."""
        rgb = self.render(state, batch["cond"]).rgb
        x = self._over(batch, self._background)
        return {"mse": jnp.mean((jnp.clip(rgb, 0, 1) - x) ** 2, axis=-1)}

    def pictures(self, state: TrainState, keys: jax.Array, batch: Batch) -> dict[str, jax.Array]:
        """Rows of the true colours, the rendered ones, depth (near is bright) and opacity."""
        seen = self.render(state, batch["cond"])
        near, far = columns(batch["cond"])[2:4]
        bright = seen.opacity * jnp.clip((far - seen.depth) / (far - near), 0, 1)
        grey = [jnp.broadcast_to(a[:, None], seen.rgb.shape) for a in (bright, seen.opacity)]
        x = self._over(batch, self._background)
        return {"views.png": jnp.stack([x, seen.rgb, *grey])}

    def at_points(self, state: TrainState, x: jax.Array, d: jax.Array) -> tuple[jax.Array, jax.Array]:
        """sigma f32[N] and rgb f32[N, 3] at points f32[N, 3] seen along d, `chunk` times `coarse` at a time."""

        def one(both: jax.Array) -> tuple[jax.Array, jax.Array]:
            x, d = both[:, :3], both[:, 3:]
            var = jnp.zeros_like(x) if self.cone else None
            return self.query(state.sampling_params, self.last, x, d, var)

        return in_chunks(one, jnp.concatenate([x, d], axis=-1), self.chunk * self.coarse)


@dataclass(frozen=True, kw_only=True)
class ProposalNeRF(NeRF):
    """The first pass uses a small network of densities, which learns to bound the field's weights. Its colours are not
    used."""

    proposal: nn.Module = field(default_factory=ProposalMLP)
    """(x, d, var) -> sigma and an unused value."""
    interlevel_weight: NonNegative = 1.0
    """Weight of the proposal's loss, eq. 13 of arXiv:2111.12077."""
    shared: bool = True
    """The field has one network, which has only its own intervals."""

    def problem(self) -> str | None:
        if not self.fine or not self.shared:
            return "a proposal needs a fine pass of one network: set model.fine to 1 or more, and shared"
        return super().problem()

    def networks(self) -> dict[str, nn.Module]:
        return {"proposal": self.proposal, "field": self.network}

    def passes(
        self, params: PyTree, rays: jax.Array, background: jax.Array, keys: jax.Array | None = None
    ) -> tuple[Pass, ...]:
        keys_coarse, keys_fine = (None, None) if keys is None else split_each(keys, 2)
        s = volume.stratified(len(rays), self.coarse, keys_coarse)
        t = self._edges(rays, s)
        sigma, _ = self._query_intervals(params, "proposal", rays, t)
        first = Pass(s, volume.weights(sigma, jnp.diff(t, axis=-1)), None)
        s = volume.resample(s, jax.lax.stop_gradient(first.w), self.fine + 1, keys_fine)
        return first, self._render_pass(params, "field", rays, s, background)

    def regularizers(self, passes: tuple[Pass, ...]) -> tuple[Metrics, jax.Array | float]:
        first, second = passes
        gap = jnp.mean(volume.interlevel(second.s, second.w, first.s, first.w))
        return {"interlevel": gap}, self.interlevel_weight * gap


def in_chunks(function: Callable[[jax.Array], PyTree], rows: jax.Array, size: int) -> PyTree:
    """function(rows) for rows [N, ...], `size` rows at a time by one program. Each result has one row for each of
    rows."""
    n = rows.shape[0]
    if isinstance(n, int) and n <= size:
        return function(rows)
    chunks = (n + size - 1) // size
    # Copies of the last row fill the last chunk. They are made by index, as N may be symbolic (jax.export).
    index = jnp.minimum(jnp.arange(chunks * size), n - 1)
    parts = jax.lax.map(function, rows[index].reshape(chunks, size, *rows.shape[1:]))
    return jax.tree.map(lambda a: a.reshape(chunks * size, *a.shape[2:])[jnp.arange(n)], parts)
