"""A run folder of the weights of HiFi-GAN's generator, and its files of a run: see `jaxgen weights`."""

import json
from pathlib import Path

from jaxgen.codecs import Identity
from jaxgen.data import Sounds, SpeechFolder, Spoken
from jaxgen.errors import UserError
from jaxgen.experiment import Experiment
from jaxgen.models.hifigan import HiFiGAN
from jaxgen.nets.hifigan import WaveCritic
from jaxgen.runs.folder import RunFolder
from jaxgen.runs.imported import save_given
from jaxgen.runs.restore import check_new, restore
from jaxgen.runtime.files import disk_errors, write_tensors, write_text
from jaxgen.weights import hifigan

FILE = "generator.safetensors"
CRITIC = WaveCritic()
"""Which starts at random."""
SEGMENT = 8192
"""Samples, at least, that a step trains on."""


def import_run(file: Path, out: Path, folder: str = "") -> None:
    """Makes `out` a run at step 0, whose critics are not trained: to make waveforms by, or to train on.

    file: of the generator, config.json beside it; or the folder of generator.safetensors. folder: of the speech that it
    is of, in LJSpeech's layout; speech made by eSpeak NG where none is named. Raises UserError when files are missing
    or of another network, or `out` is no folder that can be made, or is not empty.
    """
    check_new(out)
    network, params, mel = hifigan.read(file / FILE if file.is_dir() else file)
    data = SpeechFolder(folder=folder, mel=mel) if folder else Spoken(mel=mel)
    segment = -(-max(SEGMENT, mel.n_fft) // mel.hop) * mel.hop
    experiment = Experiment(
        model=HiFiGAN(generator=network, critic=CRITIC, mel=mel, segment=segment), codec=Identity(),
        data=Sounds(data=data, samples=2 * segment), batch_size=16, steps=100_000, steps_per_call=10, num_samples=8,
    )  # fmt: skip
    save_given(experiment, {"gen": params}, out, file.name)


def export_run(run: Path, out: Path) -> None:
    """Writes the newest generator of a run, the averaged one where it has it, as a folder of generator.safetensors and
    config.json.

    Raises UserError for a run of another model, and where the folder cannot be made, or is not empty.
    """
    check_new(out)
    folder = RunFolder(run)
    model = folder.experiment().model
    if not isinstance(model, HiFiGAN):
        raise UserError(f"{run} is of {type(model).__name__}, a HiFiGAN is expected")
    config = {**hifigan.config_of(model.generator, model.mel), "segment_size": model.segment}
    tensors = hifigan.tensors_of(restore(folder).state.sampling_params["gen"])
    with disk_errors():
        write_tensors(out / FILE, tensors, {"format": "pt"})
        write_text(out / "config.json", json.dumps(config, indent=2) + "\n")
