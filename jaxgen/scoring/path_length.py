"""Perceptual path length of a run: how fast its samples change along ways between latents (`--metrics ppl`).

Distances are LPIPS where its weights are named; else of a classifier's features at unit length, and the number is named
for the classifier.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.codecs import Pixels
from jaxgen.core.capabilities import WalksLatents
from jaxgen.core.keys import fold_each, sample_keys, uniform_each
from jaxgen.core.model import with_field
from jaxgen.core.types import PyTree, TrainState
from jaxgen.errors import UserError
from jaxgen.metrics import lpips
from jaxgen.metrics.ppl import INTERPOLATIONS, PPL, LatentPath, path_lengths
from jaxgen.runs.restore import Trained

POSITION = 5  # stream of a path's key: where on it the length is measured; models draw the ends from others
EPS = 1e-4


@dataclass(frozen=True, eq=False)
class Distance:
    """apply(params, x, y): f32[B] of two batches of images f32[B, H, W, C] in [0, 1], which it does not round.

    name: of the features, "" for LPIPS', whose path length has the published name. provenance: what fixes them.
    """

    name: str
    apply: Callable[[PyTree, jax.Array, jax.Array], jax.Array]
    params: PyTree
    provenance: dict[str, Any]

    @property
    def metric(self) -> str:
        return f"ppl_{self.name}" if self.name else "ppl"


def by_lpips(metric: lpips.LPIPS) -> Distance:
    """LPIPS with the weights of `metric`; grey images are repeated to three channels."""
    network = lpips.TRUNKS[metric.name][1]

    def apply(params: PyTree, x: jax.Array, y: jax.Array) -> jax.Array:
        x, y = (jnp.broadcast_to(2 * image - 1, (*image.shape[:3], 3)) for image in (x, y))
        return lpips.distance(network, params[0], params[1], x, y)

    return Distance("", apply, metric.params, {"distance": metric.name, **metric.provenance})


def by_features(name: str, classify: Callable[[PyTree, jax.Array], jax.Array], params: PyTree, facts: dict) -> Distance:
    """|u(x) - u(y)|^2, u features scaled to length 1. classify: (params, images in [0, 1]) to features f32[B, D]."""

    def apply(params: PyTree, x: jax.Array, y: jax.Array) -> jax.Array:
        features = classify(params, jnp.concatenate([x, y]))
        a, b = jnp.split(features / jnp.linalg.norm(features, axis=1, keepdims=True), 2)
        return jnp.sum((a - b) ** 2, axis=1)

    return Distance(name, apply, params, facts)


def check_model(model: Any, codec: Any) -> tuple[WalksLatents, Pixels]:
    """The two, known to be so. Raises UserError unless the model has latents to walk between and its images are
    pixels."""
    if not isinstance(model, WalksLatents):
        raise UserError(f"{type(model).__name__} has no path between latents: ppl is of GANs; leave it out")
    if not isinstance(codec, Pixels):
        raise UserError(f"{type(codec).__name__} images cannot be had unrounded: ppl needs the codec Pixels")
    return model, codec


def _lengths(model: WalksLatents, codec: Pixels, apply: Callable, way: str) -> Callable[..., jax.Array]:
    """The program of lengths f32[B] of paths: of (parameters of the distance, state, keys, cond)."""

    @jax.jit
    def program(params: PyTree, state: TrainState, keys: jax.Array, cond: PyTree) -> jax.Array:
        generate, a, b, interpolate = model.latent_path(state, keys, cond, way)
        t = uniform_each(fold_each(keys, POSITION), ())

        def images(latents: jax.Array) -> jax.Array:
            return codec.unrounded(generate(latents))

        return path_lengths(images, partial(apply, params), LatentPath(a, b, interpolate), t, EPS)

    return program


class Paths(NamedTuple):
    """How many paths are measured: path i by key i of the seed, `batch` at a time."""

    seed: int
    num: int
    batch: int


def ppl(trained: Trained, distance: Distance, way: str, paths: Paths, cond: PyTree) -> dict[str, Any]:
    """The record's metric, values and settings. Paths are `EPS` long, so that images are computed in f32 whatever the
    run's precision is: bf16 would measure its rounding.

    way: one of the model's `latent_ways`. cond: conditions of `paths.num` paths or None. Raises UserError as
    `check_model`.
    """
    model, codec = check_model(with_field(trained.model, "dtype", None), trained.codec)
    num = paths.num
    metric = PPL(capacity=num)
    kept = metric.init()
    program = _lengths(model, codec, distance.apply, way)
    for first in range(0, num, paths.batch):
        rows = np.arange(first, first + paths.batch)
        some = jax.tree.map(lambda c, rows=rows: np.take(c, rows, axis=0, mode="wrap"), cond)
        keys = sample_keys(paths.seed, paths.batch, first)
        with jax.default_matmul_precision("highest"):
            lengths = program(distance.params, trained.state, keys, some)
        kept = metric.update(kept, lengths, jnp.asarray(rows < num))
    # The first way of a model has the plain name.
    name = distance.metric if way == model.latent_ways[0] else f"{distance.metric}_{way}"
    settings = {"eps": EPS, "trim": metric.trim, "path": INTERPOLATIONS[way], "precision": "float32"}
    return {"metric": name, "values": {name: metric.compute(kept)["ppl"]}, "settings": settings}
