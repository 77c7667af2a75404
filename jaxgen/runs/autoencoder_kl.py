"""A run folder of a published autoencoder of latent diffusion, and its files of a run: see `jaxgen weights`."""

import json
import os
from pathlib import Path
from typing import Any

from jaxgen.data import Dataset
from jaxgen.errors import UserError
from jaxgen.experiment import Experiment
from jaxgen.models.autoencoder_kl import AutoencoderKL
from jaxgen.nets.autoencoder_kl import SD_SCALE, KLCoder
from jaxgen.nets.pix2pix import PatchCritic
from jaxgen.runs.folder import RunFolder
from jaxgen.runs.imported import pictures, save_given
from jaxgen.runs.restore import check_new, restore
from jaxgen.runtime import reading
from jaxgen.runtime.files import disk_errors, write_tensors, write_text
from jaxgen.weights import autoencoder_kl
from jaxgen.weights import stable_diffusion_configs as configs

FILES = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.fp16.safetensors")
TRAINED = r"gen/network/decoder/|critic/"
"""What is trained where such a run itself is gone on with: latents stay those of other models."""


def import_run(place: Path, out: Path, size: int = 256, images: str = "", tile: int = 0) -> None:
    """Makes `out` a run at step 0 for pictures of `size` pixels a side, a first stage of latents.

    place: diffusers' folder of an AutoencoderKL, or one that has it as `vae`; or a safetensors file, of Stable
    Diffusion too. images: a folder of pictures as the run's data; emoji where there is none. tile: of the model. Raises
    UserError when files are missing or of another network, the size does not divide, or `out` is no folder that can be
    made, or is not empty.
    """
    check_new(out)
    network, params, scale = _read(place)
    network.check((size, size, network.channels))
    experiment = first_stage(network, scale, size, pictures(size, images), tile)
    save_given(experiment, {"gen": {"network": params}}, out, str(place))


def first_stage(network: KLCoder, scale: float, side: int, data: Dataset, tile: int = 0) -> Experiment:
    """The experiment of a published network for pictures of `side` pixels a side."""
    critic = PatchCritic() if PatchCritic().logits(side) > 0 else PatchCritic(channels=(64,))
    shape = (side, side, network.channels)
    model = AutoencoderKL(generator=network, critic=critic, shape=shape, scale=scale, tile=tile)
    return Experiment(
        model=model, data=data, trainable=TRAINED, batch_size=4, steps=1000, steps_per_call=10, num_samples=4
    )


def _read(place: Path) -> tuple[KLCoder, dict[str, Any], float]:
    """The network, its parameters, and the scale of latents."""
    if not place.is_dir():
        return *autoencoder_kl.read(reading.read_tensors(place)[0], str(place)), SD_SCALE
    folder = place / "vae" if (place / "vae").is_dir() else place
    file = next((folder / name for name in FILES if os.path.lexists(folder / name)), None)
    if file is None:
        reading.check_pickles(folder, FILES[0])
    if file is None or not os.path.lexists(folder / "config.json"):
        raise UserError(f"{folder} has no AutoencoderKL: config.json and {FILES[0]} are expected")
    settings = configs.read(folder / "config.json")
    groups, scale = configs.vae(settings, folder / "config.json")
    return *autoencoder_kl.read(reading.read_tensors(file)[0], str(file), groups), scale


def export_run(run: Path, out: Path) -> None:
    """Writes the newest parameters of a run, averaged ones where it has them, as a folder that diffusers' AutoencoderKL
    loads. Raises UserError for a run of another model, and where the folder cannot be made, or is not empty."""
    check_new(out)
    folder = RunFolder(run)
    model = folder.experiment().model
    if not isinstance(model, AutoencoderKL):
        raise UserError(f"{run} is of {type(model).__name__}, an AutoencoderKL is expected")
    trained = restore(folder)
    tensors = autoencoder_kl.tensors_of(trained.state.sampling_params["gen"]["network"])
    side = model.shape[0] // model.generator.factor
    with disk_errors():
        write_tensors(out / FILES[0], tensors, {"format": "pt"})
        config = configs.of_vae(model.generator, side, model.scale)
        write_text(out / "config.json", json.dumps(config, indent=2) + "\n")
