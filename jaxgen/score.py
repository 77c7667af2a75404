"""Scores of a run's samples against real data, each with everything that its number depends on.

A score compares features of `num` samples with those of a split of real data. Both are computed batch by batch; the
samples' are kept on the way, so that an interrupted command goes on, and the real ones in the user's cache folder.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from jaxgen import core
from jaxgen.cli import cache_folder
from jaxgen.data import Dataset
from jaxgen.errors import UserError, nearest
from jaxgen.files import replacing
from jaxgen.metrics.fid import Gaussian, frechet_distance
from jaxgen.metrics.inception_score import inception_score
from jaxgen.metrics.inputs import check_images
from jaxgen.metrics.kid import kid
from jaxgen.metrics.memorization import memorization
from jaxgen.metrics.prdc import prdc
from jaxgen.paths import Distance, by_features
from jaxgen.weights.store import content_hash

PART = 10  # batches between two files of features, which an interrupted command finds again
KID_SUBSETS = 100
KID_SUBSET_SIZE = 1000
SPLITS = 10  # of the Inception score
NEIGHBOURS = 5  # of precision, recall, density and coverage

Rows = dict[str, np.ndarray]
Shown = Callable[[Iterator, int, str], Iterator]
"""(batches, how many, of what) -> the same batches, with their progress shown."""


@dataclass(frozen=True, eq=False)
class Network:
    """Images uint8[B, H, W, C] to `features` f32[B, D] and `logits` f32[B, K].

    name: of the features, "" for Inception's, whose scores have the published names. provenance: what fixes them.
    distance: by the features, of images that are not rounded; None where there is none.
    """

    name: str
    apply: Callable[[np.ndarray], Rows]
    provenance: dict[str, Any]
    distance: Distance | None = None

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


def classifier(run: Any, state: core.TrainState, codec: Any) -> Network:
    """The features of a classifier of ours, from its run. Raises UserError when the run is of something else."""
    from jaxgen.models.classifier import Classifier

    experiment = run.experiment()
    model = experiment.model
    if not isinstance(model, Classifier):
        raise UserError(f"{run.path} is a run of {type(model).__name__}: name one of experiments/classifier.py")

    @jax.jit
    def network(images: jax.Array) -> tuple[jax.Array, jax.Array]:
        x = codec.encode({"x": images}, jax.random.key(0))["x"]
        return model.classify(state.sampling_params, x)

    def apply(images: np.ndarray) -> Rows:
        if images.dtype != np.uint8 or images.shape[1:] != model.shape:
            given, expected = f"{images.dtype}{list(images.shape)}", f"uint8[B, {', '.join(map(str, model.shape))}]"
            raise UserError(f"images are {given}, the classifier of {run.path} takes {expected}: choose another")
        features, logits = network(images)
        return {"features": np.asarray(features), "logits": np.asarray(logits)}

    data = experiment.data
    name = f"{getattr(data, 'name', None) or type(data).__name__.lower()}_cnn"
    provenance = {"network": name, "weights": tree_digest(state.sampling_params)}

    def features(params: Any, images: jax.Array) -> jax.Array:
        return model.classify(params, codec.encode({"x": 255 * images}, jax.random.key(0))["x"])[0]

    return Network(name, apply, provenance, by_features(name, features, state.sampling_params, provenance))


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
    file = cache_folder() / "features" / f"{reference}.safetensors"
    try:
        return load_file(file), reference
    except (OSError, SafetensorError):  # not there, or cut short: computed again
        pass
    batches = ((raw["x"], mask) for raw, mask in data.padded_batches(batch, split))
    rows = _features(network, shown(batches, -(-count // batch), f"features of {split}"))
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    _save(rows, file)
    return rows, reference


def sampled_rows(
    network: Network,
    batches: Callable[[range], Iterator[np.ndarray]],
    num: int,
    batch: int,
    folder: Path,
    shown: Shown,
) -> Rows:
    """Features of samples 0 to num - 1. batches(firsts) yields the `batch` samples from each of `firsts` on; parts
    already in `folder` are not computed again."""
    size, parts = PART * batch, []
    for first in range(0, num, size):
        file, last = folder / f"{first:09d}.safetensors", min(first + size, num)
        try:
            part = load_file(file)
        except (OSError, SafetensorError):
            part = {}
        # One that was kept for fewer samples may be short.
        if len(part.get("features", ())) < last - first:
            firsts = range(first, last, batch)
            masked = ((images, np.arange(at, at + batch) < last) for at, images in zip(firsts, batches(firsts)))
            part = _features(network, shown(masked, len(firsts), f"samples {first} to {last - 1}"))
            _save(part, file)
        parts.append(part)
    return {name: np.concatenate([part[name] for part in parts])[:num] for name in parts[0]}


def _features(network: Network, batches: Iterator[tuple[np.ndarray, np.ndarray]]) -> Rows:
    parts = []
    for images, mask in batches:
        check_images(images)
        parts.append({name: rows[mask] for name, rows in network.apply(images).items()})
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _save(rows: Rows, file: Path) -> None:
    with replacing(file) as partial:
        save_file({name: np.ascontiguousarray(a) for name, a in rows.items()}, partial)


# --- the scores -----------------------------------------------------------------------------------------------


def _fid(samples: Rows, real: Rows, _: Any) -> tuple[dict[str, float], dict[str, Any]]:
    value = frechet_distance(Gaussian.of(samples["features"]), Gaussian.of(real["features"]))
    return {"fid": value}, {}


def _kid(samples: Rows, real: Rows, _: Any) -> tuple[dict[str, float], dict[str, Any]]:
    size = min(KID_SUBSET_SIZE, len(samples["features"]), len(real["features"]))
    value = kid(samples["features"], real["features"], KID_SUBSETS, size)
    return {"kid": value["kid"], "kid_std": value["kid_std"]}, {"subsets": KID_SUBSETS, "subset_size": size}


def _is(samples: Rows, real: Rows, _: Any) -> tuple[dict[str, float], dict[str, Any]]:
    value = inception_score(samples["logits"], SPLITS)
    return {"is": value["is"], "is_std": value["is_std"]}, {"splits": SPLITS}


def _prdc(samples: Rows, real: Rows, _: Any) -> tuple[dict[str, float], dict[str, Any]]:
    # Equal numbers, as the papers take: the balls of the larger set would be the smaller ones.
    num = min(len(samples["features"]), len(real["features"]), 10_000)
    values = prdc(some_of(samples, num)["features"], some_of(real, num)["features"], NEIGHBOURS)
    return values, {"k": NEIGHBOURS, "num_each": num}


def _memorization(samples: Rows, real: Rows, held_out: Rows) -> tuple[dict[str, float], dict[str, Any]]:
    value = memorization(samples["features"], real["features"], held_out["features"])
    return {name: value[name] for name in ("nn_ratio", "copying_z")}, {"held_out": len(held_out["features"])}


def _classes(samples: Rows, real: Rows, _: Any) -> tuple[dict[str, float], dict[str, Any]]:
    found = samples["logits"].argmax(axis=1)
    share = np.bincount(found, minlength=samples["logits"].shape[1]) / len(found)
    return {"rarest_class": float(share.min()), "commonest_class": float(share.max())}, {"classes": len(share)}


def _asked(samples: Rows, real: Rows, _: Any) -> tuple[dict[str, float], dict[str, Any]]:
    return {"asked_class": float(np.mean(samples["logits"].argmax(axis=1) == samples["asked"]))}, {}


LEAST = {"is": SPLITS, "prdc": NEIGHBOURS + 1}
"""Samples that a score cannot do with fewer of; of all others 2."""

SCORES: dict[str, Callable[[Rows, Rows, Rows | None], tuple[dict[str, float], dict[str, Any]]]] = {
    "fid": _fid, "kid": _kid, "is": _is, "prdc": _prdc, "memorization": _memorization, "classes": _classes,
    "asked": _asked,
}  # fmt: skip


def check_metrics(text: str, num: int, reference: str = "train") -> list[str]:
    """`fid,kid` as a list. Raises UserError for a name that is none, for fewer samples than a score needs, and for a
    reference that it cannot be taken against."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in (known := [*SCORES, "ppl"]):
            raise UserError(f"metric {name!r} is unknown{nearest(name, known)}: choose from {', '.join(known)}")
        if num < (least := LEAST.get(name, 2)):
            raise UserError(f"num is {num}: {name} needs at least {least} samples")
        if name == "memorization" and reference != "train":
            raise UserError(f"reference is {reference}: what a model memorizes is its training set; leave it at train")
    return names


def some_of(rows: Rows, num: int) -> Rows:
    """`num` rows in an order without meaning: samples come class by class, and so may the examples of a split."""
    order = np.random.default_rng(0).permutation(len(rows["features"]))[:num]
    return {name: a[order] for name, a in rows.items()}


def scores(
    names: list[str], network: Network, samples: Rows, real: Rows, held_out: Rows | None
) -> list[dict[str, Any]]:
    """A record for each metric of samples asked for: its numbers and the settings that are its own. samples: for
    the score of that name also `asked`, i32[N], the classes that they were drawn for."""
    records = []
    for name in names:
        if name not in SCORES:
            continue
        values, settings = SCORES[name](samples, real, held_out)
        renamed = {network.metric(key): value for key, value in values.items()}
        records.append({"metric": network.metric(name), "values": renamed, "settings": settings})
    return records


# --- hashes ---------------------------------------------------------------------------------------------------


def tree_digest(tree: Any) -> str:
    """Of all arrays of a tree, with their paths."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return content_hash({jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves})[:16]


def digest(value: Any) -> str:
    """Of a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
