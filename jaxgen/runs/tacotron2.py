"""A run folder of Tacotron 2's weights, and the file of a run: see `jaxgen weights`."""

from pathlib import Path

from jaxgen.codecs import Identity
from jaxgen.data.speech import SpeechFolder, Spoken
from jaxgen.data.speech_text import SYMBOLS
from jaxgen.errors import UserError
from jaxgen.experiment import Experiment
from jaxgen.models.tacotron2 import Tacotron2
from jaxgen.runs.folder import RunFolder
from jaxgen.runs.imported import save_given
from jaxgen.runs.restore import check_new, restore
from jaxgen.runtime.files import check_output
from jaxgen.weights import tacotron2


def import_run(file: Path, out: Path, folder: str = "") -> None:
    """Makes `out` a run at step 0, to speak by or train on as any other.

    folder: of the speech that it is of, in LJSpeech's layout; speech made by eSpeak NG where none is named. Raises
    UserError when the file is not of Tacotron 2, or `out` is no folder that can be made, or is not empty.
    """
    check_new(out)
    network, params, stats = tacotron2.read(file)
    if network.vocab != len(SYMBOLS):
        raise UserError(f"{file} has {network.vocab} symbols, English text has {len(SYMBOLS)}: pass another checkpoint")
    # Long texts, as those that published checkpoints have learnt from are.
    data = SpeechFolder(folder=folder) if folder else Spoken(num=200, longest=200)
    experiment = Experiment(
        model=Tacotron2(network=network), codec=Identity(), data=data, batch_size=1, steps=1000, steps_per_call=1,
        num_samples=4,
    )  # fmt: skip
    save_given(experiment, {"network": params}, out, file.name, {"network": {"batch_stats": stats}})


def export_run(run: Path, file: Path) -> None:
    """Writes the newest parameters of a run, averaged ones where it has them, under NVIDIA's names.

    Raises UserError where that cannot be written, before the run is read.
    """
    if file.suffix != ".safetensors":
        raise UserError(f"{file} is to be a file of safetensors: give it a name that ends in .safetensors")
    check_output(file, folder=False)
    folder = RunFolder(run)
    experiment = folder.experiment()
    if not isinstance(experiment.model, Tacotron2):
        raise UserError(f"{run} is of {type(experiment.model).__name__}, a Tacotron2 is expected")
    tacotron2.check_form(experiment.model.network)
    state = restore(folder, experiment).state
    stats = state.extra["network"]["batch_stats"]
    tacotron2.write(file, experiment.model.network, state.sampling_params["network"], stats)
