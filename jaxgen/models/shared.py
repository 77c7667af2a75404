"""Checks of shapes, classes and tokens that many models make, and the picture of a density in the plane."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.core.types import Batch
from jaxgen.errors import UserError


def check_shape(shape: tuple[int, ...], batch: Batch) -> None:
    """Raises UserError unless examples have `shape`, the model's field."""
    given = tuple(batch["x"].shape[1:])
    if given != tuple(shape):
        flag = " ".join(map(str, given))
        raise UserError(f"examples have shape {given}, model.shape is {tuple(shape)}: pass --model.shape {flag}")


def check_classes(num_classes: int, batch: Batch) -> None:
    """Raises UserError when a conditional model gets data without labels, or (concrete) labels out of range."""
    if num_classes and "cond" not in batch:
        raise UserError(
            f"model.num_classes is {num_classes} but the data has no labels: choose a label (--data.label ...) "
            "or pass --model.num-classes 0"
        )
    if num_classes:
        check_labels(num_classes, batch["cond"])


def concrete(array: Any) -> bool:
    """Whether values are there to be looked at."""
    return not isinstance(array, jax.core.Tracer | jax.ShapeDtypeStruct)


def outside(values: Any, size: int) -> int | None:
    """One of concrete whole numbers that is not in [0, size); None where all are, or nothing is known."""
    if not concrete(values) or not np.size(values):
        return None
    low, high = int(np.min(values)), int(np.max(values))
    return low if low < 0 else high if high >= size else None


def check_tokens(x: Any, vocab: int) -> None:
    """Raises UserError for concrete tokens outside [0, vocab): an embedding would take another one in silence."""
    if (bad := outside(x, vocab)) is not None:
        raise UserError(
            f"token {bad} is out of range: the model knows 0 to {vocab - 1}; tokenize with the run's own tokenizer, or "
            "set --model.network.vocab"
        )


def check_rows(x: Any) -> None:
    """Raises UserError unless x is i32[B, T]."""
    if len(x.shape) != 2 or not jnp.issubdtype(x.dtype, jnp.integer):
        raise UserError(f"examples are {x.dtype}{list(x.shape[1:])}: rows of whole numbers, tokens, are expected")


def check_labels(num_classes: int, cond: jax.Array | None) -> None:
    """Raises UserError for missing labels or concrete ones outside [0, num_classes); shapes and tracers pass."""
    if not num_classes:
        return
    if cond is None:
        raise UserError(f"no condition was given: pass labels from 0 to {num_classes - 1}, one for each sample")
    if (bad := outside(cond, num_classes)) is not None:
        raise UserError(
            f"label {bad} is out of range: labels go from 0 to {num_classes - 1}, as model.num_classes is {num_classes}"
        )


def one_hot(cond: jax.Array | None, num_classes: int) -> jax.Array | None:
    """f32[B, num_classes], what networks take as y; None for an unconditional model."""
    return jax.nn.one_hot(cond, num_classes) if num_classes else None


def class_grid(num: int, num_classes: int) -> jax.Array:
    """Labels i32[num] in runs, so that a grid with a row for each class shows a class in each row."""
    return jnp.arange(num, dtype=jnp.int32) * num_classes // num


# From no density to the highest, in RGB: white, the blue of the scatter plots, near black.
INK = ((255, 255, 255), (36, 87, 166), (11, 26, 50))


def density_picture(log_density: Callable[[jax.Array], jax.Array], points: jax.Array, size: int = 240) -> jax.Array:
    """exp(log_density) over the square around points, f32[N, 2], as uint8[size, size, 3], y upwards.

    log_density: f32[M, 2] -> f32[M], up to a constant. Darkness goes with the root of the density, so that what is
    faint beside a peak still shows; the highest on the grid is the darkest.
    """
    half = 1.2 * jnp.max(jnp.abs(points))
    side = half * jnp.linspace(-1, 1, size)
    grid = jnp.stack(jnp.meshgrid(side, side[::-1]), axis=-1)
    log_p = jax.lax.map(log_density, grid)
    dark = jnp.exp(0.5 * (jnp.nan_to_num(log_p, nan=-jnp.inf, neginf=-jnp.inf) - jnp.max(log_p)))
    stops = jnp.linspace(0, 1, len(INK))
    channels = [jnp.interp(dark, stops, jnp.asarray(channel, jnp.float32)) for channel in zip(*INK)]
    return jnp.round(jnp.stack(channels, axis=-1)).astype(jnp.uint8)
