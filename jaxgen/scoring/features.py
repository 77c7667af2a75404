"""Scores of a run's samples against real data, each with everything that its number depends on.

A score compares features of `num` samples with those of a split of real data. Both are computed batch by batch; the
samples' are kept on the way, so that an interrupted command goes on, and the real ones in the user's cache folder.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.core.capabilities import Classifies, ScoresText
from jaxgen.core.configuration import to_json
from jaxgen.data import Captioned, Dataset, ImageFolder
from jaxgen.errors import UserError
from jaxgen.metrics.inputs import check_images
from jaxgen.ops.resize import clean_bicubic
from jaxgen.runs.captions import caption_tokens
from jaxgen.runs.restore import Trained
from jaxgen.runtime.cache import no_cache, private_folder
from jaxgen.runtime.files import write_tensors
from jaxgen.runtime.progress import say
from jaxgen.runtime.reading import read_tensors, user_path
from jaxgen.scoring.path_length import Distance, by_features
from jaxgen.weights.store import tree_hash

TEXTS = 256  # embedded at a time
PART = 10  # batches between two files of features, which an interrupted command finds again
Rows = dict[str, np.ndarray]
Shown = Callable[[Iterator, int, str], Iterator]
"""(batches, how many, of what) -> the same batches, with their progress shown."""


@dataclass(frozen=True, eq=False)
class TextNetwork:
    """Texts in the space of a network's features. template: what is said of a class, {} standing for its name.

    tokens: of texts, `text` i32[N, T] and `text_mask` bool[N, T]. embed: of such tokens, unit vectors f32[N, D].
    """

    template: str
    tokens: Callable[[Sequence[str]], Rows]
    embed: Callable[[Rows], np.ndarray]


@dataclass(frozen=True, eq=False)
class Network:
    """Images uint8[B, H, W, C], or clips uint8[B, F, H, W, C], to `features` f32[B, D] and, where it tells classes,
    `logits` f32[B, K].

    name: of the features, "" for Inception's, whose scores have the published names. provenance: what fixes them.
    distance: by the features, of images that are not rounded; None where there is none. texts: where it knows any.
    """

    name: str
    apply: Callable[[np.ndarray], Rows]
    provenance: dict[str, Any]
    distance: Distance | None = None
    classes: bool = True
    texts: TextNetwork | None = None
    num_classes: int = 0
    """0 where it is not known."""

    @property
    def key(self) -> str:
        """A hash of all that the features depend on beside the images."""
        return digest(self.provenance)

    def metric(self, name: str) -> str:
        """The name a score may bear: fid, kid and is with Inception's features alone."""
        if not self.name:
            return name
        published = {"fid": "fd", "kid": "kd", "is": "score"}
        first, *rest = name.split("_")
        return "_".join([published.get(first, first), *rest, self.name])


def inception(file: Path, resize: str) -> Network:
    """Inception-v3 with the weights in `file`, as `jaxgen weights convert` wrote them."""
    from jaxgen.metrics.features import Features
    from jaxgen.weights import load

    network = Features(load("inception", file), resize)

    def apply(images: np.ndarray) -> Rows:
        out = network(images)
        return {"features": np.asarray(out["pool3"]), "logits": np.asarray(out["logits_unbiased"])}

    return Network("", apply, {"network": "inception", **network.provenance})


def of_run(trained: Trained) -> Network:
    """The features of a classifier or of a CLIP of ours. Raises UserError when the run is of something else."""
    model = trained.experiment.model
    if isinstance(model, ScoresText) and isinstance(trained.experiment.data, Captioned):
        return clip(trained, model)
    if isinstance(model, Classifies):
        return classifier(trained, model)
    scripts = "experiments/classifier.py or clip.py"
    raise UserError(f"{trained.name} is a run of {type(model).__name__}: name one of {scripts}")


def classifier(trained: Trained, model: Classifies) -> Network:
    """The features of a classifier, of square images of any size: those that are not of its own are resized to it, as
    for published features, by an antialiased cubic (arXiv:2104.11222). Of a classifier of clips, those of its own shape
    alone: the counterpart of FVD's (arXiv:1812.01717), which come from a network of 3-D convolutions."""
    codec, state, own = trained.codec, trained.state, tuple(model.shape)
    height, width, channels = own[-3:]

    def classify(params: Any, raw: jax.Array) -> tuple[jax.Array, jax.Array]:
        if len(own) == 3 and raw.shape[1:3] != (height, width):
            raw = jnp.clip(clean_bicubic(raw.astype(jnp.float32), height), 0, 255)
        return model.classify(params, codec.encode({"x": raw}, jax.random.key(0))["x"])

    compiled = jax.jit(classify)

    def apply(images: np.ndarray) -> Rows:
        shape = images.shape[1:]
        square = len(shape) == len(own) == 3 and shape[0] == shape[1] and height == width and shape[2] == channels
        if images.dtype != np.uint8 or not (square or shape == own):
            given, expected = f"{images.dtype}{list(images.shape)}", f"uint8{['B', *own]}".replace("'", "")
            raise UserError(f"images are {given}, the classifier {trained.name} takes {expected}: choose another")
        features, logits = compiled(state.sampling_params, images)
        return {"features": np.asarray(features), "logits": np.asarray(logits)}

    name = f"{_data_name(trained.experiment.data)}_cnn"
    resize = f"clean to {height}" if len(own) == 3 else "none"
    provenance = {"network": name, "weights": trained.weights, "resize": resize}

    def features(params: Any, images: jax.Array) -> jax.Array:
        return classify(params, 255 * images)[0]

    distance = by_features(name, features, state.sampling_params, provenance)
    return Network(name, apply, provenance, distance, num_classes=getattr(model, "num_classes", 0))


def clip(trained: Trained, model: ScoresText) -> Network:
    """The features of a CLIP's images, of any size, and its texts.

    Features are those before they are scaled to norm 1, as of the Frechet distances of arXiv:2203.06026 and clean-fid;
    CMMD, arXiv:2401.09603, is another distance, of unit vectors.
    """
    codec, params, channels = trained.codec, trained.state.sampling_params, model.shape[2]
    # What came from elsewhere has not seen the data of the run.
    name = "clip" if trained.step == 0 else f"{_data_name(trained.experiment.data)}_clip"

    @jax.jit
    def features(params: Any, raw: jax.Array) -> jax.Array:
        raw = jnp.broadcast_to(raw, (*raw.shape[:3], channels))
        return model.image_features(params, codec.encode({"x": raw}, jax.random.key(0))["x"])

    def apply(images: np.ndarray) -> Rows:
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] not in (1, channels):
            given, expected = f"{images.dtype}{list(images.shape)}", f"uint8[B, H, W, {channels}]"
            raise UserError(f"images are {given}, the CLIP {trained.name} takes {expected}: choose another")
        return {"features": np.asarray(features(params, images))}

    embedded = jax.jit(model.embed_text)

    def embed(tokens: Rows) -> np.ndarray:
        parts, count = [], len(tokens["text"])
        for first in range(0, count, TEXTS):
            rows = np.minimum(np.arange(first, first + min(TEXTS, count)), count - 1)
            parts.append(np.asarray(embedded(params, tokens["text"][rows], tokens["text_mask"][rows])))
        return np.concatenate(parts)[:count]

    facts = {"features": "before normalization", "preprocessing": model.preprocessing, "codec": to_json(codec)}
    provenance = {"network": name, "weights": tree_hash(params)[:16], **facts}
    data = trained.experiment.data
    assert isinstance(data, Captioned)  # as of_run knows
    texts = TextNetwork(data.template, partial(caption_tokens, trained), embed)
    distance = by_features(name, lambda params, images: features(params, 255 * images), params, provenance)
    return Network(name, apply, provenance, distance, False, texts)


def _data_name(data: Dataset) -> str:
    """A word for the data that a network was trained on: the folder's of a folder of pictures."""
    data = data.data if isinstance(data, Captioned) else data
    if isinstance(data, ImageFolder):
        return re.sub(r"\W+", "_", user_path(data.folder).absolute().name.lower()) or "images"
    return getattr(data, "name", None) or type(data).__name__.lower()


# --- what is scored -------------------------------------------------------------------------------------------
def real_rows(network: Network, data: Dataset, split: str, batch: int, shown: Shown) -> tuple[Rows, str]:
    """Features of a whole split, f32[N, ...] each, and the hash that names them; from the cache where it has them."""
    count = data.count(split)
    content = hashlib.sha256()
    for raw, mask in data.padded_batches(batch, split):
        images = raw["x"]
        content.update(np.ascontiguousarray(images[mask]).data)
    kind = [images.dtype.str, count, *images.shape[1:]]
    reference = digest({"images": content.hexdigest(), "kind": kind, "network": network.key})
    folder = private_folder("features")
    file = folder / f"{reference}.safetensors" if folder else None
    if rows := _kept(file):
        return rows, reference
    batches = ((raw["x"], mask) for raw, mask in data.padded_batches(batch, split))
    rows = _features(network, shown(batches, -(-count // batch), f"features of {split}"))
    _keep(rows, file)
    return rows, reference


def sampled_rows(
    network: Network,
    batches: Callable[[range], Iterator[np.ndarray]],
    num: int,
    batch: int,
    folder: Path | None,
    shown: Shown,
) -> Rows:
    """Features of samples 0 to num - 1. batches(firsts) yields the `batch` samples from each of `firsts` on; parts
    already in `folder`, where one is given, are not computed again."""
    size, parts = PART * batch, []
    for first in range(0, num, size):
        last = min(first + size, num)
        file = folder / f"{first:09d}.safetensors" if folder else None
        part = _kept(file)
        # One that was kept for fewer samples may be short.
        if len(part.get("features", ())) < last - first:
            firsts = range(first, last, batch)
            masked = ((images, np.arange(at, at + batch) < last) for at, images in zip(firsts, batches(firsts)))
            part = _features(network, shown(masked, len(firsts), f"samples {first} to {last - 1}"))
            _keep(part, file)
        parts.append(part)
    return {name: np.concatenate([part[name] for part in parts])[:num] for name in parts[0]}


def _features(network: Network, batches: Iterator[tuple[np.ndarray, np.ndarray]]) -> Rows:
    parts = []
    for images, mask in batches:
        check_images(images.reshape(-1, *images.shape[2:]) if images.ndim == 5 else images)
        parts.append({name: rows[mask] for name, rows in network.apply(images).items()})
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _kept(file: Path | None) -> Rows:
    """Features that were kept; none where there is no such file, or where it was cut short: they are computed again."""
    if file is None or not file.exists():
        return {}
    try:
        return read_tensors(file)[0]
    except UserError as error:
        say(f"{error}: computed again")
        return {}


def _keep(rows: Rows, file: Path | None) -> None:
    """Keeps features; where they cannot be, that is said and the command goes on."""
    if file is not None:
        try:
            write_tensors(file, rows)
        except OSError as error:
            no_cache(file.parent, error)


# --- hashes ---------------------------------------------------------------------------------------------------
def digest(value: Any) -> str:
    """Of a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
