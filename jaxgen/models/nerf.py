"""Neural radiance fields, arXiv:2003.08934, their cones (mip-NeRF, arXiv:2103.13415) and proposals (arXiv:2111.12077).

A batch's x is the colour seen along the ray that its cond is (see `jaxgen.ops.cameras`), and a sample is what the field
shows along a ray: it depends on no key. sigma, rgb: the field's density and colour; s, t: edges of a ray's intervals in
[0, 1] and in units of length; w: their weights (see `jaxgen.ops.volume`). A step minimises the squared error of

    C(r) = sum_i w_i rgb_i + (1 - sum_i w_i) background                                         (eq. 3)

summed over the coarse pass, along even intervals, and the fine one, along those drawn from the coarse one's weights.
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
from jaxgen.core.types import Batch, Metrics, PyTree, TrainState
from jaxgen.errors import UserError
from jaxgen.nets.nerf import NeRFMLP, ProposalMLP
from jaxgen.ops import occupancy, volume
from jaxgen.ops.cameras import RAY, columns
from jaxgen.ops.encodings import box_crossing, frustum_gaussians
from jaxgen.ops.occupancy import Occupancy
from jaxgen.ops.volume import Rendered


class Pass(NamedTuple):
    """One way along rays: edges, weights, and what is seen, None where only weights were asked for."""

    s: jax.Array
    w: jax.Array
    seen: Rendered | None


@dataclass(frozen=True, kw_only=True)
class NeRF(LossModel):
    """x: f32[B, 3] in [0, 1], over white where the scene is transparent; cond: rays f32[B, 9]. With `random_background`
    a batch also has alpha: uint8[B, 1]."""

    network: nn.Module = field(default_factory=NeRFMLP)
    """(x, d, var) -> sigma, rgb."""
    coarse: int = 64
    """Intervals of the first pass."""
    fine: int = 128
    """Intervals drawn from its weights; 0 for one pass."""
    shared: bool = False
    """One network for both passes, as in mip-NeRF; the fine one then sees its own intervals alone."""
    cone: bool = False
    """A pixel is a cone, and the field is asked for the mean over parts of it."""
    coarse_weight: float = 1.0
    """Of the coarse pass in the loss."""
    distortion_weight: float = 0.0
    """Of the last pass's distortion, which draws a ray's weight together."""
    bound: float = 1.5
    """The scene lies in [-bound, bound]^3."""
    box: bool = True
    """Rays are cut to that box; without, they go from near to far, and beyond it."""
    disparity: bool = False
    """Intervals even in one over distance, for scenes that go far."""
    occupancy: Occupancy = Occupancy()
    """The grid of a single pass by which empty space is skipped."""
    background: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """What is behind everything in pictures; other than white for data with alpha alone."""
    random_background: bool = False
    """In training every ray has a background of its own, so that what is white cannot pass for what is not there."""
    chunk: int = 256
    """Rays rendered at once; what a large picture takes in memory follows from it, the picture does not."""
    remat: bool = False
    """Compute the network's activations again on the way back."""

    def __post_init__(self):
        if self.coarse < 1 or self.fine < 0 or self.bound <= 0 or self.chunk < 1:
            raise UserError(
                f"model.coarse is {self.coarse}, fine {self.fine}, bound {self.bound}, chunk {self.chunk}: coarse and "
                f"chunk start at 1, fine at 0, a bound lies above 0"
            )
        if self.occupancy.resolution and (self.fine or self.cone or not self.box):
            raise UserError("an occupancy grid skips along one pass of points in the box: set fine 0, no cone, and box")
        if self.cone and not getattr(self.network, "cones", True):
            raise UserError(f"{type(self.network).__name__} knows points alone: leave model.cone out")

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
    def _behind(self) -> jax.Array:
        """The background of pictures, f32[1, 3]."""
        return jnp.array(self.background)[None]

    def _before(self, batch: Batch, background: jax.Array) -> jax.Array:
        """The colours of a batch, which lie over white, before another background f32[B or 1, 3]."""
        if "alpha" not in batch:
            return batch["x"]
        clear = 1 - batch["alpha"].astype(jnp.float32) / 255
        return batch["x"] + clear * (background - 1)

    # --- the field ---

    @property
    def last(self) -> str:
        """The name of the network that pictures come from."""
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

    def ask(
        self, params: PyTree, name: str, x: jax.Array, d: jax.Array, var: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """sigma f32[...] and rgb f32[..., 3] of a network at x, in the scene's units."""

        def apply(params: PyTree, x: jax.Array, d: jax.Array, var: jax.Array | None):
            return self.networks()[name].apply({"params": params}, x, d, var)

        apply = jax.checkpoint(apply) if self.remat else apply
        return apply(params[name], x / self.bound, d, None if var is None else var / self.bound**2)

    def _ends(self, rays: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Where intervals begin and end along rays, f32[B] each."""
        origin, direction, near, far, _ = columns(rays)
        return box_crossing(origin, direction, near, far, self.bound) if self.box else (near, far)

    def _edges(self, rays: jax.Array, s: jax.Array) -> jax.Array:
        return volume.distances(s, *self._ends(rays), self.disparity)

    def _queried(self, params: PyTree, name: str, rays: jax.Array, t: jax.Array) -> tuple[jax.Array, jax.Array]:
        """sigma f32[B, N] and rgb f32[B, N, 3] of the intervals between t."""
        origin, direction, _, _, radius = columns(rays)
        if self.cone:
            x, var = frustum_gaussians(origin, direction, radius, t)
        else:
            x, var = origin[:, None] + direction[:, None] * ((t[:, 1:] + t[:, :-1]) / 2)[..., None], None
        return self.ask(params, name, x, jnp.broadcast_to(direction[:, None], x.shape), var)

    # --- passes ---

    def _along(self, params: PyTree, name: str, rays: jax.Array, s: jax.Array, background: jax.Array) -> Pass:
        """The pass of a network along intervals with the edges s."""
        t = self._edges(rays, s)
        sigma, rgb = self._queried(params, name, rays, t)
        w = volume.weights(sigma, jnp.diff(t, axis=-1))
        return Pass(s, w, volume.composite(w, rgb, t, background))

    def passes(
        self, params: PyTree, rays: jax.Array, background: jax.Array, keys: jax.Array | None = None
    ) -> tuple[Pass, ...]:
        """The passes along rays, the one that counts last; by keys with intervals drawn at random, else even ones."""
        keys_coarse, keys_fine = (None, None) if keys is None else split_each(keys, 2)
        s = volume.stratified(len(rays), self.coarse, keys_coarse)
        if not self.fine:
            return (self._along(params, "field", rays, s, background),)
        first = self._along(params, "field" if self.shared else "coarse", rays, s, background)
        w = jax.lax.stop_gradient(first.w)
        s = volume.resample(s, volume.blurred(w) if self.cone else w, self.fine + 1, keys_fine)
        if not self.shared:
            s = jnp.sort(jnp.concatenate([first.s, s], axis=-1), axis=-1)
        return first, self._along(params, self.last, rays, s, background)

    def _skipped(
        self,
        params: PyTree,
        cells: jax.Array,
        rays: jax.Array,
        background: jax.Array,
        keys: jax.Array | None,
        size: int,
        all_of_them: bool,
    ) -> tuple[Pass, jax.Array]:
        """The pass with the network asked in occupied cells alone, and which rays were seen whole, bool[B].

        size: points that the network is asked for at once: once in training, where more are left out with their rays,
        and as often as it takes when `all_of_them` are wanted, so that no ray depends on others.
        """
        s = volume.stratified(len(rays), self.coarse, keys)
        t = self._edges(rays, s)
        origin, direction, *_ = columns(rays)
        x = origin[:, None] + direction[:, None] * ((t[:, 1:] + t[:, :-1]) / 2)[..., None]
        delta = jnp.diff(t, axis=-1)
        wanted = occupancy.lookup(cells, x / self.bound) & (delta > 0)
        total, flat = wanted.size, x.reshape(-1, 3)

        def fill(index: jax.Array, sigma: jax.Array, rgb: jax.Array) -> tuple[jax.Array, jax.Array]:
            """The field at the points of `index`, i32[size], put where they stand; `total` stands nowhere."""
            at = jnp.minimum(index, total - 1)
            new_sigma, new_rgb = self.ask(params, "field", flat[at], direction[at // self.coarse])
            return sigma.at[index].set(new_sigma, mode="drop"), rgb.at[index].set(new_rgb, mode="drop")

        sigma, rgb = jnp.zeros(total), jnp.zeros((total, 3))
        if all_of_them:
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
        rays, background = batch["cond"], self._behind
        if self.random_background:
            background = uniform_each(keys_background, batch["x"].shape[1:])
        x = self._before(batch, background)
        extra, whole = {}, jnp.ones(len(x))
        if self.occupancy.resolution:
            cells = self.occupancy.occupied(state.extra["occupancy"], state.step)
            size = len(x) * min(self.occupancy.budget, self.coarse)
            only, whole = self._skipped(params, cells, rays, background, keys_pass, size, False)
            passes, whole = (only,), whole.astype(jnp.float32)
            extra = {"whole": jnp.mean(whole), "occupied": jnp.mean(cells.astype(jnp.float32))}
        else:
            passes = self.passes(params, rays, background, keys_pass)
        share = whole / jnp.maximum(jnp.sum(whole), 1)
        errors = [jnp.sum(share * jnp.mean((p.seen.rgb - x) ** 2, axis=-1)) for p in passes[:-1] if p.seen is not None]
        error = jnp.sum(share * jnp.mean((passes[-1].seen.rgb - x) ** 2, axis=-1))
        total = error + self.coarse_weight * sum(errors)
        if self.distortion_weight:
            extra["distortion"] = jnp.sum(share * volume.distortion(passes[-1].s, passes[-1].w))
            total += self.distortion_weight * extra["distortion"]
        more, extra_loss = self.regularizers(passes)
        return total + extra_loss, {"mse": error, **extra, **more}

    def regularizers(self, passes: tuple[Pass, ...]) -> tuple[Metrics, jax.Array | float]:
        """What else the loss adds up, to log and in sum."""
        return {}, 0.0

    def train_step(self, state: TrainState, key: jax.Array, batch: Batch) -> tuple[TrainState, Metrics]:
        """The usual step, and now and then a look at some cells of the grid."""
        key_loss, key_grid = jax.random.split(key)
        step = state.step
        state, metrics = super().train_step(state, key_loss, batch)
        metrics["psnr"] = -10 * jnp.log10(jnp.maximum(metrics["mse"], 1e-10))
        if not self.occupancy.resolution:
            return state, metrics

        def look(grid: jax.Array) -> jax.Array:
            places = self.occupancy.places(step // self.occupancy.every)
            x = self.occupancy.points(places, key_grid) * self.bound
            sigma, _ = self.ask(state.params, "field", x, jnp.zeros_like(x))
            return self.occupancy.seen(grid, places, sigma)

        grid = jax.lax.cond(step % self.occupancy.every == 0, look, lambda grid: grid, state.extra["occupancy"])
        return state.replace(extra={**state.extra, "occupancy": grid}), metrics

    # --- use ---

    def render(self, state: TrainState, rays: jax.Array) -> Rendered:
        """What is seen along rays f32[N, 9], `chunk` at a time."""
        params, background = state.sampling_params, self._behind
        if not self.occupancy.resolution:
            return in_chunks(lambda rays: self.passes(params, rays, background)[-1].seen, rays, self.chunk)
        cells = self.occupancy.occupied(state.extra["occupancy"], state.step)
        size = self.chunk * min(self.occupancy.budget, self.coarse)

        def skipping(rays: jax.Array) -> Rendered:
            return self._skipped(params, cells, rays, background, None, size, True)[0].seen

        return in_chunks(skipping, rays, self.chunk)

    def sample(self, state: TrainState, keys: jax.Array, cond: PyTree = None) -> jax.Array:
        """The colours along rays f32[len(keys), 9]: f32[len(keys), 3] in [0, 1]."""
        return self.render(state, cond).rgb

    def check_cond(self, cond: PyTree) -> None:
        shape = getattr(cond, "shape", ())
        if len(shape) != 2 or shape[1] != RAY:
            raise UserError(f"rays of shape {shape or 'none'} were given: pass f32[N, {RAY}] as the condition")

    def sample_cond(self, num: int, batch: Batch) -> jax.Array:
        """The rays of `batch`, over and over."""
        return jnp.asarray(batch["cond"])[jnp.arange(num) % len(batch["cond"])]

    def evaluate(self, state: TrainState, keys: jax.Array, batch: Batch) -> Metrics:
        """`mse`, f32[B]: each ray's squared error, a mean over colours. A picture's PSNR is not their mean in dB: see
        `jaxgen render`."""
        rgb = self.render(state, batch["cond"]).rgb
        x = self._before(batch, self._behind)
        return {"mse": jnp.mean((jnp.clip(rgb, 0, 1) - x) ** 2, axis=-1)}

    def pictures(self, state: TrainState, keys: jax.Array, batch: Batch) -> dict[str, jax.Array]:
        """Rows of what was to be seen, of what is, of depth (near is bright) and of opacity."""
        seen = self.render(state, batch["cond"])
        near, far = columns(batch["cond"])[2:4]
        bright = seen.opacity * jnp.clip((far - seen.depth) / (far - near), 0, 1)
        grey = [jnp.broadcast_to(a[:, None], seen.rgb.shape) for a in (bright, seen.opacity)]
        x = self._before(batch, self._behind)
        return {"views.png": jnp.stack([x, seen.rgb, *grey])}

    def at_points(self, state: TrainState, x: jax.Array, d: jax.Array) -> tuple[jax.Array, jax.Array]:
        """sigma f32[N] and rgb f32[N, 3] at points f32[N, 3] seen along d, `chunk` times `coarse` at a time."""

        def one(both: jax.Array) -> tuple[jax.Array, jax.Array]:
            x, d = both[:, :3], both[:, 3:]
            var = jnp.zeros_like(x) if self.cone else None
            return self.ask(state.sampling_params, self.last, x, d, var)

        return in_chunks(one, jnp.concatenate([x, d], axis=-1), self.chunk * self.coarse)


@dataclass(frozen=True, kw_only=True)
class ProposalNeRF(NeRF):
    """The first pass by a small network of densities alone, which learns to bound the field's weights; its colours
    count for nothing."""

    proposal: nn.Module = field(default_factory=ProposalMLP)
    """(x, d, var) -> sigma, anything."""
    interlevel_weight: float = 1.0
    shared: bool = True
    """The field has one network, which sees its own intervals."""

    def __post_init__(self):
        super().__post_init__()
        if not self.fine or not self.shared:
            raise UserError("a proposal needs a fine pass of one network: set model.fine to 1 or more, and shared")

    def networks(self) -> dict[str, nn.Module]:
        return {"proposal": self.proposal, "field": self.network}

    def passes(
        self, params: PyTree, rays: jax.Array, background: jax.Array, keys: jax.Array | None = None
    ) -> tuple[Pass, ...]:
        keys_coarse, keys_fine = (None, None) if keys is None else split_each(keys, 2)
        s = volume.stratified(len(rays), self.coarse, keys_coarse)
        t = self._edges(rays, s)
        sigma, _ = self._queried(params, "proposal", rays, t)
        first = Pass(s, volume.weights(sigma, jnp.diff(t, axis=-1)), None)
        s = volume.resample(s, jax.lax.stop_gradient(first.w), self.fine + 1, keys_fine)
        return first, self._along(params, "field", rays, s, background)

    def regularizers(self, passes: tuple[Pass, ...]) -> tuple[Metrics, jax.Array | float]:
        first, second = passes
        gap = jnp.mean(volume.interlevel(second.s, second.w, first.s, first.w))
        return {"interlevel": gap}, self.interlevel_weight * gap


def in_chunks(function: Callable[[jax.Array], PyTree], rows: jax.Array, size: int) -> PyTree:
    """function(rows) for rows [N, ...], of which each result has a row, `size` rows at a time by one program."""
    n = rows.shape[0]
    if isinstance(n, int) and n <= size:
        return function(rows)
    chunks = (n + size - 1) // size
    # The last chunk is filled up with copies of the last row. By index, as N may be a symbol (jax.export).
    index = jnp.minimum(jnp.arange(chunks * size), n - 1)
    parts = jax.lax.map(function, rows[index].reshape(chunks, size, *rows.shape[1:]))
    return jax.tree.map(lambda a: a.reshape(chunks * size, *a.shape[2:])[jnp.arange(n)], parts)
