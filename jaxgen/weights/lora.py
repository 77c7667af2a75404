"""LoRA's files, PEFT's, diffusers' and kohya's, in and out, for any network whose modules have names there.

A file holds for each module that it adapts `down` [r, in] (convolutions: [r, in, h, w]) and `up` [out, r], such that
its weight is W + s up down; our `lora_a` and `lora_b` are their transposes.

    PEFT        base_model.model.NAME.lora_A.weight, lora_B.weight; s = lora_alpha / r (rsLoRA: / sqrt(r)) of the
                adapter_config.json beside the file
    diffusers   unet.NAME.lora_A.weight; in older files .lora.down.weight, .lora_linear_layer.down.weight or
                .processor.to_q_lora.down.weight; s = 1, or what the file's header says
    kohya       lora_unet_NAME.lora_down.weight, lora_up.weight with _ for ., and .alpha; s = alpha / r

Which module is which kernel of ours is told by a dict of `Slot` by the names of modules, as `gpt2.lora_slots`.
"""

import json
import math
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from jaxgen.errors import UserError
from jaxgen.nets.lora import LoRA, adapters_in, is_adapted, put, stack_of
from jaxgen.runtime import reading
from jaxgen.runtime.files import check_output, disk_errors, write_tensors, write_text

Form = Literal["peft", "diffusers", "kohya"]
PEFT, CONFIG, HEADER = "base_model.model.", "adapter_config.json", "lora_adapter_metadata"
FILES = ("adapter_model.safetensors", "pytorch_lora_weights.safetensors")
"""The names that PEFT and diffusers give them in a folder."""
MOST_CONFIG = 1 << 20  # bytes
SHORT = {"unet": "unet", "text_encoder": "te"}
"""kohya's names of networks."""
LONGEST_KEY = 200
"""Characters of a pattern of modules."""
ENDS = (
    (r"[._]lora(?:_linear_layer)?\.(down|up)\.weight", {"down": "down", "up": "up"}),
    (r"\.lora_(A|B)(?:\.default)?\.weight", {"A": "down", "B": "up"}),
    (r"\.lora_(down|up)\.weight", {"down": "down", "up": "up"}),
    (r"\.(alpha)", {"alpha": "alpha"}),
)
"""Ends of the names of tensors, and which part of an adapter they hold."""
OTHERS = {
    "lora_embedding": "embeddings", "lora_magnitude": "DoRA", "dora_scale": "DoRA", "lora_mid": "Tucker factors",
    "hada_": "LoHa", "lokr_": "LoKr", "modules_to_save": "whole layers", ".diff": "whole layers",
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Slot:
    """The kernel of ours, or the part of one, that is a module's of another library."""

    path: str
    """In a state's parameters, as network/body/blocks/self_attention/qkv/kernel."""
    layer: int | None = None
    """Which of the layers that are stacked in the kernel."""
    columns: np.ndarray | None = None
    """Our channel of each of the module's output channels; all in order if None."""
    pointwise: bool = False
    """Whether a dense layer is a 1x1 convolution there."""


@dataclass(frozen=True, eq=False)
class Pair:
    """What is added to a module's weight: scale up down."""

    down: np.ndarray
    up: np.ndarray
    scale: float


Slots = Mapping[str, Slot]


# --- reading --------------------------------------------------------------------------------------------------


def read(place: Path, slots: Slots) -> dict[str, Pair]:
    """The adapters in a file, or in the folder of one, by the names of `slots`.

    Raises UserError for a file that is missing, damaged, holds something else than LoRA, or adapts modules that the
    network lacks.
    """
    file = next((place / name for name in FILES if (place / name).exists()), place / FILES[0])
    if not file.exists():
        reading.check_pickles(place, FILES[0])
    file = file if place.is_dir() else place
    tensors, header = reading.read_tensors(file)
    parts: dict[str, dict[str, np.ndarray]] = defaultdict(dict)
    unknown, names = [], {name: name for name in slots} | {_in_kohya(name): name for name in slots}
    for name, array in tensors.items():
        module, part = _parsed(name, file)
        if (known := _resolved(module, names)) is None:
            unknown.append(module)
        else:
            parts[known][part] = np.asarray(array, np.float32)
    if unknown or not parts:
        first = f"adapts {min(unknown)}, which this network lacks" if unknown else "holds no adapter"
        raise UserError(f"{file} {first}: it is a LoRA of another base")
    scales = _Scales.of(file, header, any(name.startswith(PEFT) for name in tensors))
    found = {}
    for name, own in parts.items():
        if not {"down", "up"} <= own.keys():
            raise UserError(f"{file} has one half of the adapter of {name}: it is truncated, download it again")
        if not all(np.all(np.isfinite(array)) for array in own.values()):
            raise UserError(f"{file} has numbers that are not finite for {name}: download it again")
        rank = own["down"].shape[0] if own["down"].ndim else 0
        if rank < 1 or own["down"].ndim not in (2, 4) or own["up"].ndim not in (2, 4) or own["up"].shape[1] != rank:
            raise UserError(f"{file} has matrices of different ranks for {name}: it is damaged")
        alpha = own.get("alpha")
        scale = scales.of_module(name, rank) if alpha is None else float(alpha.reshape(-1)[0]) / rank
        found[name] = Pair(own["down"], own["up"], scale)
    return found


def _parsed(name: str, file: Path) -> tuple[str, str]:
    """Module and part of a tensor's name: down, up or alpha."""
    for end, parts in ENDS:
        if found := re.fullmatch(f"(.+?){end}", name):
            module = found[1].removeprefix(PEFT)
            if ".processor." in module:
                module = module.replace(".processor.", ".")
                module = f"{module}.0" if module.endswith(".to_out") else module
            elif old := re.fullmatch(r"(.+\.self_attn)\.to_(q|k|v|out)", module):  # of text encoders
                module = f"{old[1]}.{old[2]}_proj"
            return module, parts[found[2]]
    what = next((what for mark, what in OTHERS.items() if mark in name), "something else")
    raise UserError(f"{file} has {name:.80}, of {what}: a file of LoRA alone is expected")


def _resolved(module: str, names: Mapping[str, str]) -> str | None:
    """The module's own name, of its name in a file; None if it is not there."""
    # A part alone, and a text encoder of transformers from 5.6 on, leave the beginning out.
    text = f"text_encoder.text_model.{module.removeprefix('text_encoder.')}"
    ways = (module, f"transformer.{module}", f"unet.{module}", f"text_encoder.{module}", text)
    return next((names[way] for way in ways if way in names), None)


def _in_kohya(name: str) -> str:
    first, _, rest = name.partition(".")
    return f"lora_{SHORT.get(first, first)}_{rest.replace('.', '_')}"


@dataclass(frozen=True)
class _Scales:
    """How a file's configuration scales its adapters."""

    config: Mapping[str, Any]
    file: Path

    @classmethod
    def of(cls, file: Path, header: Mapping[str, str], peft: bool) -> "_Scales":
        if peft:
            place = file.parent / CONFIG
            config = reading.read_json(place, MOST_CONFIG)
            if not isinstance(config, dict) or config.get("peft_type") != "LORA":
                raise UserError(f"{place} is of no LoRA: pass the folder that PEFT's save_pretrained writes")
        else:
            place, config = file, {}
            if HEADER in header:
                config = reading.parse_json(header[HEADER], f"{file}'s {HEADER}")
            config = config if isinstance(config, dict) else {}
        every = [(key.split(".")[-1], value) for key, value in config.items()]
        for field, fits in (("use_dora", (False, None)), ("bias", ("none", None)), ("modules_to_save", (None, []))):
            if bad := [value for key, value in every if key == field and value not in fits]:
                raise UserError(f"{place} has {field} {bad[0]!r:.60}: LoRA of kernels alone is expected")
        return cls(config, place)

    def of_module(self, name: str, rank: int) -> float:
        """s of a module's adapter."""
        start = f"{name.split('.')[0]}."
        own = {key.removeprefix(start): value for key, value in self.config.items()}
        if "lora_alpha" not in own:
            if self.file.name == CONFIG:
                raise UserError(f"{self.file} does not say lora_alpha: restore it")
            return 1.0
        patterns = own.get("alpha_pattern") or {}
        alpha = next((a for key, a in patterns.items() if _ends(name, str(key), self.file)), own["lora_alpha"])
        if not isinstance(alpha, int | float) or not math.isfinite(alpha):
            raise UserError(f"{self.file} has lora_alpha {alpha!r:.60}: a number is expected")
        return alpha / (math.sqrt(rank) if own.get("use_rslora") else rank)


def _ends(name: str, key: str, file: Path) -> bool:
    """Whether PEFT takes a module of this name for one of `key`, a regular expression of its end."""
    repeated = re.search(r"[)*+?}][*+?{]", key) or sum(map(key.count, "*+{")) > 4
    if len(key) > LONGEST_KEY or repeated:  # which could take for ever
        raise UserError(f"{file} has alpha_pattern {key!r:.60}: a shorter or a simpler pattern is expected")
    try:
        return re.match(rf"(?:.*\.)?(?:{key})$", name) is not None
    except re.error as error:
        raise UserError(f"{file} has alpha_pattern {key!r:.60}, no regular expression ({error})") from None


def fitted(pairs: Mapping[str, Pair], slots: Slots, params: Mapping[str, Any], source: str) -> tuple[dict, LoRA]:
    """Adapters in the form of `nets.lora`, by network, and the settings of which they are; smaller ranks are padded.

    params: the networks' own. Raises UserError for matrices that do not fit a kernel.
    """
    by_kernel: dict[str, dict[int | None, list[tuple[str, Slot, Pair]]]] = defaultdict(lambda: defaultdict(list))
    for name, pair in pairs.items():
        by_kernel[slots[name].path][slots[name].layer].append((name, slots[name], pair))
    ranks = [sum(len(pair.down) for *_, pair in parts) for layers in by_kernel.values() for parts in layers.values()]
    rank, first = max(ranks), next(iter(pairs.values()))
    trees: dict[str, dict[str, Any]] = {name: {} for name in params}
    for path, layers in by_kernel.items():
        network, *inner = path.split("/")
        kernel: Any = params[network]
        for name in inner:
            kernel = kernel[name]
        stack = stack_of(kernel.shape)
        a, b = np.zeros((*kernel.shape[:-1], rank), np.float32), np.zeros((*stack, rank, kernel.shape[-1]), np.float32)
        scale = np.full(stack, first.scale, np.float32)
        for layer, parts in layers.items():
            at, place = () if layer is None else (layer,), 0
            # Modules of one kernel may have scales of their own: these go into `up` then.
            alike = len({pair.scale for *_, pair in parts}) == 1
            scale[at] = parts[0][2].scale if alike else 1.0
            for name, slot, pair in parts:
                end = place + len(pair.down)
                wide = kernel.shape[-1] if slot.columns is None else len(slot.columns)
                down, up = _ours(pair, kernel.shape[len(stack) : -1], wide, f"{source}: {name}")
                a[(*at, ..., slice(place, end))] = down
                columns = slice(None) if slot.columns is None else slot.columns
                b[at][place:end, columns] = up if alike else up * pair.scale
                place = end
        put(trees[network], tuple(inner), {"lora_a": a, "lora_b": b, "lora_scale": scale})
    targets = "|".join(re.escape(path) for path in by_kernel)
    return trees, LoRA(rank=rank, alpha=abs(first.scale) * rank, targets=f"^({targets})$")


def _ours(pair: Pair, inner: tuple[int, ...], wide: int, what: str) -> tuple[np.ndarray, np.ndarray]:
    """`down` as [*inner, r] and `up` as [r, wide]."""
    down = pair.down.transpose(2, 3, 1, 0) if pair.down.ndim == 4 else pair.down.T
    up = pair.up[..., 0, 0] if pair.up.ndim == 4 and pair.up.shape[2:] == (1, 1) else pair.up
    given, one = down.shape[:-1], (1, 1)  # 1x1 convolutions are dense layers, here or there
    alike = given in (inner, (*one, *inner)) or (*one, *given) == inner
    if not alike or up.shape[0] != wide or up.ndim != 2:
        raise UserError(
            f"{what} is from {list(given)} to {pair.up.shape[0]} channels, here from {list(inner)} to {wide}: it is a "
            "LoRA of another base"
        )
    return down.reshape(*inner, -1), up.T


# --- writing --------------------------------------------------------------------------------------------------


def pairs_of(params: Mapping[str, Any], slots: Slots) -> dict[str, Pair]:
    """The adapters of adapted networks, by the names of `slots`. Raises UserError for a kernel that has no name."""
    found = {
        f"{network}/{path}": adapter
        for network, tree in params.items()
        if is_adapted(tree)
        for path, adapter in adapters_in(tree["lora"]).items()
    }
    if left := found.keys() - {slot.path for slot in slots.values()}:
        raise UserError(f"the adapter of {min(left)} has no name in such files: leave it out with --lora.targets")
    pairs = {}
    for name, slot in slots.items():
        if slot.path not in found:
            continue
        at = () if slot.layer is None else (slot.layer,)
        a, b, scale = (np.asarray(found[slot.path][part])[at] for part in ("lora_a", "lora_b", "lora_scale"))
        b = b if slot.columns is None else b[:, slot.columns]
        used = np.any(b != 0, axis=1)  # of several modules of one kernel, and of ranks that were padded
        used = used if used.any() else np.ones_like(used)
        a, up = a[..., used], b[used].T
        down = a.T if a.ndim == 2 else a.transpose(3, 2, 0, 1)
        if slot.pointwise and down.ndim == 2:
            down = down[:, :, None, None]
        pairs[name] = Pair(down, up[:, :, None, None] if down.ndim == 4 else up, float(scale))
    return pairs


def write(file: Path, pairs: Mapping[str, Pair], form: Form, transposed: bool = False) -> None:
    """Writes adapters as a library reads them; PEFT's with adapter_config.json beside the file.

    transposed: whether PEFT's modules hold kernels as [in, out], as GPT-2's do. Raises UserError for a place that
    cannot be written to, and for adapters that the form cannot hold.
    """
    check_place(file, form)
    tensors: dict[str, np.ndarray] = {}
    header = {"format": "pt"}
    if form == "peft":
        components = {name.split(".")[0] for name in pairs}
        if components & set(SHORT):
            if len(components) > 1:
                raise UserError(f"PEFT's file is of one network, not of {', '.join(sorted(components))}: use diffusers")
            pairs = {name.split(".", 1)[1]: pair for name, pair in pairs.items()}
    for name, pair in pairs.items():
        if form == "kohya":
            begin, down, up = _in_kohya(name), "lora_down", "lora_up"
            tensors[f"{begin}.alpha"] = np.asarray(pair.scale * len(pair.down))
        else:
            begin, down, up = (PEFT if form == "peft" else "") + name, "lora_A", "lora_B"
        # diffusers' files do not tell a scale in a way that all its versions read.
        factor = pair.scale if form == "diffusers" else 1.0
        tensors[f"{begin}.{down}.weight"], tensors[f"{begin}.{up}.weight"] = pair.down, np.float32(factor) * pair.up
    ready = {name: np.array(array, np.float32, order="C") for name, array in tensors.items()}
    with disk_errors():
        write_tensors(file, ready, header)
        if form == "peft":
            write_text(file.parent / CONFIG, json.dumps(_peft_config(pairs, transposed), indent=2) + "\n")


def check_place(file: Path, form: Form) -> None:
    """Raises UserError unless `write` can write to a file."""
    check_output(file, folder=False)
    if form == "peft":
        if file.name != FILES[0]:
            raise UserError(f"{file} is not named as PEFT expects: choose FOLDER/{FILES[0]}")
        check_output(file.parent / CONFIG, folder=False)


def _peft_config(pairs: Mapping[str, Pair], transposed: bool) -> dict[str, Any]:
    ranks = {name: len(pair.down) for name, pair in pairs.items()}
    # f32 scales: 5 / 3 times 3 is not 5.
    alphas = {name: float(f"{pair.scale * ranks[name]:.6g}") for name, pair in pairs.items()}
    rank, alpha = (max(set(values.values()), key=list(values.values()).count) for values in (ranks, alphas))
    return {
        "peft_type": "LORA", "r": rank, "lora_alpha": alpha, "target_modules": sorted(pairs), "bias": "none",
        "rank_pattern": {name: r for name, r in ranks.items() if r != rank},
        "alpha_pattern": {name: a for name, a in alphas.items() if a != alpha},
        "fan_in_fan_out": transposed, "lora_dropout": 0.0, "use_rslora": False, "inference_mode": True,
        "base_model_name_or_path": None, "task_type": None, "modules_to_save": None,
    }  # fmt: skip
