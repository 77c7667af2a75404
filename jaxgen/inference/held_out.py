"""Numbers on held-out data: mean and standard error."""

import sys
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.core import compiled
from jaxgen.core.keys import EVAL, fold_each, sample_keys
from jaxgen.core.mesh import divisible
from jaxgen.core.types import Batch, Metrics
from jaxgen.errors import UserError
from jaxgen.inference.matching import matching_numbers
from jaxgen.runs.environment import environment
from jaxgen.runs.restore import Trained
from jaxgen.runtime.processes import whole

Distance = Callable[[jax.Array, jax.Array], jax.Array]
"""f32[B] of two batches of raw images."""


def held_out_numbers(
    trained: Trained,
    split: str = "test",
    *,
    seed: int = 0,
    limit: int | None = None,
    batch: int = 200,
    distances: Mapping[str, Distance] | None = None,
) -> tuple[dict[str, dict[str, Any]], int]:
    """`mean` and `stderr` of each number of the model's `evaluate`, and over how many examples of the split that count.

    limit: only the first so many. distances: further numbers, between what is sampled under each example's condition,
    an image, and the example.
    """
    data, layout = trained.experiment.data, trained.layout
    totals: dict[str, list[np.ndarray]] = {}
    count = min(limit or sys.maxsize, data.count(split))
    batch = divisible(min(batch, count), layout)
    for i, (raw, mask) in enumerate(data.padded_batches(batch, split, limit)):
        keys = sample_keys(seed, batch, i * batch, EVAL)
        if layout is not None:
            keys, raw = layout.put((keys, raw), layout.batch())
        on_device: Batch = jax.tree.map(jnp.asarray, dict(raw))
        apart: Metrics = {}
        if distances:  # first, as it refuses models that answer with no images
            images = _answers(trained, keys, on_device)
            apart = {name: distance(images, on_device["x"]) for name, distance in distances.items()}
        numbers = compiled.evaluate(trained.model, trained.state, keys, on_device, trained.codec) | apart
        for name, values in whole(numbers).items():
            totals.setdefault(name, []).append(np.asarray(values, np.float64)[mask])
    joined = {name: np.concatenate(parts) for name, parts in totals.items()}
    joined |= matching_numbers(trained, split, limit, batch)
    counted = max((len(values) for values in joined.values()), default=count)
    return {name: mean_and_error(values) for name, values in joined.items()}, counted


def evaluation(
    trained: Trained, split: str, seed: int, numbers: Mapping[str, Any], count: int, **facts: Any
) -> dict[str, Any]:
    """The contents of RUN/evaluation.json: the numbers with everything that they depend on."""
    said = {"split": split, "num": count, "seed": seed, "step": trained.step}
    said |= {"parameters": trained.state.sampling_field, **facts}
    return {**said, "metrics": dict(numbers), "environment": environment()}


def mean_and_error(values: np.ndarray) -> dict[str, Any]:
    """`mean` and `stderr`, its standard error, of f64[N], None of a single one; of f64[N, 2], those of the first
    column's sum over the second's, the error to first order."""
    if values.ndim == 2:
        over, under = values.T
        mean = over.sum() / max(under.sum(), 1e-12)
        values = mean + (over - mean * under) / max(under.mean(), 1e-12)
    stderr = float(values.std(ddof=1) / len(values) ** 0.5) if len(values) > 1 else None
    return {"mean": float(values.mean()), "stderr": stderr}


def plus_minus(value: Mapping[str, Any]) -> str:
    """`mean_and_error` in words."""
    error = value["stderr"]
    return f"{value['mean']:.6g} " + (f"+- {error:.2g}" if error is not None else "of one example, error unknown")


def _answers(trained: Trained, keys: jax.Array, raw: Batch) -> jax.Array:
    """The model's sample for each example's condition, with the keys that `evaluate` uses: raw data."""
    cond = trained.model.sample_cond(keys.shape[0], raw)
    if not any(leaf.ndim >= 3 for leaf in jax.tree.leaves(cond)):
        name = type(trained.model).__name__
        raise UserError(f"{name} makes no image of an image: there is none to compare with --lpips")
    return compiled.sample(trained.model, trained.state, fold_each(keys, compiled.FOR_MODEL), cond, trained.codec)
