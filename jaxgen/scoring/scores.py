"""The scores by name: two sets of features to numbers, and the settings that are each score's own."""

from collections.abc import Callable
from typing import Any

import numpy as np

from jaxgen.errors import UserError, nearest
from jaxgen.metrics.fid import Gaussian, frechet_distance
from jaxgen.metrics.inception_score import inception_score
from jaxgen.metrics.kid import kid
from jaxgen.metrics.memorization import memorization
from jaxgen.metrics.prdc import prdc
from jaxgen.metrics.wasserstein import PROJECTIONS, sliced_wasserstein, wasserstein
from jaxgen.scoring.features import Network, Rows

KID_SUBSETS = 100
KID_SUBSET_SIZE = 1000
SPLITS = 10  # of the Inception score
NEIGHBOURS = 5  # of precision, recall, density and coverage
MATCHED = 2000  # points of each set that are matched: the time grows as their cube


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
    x, y = _alike(samples, real, 10_000)
    return prdc(x, y, NEIGHBOURS), {"k": NEIGHBOURS, "num_each": len(x)}


def _alike(samples: Rows, real: Rows, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Features of equally many of both, `most` at most."""
    num = min(len(samples["features"]), len(real["features"]), most)
    return some_of(samples, num)["features"], some_of(real, num)["features"]


def _wasserstein(samples: Rows, real: Rows, _: Any) -> tuple[dict[str, float], dict[str, Any]]:
    x, y = _alike(samples, real, MATCHED)
    return {"wasserstein": wasserstein(x, y)}, {"p": 2, "num_each": len(x)}


def _sliced(samples: Rows, real: Rows, _: Any) -> tuple[dict[str, float], dict[str, Any]]:
    x, y = _alike(samples, real, 10_000)
    settings = {"p": 2, "projections": PROJECTIONS, "projections_seed": 0, "num_each": len(x)}
    return sliced_wasserstein(x, y, PROJECTIONS, 2, 0), settings


def _memorization(samples: Rows, real: Rows, held_out: Rows | None) -> tuple[dict[str, float], dict[str, Any]]:
    assert held_out is not None
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
    "asked": _asked, "wasserstein": _wasserstein, "sliced_wasserstein": _sliced,
}  # fmt: skip


def check_metrics(text: str, num: int, reference: str = "train") -> list[str]:
    """`fid,kid` as a list. Raises UserError for a name that is none, for fewer samples than a score needs, and for a
    reference that it cannot be taken against."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise UserError(f"metrics is {text!r}: names joined by commas are expected, as fid,kid")
    for name in names:
        if name not in (known := [*SCORES, "clip_score", "ppl"]):
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
