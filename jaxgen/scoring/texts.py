"""Scores of pictures beside their texts: those that samples were asked for, and those of held-out data for a scale."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxgen.core.capabilities import ClassConditional
from jaxgen.core.types import PyTree
from jaxgen.data import Captioned
from jaxgen.inference.prompts import asked_texts
from jaxgen.metrics.clip_score import WEIGHT, clip_scores, directions, mismatched
from jaxgen.metrics.retrieval import DEPTHS, ranks
from jaxgen.runs.captions import caption_tokens
from jaxgen.runs.restore import Trained
from jaxgen.scoring.features import Network, Rows, digest

SEED = 0  # of the texts that stand beside others' pictures
Said = Sequence[str]


def conditions(trained: Trained) -> str:
    """What a run's samples are asked for by, as far as there are words for it: classes, captions, or nothing."""
    model, data = trained.model, trained.experiment.data
    if isinstance(model, ClassConditional) and model.num_classes:
        return "classes" if len(data.class_names) == model.num_classes else ""
    cond = model.sample_cond(1, trained.examples) if isinstance(data, Captioned) else None
    return "captions" if isinstance(cond, dict) and "text" in cond else ""


def asked(trained: Trained, num: int) -> PyTree:
    """What `num` samples are asked for: every class equally often, or the held-out captions, from the first on."""
    data, told = trained.experiment.data, trained.examples
    if conditions(trained) == "captions":
        texts, held_out = caption_tokens(trained, data.captions("test")), data.arrays("test")
        # A later stage of a cascade is told the small pictures as well.
        told = {**held_out, **texts} if isinstance(held_out, Mapping) else texts
    return trained.model.sample_cond(num, told)


def of_samples(trained: Trained, template: str, cond: PyTree) -> Said:
    """The texts of samples drawn under `cond`: their prompts, or what the template says of their classes."""
    data = trained.experiment.data
    if conditions(trained) == "classes":
        return _of_labels(data.class_names, template, np.asarray(cond))
    return asked_texts(trained, cond)


def of_split(trained: Trained, template: str, split: str) -> Said:
    """The text of each example of a split, of the same kind."""
    data = trained.experiment.data
    if conditions(trained) == "captions":
        return list(data.captions(split))
    batches = data.padded_batches(1024, split)
    return _of_labels(data.class_names, template, np.concatenate([raw["cond"][mask] for raw, mask in batches]))


def of_classes(trained: Trained, template: str) -> Said:
    """What the template says of each class, of models that are asked for one."""
    names = trained.experiment.data.class_names if conditions(trained) == "classes" else ()
    return _of_labels(names, template, np.arange(len(names)))


def _of_labels(names: Sequence[str], template: str, labels: np.ndarray) -> Said:
    return [template.replace("{}", names[int(label)]) for label in labels]


def clip_score(
    network: Network, samples: Rows, said: Said, real: Rows, real_said: Said, others: Said = ()
) -> dict[str, Any]:
    """CLIP score of samples and their texts, of real pictures and theirs, and of real pictures and others' (by a
    seed), with standard errors; and, for samples and real pictures, R@k of their text among all that differ here,
    `others` among them, for each k below the number of these."""
    assert network.texts is not None  # as the caller has checked
    every = list(dict.fromkeys([*said, *real_said, *others]))
    tokens = network.texts.tokens(every)
    # Texts that the network cannot tell apart are one.
    text, rows, group = np.unique(tokens["text"], axis=0, return_index=True, return_inverse=True)
    vectors = directions(network.texts.embed({"text": text, "text_mask": tokens["text_mask"][rows]}))
    of = dict(zip(every, group.reshape(-1)))
    own, theirs = (np.array([of[words] for words in texts]) for texts in (said, real_said))
    pairs = {"": (samples, own), "_real": (real, theirs), "_mismatched": (real, theirs[mismatched(theirs, SEED)])}
    values: dict[str, float] = {}
    for suffix, (pictures, groups) in pairs.items():
        found = clip_scores(pictures["features"], vectors[groups])
        values[f"clip_score{suffix}"] = float(found.mean())
        values[f"clip_score{suffix}_stderr"] = float(found.std(ddof=1) / len(found) ** 0.5)
    for suffix in ("", "_real"):
        pictures, groups = pairs[suffix]
        rank = ranks(directions(pictures["features"]), vectors, groups, np.arange(len(vectors)))
        values |= {f"text_r{k}{suffix}": float(np.mean(rank < k)) for k in DEPTHS if k < len(vectors)}
    settings = {"weight": WEIGHT, "mismatched_seed": SEED, "template": network.texts.template}
    settings["texts"] = {"num": len(vectors), "hash": digest(text.tolist())}
    renamed = {network.metric(name): value for name, value in values.items()}
    return {"metric": network.metric("clip_score"), "values": renamed, "settings": settings}
