"""The parts of device.py, each measured in a process of its own: rates, share of the matrix product, memory, peers.

Data is random and made here. PyTorch's side trains and samples in bfloat16 by autocast, as it is and by torch.compile;
where PyTorch, diffusers or transformers is not installed, or not for this device, the row says so.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import common
import jax
import jax.numpy as jnp
import numpy as np

from jaxgen import core
from jaxgen.core.flops import flops
from jaxgen.data.text import Windows
from jaxgen.experiment import Experiment, presets
from jaxgen.models.gpt import GPT, prompts
from jaxgen.models.nerf import NeRF
from jaxgen.ops.decoding import Decoding
from jaxgen.ops.samplers import DDIM

CLOSE = 0.15
"""How far the compiler's account of memory may be from the device's."""
COMPILING = 90.0
"""Seconds that are to be left for torch.compile to begin."""
ROUNDS, TURN = 3, 1.0


@dataclass(frozen=True)
class Part:
    """What a part measures: a preset of a script on an accelerator, its `smoke` preset on a CPU."""

    script: str
    preset: str = "smoke"
    batch: int = 0
    """The preset's when 0."""
    steps: int = 2
    """Fused into one call."""
    tokens: int = 4
    evaluations: int = 3


FULL = {
    "gpt": Part("gpt", "gpt2", batch=12, steps=5),
    "generation": Part("gpt", "gpt2", batch=8, tokens=256),
    "ddpm": Part("ddpm", "cifar10", batch=128, steps=10),
    "sampler": Part("ddpm", "cifar10", batch=64, evaluations=50),
    "nerf": Part("nerf", "blender", batch=4096, steps=10),
    "dit": Part("dit", "cifar10", batch=256, steps=10),
    "edm": Part("edm", "cifar10", batch=128, steps=10),
}
SMALL = {name: Part(part.script, batch=4 if name in ("generation", "sampler") else 0) for name, part in FULL.items()}


@dataclass(frozen=True)
class Side:
    """What is measured: a part by name, until when, and where to put a row that is not yet whole."""

    name: str
    until: float
    keep: Callable[[common.Row], None]

    @property
    def left(self) -> float:
        """Seconds."""
        return self.until - time.time()


def measure(name: str, full: bool, until: float, keep: Callable[[common.Row], None]) -> common.Row:
    """The row of one part. full: of the sizes for accelerators, in bfloat16. until: when it has to end, as time.time().
    keep: given the row once ours is measured, before the peers are."""
    if name == "matrix":
        return matrix(8192 if full else 256)
    part, side = (FULL if full else SMALL)[name], Side(name, until, keep)
    experiment = presets(common.ROOT / "experiments" / f"{part.script}.py")[part.preset]
    precision = "bfloat16" if full else "float32"
    experiment = replace(experiment, batch_size=part.batch or experiment.batch_size, precision=precision, remat=False)
    return {"generation": generation, "sampler": sampling}.get(name, training)(experiment, part, side)


# --- matrix products ----------------------------------------------------------------------------------------------


def matrix(size: int, calls: int = 10) -> common.Row:
    """FLOP/s of the best of five chains of square products: in bf16, in f32 as jax computes it by default (TF32 on
    NVIDIA's GPUs, bf16 passes on TPUs), and in full f32."""
    rates = {}
    for kind, dtype, precision in (
        ("bfloat16", jnp.bfloat16, None), ("float32", jnp.float32, None), ("float32 highest", jnp.float32, "highest"),
    ):  # fmt: skip
        common.say("matrix", "jaxgen", f"measure {kind}")
        a = (jax.random.normal(jax.random.key(0), (size, size)) / size**0.5).astype(dtype)

        @jax.jit
        def product(a: jax.Array, b: jax.Array, precision: str | None = precision) -> jax.Array:
            return jnp.matmul(a, b, precision=precision)

        def chain(a: jax.Array = a, product: Callable = product) -> jax.Array:
            b = a
            for _ in range(calls):
                b = product(a, b)
            return b

        common.timed(chain)
        rates[kind] = calls * 2 * size**3 / min(common.timed(chain)[1] for _ in range(5))
    return {"size": size, "flops_per_second": rates}


# --- data ---------------------------------------------------------------------------------------------------------


def examples(experiment: Experiment, count: int) -> dict[str, np.ndarray]:
    """Random raw examples of an experiment's shapes."""
    model, rng = experiment.model, np.random.default_rng(0)
    if isinstance(model, GPT):
        net = model.network
        return {"x": rng.integers(0, net.vocab, (count, net.window + 1)).astype(np.int32)}
    if isinstance(model, NeRF):
        # From a sphere of four bounds towards the middle.
        origin = rng.normal(size=(count, 3))
        origin *= 4 * model.bound / np.linalg.norm(origin, axis=1, keepdims=True)
        far = np.broadcast_to([2 * model.bound, 6 * model.bound, 1e-3], (count, 3))
        rays = np.concatenate([origin, -origin / (4 * model.bound), far], 1).astype(np.float32)
        pixels = rng.integers(0, 256, (count, 3)).astype(np.uint8)
        return {"x": pixels, "cond": rays, "alpha": np.full((count, 1), 255, np.uint8)}
    found = {"x": rng.integers(0, 256, (count, *model.shape)).astype(np.uint8)}  # pyright: ignore[reportAttributeAccessIssue]
    classes = getattr(model, "num_classes", 0)
    return found | ({"cond": rng.integers(0, classes, count).astype(np.int32)} if classes else {})


def unit(model: Any) -> tuple[str, int]:
    """What an example is counted in, and how many it has."""
    if isinstance(model, GPT):
        return "tokens", model.network.window
    return ("rays" if isinstance(model, NeRF) else "images"), 1


# --- memory -------------------------------------------------------------------------------------------------------


def device_peak() -> int | None:
    """Most bytes that the device has held at once in this process; None where it keeps no count, as a CPU."""
    return (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")


def memory(executable: Any, before: int | None) -> common.Row:
    """The compiler's account of a program beside the device's peak once it has run. before: the peak before it ran;
    where that was higher, the program's own cannot be told."""
    said, peak = common.peak_bytes(executable), device_peak()
    if peak is None or before is None or peak <= before:
        return {"compiled_bytes": said, "peak_bytes": peak, "ratio": None, "agrees": None}
    return {"compiled_bytes": said, "peak_bytes": peak, "ratio": said / peak, "agrees": abs(said / peak - 1) <= CLOSE}


# --- parts --------------------------------------------------------------------------------------------------------


def measured(
    side: Side, row: common.Row, ours: Callable[[], Any], work: float, count: int,
    peers: Callable[[common.Sides], str],
) -> common.Row:  # fmt: skip
    """The row with times, rates and peers. work: operations of a call. count: of what the row's unit is in a call.
    peers: adds their sides and says why some are missing."""

    def with_times(sides: common.Sides, reason: str) -> common.Row:
        ms = {name: common.summary(t) for name, t in common.in_turns(sides, ROUNDS, side.name, seconds=TURN).items()}
        seconds = ms["ours"]["median"] / 1000
        rates = {name: 1000 * count / each["median"] for name, each in ms.items()}
        times = {"ms_per_call": ms, "rates": rates, "flops_per_second": work / seconds}
        return {**row, **times, **common.against_peer(ms, "ours", reason)}

    sides: common.Sides = {"ours": ours}
    alone = with_times(sides, "its time ran out")
    side.keep(alone)
    reason = peers(sides)
    return with_times(sides, reason) if len(sides) > 1 else {**alone, "peer": reason, "compiled": reason}


def training(experiment: Experiment, part: Part, side: Side) -> common.Row:
    """Steps of training on examples that lie on the device."""
    model, codec, k, batch = experiment.compute_model, experiment.codec.load(), part.steps, experiment.batch_size
    data, key = examples(experiment, 4 * batch), core.run_key(0, core.TRAIN)
    common.say(side.name, "jaxgen", "compile init")
    state = core.init(model, core.run_key(0, core.INIT), {name: a[:batch] for name, a in data.items()}, codec)
    params = jax.device_get(state.params)
    index = np.random.default_rng(1).integers(0, 4 * batch, (k, batch)).astype(np.int32)
    index, placed = jax.device_put((index, data))
    fused, seconds = common.compiled(core.train_steps, model, state, key, index, codec, placed, case=side.name)
    work = flops(lambda *args: core.train_steps(model, *args), state, key, index[:1], codec, placed)
    held, before = {"state": state}, device_peak()
    del state

    def run() -> core.Metrics:
        held["state"], metrics = fused(held["state"], key, index, codec, placed)
        return metrics

    loss = next(iter(jax.device_get(run()).values()))
    what, each = unit(experiment.model)
    row = {
        "what": f"training, {part.script} {part.preset}",
        "unit": what,
        "precision": experiment.precision,
        "batch_size": batch,
        "steps_per_call": k,
        "params": core.count_params(params),
        "flops_per_step": work,
        "compile_seconds": seconds,
        "finite": bool(np.isfinite(loss).all()),
        "memory": memory(fused, before),
    }

    def peers(sides: common.Sides) -> str:
        return trainers(experiment, params, data, part, side, sides)

    return measured(side, row, run, work * k, batch * k * each, peers)


def sampling(experiment: Experiment, part: Part, side: Side) -> common.Row:
    """DDIM of random weights, beside diffusers' pipeline with the same."""
    import dataclasses

    model = dataclasses.replace(experiment.model, sampler=DDIM(steps=part.evaluations))
    experiment, num = replace(experiment, model=model), part.batch
    model, codec = experiment.compute_model, experiment.codec.load()
    common.say(side.name, "jaxgen", "compile init")
    state = core.init(model, core.run_key(0, core.INIT), examples(experiment, num), codec)
    params = jax.device_get(state.params)
    state, keys = state.replace(opt_state={}), core.sample_keys(0, num)
    program, seconds = common.compiled(core.sample_program, model, state, keys, None, codec, case=side.name)
    work, before = flops(lambda *args: core.sample(model, *args), state, keys, None, codec), device_peak()
    jax.block_until_ready(program(state, keys, None, codec))
    row = {
        "what": f"sampling, {part.script} {part.preset}, DDIM of {part.evaluations}",
        "unit": "images",
        "precision": experiment.precision,
        "num_samples": num,
        "params": core.count_params(params),
        "flops_per_batch": work,
        "compile_seconds": seconds,
        "memory": memory(program, before),
    }

    def peers(sides: common.Sides) -> str:
        def pipeline(compiled: bool) -> Callable[[], Any]:
            from peers import unet2d

            unet2d.check(experiment.model)
            module = unet2d.unet2d(experiment.model, params["network"])
            module.to(_torch_device(), _dtype(experiment))
            if compiled:
                module.compile()
            theirs = unet2d.Pipeline(experiment.model, module)
            return lambda: theirs(num)

        return _two(side, sides, pipeline)

    def ours() -> np.ndarray:  # theirs end on the host too
        return np.asarray(program(state, keys, None, codec))

    return measured(side, row, ours, work, num, peers)


def generation(experiment: Experiment, part: Part, side: Side) -> common.Row:
    """The likeliest tokens after a prompt, beside transformers' cached `generate` with the same weights."""
    model = replace(experiment.model, decoding=Decoding(temperature=0, tokens=part.tokens))
    experiment, batch = replace(experiment, model=model), part.batch
    model, net = experiment.compute_model, experiment.model.network
    common.say(side.name, "jaxgen", "compile init")
    state = core.init(model, core.run_key(0, core.INIT), {"x": np.zeros((1, net.window + 1), np.int32)})
    params = jax.device_get(state.params)
    state = state.replace(opt_state={})
    asked = np.random.default_rng(0).integers(0, net.vocab, (batch, min(16, net.window // 2)))
    cond, keys = prompts(list(asked), net.window), core.sample_keys(0, batch)
    program, seconds = common.compiled(core.sample_program, model, state, keys, cond, None, case=side.name)
    work, before = flops(lambda *args: core.sample(model, *args), state, keys, cond), device_peak()
    jax.block_until_ready(program(state, keys, cond, None))
    row = {
        "what": f"generation, {part.script} {part.preset}",
        "unit": "tokens",
        "precision": experiment.precision,
        "batch_size": batch,
        "new_tokens": part.tokens,
        "params": core.count_params(params),
        "flops_per_batch": work,
        "compile_seconds": seconds,
        "memory": memory(program, before),
    }

    def peers(sides: common.Sides) -> str:
        def transformers(compiled: bool) -> Callable[[], Any]:
            from peers.gpt import generate, hugging_face

            theirs = hugging_face(experiment.model, params).to(_torch_device(), _dtype(experiment))
            if compiled:
                theirs.compile(dynamic=True)
            return lambda: generate(theirs, asked, part.tokens)

        return _two(side, sides, transformers)

    return measured(side, row, lambda: program(state, keys, cond, None), work, batch * part.tokens, peers)


# --- PyTorch ------------------------------------------------------------------------------------------------------


def _torch_device() -> Any:
    """Where PyTorch computes when jax does here, made its default; raises ImportError where it cannot."""
    import torch

    platform = jax.default_backend()
    if platform != "cpu" and not (platform == "gpu" and torch.cuda.is_available()):
        raise ImportError(f"this PyTorch does not compute on a {platform}")
    device = torch.device("cpu" if platform == "cpu" else "cuda")
    torch.set_default_device(device)
    torch.set_float32_matmul_precision("high")  # TF32, as jax has it
    return device


def _dtype(experiment: Experiment) -> Any:
    import torch

    return getattr(torch, experiment.precision)


def _two(side: Side, sides: common.Sides, build: Callable[[bool], Callable[[], Any]]) -> str:
    """Adds the peer as it is and compiled; returns why one is missing."""
    try:
        _torch_device()
        common.say(side.name, "torch eager", "compile")
        eager = build(False)
        eager()
    except ImportError as error:
        return f"no peer: {error}"
    except Exception as error:  # out of memory, a version of theirs that has changed: ours is measured in any case
        return f"no peer: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
    sides["torch eager"] = eager
    if side.left < COMPILING:
        return "its time ran out"
    return common.tried(side.name, "torch.compile", sides, lambda: build(True))


def trainers(
    experiment: Experiment, params: Any, data: dict[str, np.ndarray], part: Part, side: Side, sides: common.Sides
) -> str:
    """Adds the sides of the PyTorch peer's steps; returns why one is missing."""

    def trainer(compiled: bool) -> Callable[[], Any]:
        import peers
        import torch

        device, given = _torch_device(), data
        if isinstance(experiment.model, GPT):
            block = data["x"].shape[1] - 1
            given = Windows(data["x"].reshape(-1), block, block + 1, np.ones(experiment.model.network.vocab, np.int32))
        like = SimpleNamespace(
            model=experiment.model, codec=experiment.codec, batch_size=experiment.batch_size, precision="float32",
            data=SimpleNamespace(arrays=lambda split: given),
        )  # fmt: skip
        if not peers.has_peer(like):
            raise ImportError(f"{type(experiment.model).__name__} with these settings has no PyTorch counterpart here")
        peer = peers.Peer(like, params, peers.layouts(like)[-1])
        peer = peer.compiled() if compiled else peer

        def steps() -> float:
            with torch.autocast(device.type, torch.bfloat16, enabled=experiment.precision == "bfloat16"):
                loss = [peer.step() for _ in range(part.steps)][-1].item()
            if not math.isfinite(loss):
                raise RuntimeError("the loss of PyTorch's side is not finite")
            return loss

        return steps

    return _two(side, sides, trainer)
