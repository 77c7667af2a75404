"""Times Tacotron 2 beside a restatement in PyTorch in NVIDIA's layout, with the same weights.

    python benchmarks/tacotron2.py                 # NVIDIA's sizes, 28 M parameters: minutes on two cores
    python benchmarks/tacotron2.py --batch 2 --frames 32 --rounds 1

A step of training has the same text and mels on both sides, gradients clipped and Adam. In use both speak so many
frames of a text, as the gate never opens here: one text at a time, and `texts` of them, which theirs can only speak one
after another. The real-time factor is seconds of sound over seconds of computing, of the mel and of the Griffin-Lim
algorithm apart.
"""

import dataclasses
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import common
import jax
import jax.numpy as jnp
import numpy as np

from jaxgen import core
from jaxgen.cli import parse
from jaxgen.core.ranges import Samples, Size, Steps
from jaxgen.models.tacotron2 import Tacotron2
from jaxgen.nets.tacotron2 import Tacotron2Net
from jaxgen.ops.audio import Mel
from jaxgen.ops.griffin_lim import mel_to_wave

UNROLLED = "no: torch.compile writes out a Python loop over frames, whose compilation grows with their number"


@dataclass(frozen=True)
class Options:
    network: Tacotron2Net = dataclasses.field(default_factory=Tacotron2Net)
    batch: Size = 4
    """Examples of a step of training."""
    text: Size = 64
    """Symbols of a text."""
    frames: Size = 128
    """Frames of an example of training, and of what is spoken: a multiple of the reduction factor."""
    texts: Samples = 8
    """Texts that are spoken together."""
    iterations: Steps = 60
    """Of the Griffin-Lim algorithm."""
    quick: bool = False
    """Ratios within two minutes a row: fewer turns, and no compiled peer."""
    rounds: Size = 3
    """Turns of each side."""
    out: str = ""
    """JSON file; benchmarks/results/tacotron2.json when empty."""


def _theirs(options: Options, state: core.TrainState, folder: str) -> Any:
    """The restatement with the state's weights."""
    from pathlib import Path

    import torch
    from peers import use_all_cores
    from peers.tacotron2 import Tacotron2 as Theirs
    from safetensors.numpy import load_file

    from jaxgen.weights import tacotron2

    use_all_cores()
    file, net = Path(folder) / "tacotron2.safetensors", options.network
    tacotron2.write(file, net, jax.device_get(state.params["network"]), state.extra["network"]["batch_stats"])
    model = Theirs(
        **{name: getattr(net, name) for name in (
            "vocab", "bands", "reduction", "encoder", "encoder_layers", "encoder_size", "prenet", "attention_rnn",
            "attention", "location_filters", "location_size", "decoder_rnn", "postnet", "postnet_layers",
            "postnet_size",
        )}
    )  # fmt: skip
    model.load_state_dict({name: torch.tensor(array) for name, array in load_file(file).items()})
    return model


def _step_of(model: Any, batch: dict[str, np.ndarray]) -> Callable[[], float]:
    """A step of training of the restatement, which returns its loss."""
    import torch

    adam = torch.optim.Adam(model.parameters(), lr=1e-3, weight_decay=1e-6)
    text, mels = torch.tensor(batch["text"]), torch.tensor(batch["x"]).transpose(1, 2)
    lengths = torch.tensor(batch["text_length"]), torch.tensor(batch["length"])

    def step() -> float:
        model.train()
        adam.zero_grad()
        loss = model.loss(text, lengths[0], mels, lengths[1])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adam.step()
        return float(loss.detach())

    return step


def measure(options: Options, folder: str, rows: common.Rows) -> None:
    """Training, one text, several texts, and the Griffin-Lim algorithm."""
    import torch

    net, rng = options.network, np.random.default_rng(0)
    model = Tacotron2(network=net, max_frames=options.frames, threshold=1.0)
    text = rng.integers(1, net.vocab, (max(options.batch, options.texts), options.text)).astype(np.int32)
    batch = {
        "text": text[: options.batch], "text_length": np.full(options.batch, options.text, np.int32),
        "x": rng.normal(-5, 2, (options.batch, options.frames, net.bands)).astype(np.float32),
        "length": np.full(options.batch, options.frames, np.int32),
    }  # fmt: skip
    state = core.init(model, jax.random.key(0), batch)
    params, theirs = core.count_params(state.params), _theirs(options, state, folder)
    kept = {"state": jax.tree.map(jnp.copy, state)}  # a step of training gives its arguments away
    stack, key = jax.tree.map(lambda a: a[None], batch), jax.random.key(1)
    program, seconds = common.compiled(core.train_steps, model, kept["state"], key, stack, case="train")

    def train() -> jax.Array:
        kept["state"], metrics = program(kept["state"], key, stack)
        return metrics["loss"]

    def add(name: str, count: int, seconds: float, sides: common.Sides, params: int = params) -> None:
        rows.add(name, lambda: _row(options, name, count, params, seconds, sides))

    add("train", options.batch, seconds, {"ours": train, "theirs": _step_of(theirs, batch)})

    for count in (1, options.texts):
        keys, cond = (
            core.sample_keys(0, count),
            {"text": text[:count], "length": np.full(count, options.text, np.int32)},
        )
        name = "one text" if count == 1 else f"{count} texts"
        program, seconds = common.compiled(core.sample_program, model, state, keys, cond, None, case=name)
        each = [torch.tensor(row[None]) for row in text[:count]]

        def speak(program=program, keys=keys, cond=cond) -> jax.Array:
            return program(state, keys, cond, None)

        def they_speak(each=each) -> None:
            theirs.eval()
            for one in each:
                theirs.inference(one, options.frames // net.reduction, threshold=1.0)

        add(name, count, seconds, {"ours": speak, "theirs": they_speak})
    mel = Mel(bands=net.bands)
    sound = jax.jit(mel_to_wave, static_argnums=(2, 3))
    given = jnp.asarray(batch["x"][:1]), core.sample_keys(0, 1)
    program, seconds = common.compiled(sound, *given, mel, options.iterations, case="griffin-lim")
    add("griffin-lim", 1, seconds, {"ours": lambda: program(*given)}, 0)


def _row(
    options: Options, what: str, count: int, params: int, seconds: float, sides: dict[str, Callable[[], Any]]
) -> common.Row:
    measured = common.in_turns(sides, options.rounds, what, options.quick)
    ms = {side: common.summary(times) for side, times in measured.items()}
    mel = Mel()
    sound = count * options.frames * mel.hop / mel.rate
    return {
        "what": what,
        "examples": count,
        "frames": options.frames,
        "symbols": options.text,
        "params": params,
        "compile_seconds": seconds,
        "ms": ms,
        "real_time_factor": {side: 1000 * sound / each["median"] for side, each in ms.items()},
        "ratio": common.time_ratio(ms, "theirs", "ours"),
        "compiled": UNROLLED,
    }


COLUMNS = {
    "what": lambda r: r["what"],
    "params": lambda r: f"{r['params']:,}",
    "compile s": lambda r: f"{r['compile_seconds']:.1f}",
    "ms": lambda r: common.ms(r["ms"]["ours"]["median"]),
    "PyTorch ms": lambda r: common.ms(r["ms"]["theirs"]["median"]) if "theirs" in r["ms"] else "",
    "RTF": lambda r: f"{r['real_time_factor']['ours']:.2f}",
    "theirs/ours": lambda r: "" if r["ratio"] is None else f"{r['ratio']:.2f}",
}


def main(args: Sequence[str] | None = None) -> None:
    import tempfile

    options = parse.parse(Options, Options(), sys.argv[1:] if args is None else args, "tacotron2.py", __doc__)
    common.use_devices(1)
    rows = common.rows(options.out or common.RESULTS / "tacotron2.json", "tacotron2", COLUMNS, options)
    with tempfile.TemporaryDirectory() as folder:
        measure(options, folder, rows)
    rows.finish(f"Tacotron 2, {options.frames} frames of {options.text} symbols")


if __name__ == "__main__":
    parse.run(main)
