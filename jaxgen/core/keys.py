"""Random keys: one for each use of a run, one for each sample. No state holds a key.

The key of step t is `fold_in(run_key, t)`, so that a resumed run draws the same numbers as an uninterrupted one."""

import jax
import jax.numpy as jnp

from jaxgen.errors import UserError

# --- keys -----------------------------------------------------------------------------------------------------
INIT, TRAIN, SAMPLE, EVAL = range(4)


def run_key(seed: int | jax.Array, use: int) -> jax.Array:
    """The key of a run for one use, INIT, TRAIN, SAMPLE or EVAL. No two uses share randomness."""
    return jax.random.fold_in(jax.random.key(seed), use)


def sample_keys(seed: int, num: int, start: int = 0, use: int = SAMPLE) -> jax.Array:
    """Keys [num] of samples start, start + 1, ... of a seed. Key i does not depend on their number."""
    return fold_each(run_key(seed, use), jnp.arange(start, start + num))


def fold_each(keys: jax.Array, data: jax.Array | int) -> jax.Array:
    """Keys [B]: `fold_in` of data into each of keys [B], or of each of data [B] into one key."""
    if keys.ndim == 0:
        return jax.vmap(jax.random.fold_in, (None, 0))(keys, data)
    return jax.vmap(jax.random.fold_in, (0, None if jnp.ndim(data) == 0 else 0))(keys, data)


def split_each(keys: jax.Array, num: int) -> tuple[jax.Array, ...]:
    """Splits each of keys [B]: `num` arrays of keys [B], one for each draw of an example."""
    return jax.vmap(lambda key: tuple(jax.random.split(key, num)))(keys)


def one_key(keys: jax.Array) -> jax.Array:
    """One of the keys of a batch, for noise that is drawn for the whole batch at once, such as dropout masks."""
    return keys[0]


def uniform_each(keys: jax.Array, shape: tuple[int, ...], minval: float = 0.0, maxval: float = 1.0) -> jax.Array:
    """Uniform on [minval, maxval), f32[B, *shape], row i drawn from keys[i] alone."""
    return jax.vmap(lambda key: jax.random.uniform(key, shape, minval=minval, maxval=maxval))(keys)


def coin_each(keys: jax.Array, p: jax.Array | float) -> jax.Array:
    """bool[B], row i True with probability p by keys[i] alone."""
    return jax.vmap(lambda key: jax.random.bernoulli(key, p))(keys)


def integer_each(keys: jax.Array, low: int, high: int) -> jax.Array:
    """Integers in [low, high), i32[B], row i drawn from keys[i] alone."""
    return jax.vmap(lambda key: jax.random.randint(key, (), low, high))(keys)


def normal_each(keys: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Standard normal f32[B, *shape], row i drawn from keys[i] alone."""
    return jax.vmap(lambda key: jax.random.normal(key, shape))(keys)


def check_keys(keys: jax.Array) -> None:
    """Raises UserError unless `keys` is a 1-D array of typed keys."""
    if not jnp.issubdtype(keys.dtype, jax.dtypes.prng_key) or keys.ndim != 1:
        raise UserError(
            f"keys are {keys.dtype}{list(keys.shape)}, one typed key per sample is expected: "
            "use jaxgen.core.sample_keys(seed, num)"
        )
