"""What many models share: checks of shapes, labels and tokens; class conditions; 8-bit pixels; density pictures."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxgen.core.model import GenerativeModel
from jaxgen.core.types import Batch, PyTree
from jaxgen.errors import UserError


def check_shape(shape: tuple[int, ...], batch: Batch) -> None:
    """Raises UserError unless each example has `shape`, the model's field of that name."""
    given = tuple(batch["x"].shape[1:])
    if given != tuple(shape):
        flag = " ".join(map(str, given))
        raise UserError(f"examples have shape {given}, model.shape is {tuple(shape)}: pass --model.shape {flag}")


def in_pairs(num: int, most: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """Which of `num` examples are the first and the second of up to `most` pairs; of one example, it and itself."""
    first = np.arange(max(1, min(most, num // 2)))
    return first, (first + len(first)) % num


def check_classes(num_classes: int, batch: Batch) -> None:
    """Raises UserError when a conditional model gets data without labels, or with concrete labels out of range."""
    if num_classes and "cond" not in batch:
        raise UserError(
            f"model.num_classes is {num_classes} but the data has no labels: choose a label (--data.label ...) "
            "or pass --model.num-classes 0"
        )
    if num_classes:
        check_labels(num_classes, batch["cond"])


def concrete(array: Any) -> bool:
    """Whether the array's values can be read: it is not traced, no mere shape, and not spread over processes."""
    return not isinstance(array, Tracer | jax.ShapeDtypeStruct) and getattr(array, "is_fully_addressable", True)


def outside(values: Any, size: int) -> int | None:
    """One of the integers `values` that is not in [0, size). None when all are, or when `values` is not concrete."""
    if not concrete(values) or not np.size(values):
        return None
    low, high = int(np.min(values)), int(np.max(values))
    return low if low < 0 else high if high >= size else None


def check_tokens(x: Any, vocab: int) -> None:
    """Raises UserError for concrete tokens outside [0, vocab), which an embedding would replace without a warning."""
    if (bad := outside(x, vocab)) is not None:
        raise UserError(
            f"token {bad} is out of range: the model knows 0 to {vocab - 1}; tokenize with the run's own tokenizer, or "
            "set --model.network.vocab"
        )


def check_rows(x: Any) -> None:
    """Raises UserError unless x is i32[B, T]."""
    if len(x.shape) != 2 or not jnp.issubdtype(x.dtype, jnp.integer):
        raise UserError(f"examples are {x.dtype}{list(x.shape[1:])}: rows of integer tokens are expected")


def check_labels(num_classes: int, cond: jax.Array | np.ndarray | None) -> None:
    """Raises UserError when labels are missing, not i32[B], or concrete and outside [0, num_classes)."""
    if not num_classes:
        return
    if cond is None:
        raise UserError(f"no condition was given: pass labels from 0 to {num_classes - 1}, one for each sample")
    if len(cond.shape) != 1 or not jnp.issubdtype(cond.dtype, jnp.integer):
        raise UserError(f"labels are {cond.dtype}{list(cond.shape)}: one integer for each sample is expected")
    if (bad := outside(cond, num_classes)) is not None:
        raise UserError(
            f"label {bad} is out of range: labels go from 0 to {num_classes - 1}, as model.num_classes is {num_classes}"
        )


def one_hot(cond: jax.Array | None, num_classes: int) -> jax.Array | None:
    """y: f32[B, num_classes], the form in which networks take a class; None for an unconditional model."""
    return jax.nn.one_hot(cond, num_classes) if num_classes else None


def class_grid(num: int, num_classes: int) -> jax.Array:
    """Sorted labels i32[num], each class equally often: a grid of num_classes rows shows one class in each row."""
    return jnp.arange(num, dtype=jnp.int32) * num_classes // num


class ClassConditionalModel(GenerativeModel):
    """A model whose condition is a class: cond i32[B] in [0, num_classes). With 0 classes it is unconditional."""

    num_classes: int
    """Declared as a field by each subclass, which says what the class conditions."""

    def _one_hot(self, cond: jax.Array | None) -> jax.Array | None:
        return one_hot(cond, self.num_classes)

    def check_cond(self, cond: PyTree) -> None:
        check_labels(self.num_classes, cond)

    def sample_cond(self, num: int, batch: Batch) -> PyTree:
        """Every class equally often; None for an unconditional model."""
        return class_grid(num, self.num_classes) if self.num_classes else None


def ascend(total: Callable[[jax.Array], jax.Array], u: jax.Array, steps: int) -> jax.Array:
    """u, f32[B, ...], after `steps` steps of length 1 each along the gradient of total(u), a sum over examples."""

    def climb(u: jax.Array, _) -> tuple[jax.Array, None]:
        grad = jax.grad(total)(u)
        size = jnp.sqrt(jnp.sum(grad**2, axis=tuple(range(1, u.ndim)), keepdims=True) + 1e-12)
        return u + grad / size, None

    return jax.lax.scan(climb, u, length=steps)[0]


def to_signed(pixels: jax.Array) -> jax.Array:
    """uint8 pixels as f32 in [-1, 1]; pixels of another type are returned unchanged."""
    return pixels.astype(jnp.float32) / 127.5 - 1 if pixels.dtype == jnp.uint8 else pixels


def to_8_bit(x: jax.Array) -> jax.Array:
    """x in [-1, 1], clipped to that range, as uint8 pixels."""
    return jnp.round((jnp.clip(x, -1, 1) + 1) * 127.5).astype(jnp.uint8)


# RGB from zero density to the highest: white, the blue of the scatter plots, near black.
INK = ((255, 255, 255), (36, 87, 166), (11, 26, 50))


def density_picture(log_density: Callable[[jax.Array], jax.Array], points: jax.Array, size: int = 240) -> jax.Array:
    """exp(log_density) over a square around `points`, f32[N, 2], as uint8[size, size, 3] with y pointing upwards.

    log_density: f32[M, 2] -> f32[M], up to an additive constant. Darkness is the square root of the density over its
    maximum on the grid, so that low densities stay visible beside a peak.
    """
    half = 1.2 * jnp.max(jnp.abs(points))
    side = half * jnp.linspace(-1, 1, size)
    grid = jnp.stack(jnp.meshgrid(side, side[::-1]), axis=-1)
    log_p = jax.lax.map(log_density, grid)
    dark = jnp.exp(0.5 * (jnp.nan_to_num(log_p, nan=-jnp.inf, neginf=-jnp.inf) - jnp.max(log_p)))
    stops = jnp.linspace(0, 1, len(INK))
    channels = [jnp.interp(dark, stops, jnp.asarray(channel, jnp.float32)) for channel in zip(*INK)]
    return jnp.round(jnp.stack(channels, axis=-1)).astype(jnp.uint8)
