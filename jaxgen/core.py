"""The train state, the model protocol and the compiled entry points.

A model is a frozen dataclass whose fields are its configuration, so it is hashable and can be a *static* argument:
equal models share one executable. Everything that changes lives in a `TrainState`; no key does, since the key of
step t is `fold_in(run_key, t)`, which makes a resumed run draw what the straight one would have drawn.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from jaxgen.errors import UserError
from jaxgen.gradients import Seen, gradient
from jaxgen.optim import Adam, Optimizer
from jaxgen.parallel import Layout

PyTree = Any
Batch = Mapping[str, jax.Array]
Metrics = dict[str, jax.Array]


@struct.dataclass
class TrainState:
    """Everything a run changes, and nothing else.

    step: i32[], optimizer steps taken. params, opt_state: one entry per network. ema: the averaged copy of params,
    or None when the model keeps none. extra: state that no gradient moves (batch statistics, codebooks, buffers).
    """

    step: jax.Array
    params: dict[str, PyTree]
    opt_state: dict[str, PyTree]
    ema: dict[str, PyTree] | None = None
    extra: dict[str, PyTree] = struct.field(default_factory=dict)

    @property
    def sampling_field(self) -> str:
        """Which parameters samples are drawn with: `ema` where the model keeps averaged ones, else `params`."""
        return "params" if self.ema is None else "ema"

    @property
    def sampling_params(self) -> dict[str, PyTree]:
        """The parameters of `sampling_field`."""
        return getattr(self, self.sampling_field)


@dataclass(frozen=True, kw_only=True)
class GenerativeModel:
    """What a model answers. A batch is a dict with `x` in model space and, where the data has it, `cond`."""

    adversarial: ClassVar[bool] = False
    """Whether networks play against each other, so that no number falls for as long as training goes well."""

    def check(self, batch: Batch) -> None:
        """Raises UserError when data of these shapes cannot be modelled; `batch` may be ShapeDtypeStructs."""

    def init(self, key: jax.Array, batch: Batch) -> TrainState:
        """The state at step 0. `batch` is real data: some models start from its statistics."""
        raise NotImplementedError

    def train_step(self, state: TrainState, key: jax.Array, batch: Batch) -> tuple[TrainState, Metrics]:
        """One step of training and its metrics, each f32[]."""
        raise NotImplementedError

    def sample(self, state: TrainState, keys: jax.Array, cond: PyTree = None) -> PyTree:
        """One sample for each of `keys`, leading axis len(keys); sample i depends on keys[i] and cond[i] alone."""
        raise NotImplementedError

    def evaluate(self, state: TrainState, keys: jax.Array, batch: Batch) -> Metrics:
        """Numbers of held-out data, each f32[B], example i by keys[i]; f32[B, 2] where the number is a sum over a sum.
        Empty where the family has none."""
        return {}

    def diverged(self, metrics: Mapping[str, np.ndarray]) -> str | None:
        """What to change, where metrics of training (f32[K] by name), finite as they are, say that it has gone wrong;
        training stops with that. None while it goes well."""
        return None

    def check_cond(self, cond: PyTree) -> None:
        """Raises UserError for a condition that cannot be sampled under."""

    def sample_cond(self, num: int, batch: Batch) -> PyTree:
        """Conditions for `num` samples to look at, leading axis `num`; None for an unconditional model."""
        return None

    def pictures(self, state: TrainState, keys: jax.Array, batch: Batch) -> dict[str, jax.Array]:
        """What the family shows beside samples, by file name, still in model space.

        `name.png`: [rows, cols, *x]; `name.gif`: [frames, n, *x]. `batch` is held-out data, at least len(keys) of it.
        """
        return {}


@dataclass(frozen=True, kw_only=True)
class LossModel(GenerativeModel):
    """`init` and `train_step` for a family with one loss: it writes `init_params`, `loss` and `sample`."""

    optimizer: Optimizer = Adam()
    ema_decay: float = 0.0
    """Decay of the averaged parameters; 0 keeps none."""
    accumulate: int = 1
    """Equal parts of a batch whose gradients are computed one after another: less memory, the same step."""

    def init_params(self, key: jax.Array, batch: Batch) -> dict[str, PyTree]:
        raise NotImplementedError

    def init_extra(self, key: jax.Array, batch: Batch) -> dict[str, PyTree]:
        return {}

    def loss(
        self, params: dict[str, PyTree], state: TrainState, keys: jax.Array, batch: Batch
    ) -> tuple[jax.Array, Metrics]:
        """The scalar to minimise and what else to log, means over the batch; example i draws by keys[i] alone.
        Differentiate `params`; `state` gives step and extra."""
        raise NotImplementedError

    def seen(self, params: PyTree, state: TrainState, keys: jax.Array, batch: Batch) -> tuple[jax.Array, Seen]:
        """`loss`, with its metrics alone; a family whose step needs more (rows, extra) writes this instead."""
        loss, metrics = self.loss(params, state, keys, batch)
        return loss, Seen(metrics)

    def init(self, key: jax.Array, batch: Batch) -> TrainState:
        key_params, key_extra = jax.random.split(key)
        return self._start(self.init_params(key_params, batch), self.init_extra(key_extra, batch))

    def _start(self, params: dict[str, PyTree], extra: dict[str, PyTree]) -> TrainState:
        """The state at step 0 with these."""
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            opt_state={"all": self.optimizer.tx.init(params)},
            # A copy: donating one buffer under two names is an error.
            ema=jax.tree.map(jnp.copy, params) if self.ema_decay else None,
            extra=extra,
        )

    def train_step(self, state: TrainState, key: jax.Array, batch: Batch) -> tuple[TrainState, Metrics]:
        state, seen = self._step(state, key, batch)
        return state, seen.metrics

    def _step(self, state: TrainState, key: jax.Array, batch: Batch) -> tuple[TrainState, Seen]:
        """The state after a step, and what its loss saw; `extra` is as it was."""

        def loss(params: PyTree, keys: jax.Array, batch: Batch) -> tuple[jax.Array, Seen]:
            return self.seen(params, state, keys, batch)

        num = len(jax.tree.leaves(batch)[0])
        (value, seen), grads = gradient(loss, state.params, key, num, dict(batch), self.accumulate)
        metrics = {"loss": value, **seen.metrics, "grad_norm": optax.tree.norm(grads)}
        return self._descent(state, grads), seen._replace(metrics=metrics)

    def _descent(self, state: TrainState, grads: PyTree) -> TrainState:
        """The state after a step along `grads`."""
        updates, opt_state = self.optimizer.tx.update(grads, state.opt_state["all"], state.params)
        params = optax.apply_updates(state.params, updates)
        return state.replace(
            step=state.step + 1,
            params=params,
            opt_state={"all": opt_state},
            ema=update_ema(state.ema, params, self.ema_decay, state.step) if self.ema_decay else None,
        )


def update_ema(ema: PyTree, params: PyTree, decay: float, step: jax.Array) -> PyTree:
    """decay_t * ema + (1 - decay_t) * params, in f32, decay_t = min(decay, (1 + t) / (10 + t)).

    The ramp keeps a short run's average from being its random initialisation.
    """
    step = step.astype(jnp.float32)
    decay = jnp.minimum(decay, (1 + step) / (10 + step))
    return jax.tree.map(lambda e, p: e + (1 - decay) * (p - e), ema, params)


def with_field(module: PyTree, field: str, value: Any) -> PyTree:
    """The same model or network with `value` in the field of that name of everything in it that has one: `dtype`, the
    compute type of a Linen module, or `remat`."""
    own = {f.name: getattr(module, f.name) for f in fields(module) if f.name != "parent"}
    changed = {name: with_field(part, field, value) for name, part in own.items() if is_dataclass(part)}
    if field in own:
        changed[field] = value
    return replace(module, **changed) if changed else module


# --- keys -----------------------------------------------------------------------------------------------------

INIT, TRAIN, SAMPLE, EVAL = range(4)


def run_key(seed: int, use: int) -> jax.Array:
    """The key of a run for one use: INIT, TRAIN, SAMPLE or EVAL, so that no two uses share randomness."""
    return jax.random.fold_in(jax.random.key(seed), use)


def sample_keys(seed: int, num: int, start: int = 0, use: int = SAMPLE) -> jax.Array:
    """Keys [num] of samples start, start + 1, ... of a seed: key i does not depend on how many are asked for."""
    return fold_each(run_key(seed, use), jnp.arange(start, start + num))


def fold_each(keys: jax.Array, data: jax.Array | int) -> jax.Array:
    """`fold_in` over per-sample keys [B], or over one key and data [B]: keys [B]."""
    if keys.ndim == 0:
        return jax.vmap(jax.random.fold_in, (None, 0))(keys, data)
    return jax.vmap(jax.random.fold_in, (0, None if jnp.ndim(data) == 0 else 0))(keys, data)


def split_each(keys: jax.Array, num: int) -> tuple[jax.Array, ...]:
    """`num` times keys [B] of keys [B], for the several draws of each example."""
    return jax.vmap(lambda key: tuple(jax.random.split(key, num)))(keys)


def one_key(keys: jax.Array) -> jax.Array:
    """One key of the keys of a batch, for what is drawn for all of its examples at once: masks of dropout."""
    return keys[0]


def uniform_each(keys: jax.Array, shape: tuple[int, ...], minval: float = 0.0, maxval: float = 1.0) -> jax.Array:
    """Uniform on [minval, maxval), f32[B, *shape], row i drawn from keys[i] alone."""
    return jax.vmap(lambda key: jax.random.uniform(key, shape, minval=minval, maxval=maxval))(keys)


def coin_each(keys: jax.Array, p: jax.Array | float) -> jax.Array:
    """bool[B], row i True with probability p by keys[i] alone."""
    return jax.vmap(lambda key: jax.random.bernoulli(key, p))(keys)


def integer_each(keys: jax.Array, low: int, high: int) -> jax.Array:
    """Whole numbers of [low, high), i32[B], row i drawn from keys[i] alone."""
    return jax.vmap(lambda key: jax.random.randint(key, (), low, high))(keys)


def normal_each(keys: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Standard normal f32[B, *shape], row i drawn from keys[i] alone."""
    return jax.vmap(lambda key: jax.random.normal(key, shape))(keys)


# --- the compiled functions -----------------------------------------------------------------------------------


def count_params(params: PyTree) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def _init(model: GenerativeModel, key: jax.Array, batch: Batch, codec: Any) -> TrainState:
    key_codec, key_model = jax.random.split(key)
    return model.init(key_model, batch if codec is None else codec.encode(batch, key_codec))


# O0: each parameter shape compiles random-number code of its own, which optimising makes 8 times slower to build
# and no faster to run once.
QUICK_TO_COMPILE = {"xla_backend_optimization_level": 0}
_init_fast = jax.jit(_init, static_argnums=0, compiler_options=QUICK_TO_COMPILE)


def init(
    model: GenerativeModel, key: jax.Array, batch: Batch, codec: Any = None, layout: Layout | None = None
) -> TrainState:
    """The state of `model` at step 0 from a batch of real data (raw where a codec is given), laid out on a mesh where
    a layout is given."""
    shapes = jax.eval_shape(lambda b: b if codec is None else codec.encode(b, jax.random.key(0)), batch)
    model.check({**shapes, "cond": batch["cond"]} if "cond" in batch else shapes)
    if layout is None:
        return _init_fast(model, key, batch, codec)
    where = layout.state(abstract_state(model, batch, codec))
    program = jax.jit(_init, static_argnums=0, compiler_options=QUICK_TO_COMPILE, out_shardings=where)
    return program(model, *layout.put((key, batch), layout.everywhere), codec)


def abstract_state(model: GenerativeModel, batch: Batch, codec: Any = None) -> TrainState:
    """Shapes and dtypes of what `init` returns, without computing it."""
    return jax.eval_shape(lambda b: _init(model, jax.random.key(0), b, codec), batch)


def _train_steps(
    model: GenerativeModel,
    state: TrainState,
    key: jax.Array,
    batches: PyTree,
    codec: Any = None,
    data: PyTree = None,
    skip_nonfinite: bool = False,
    layout: Layout | None = None,
) -> tuple[TrainState, Metrics]:
    """K steps in one `lax.scan`; `state` is donated.

    batches: a batch per step, leading axis K; with `data` (examples already on the device), indices i32[K, B] into
    it. codec: encodes each raw batch inside the scan. skip_nonfinite: a step with a NaN or infinite metric or
    parameter changes nothing but the step count; `skipped` is 1 there and its other metrics are 0. layout: the mesh
    that batch and state are split over. Returns the state and every metric as f32[K].
    """

    def body(state: TrainState, batch: PyTree) -> tuple[TrainState, Metrics]:
        key_codec, key_model = jax.random.split(jax.random.fold_in(key, state.step))
        if data is not None:
            batch = jax.tree.map(lambda a: a[batch], data)
        if layout is not None:
            batch = layout.constrain_batch(batch)
        if codec is not None:
            batch = codec.encode(batch, key_codec)
        new, metrics = model.train_step(state, key_model, batch)
        if skip_nonfinite:
            good = jnp.all(jnp.stack([jnp.all(jnp.isfinite(a)) for a in jax.tree.leaves((new.params, metrics))]))
            new = jax.tree.map(lambda n, o: jnp.where(good, n, o), new, state.replace(step=new.step))
            metrics = {name: jnp.where(good, value, 0.0) for name, value in metrics.items()}
            metrics["skipped"] = 1.0 - good.astype(jnp.float32)
        if layout is not None:
            new, metrics = layout.constrain_state(new), layout.constrain_everywhere(metrics)
        return new, metrics

    return jax.lax.scan(body, state, batches)


train_steps = partial(jax.jit, static_argnums=(0, 6, 7), donate_argnums=1)(_train_steps)


@partial(jax.jit, static_argnums=(0, 6, 7), donate_argnums=1)
def train_seeds(
    model: GenerativeModel,
    states: TrainState,
    keys: jax.Array,
    batches: PyTree,
    codec: Any = None,
    data: PyTree = None,
    skip_nonfinite: bool = False,
    mesh: Mesh | None = None,
) -> tuple[TrainState, Metrics]:
    """`train_steps` of S seeds at once: states, keys and batches have a leading axis S, `data` is shared by all.

    mesh: of one axis, `seed`, over which the lanes lie; each device trains its own, and none waits for another.
    """

    def lanes(states: TrainState, keys: jax.Array, batches: PyTree, codec: Any, data: PyTree):
        def lane(state: TrainState, key: jax.Array, batches: PyTree) -> tuple[TrainState, Metrics]:
            return _train_steps(model, state, key, batches, codec, data, skip_nonfinite)

        return jax.vmap(lane)(states, keys, batches)

    if mesh is not None:
        seed, all_of_it = P("seed"), P()
        specs = (seed, seed, seed, all_of_it, all_of_it)
        lanes = jax.shard_map(lanes, mesh=mesh, in_specs=specs, out_specs=seed, check_vma=False)
    return lanes(states, keys, batches, codec, data)


@partial(jax.jit, static_argnums=0)
def sample_program(model: GenerativeModel, state: TrainState, keys: jax.Array, cond: PyTree, codec: Any) -> PyTree:
    """`sample` without its checks: what is compiled, for those who lower it."""
    x = model.sample(state, keys, cond)
    return x if codec is None else codec.decode(x)


def sample(
    model: GenerativeModel, state: TrainState, keys: jax.Array, cond: PyTree = None, codec: Any = None
) -> PyTree:
    """One sample per key, decoded to raw data where a codec is given. Raises UserError for a bad condition."""
    check_keys(keys)
    model.check_cond(cond)
    return sample_program(model, state, keys, cond, codec)


@partial(jax.jit, static_argnums=0)
def evaluate(model: GenerativeModel, state: TrainState, keys: jax.Array, batch: Batch, codec: Any = None) -> Metrics:
    """The model's numbers for a batch of held-out data, each f32[B]; one key per example, so that the batch they are
    computed in does not matter."""
    if codec is not None:
        key_codec, keys = fold_each(keys, 0), fold_each(keys, 1)

        def encode(example: Batch, key: jax.Array) -> Batch:
            alone = jax.tree.map(lambda a: a[None], example)
            return jax.tree.map(lambda a: a[0], codec.encode(alone, key))

        batch = jax.vmap(encode)(batch, key_codec)
    return model.evaluate(state, keys, batch)


@partial(jax.jit, static_argnums=0)
def pictures(model: GenerativeModel, state: TrainState, keys: jax.Array, batch: Batch, codec: Any = None) -> PyTree:
    """The model's pictures by file name, decoded to raw data where a codec is given."""
    if codec is None:
        return model.pictures(state, keys, batch)
    shown = model.pictures(state, keys, codec.encode(batch, run_key(0, EVAL)))
    return {name: jax.vmap(codec.decode)(picture) for name, picture in shown.items()}


def check_keys(keys: jax.Array) -> None:
    """Raises UserError unless `keys` is a 1-D array of typed keys."""
    if not jnp.issubdtype(keys.dtype, jax.dtypes.prng_key) or keys.ndim != 1:
        raise UserError(
            f"keys are {keys.dtype}{list(keys.shape)}, one typed key per sample is expected: "
            "use jaxgen.core.sample_keys(seed, num)"
        )
