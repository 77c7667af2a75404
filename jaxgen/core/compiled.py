"""The compiled entry points: `init`, `train_steps`, `sample`, `evaluate` and `pictures`.

A model is a frozen dataclass whose fields are its configuration, so it is hashable and can be a *static* argument:
equal models share one executable. Everything that changes lives in a `TrainState`; no key does, since the key of
step t is `fold_in(run_key, t)`, so that a resumed run draws what an uninterrupted one would have drawn.
"""

from contextlib import nullcontext
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from jaxgen.core.configuration import check_fields, with_fields_at
from jaxgen.core.keys import EVAL, check_keys, fold_each, run_key
from jaxgen.core.mesh import Layout
from jaxgen.core.model import GenerativeModel
from jaxgen.core.types import Batch, Metrics, PyTree, RawBatch, TrainState
from jaxgen.optim import trained, with_frozen

FOR_CODEC, FOR_MODEL = range(2)  # streams of an example's key in `evaluate`


def _init(model: GenerativeModel, key: jax.Array, batch: Batch, codec: Any) -> TrainState:
    key_codec, key_model = jax.random.split(key)
    return model.init(key_model, batch if codec is None else codec.encode(batch, key_codec))


# O0: every parameter shape compiles its own random-number code. Optimising it takes 8 times as long and gains nothing,
# as it runs once.
QUICK_TO_COMPILE = {"xla_backend_optimization_level": 0}
_init_fast = jax.jit(_init, static_argnums=0, compiler_options=QUICK_TO_COMPILE)


def init(
    model: GenerativeModel, key: jax.Array, batch: Batch | RawBatch, codec: Any = None, layout: Layout | None = None
) -> TrainState:
    """The state of `model` at step 0, from a batch of real data: raw data if a codec is given.

    layout: the mesh that the state is placed on. Raises UserError for settings out of range, and for data
    that the model cannot take.
    """
    check_fields(model)
    shapes = jax.eval_shape(lambda b: b if codec is None else codec.encode(b, jax.random.key(0)), batch)
    seen: dict[str, Any] = dict(shapes)
    if "cond" in batch:
        seen["cond"] = batch["cond"]  # values of labels are checked too
    model.check(seen)
    if layout is None:
        return _init_fast(model, key, batch, codec)
    where = layout.state(abstract_state(model, batch, codec))
    program = jax.jit(_init, static_argnums=0, compiler_options=QUICK_TO_COMPILE, out_shardings=where)
    return program(model, *layout.put((key, batch), layout.everywhere), codec)


def abstract_state(model: GenerativeModel, batch: Batch | RawBatch, codec: Any = None) -> TrainState:
    """Shapes and dtypes of the state that `init` returns. Nothing is computed."""
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
        with nullcontext() if layout is None else layout.active():
            new, metrics = model.train_step(state, key_model, batch)
        if model.trainable:  # steps also clamp or restart parameters, and average them
            parts = (trained(tree, model.trainable) for tree in (new.params, new.ema))
            params, ema = map(with_frozen, parts, (state.params, state.ema))
            new = new.replace(params=params, ema=ema)
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


@partial(jax.jit, static_argnums=(0, 6, 7, 8), donate_argnums=1)
def train_seeds(
    model: GenerativeModel,
    states: TrainState,
    keys: jax.Array,
    batches: PyTree,
    codec: Any = None,
    data: PyTree = None,
    skip_nonfinite: bool = False,
    mesh: Mesh | None = None,
    varied: tuple[str, ...] = (),
    values: jax.Array | None = None,
) -> tuple[TrainState, Metrics]:
    """`train_steps` of S seeds at once: states, keys and batches have a leading axis S, `data` is shared by all.

    mesh: of one axis, `seed`, over which the lanes lie; each device trains its own, and none waits for another. varied:
    fields of the model, by their dotted paths, that are `values`, f32[S, len(varied)], instead of what `model` has.
    """

    def lanes(states: TrainState, keys: jax.Array, batches: PyTree, values: Any, codec: Any, data: PyTree):
        def lane(state: TrainState, key: jax.Array, batches: PyTree, values: Any) -> tuple[TrainState, Metrics]:
            own = model if values is None else with_fields_at(model, dict(zip(varied, values)))
            return _train_steps(own, state, key, batches, codec, data, skip_nonfinite)

        return jax.vmap(lane)(states, keys, batches, values)

    if mesh is not None:
        seed, all_of_it = P("seed"), P()
        specs = (seed, seed, seed, seed, all_of_it, all_of_it)
        lanes = jax.shard_map(lanes, mesh=mesh, in_specs=specs, out_specs=seed, check_vma=False)
    return lanes(states, keys, batches, values, codec, data)


@partial(jax.jit, static_argnums=0)
def sample_program(model: GenerativeModel, state: TrainState, keys: jax.Array, cond: PyTree, codec: Any) -> PyTree:
    """`sample` without its checks: the compiled program itself, to be lowered or exported."""
    x = model.sample(state, keys, cond)
    return x if codec is None else codec.decode(x)


def sample(
    model: GenerativeModel, state: TrainState, keys: jax.Array, cond: PyTree = None, codec: Any = None
) -> PyTree:
    """One sample for each key, decoded to raw data if a codec is given. Raises UserError for a bad condition."""
    check_keys(keys)
    model.check_cond(cond)
    return sample_program(model, state, keys, cond, codec)


@partial(jax.jit, static_argnums=0)
def evaluate(model: GenerativeModel, state: TrainState, keys: jax.Array, batch: Batch, codec: Any = None) -> Metrics:
    """The model's numbers for a batch of held-out data, each f32[B]. Each example has its own key, so that its numbers
    do not depend on the batch."""
    if codec is not None:
        key_codec, keys = fold_each(keys, FOR_CODEC), fold_each(keys, FOR_MODEL)

        def encode(example: Batch, key: jax.Array) -> Batch:
            alone = jax.tree.map(lambda a: a[None], example)
            return jax.tree.map(lambda a: a[0], codec.encode(alone, key))

        batch = jax.vmap(encode)(batch, key_codec)
    return model.evaluate(state, keys, batch)


@partial(jax.jit, static_argnums=0)
def pictures(model: GenerativeModel, state: TrainState, keys: jax.Array, batch: Batch, codec: Any = None) -> PyTree:
    """The model's pictures by file name, decoded to raw data if a codec is given."""
    if codec is None:
        return model.pictures(state, keys, batch)
    shown = model.pictures(state, keys, codec.encode(batch, run_key(0, EVAL)))
    return {name: jax.vmap(codec.decode)(picture) for name, picture in shown.items()}
