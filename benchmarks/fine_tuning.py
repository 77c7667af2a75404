"""A GPT of one text is fine-tuned to another by low rank: bits per byte on both before and after.

    python benchmarks/fine_tuning.py tinyshakespeare.txt

The other text is Python's help topics. LoRA trains adapters of every kernel, 1 % of the parameters at most; beside it
stands a run from the same start that trains them all. That the base has not changed is compared bit for bit.
"""

import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import common
import jax
import numpy as np
import tyro

import jaxgen
from jaxgen.cli import parse
from jaxgen.codecs import Identity
from jaxgen.core.model import count_params
from jaxgen.data import Text
from jaxgen.errors import UserError
from jaxgen.experiment import Experiment
from jaxgen.models.gpt import GPT
from jaxgen.nets.gpt import TokenTransformer
from jaxgen.nets.lora import LoRA
from jaxgen.nets.transformer import Transformer
from jaxgen.optim import Adam
from jaxgen.runs.folder import RunFolder
from jaxgen.runs.initial import read_source
from jaxgen.runs.restore import restore
from jaxgen.runtime import devices
from jaxgen.runtime.interrupt import leave_after
from jaxgen.train.loop import train

MOST = 0.01  # of the parameters that LoRA trains


@dataclass(frozen=True)
class Options:
    text: Annotated[str, tyro.conf.Positional]
    steps: int = 1500
    """Of the base."""
    tuning_steps: int = 1000
    rank: int = 1
    lr: float = 1e-2
    """Of LoRA; a tenth of this where all is trained."""
    folder: str = "runs/fine-tuning"
    """Of the runs."""
    out: str = str(common.RESULTS / "fine-tuning-gpt.json")


def base(options: Options) -> Experiment:
    """Of the first text, read byte by byte, so that both texts have the same tokens."""
    network = TokenTransformer(window=64, body=Transformer(width=128, depth=4, heads=4, causal=True))
    warmup = min(100, options.steps // 2)
    adam = Adam(lr=2e-3, b2=0.99, weight_decay=0.1, clip=1.0, warmup=warmup, decay_steps=options.steps, final=0.1)
    return Experiment(
        model=GPT(network=network, optimizer=adam), codec=Identity(),
        data=Text(source=options.text, tokenizer="bytes"), batch_size=16, steps=options.steps, steps_per_call=50,
        log_every=50, save_every=options.steps, sample_every=options.steps, num_samples=4,
    )  # fmt: skip


def trained(experiment: Experiment, folder: Path) -> float:
    """Trains a run unless it is there, and returns the seconds that it took."""
    leave_after(train(experiment, folder), folder)
    return json.loads(RunFolder(folder).timing.read_text().splitlines()[-1])["time"]


def bits(run: Path, data: Text) -> dict[str, float]:
    """Bits per byte of held-out text."""
    loaded = jaxgen.load(run)
    return loaded.to(replace(loaded.experiment, data=data)).evaluate("test")["bits_per_byte"]


def measure(options: Options) -> dict[str, Any]:
    folder, first = Path(options.folder), base(options)
    docs = Text(tokenizer="bytes")
    seconds = {"base": trained(first, folder / "base")}
    adam = Adam(lr=options.lr, b2=0.99, clip=1.0, warmup=50, decay_steps=options.tuning_steps, final=0.1)
    steps = dict.fromkeys(("steps", "save_every", "sample_every"), options.tuning_steps)
    tuned = replace(
        first, model=replace(first.model, optimizer=adam), data=docs, init=str(folder / "base"),
        lora=LoRA(rank=options.rank), **steps,
    )  # fmt: skip
    whole = replace(tuned.model, optimizer=replace(adam, lr=options.lr / 10))
    seconds["lora"] = trained(tuned, folder / "lora")
    seconds["all"] = trained(replace(tuned, model=whole, lora=LoRA()), folder / "all")
    texts = {"shakespeare": first.data, "docs": docs}
    numbers = {name: {text: bits(folder / name, data) for text, data in texts.items()} for name in seconds}
    before = restore(RunFolder(folder / "base")).state.params
    inside = restore(RunFolder(folder / "lora"), adapters=None).state.params["network"]["base"]
    same = jax.tree.map(lambda a, b: np.asarray(a).tobytes() == np.asarray(b).tobytes(), before["network"], inside)
    facts, began = (json.loads((folder / "lora" / f"{name}.json").read_text()) for name in ("environment", "init"))
    now = read_source(folder / "base").record["sha256"]
    share = facts["trained_params"] / count_params(before)
    if share > MOST:
        raise UserError(f"rank {options.rank} trains {share:.2%} of the parameters, 1 % at most is asked for")
    return {
        "params": count_params(before), "trained_params": facts["trained_params"], "share": share,
        "base_untouched": all(jax.tree.leaves(same)) and now == began["sha256"],
        "bits_per_byte": numbers, "seconds": seconds,
    }  # fmt: skip


def main(args: list[str]) -> None:
    options = parse.parse(Options, None, args, "fine_tuning.py", __doc__)
    devices.start_jax()
    result = {**measure(options), "steps": options.steps, "tuning_steps": options.tuning_steps, "rank": options.rank}
    written = {"benchmark": "fine_tuning", "provenance": common.provenance(), "results": [result]}
    Path(options.out).write_text(json.dumps(written, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    parse.run(lambda: main(sys.argv[1:]))
