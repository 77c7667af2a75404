"""A run folder of GPT-2's weights, and GPT-2's file of a run: see `jaxgen weights`."""

from pathlib import Path

import jax
import jax.numpy as jnp

from jaxgen.codecs import Identity
from jaxgen.data import Text, TokenNumbers
from jaxgen.errors import UserError
from jaxgen.experiment import Experiment
from jaxgen.models.gpt import GPT
from jaxgen.ops.decoding import Decoding
from jaxgen.runs.folder import RunFolder
from jaxgen.runs.restore import check_new, import_params, restore
from jaxgen.weights import gpt2


def import_run(file: Path, vocabulary: Path | None, out: Path) -> None:
    """Makes `out` a run at step 0, to sample from, evaluate or train on as any other.

    vocabulary: folder of vocab.json and merges.txt, or a text whose characters are the tokens; None where only the
    numbers of tokens are known. Raises UserError when it is not of the weights' size, or `out` is no folder that can
    be made, or is not empty.
    """
    check_new(out)
    network = gpt2.network_of(file)
    block, end = network.window, -1
    if vocabulary is None:
        data = TokenNumbers(size=network.vocab, block=block)
    elif vocabulary.is_dir():
        data = Text(tokenizer="bpe", gpt2=str(vocabulary.absolute()), block=block, stride=block)
        end = data.corpus_tokenizer.end
    else:
        data = Text(tokenizer="characters", source=str(vocabulary.absolute()), block=block)
    if data.vocab != network.vocab:
        raise UserError(f"{vocabulary} has {data.vocab} tokens, {file} is of {network.vocab}: name its own vocabulary")
    model = GPT(network=network, decoding=Decoding(top_k=min(200, network.vocab), temperature=0.8, end=end))
    params = {"network": jax.tree.map(jnp.asarray, gpt2.read(file, network))}
    experiment = Experiment(
        model=model, codec=Identity(), data=data, batch_size=1, steps=1000, steps_per_call=10, num_samples=1
    )
    import_params(experiment, params, out, file.name)


def export_run(run: Path, file: Path) -> None:
    """Writes the newest parameters of a run, averaged ones where it has them, as GPT-2's file.

    Raises UserError where that cannot be written, before the run is read.
    """
    gpt2.check_place(file)
    folder = RunFolder(run)
    experiment = folder.experiment()
    if not isinstance(experiment.model, GPT):
        raise UserError(f"{run} is of {type(experiment.model).__name__}, a GPT is expected")
    if experiment.model.from_start:
        raise UserError("GPT-2 has no start that is learnt: this model is of codes and cannot be written as one")
    end = experiment.model.decoding.end
    gpt2.write(file, experiment.model.network, restore(folder, experiment).state.sampling_params, end)
