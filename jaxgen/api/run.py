"""`fit`, `load` and `Run`: a model is trained, read back and used in one call each.

run = jaxgen.fit(VAE(shape=(8, 8, 1), latent=8), Digits(), steps=1000, batch_size=128)
images = run.sample(64, seed=7)
numbers = run.evaluate("test")
"""

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxgen.codecs import Binarize, Identity, Pixels
from jaxgen.core.capabilities import Translates
from jaxgen.core.codec import Codec
from jaxgen.core.configuration import check_fields, check_value
from jaxgen.core.keys import sample_keys
from jaxgen.core.model import GenerativeModel
from jaxgen.core.ranges import Count, Samples
from jaxgen.core.types import PyTree
from jaxgen.data import Dataset
from jaxgen.errors import UserError, nearest
from jaxgen.experiment import Experiment
from jaxgen.inference import cascading, editing, prompting
from jaxgen.inference.editing import Edit
from jaxgen.inference.export import export_run
from jaxgen.inference.guiding import Wanted, guided_pictures
from jaxgen.inference.held_out import evaluation, held_out_numbers
from jaxgen.inference.prompts import parts_of
from jaxgen.inference.restoring import Degraded, conditions, restore_pictures
from jaxgen.inference.sampling import check_numbers, draw
from jaxgen.models.clip_guidance import CLIPGuidance
from jaxgen.report import write_report
from jaxgen.runs.folder import RunFolder
from jaxgen.runs.marks import check_mark
from jaxgen.runs.restore import Trained, restore
from jaxgen.runtime.reading import user_path
from jaxgen.scoring import features, scores
from jaxgen.scoring.records import Record, Scoring, keep, score_run
from jaxgen.train.loop import train, train_in_memory

CALL = 50
"""Steps fused into one compiled call, where they divide the number of steps."""


class Run(Trained):
    """A trained model: `experiment`, `codec`, `state`, the run's `folder` (None if it was trained in memory) and
    `layout` (the mesh it lies on). Immutable, like all it holds."""

    def sample(
        self,
        num: int = 64,
        *,
        seed: int = 0,
        cond: PyTree = None,
        prompts: Sequence[str] | str = (),
        negative: str | None = None,
        cascade: Sequence[Trained] = (),
        batch: int = 256,
    ) -> np.ndarray:
        """Samples 0 to num - 1 of a seed as raw data, [num, ...]: images uint8[num, H, W, C], tokens i32[num, T].

        Sample i under a condition is the same for any num and batch. cond: leading axis num (labels i32[num], say); of
        a conditional model, when None, all classes, an equal share of num each. prompts: instead, of a diffusion model
        of texts, what is to be drawn, each as often as the others, and `negative`, what guidance leads away from.
        cascade: runs that go on from these samples one after another, told the same texts (`inference.cascading`); what
        the last one draws is returned. batch: samples computed at once. Raises UserError for a bad condition, and runs
        that do not go together.
        """
        check_numbers(num, batch, seed)
        cascading.check([self, *cascade])
        cond = self._condition(num, cond, prompts, negative)
        self.model.check_cond(cond)
        words = cascading.words(self, cascade, cond, in_list(prompts), num)
        raw = draw(self, seed, num, cond, batch)
        return cascading.continued(cascade, raw, seed, words, negative, batch)

    def _condition(self, num: int, cond: PyTree, prompts: Sequence[str] | str, negative: str | None) -> PyTree:
        """What `num` samples are drawn under. Raises UserError for what does not go together."""
        if prompts:
            if cond is not None:
                raise UserError("both cond and prompts were given: leave one of them out")
            return prompting.conditions(self, in_list(prompts), num, negative)
        if negative is not None:
            raise UserError("negative was given without prompts: say what is to be drawn")
        usual = self.model.sample_cond(num, self.examples)
        if cond is None:
            return usual
        if usual is None:
            name = type(self.experiment.model).__name__
            raise UserError(f"cond was given, but {name} is not conditional: leave it out")
        cond = jax.tree.map(np.asarray, cond, is_leaf=lambda part: isinstance(part, list))
        for part in jax.tree.leaves(cond):
            if part.shape[:1] != (num,):
                raise UserError(f"cond has the shape {part.shape}: one condition for each of {num} samples is expected")
        return cond

    def evaluate(
        self, split: str = "test", *, limit: int | None = None, batch: int = 200, seed: int = 0
    ) -> dict[str, dict[str, float]]:
        """`mean` and `stderr` of the model's numbers over held-out data, also written to RUN/evaluation.json.

        limit: only the first so many examples. Empty for a family that has no number per example.
        """
        check_value(limit, Samples | None, "limit")
        check_numbers(1, batch, seed)
        check_mark(self.folder, self.experiment, split)
        numbers, count = held_out_numbers(self, split, seed=seed, limit=limit, batch=batch)
        if self.folder is not None and numbers:
            self.folder.write_json("evaluation.json", evaluation(self, split, seed, numbers, count))
        return numbers

    def score(
        self,
        metrics: str = "fid",
        *,
        classifier: "Trained | Path | str | None" = None,
        weights: Path | str | None = None,
        resize: str = "tf1",
        **scoring: Any,
    ) -> list[Record]:
        """Scores of samples against real data, each with its protocol; also kept in RUN/scores.json.

        metrics: names joined by commas: fid, kid, is, prdc, memorization, classes, wasserstein, sliced_wasserstein,
        asked, clip_score, ppl. classifier: a run of a `Classifier` or a `CLIP` to take features from; or weights:
        Inception's, the file that `jaxgen weights convert` wrote, for images resized as `resize` says (tf1 or clean).
        scoring: fields of `scoring.records.Scoring`, as num=50_000 or reference="test". Raises UserError for a score
        that cannot be taken.
        """
        if (classifier is None) == (weights is None):
            raise UserError("scores need features: give classifier=RUN or weights=FILE (Inception), one of the two")
        asked = Scoring(**scoring)
        check_fields(asked)
        names = scores.check_metrics(metrics, asked.num, asked.reference)
        if weights is not None:
            network = features.inception(user_path(weights), resize)
        else:
            judge = classifier if isinstance(classifier, Trained) else restore(RunFolder(user_path(str(classifier))))
            network = features.of_run(judge)
        records = score_run(self, network, names, asked)
        if self.folder is not None:
            keep(self.folder, records)
        return records

    def edit(
        self,
        image: np.ndarray,
        mask: np.ndarray | None = None,
        *,
        num: int = 1,
        seed: int = 0,
        cond: PyTree = None,
        prompts: Sequence[str] | str = (),
        negative: str | None = None,
        strength: float = Edit.strength,
        resample: int = Edit.resample,
    ) -> np.ndarray:
        """`num` pictures made from image, uint8[H, W, C]: uint8[num, H, W, C].

        mask: bool[H, W, 1], true where the image stays and the rest is filled in. Without a mask the picture is
        translated by a model that answers pictures with pictures, and varied by others, from strength 0 (as it is) to 1
        (nothing of it is kept). cond, prompts, negative: as in `sample`. Raises UserError for a model that does not do
        what is asked, or a picture of another size.
        """
        check_numbers(num, 1, seed)
        check_fields(wanted := Edit(strength, resample))
        image, mask = np.asarray(image), None if mask is None else np.asarray(mask)
        model = self.model
        editing.check_model(model, True, mask is not None, False)
        shape = image.shape if isinstance(model, Translates) else editing.shape_of(model, self.experiment.codec)
        if isinstance(model, Translates):
            channels = self.examples["cond"].shape[-1]
            if image.ndim != 3 or image.shape[2] != channels:
                raise UserError(f"the picture has shape {image.shape}: [height, width, {channels}] is expected")
        if image.shape != tuple(shape):
            raise UserError(f"the picture has shape {image.shape}, the model draws {tuple(shape)}: resize it")
        if image.dtype != np.uint8:
            raise UserError(f"the picture is {image.dtype}: uint8 is expected, from 0 to 255")
        if mask is not None and (mask.shape != (*image.shape[:2], 1) or mask.dtype != bool):
            raise UserError(f"the mask is {mask.dtype}{mask.shape}: bool{(*image.shape[:2], 1)} is expected")
        if not isinstance(model, Translates):
            cond = self._condition(num, cond, prompts, negative)
        keys = sample_keys(seed, num)
        return editing.redraw(self, keys, image, mask, cond, wanted)

    def restore(
        self, image: np.ndarray, degraded: Degraded, *, num: int = 8, seed: int = 0, classes: tuple[int, ...] = ()
    ) -> np.ndarray:
        """`num` pictures that may be behind a degraded one: uint8[num, H, W, C], samples of a diffusion model's
        posterior.

        image: uint8[h, w, c], such as `degraded` says, as Degraded(lost="colour"), c = 1 of lost colour, h and w
        smaller of lost resolution. classes: see `inference.restoring.conditions`. Raises UserError for a run that
        restores no such pictures.
        """
        check_numbers(num, 1, seed)
        check_fields(degraded)
        cond = conditions(self.model, num, classes, self.examples)
        y = np.broadcast_to(image, (num, *image.shape))
        return restore_pictures(self, sample_keys(seed, num), y, degraded, cond)

    def guide(
        self,
        clip: Trained,
        prompts: Sequence[str] | str,
        *,
        num: int = 4,
        seed: int = 0,
        classes: tuple[int, ...] = (),
        settings: CLIPGuidance | None = None,
        batch: int = 64,
    ) -> np.ndarray:
        """`num` pictures near to each of P prompts by the measure of a CLIP run: uint8[P, num, H, W, C].

        prompts: texts, or parts with weights as "a red dragon | blurred:-0.5". classes: to choose from; all when empty.
        batch: pictures computed at once. Raises UserError for runs that cannot guide or be guided.
        """
        check_numbers(num, batch, seed)
        check_fields(settings := settings or CLIPGuidance())
        if not prompts:
            raise UserError("no prompts were given: say what is to be drawn")
        prompts = in_list(prompts)
        parts = [parts_of(prompt) for prompt in prompts]
        made = guided_pictures(self, clip, Wanted(parts, num, seed, classes), settings, batch)
        return made.x.reshape(len(prompts), num, *made.x.shape[1:])

    def export(self, out: Path | str, platforms: tuple[str, ...] = ("cpu", "cuda", "tpu")) -> str:
        """Writes the sampler into the folder `out` as a file that needs jax alone, with a script that calls it. Returns
        how to call it."""
        return export_run(self, user_path(out), platforms)

    def report(self) -> Path:
        """Writes RUN/report.html anew and returns its path. Raises UserError for a run without a folder."""
        return write_report(self.run.path)


def load(
    path: Path | str,
    *,
    step: int | None = None,
    best: bool = False,
    adapters: float = 1.0,
    changes: Mapping[str, Any] | None = None,
) -> Run:
    """The run in a folder that training made: its newest checkpoint, that of `step`, or the best one.

    adapters: the strength of those of a run with LoRA, 1 as trained, 0 for the network without. changes: other settings
    of the experiment, as {"model": replace(run.experiment.model, sampler=DDIM(50))}. Raises UserError where there is no
    run, or no such checkpoint.
    """
    check_names(changes or {}, "change")
    folder = RunFolder(user_path(path))
    experiment = folder.experiment()
    return _run(restore(folder, replace(experiment, **(changes or {})), step=step, best=best, adapters=adapters))


def fit(
    model: GenerativeModel,
    data: Dataset,
    *,
    steps: int,
    batch_size: int = 128,
    seed: int = 0,
    codec: Codec | None = None,
    out: Path | str | None = None,
    **settings: Any,
) -> Run:
    """Trains a model on data and returns the run.

    codec: between raw data and the model's space; when None the model's own for images, else [-1, 1], and data that are
    no images as they are. out: folder to keep the run in, where an interrupted one goes on; None trains in memory and
    writes nothing. settings: other fields of `Experiment`, as precision="bfloat16" or mesh="data=4". Raises UserError
    for bad input, before any compute.
    """
    _check_given(model, data, settings)
    check_value(steps, Count, "steps")
    check_value(settings.get("steps_per_call"), Count | None, "steps_per_call")
    call = settings.get("steps_per_call") or next(k for k in range(min(CALL, max(1, steps)), 0, -1) if steps % k == 0)
    often = max(call, steps // 10 // call * call)
    intervals = {"steps_per_call": call, "log_every": often, "save_every": often, "sample_every": steps}
    experiment = Experiment(
        model=model, data=data, codec=codec or default_codec(model, data), seed=seed, batch_size=batch_size,
        steps=steps, **{**intervals, **settings},
    )  # fmt: skip
    if out is None:
        return _run(train_in_memory(experiment))
    stopped = train(experiment, user_path(out))
    if stopped in ("SIGINT", "SIGTERM"):
        raise KeyboardInterrupt(f"stopped by {stopped}, saved in {out}: the same call goes on from there")
    return load(out)


def _check_given(model: Any, data: Any, settings: dict[str, Any]) -> None:
    """Raises UserError for what `fit` cannot take."""
    if not isinstance(model, GenerativeModel):
        raise UserError(f"model is {model!r:.80}: one with its settings is expected, as VAE(shape=(28, 28, 1))")
    if not isinstance(data, Dataset):
        raise UserError(
            f"data is {type(data).__name__ if not isinstance(data, type) else data.__name__}: a data set with its "
            'settings is expected, as ImageFolder(folder="..."), or a class of your own: class Mine(Dataset) with '
            'load(self, split) that returns {"x": array}'
        )
    check_names(settings, "setting")


def check_names(settings: Mapping[str, Any], what: str) -> None:
    """Raises UserError for names that are no fields of `Experiment`."""
    names = [field.name for field in fields(Experiment)]
    for name in settings:
        if name not in names:
            raise UserError(f"the {what} {name!r} is unknown{nearest(name, names)}: choose one of {', '.join(names)}")


def default_codec(model: GenerativeModel, data: Dataset) -> Codec:
    """The codec that fits a model and data when none is named."""
    raw = data.batch_at(0, 0, 1)["x"]
    if raw.dtype != np.uint8:
        return Identity()
    codec = model.natural_codec() or Pixels()
    if isinstance(codec, Binarize) and raw.shape[-1] > 1:
        raise UserError(
            f"{type(model).__name__} draws black and white pixels, and pictures have {raw.shape[-1]} channels: pass "
            "likelihood=DiscretizedLogistic(), or codec=Binarize() if each channel is to be black or white"
        )
    return codec


def in_list(prompts: Sequence[str] | str) -> Sequence[str]:
    """The prompts, of which one may be given alone."""
    return (prompts,) if isinstance(prompts, str) else prompts


def _run(trained: Trained) -> Run:
    return Run(trained.experiment, trained.codec, trained.state, trained.folder, trained.layout)
