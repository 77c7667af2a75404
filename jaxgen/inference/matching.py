"""Numbers of a model of pictures and texts that need the whole split: retrieval, and classes by their names."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.core.capabilities import ScoresText
from jaxgen.core.keys import EVAL, run_key
from jaxgen.core.mesh import divisible
from jaxgen.core.types import Batch, TrainState
from jaxgen.data import Captioned
from jaxgen.metrics.retrieval import ranks, recalls
from jaxgen.runs.restore import Trained
from jaxgen.runtime.processes import whole


@partial(jax.jit, static_argnums=0)
def _embedded(model: Any, state: TrainState, batch: Batch, codec: Any) -> tuple[jax.Array, jax.Array]:
    """Unit vectors f32[B, D] of the pictures of a raw batch, and of its texts."""
    x = codec.encode(batch, run_key(0, EVAL))["x"]
    params = state.sampling_params
    return model.embed_images(params, x), model.embed_text(params, batch["text"], batch["text_mask"])


@partial(jax.jit, static_argnums=0)
def _texts(model: Any, state: TrainState, text: jax.Array, mask: jax.Array) -> jax.Array:
    return model.embed_text(state.sampling_params, text, mask)


def matching_numbers(trained: Trained, split: str, limit: int | None, batch: int) -> dict[str, np.ndarray]:
    """f64[N] by name over the first `limit` examples: R@1, 5, 10 both ways and, where the data has classes,
    `zero_shot`: whether the nearest of the texts of all classes is that of the example's own. Empty for other models
    and data.

    Chance is k / N for R@k where all texts differ, and the share of each class for `zero_shot`.
    """
    data, layout, model = trained.experiment.data, trained.layout, trained.model
    if not isinstance(model, ScoresText) or not isinstance(data, Captioned):
        return {}
    pictures, texts, tokens, labels = [], [], [], []
    for raw, mask in data.padded_batches(divisible(batch, layout), split, limit):
        tokens.append(raw["text"][mask])
        labels.append(raw["cond"][mask] if "cond" in raw else np.zeros(0, np.int32))
        placed = jax.tree.map(jnp.asarray, dict(raw)) if layout is None else layout.put(dict(raw), layout.batch())
        both = whole(_embedded(model, trained.state, placed, trained.codec))
        pictures.append(np.asarray(both[0])[mask])
        texts.append(np.asarray(both[1])[mask])
    images = np.concatenate(pictures)
    groups = np.unique(np.concatenate(tokens), axis=0, return_inverse=True)[1].reshape(-1)
    numbers = dict(recalls(images, np.concatenate(texts), groups))
    if data.class_names and (cond := np.concatenate(labels)).size:
        said = data.class_tokens()
        placed = said if layout is None else layout.put(said, layout.everywhere)
        classes = np.asarray(whole(_texts(model, trained.state, placed["text"], placed["text_mask"])))
        numbers["zero_shot"] = (ranks(images, classes, cond, np.arange(len(classes))) == 0).astype(np.float64)
    return numbers
