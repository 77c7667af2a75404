"""Reads the weights of tiny autoencoders, in the two layouts of the TAESD family.

NAME_encoder.pth beside NAME_decoder.pth, or the same as safetensors: `3.conv.0.weight` is of layer 3. One safetensors
file of diffusers' AutoencoderTiny: `encoder.layers.3.conv.0.weight`, and the decoder's layers are numbered from the
first that has weights. Kernels are [out, in, h, w] there, [h, w, in, out] here.
"""

import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict

from jaxgen.errors import UserError
from jaxgen.nets.taesd import FACTOR, TinyAutoencoder
from jaxgen.weights import store, torch_file
from jaxgen.weights.torch_layers import kernel

PARTS = ("encoder", "decoder")
LAYER = re.compile(r"(encoder|decoder)\.(\d{1,3})\.(?:(conv|pool)\.(\d)\.)?(weight|bias)")
Tensors = dict[str, np.ndarray]


def read(place: Path) -> tuple[TinyAutoencoder, dict[str, Any]]:
    """The network and its tree of parameters. place: a folder of one network, or a file of the network.

    Raises UserError if files are missing, there are several networks, or they are of another.
    """
    file, tensors = _tensors(place)
    for name in ("encoder.0.weight", "decoder.1.weight"):
        if name not in tensors or tensors[name].ndim != 4 or not tensors[name].size:
            raise UserError(f"{file} has no {name} of 4 axes: a tiny autoencoder of the TAESD family is expected")
    network = TinyAutoencoder(
        latent=tensors["decoder.1.weight"].shape[1], width=tensors["encoder.0.weight"].shape[0],
        pool=any(".pool." in name for name in tensors),
    )  # fmt: skip
    out: Tensors = {}
    for name, array in tensors.items():
        if not (found := LAYER.fullmatch(name)):
            raise UserError(f"{file} has unknown {name:.90}: a tiny autoencoder of the TAESD family is expected")
        part, layer, branch, of, kind = found.groups()
        if branch == "pool" and array.ndim == 4:
            array = array[:, :, 0, 0]
        ours = "bias" if kind == "bias" else "scale" if array.ndim == 1 else "kernel"
        path = f"{part}/layer_{layer}/{branch}_{of}/{ours}" if branch else f"{part}/layer_{layer}/{ours}"
        out[path] = kernel(array) if ours == "kernel" else np.asarray(array, np.float32)
    tree: Any = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, FACTOR, FACTOR, 3)))
    store.check_arrays(out, store.flatten_shapes(tree["params"]), str(file))
    store.check_finite(out, str(file))
    return network, unflatten_dict({tuple(name.split("/")): array for name, array in out.items()})


def _tensors(place: Path) -> tuple[Path, Tensors]:
    """The tensors as in the layout of two files, with the part's name before, and the file that errors name."""
    file = _file(place)
    if not re.search(r"_(encoder|decoder)\.\w+$", file.name):
        found = {name.replace(".layers.", "."): array for name, array in torch_file.read_any(file).items()}
        # The clamp before the decoder is no layer there.
        return file, {
            re.sub(r"(?<=^decoder\.)\d{1,3}(?=\.)", lambda n: str(int(n[0]) + 1), n): a for n, a in found.items()
        }
    out: Tensors = {}
    for part in PARTS:
        one = file.with_name(re.sub(r"_(encoder|decoder)(?=\.\w+$)", f"_{part}", file.name))
        tensors = torch_file.read_any(one)
        out |= {f"{part}.{name}": array for name, array in tensors.items()}
    return file, out


def _file(place: Path) -> Path:
    """The file, or the first of two, that holds the network of a folder."""
    if not place.is_dir():
        return place
    for pattern in ("*_encoder.safetensors", "*_encoder.pth", "*.safetensors"):
        if len(found := sorted(place.glob(pattern))) > 1:
            raise UserError(f"{place} has {len(found)} of {pattern}: name the file, as {found[0]}")
        if found:
            return found[0]
    raise UserError(
        f"{place} has no tiny autoencoder: NAME_encoder.pth and NAME_decoder.pth, or a safetensors file, are expected"
    )
