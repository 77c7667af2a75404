"""Weights of HiFi-GAN's generator in the published layout, in and out.

A file is a PyTorch dict with the tensors under `generator`, the tensors alone, or the same as safetensors; config.json
beside it has the settings. A layer has `weight_g` and `weight_v`, or their names in later versions of PyTorch, or one
`weight` from which weight normalization was removed. Kernels are [out, in, size] there, [in, out, size] where they
upsample, and [size, in, out] here.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxgen.core.configuration import check_fields
from jaxgen.errors import UserError
from jaxgen.nets.hifigan import Generator
from jaxgen.ops.audio import Mel
from jaxgen.runtime import reading
from jaxgen.weights import store, torch_file

MOST_CONFIG = 1 << 20  # bytes
LAYER = re.compile(r"conv_pre|conv_post|ups\.\d{1,3}|resblocks\.\d{1,4}\.convs[12]?\.\d{1,3}")
LATER = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
OURS = {"weight_g": "scale", "weight_v": "kernel", "bias": "bias"}
GENERATOR = {
    "bands": "num_mels", "channels": "upsample_initial_channel", "rates": "upsample_rates",
    "up_sizes": "upsample_kernel_sizes", "sizes": "resblock_kernel_sizes", "dilations": "resblock_dilation_sizes",
}  # fmt: skip
"""Our fields, by the names in config.json."""
MEL = {
    "bands": "num_mels", "rate": "sampling_rate", "n_fft": "n_fft", "hop": "hop_size", "window": "win_size",
    "low": "fmin", "high": "fmax",
}  # fmt: skip
Tensors = dict[str, np.ndarray]


def read(file: Path) -> tuple[Generator, dict[str, Any], Mel]:
    """The network of a file, its tree of parameters, and the mels that it reads.

    Raises UserError where the file or config.json beside it is missing, damaged, or of another network.
    """
    network, mel = read_config(file.with_name("config.json"))
    ours: Tensors = {}
    for name, array in _with_norms(_tensors(file), file).items():
        layer, _, kind = name.rpartition(".")
        if kind == "weight_v" and array.ndim == 3:
            array = array.transpose(2, 0, 1) if layer.startswith("ups.") else array.transpose(2, 1, 0)
        elif kind == "weight_g":
            array = array.reshape(-1)
        ours[f"{_path(layer)}/{OURS[kind]}"] = np.ascontiguousarray(array, np.float32)
    shapes: Any = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, 1, network.bands)))
    store.check_arrays(ours, store.flatten_shapes(shapes["params"]), str(file))
    store.check_finite(ours, str(file))
    return network, unflatten_dict({tuple(name.split("/")): array for name, array in ours.items()}), mel


def tensors_of(params: Mapping[str, Any]) -> Tensors:
    """Tensors under the published names, f32, of a tree of parameters."""
    out, flat = {}, flatten_dict(params, sep="/")
    theirs = {ours: name for name, ours in OURS.items()}
    for path, value in flat.items():
        array, (outer, _, kind) = np.asarray(value, np.float32), path.rpartition("/")
        if kind == "kernel":
            array = array.transpose(1, 2, 0) if outer.startswith("ups_") else array.transpose(2, 1, 0)
        elif kind == "scale":
            array = array[:, None, None]
        layer = re.sub(r"_(?=\d)", ".", outer.removesuffix("/conv").replace("/", "."))
        out[f"{layer}.{theirs[kind]}"] = np.ascontiguousarray(array)
    return out


def _tensors(file: Path) -> Tensors:
    found = torch_file.read_any(file)
    return {name.removeprefix("generator."): array for name, array in found.items()}


def _with_norms(tensors: Tensors, file: Path) -> Tensors:
    """Tensors under `weight_g`, `weight_v` and `bias` of each layer. Raises UserError for any others."""
    out: Tensors = {}
    for name, array in tensors.items():
        for later, ours in LATER.items():
            name = name.replace(later, ours)
        layer, _, kind = name.rpartition(".")
        if not LAYER.fullmatch(layer) or kind not in ("weight", *OURS):
            raise UserError(f"{file} has unknown {name:.90}: a generator of HiFi-GAN is expected")
        if kind == "weight":
            norm = np.sqrt(np.sum(array.astype(np.float32) ** 2, axis=tuple(range(1, array.ndim))))
            out |= {f"{layer}.weight_g": norm, f"{layer}.weight_v": array}
        else:
            out[name] = array
    return out


def _path(layer: str) -> str:
    """Our path of a layer: resblocks_0/convs1_2/conv of resblocks.0.convs1.2."""
    path = re.sub(r"\.(?=\d)", "_", layer).replace(".", "/")
    return path if layer.startswith("ups.") else f"{path}/conv"


# --- settings -------------------------------------------------------------------------------------------------


def read_config(file: Path) -> tuple[Generator, Mel]:
    """The network and its mels by config.json. Raises UserError where it is missing, or of no network."""
    settings = reading.read_json(file, MOST_CONFIG)
    if not isinstance(settings, dict):
        raise UserError(f"{file} holds no settings: restore it")
    needed = {*GENERATOR.values(), *MEL.values(), "resblock"}
    if missing := sorted(needed - settings.keys()):
        raise UserError(f"{file} has no {missing[0]}: the config.json of a HiFi-GAN is expected")
    if settings["resblock"] not in ("1", "2"):
        raise UserError(f"{file} has resblock {settings['resblock']!r:.40}: '1' or '2' is expected")
    network = Generator(
        twice=settings["resblock"] == "1", **{ours: _tuples(settings[name]) for ours, name in GENERATOR.items()}
    )
    numbers: dict[str, Any] = {ours: settings[name] for ours, name in MEL.items()}
    if numbers["high"] is None and isinstance(numbers["rate"], int):
        numbers["high"] = numbers["rate"] / 2
    mel = Mel(**numbers)
    for part in (network, mel):
        try:
            check_fields(part)
        except UserError as error:
            raise UserError(f"{file} is of no network: {error}") from error
    if network.hop != mel.hop:
        raise UserError(f"{file} has rates of {network.hop} samples a frame and a hop of {mel.hop}: restore it")
    return network, mel


def config_of(network: Generator, mel: Mel) -> dict[str, Any]:
    """The settings as config.json has them. Raises UserError for mels that the published code does not compute."""
    if mel.scale != "slaney" or mel.floor != 1e-5:
        raise UserError(
            f"mels are of the scale {mel.scale} with a floor of {mel.floor:g}: the layout has those of slaney with "
            "1e-05 alone"
        )
    return {
        "resblock": "1" if network.twice else "2",
        **{name: getattr(network, ours) for ours, name in GENERATOR.items()},
        **{name: getattr(mel, ours) for ours, name in MEL.items()}, "fmax_for_loss": None,
    }  # fmt: skip


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
