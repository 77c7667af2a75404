"""Runs of Stable Diffusion 1.x's weights, a diffusion model and its first stage, and a folder of weights of a run."""

from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxgen.data import Captioned
from jaxgen.data.clip_tokenizer import MERGES, ClipBPE
from jaxgen.errors import UserError
from jaxgen.experiment import Experiment
from jaxgen.models.autoencoder_kl import AutoencoderKL
from jaxgen.models.ddpm import DDPM
from jaxgen.nets.clip import TextTower
from jaxgen.nets.unet_sd import SDUNet
from jaxgen.ops.guidance import Guidance
from jaxgen.ops.named_samplers import name_of, named_sampler
from jaxgen.ops.samplers import DDIM
from jaxgen.ops.schedules import ScaledLinear
from jaxgen.runs.autoencoder_kl import first_stage
from jaxgen.runs.folder import FIRST_STAGE, TOKENIZER, RunFolder
from jaxgen.runs.imported import pictures, save_given
from jaxgen.runs.pretrained import Loaded, Pretrained
from jaxgen.runs.restore import check_new, restore
from jaxgen.runtime.files import disk_errors, write_text
from jaxgen.weights import stable_diffusion as sd

VOCABULARIES = ("vocab.json", "tokenizer.json")
"""Files of which one tells of a folder that has a vocabulary."""
SCALE, DROPOUT, STEPS = 7.5, 0.1, 50
"""Of guidance; of captions that were dropped in training; of the sampler. All as published."""
TRAINED = r"network/.*/attn2/to_[kv]/"
"""What is trained where such a run itself is gone on with: how texts are attended to (arXiv:2212.04488). The state of
an optimizer for every parameter would fill the disk; `--init` starts other runs."""


def import_run(place: Path, out: Path, vocabulary: Path | None = None, images: str = "") -> None:
    """Makes `out` a run at step 0 of a folder or single file of Stable Diffusion 1.x, to sample or start from.

    vocabulary: of the tokenizer, a folder or file, where `place` has none. images: a folder of captioned pictures as
    the run's data; enlarged emoji where there is none. Raises UserError when files are missing or do not go together,
    or `out` is no folder that can be made, or is not empty.
    """
    check_new(out)
    tokenizer = ClipBPE.read(vocabulary or _vocabulary(place))
    found = sd.read(place)
    if (tokenizer.size, tokenizer.end) != (found.text.vocab, found.text.vocab - 1):
        raise UserError(
            f"the vocabulary has {tokenizer.size} tokens and ends texts with {tokenizer.end}, the weights know "
            f"{found.text.vocab} and {found.text.vocab - 1}: give their own"
        )
    side = found.side * found.vae.factor
    data = pictures(side, images)
    model = _model(found, tokenizer.start, tokenizer.end)
    experiment = Experiment(
        model=model, codec=Pretrained(run=str((out / FIRST_STAGE).absolute()), form="latents", standardize=False),
        data=Captioned(data=data, vocabulary=str((out / TOKENIZER).absolute()), window=found.text.window),
        trainable=TRAINED, batch_size=4, steps=1000, steps_per_call=10, num_samples=4,
    )  # fmt: skip
    with disk_errors():
        RunFolder(out).create(experiment)
        for file, text in tokenizer.write(out / TOKENIZER).items():
            write_text(file, text)
        stage = first_stage(found.vae, found.scale, side, data)
        save_given(stage, {"gen": {"network": found.params["vae"]}}, out / FIRST_STAGE, str(place))
        save_given(experiment, {"network": found.params["unet"], "text": found.params["text"]}, out, str(place))


def _vocabulary(place: Path) -> Path:
    """Where a tokenizer's files lie beside weights."""
    folder = place if place.is_dir() else place.parent
    for found in (folder / TOKENIZER, folder):
        if any((found / name).exists() for name in VOCABULARIES):
            return found
    if (folder / MERGES).exists():
        return folder / MERGES
    where = folder / TOKENIZER if place.is_dir() else folder
    raise UserError(
        f"{where} has no vocab.json with merges.txt, tokenizer.json or {MERGES}: name the vocabulary of CLIP with "
        "--vocabulary"
    )


def _model(found: sd.Published, start: int, end: int) -> DDPM:
    sampler, _ = named_sampler(found.sampler, STEPS, DDIM(clip=0.0), found.schedule)
    return DDPM(
        network=found.unet, text=found.text, empty=(start, end), shape=(found.side, found.side, found.vae.latent),
        schedule=found.schedule, sampler=sampler, guidance=Guidance(scale=SCALE), class_dropout=DROPOUT, ema_decay=0.0,
    )  # fmt: skip


# --- out ------------------------------------------------------------------------------------------------------


def export_run(run: Path, out: Path) -> None:
    """Writes the newest parameters of a run, averaged ones where it has them, its first stage's and its vocabulary as
    a folder that diffusers' StableDiffusionPipeline loads.

    Raises UserError for a run of another form, and where the folder cannot be made, or is not empty.
    """
    check_new(out)
    folder = RunFolder(run)
    experiment = folder.experiment()
    model, data = experiment.model, experiment.data
    if not (isinstance(model, DDPM) and isinstance(model.network, SDUNet) and isinstance(data, Captioned)):
        raise UserError(f"{run} is of {type(model).__name__}, a DDPM of the network SDUNet with captions is expected")
    problems = {
        "kind": model.kind == "eps", "text": isinstance(model.text, TextTower) and model.text.body.causal,
        "schedule": isinstance(model.schedule, ScaledLinear) and model.schedule.num_steps == 1000,
        "empty": len(model.empty) == 2, "objective": not model.learns_variance, "num-classes": not model.num_classes,
        "shape": model.shape[0] == model.shape[1],
    }  # fmt: skip
    if wrong := [name for name, right in problems.items() if not right]:
        raise UserError(f"{run} has model.{wrong[0]} of another form than Stable Diffusion 1.x, which no file says")
    trained = restore(folder, experiment)
    codec = trained.codec
    if not (isinstance(codec, Loaded) and isinstance(codec.model, AutoencoderKL)) or codec.mean is not None:
        raise UserError(f"{run} has other latents than an AutoencoderKL's times a scale, which no file says")
    tokenizer, start, end = data.caption_tokenizer
    assert isinstance(tokenizer, ClipBPE) and isinstance(model.schedule, ScaledLinear)
    assert isinstance(model.text, TextTower)
    params: dict[str, Any] = trained.state.sampling_params
    vae = codec.state.sampling_params["gen"]["network"]
    every = {"unet": params["network"], "text": params["text"], "vae": vae}
    published = sd.Published(
        model.network, model.text, codec.model.generator, jax.tree.map(np.asarray, every), model.schedule,
        name_of(model.sampler) or "pndm", model.shape[0], codec.model.scale,
    )  # fmt: skip
    sd.write(out, published, start, end, tokenizer.write(out / TOKENIZER))
