"""Tacotron 2's weights in the layout of NVIDIA's code, in and out.

A file is a PyTorch dict with the tensors under `state_dict`, the tensors alone, or the same as safetensors. An LSTM has
two biases there, which are added: ours are written as the first of them, beside zeros. Kernels are [out, in] and [out,
in, size] there, [in, out] and [size, in, out] here.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxgen.errors import UserError
from jaxgen.nets.tacotron2 import Tacotron2Net
from jaxgen.runtime.files import disk_errors, write_tensors
from jaxgen.weights import store, torch_file
from jaxgen.weights.torch_layers import StateDict

EXPECTED = "pass a checkpoint of NVIDIA's Tacotron 2"
LINEAR = {
    "query": "decoder.attention_layer.query_layer",
    "memory": "decoder.attention_layer.memory_layer",
    "energy": "decoder.attention_layer.v",
    "location_dense": "decoder.attention_layer.location_layer.location_dense",
    "projection": "decoder.linear_projection",
    "gate": "decoder.gate_layer",
}
LOCATION = "decoder.attention_layer.location_layer.location_conv.conv.weight"
LSTMS = {
    "forwards": ("encoder.lstm", "_l0"), "backwards": ("encoder.lstm", "_l0_reverse"),
    "attention_lstm": ("decoder.attention_rnn", ""), "decoder_lstm": ("decoder.decoder_rnn", ""),
}  # fmt: skip
STATISTICS = {"norm/mean": "running_mean", "norm/var": "running_var"}
Tensors = dict[str, np.ndarray]


def read(file: Path) -> tuple[Tacotron2Net, dict[str, Any], dict[str, Any]]:
    """The network of a file, its tree of parameters and its running statistics.

    Raises UserError for a file that is not of Tacotron 2.
    """
    found = torch_file.read_any(file)
    network = _network(found, file)
    tensors = StateDict(found, str(file))
    tensors.ignore("num_batches_tracked")
    shapes = _shapes(network)
    params, stats = ({} for _ in range(2))
    for ours, theirs in _layers(network):
        if ours.endswith(tuple(STATISTICS)):
            stats[ours] = np.asarray(tensors.take(theirs[0]), np.float32)
        else:
            array = sum((tensors.take(name).astype(np.float32) for name in theirs[1:]), tensors.take(theirs[0]))
            params[ours] = _ours(ours, np.asarray(array, np.float32))
    tensors.check_empty()
    for name, tree in (("params", params), ("batch_stats", stats)):
        store.check_arrays(tree, store.flatten_shapes(shapes[name]), str(file))
        store.check_finite(tree, str(file))
    one, two = (unflatten_dict({tuple(name.split("/")): a for name, a in tree.items()}) for tree in (params, stats))
    return network, one, two


def write(file: Path, network: Tacotron2Net, params: dict[str, Any], stats: dict[str, Any]) -> None:
    """Writes parameters and running statistics as safetensors under NVIDIA's names.

    Raises UserError for a network that standardises mels, which is nothing that the layout has, and where the file
    cannot be written.
    """
    check_form(network)
    ours: Tensors = {}
    for tree in (params, stats):
        flat: Any = flatten_dict(tree, sep="/")
        ours |= {name: np.asarray(array, np.float32) for name, array in flat.items()}
    tensors: Tensors = {}
    for name, (first, *others) in _layers(network):
        tensors[first] = np.ascontiguousarray(_theirs(name, ours[name]))
        tensors |= {other: np.zeros_like(tensors[first]) for other in others}
        if name.endswith("norm/var"):
            tensors[first.replace("running_var", "num_batches_tracked")] = np.zeros((), np.int64)
    with disk_errors():
        write_tensors(file, tensors, {"format": "pt"})


def check_form(network: Tacotron2Net) -> None:
    """Raises UserError for a network that standardises mels."""
    if (network.mean, network.deviation) != (0.0, 1.0):
        raise UserError(
            f"the network standardises mels by {network.mean:g} and {network.deviation:g}, which NVIDIA's layout has "
            "no place for: train one with --model.network.mean 0 --model.network.deviation 1"
        )


def _layers(network: Tacotron2Net) -> Iterator[tuple[str, tuple[str, ...]]]:
    """The path of each of our arrays, and the names of the tensors whose sum it is."""
    yield "embedding/embedding", ("embedding.weight",)
    convs = (("encoder", network.encoder_layers), ("postnet", network.postnet_layers))
    for part, count in convs:
        for i in range(count):
            theirs, ours = f"{part}.convolutions.{i}", f"{part}_convs_{i}"
            yield f"{ours}/kernel", (f"{theirs}.0.conv.weight",)
            yield f"{ours}/bias", (f"{theirs}.0.conv.bias",)
            yield f"{ours}/norm/scale", (f"{theirs}.1.weight",)
            yield f"{ours}/norm/bias", (f"{theirs}.1.bias",)
            for name, statistic in STATISTICS.items():
                yield f"{ours}/{name}", (f"{theirs}.1.{statistic}",)
    for ours, (theirs, end) in LSTMS.items():
        yield f"{ours}/input/kernel", (f"{theirs}.weight_ih{end}",)
        yield f"{ours}/hidden/kernel", (f"{theirs}.weight_hh{end}",)
        yield f"{ours}/input/bias", (f"{theirs}.bias_ih{end}", f"{theirs}.bias_hh{end}")
    for i in range(len(network.prenet)):
        yield f"prenet_layers_{i}/kernel", (f"decoder.prenet.layers.{i}.linear_layer.weight",)
    for ours, theirs in LINEAR.items():
        yield f"{ours}/kernel", (f"{theirs}.linear_layer.weight",)
        if ours in ("projection", "gate"):
            yield f"{ours}/bias", (f"{theirs}.linear_layer.bias",)
    yield "location/kernel", (LOCATION,)


def _ours(name: str, array: np.ndarray) -> np.ndarray:
    """A tensor of theirs in the order of our axes."""
    if not name.endswith("kernel"):
        return array
    array = np.ascontiguousarray(array.transpose(tuple(reversed(range(array.ndim)))))
    return array.reshape(-1, array.shape[-1]) if name.startswith("location/") else array


def _theirs(name: str, array: np.ndarray) -> np.ndarray:
    """The inverse of `_ours`."""
    if not name.endswith("kernel"):
        return array
    array = array.reshape(-1, 2, array.shape[-1]) if name.startswith("location/") else array
    return array.transpose(tuple(reversed(range(array.ndim))))


def _network(tensors: Tensors, file: Path) -> Tacotron2Net:
    """The network whose sizes are those of the tensors."""

    def shape(name: str, axes: int) -> tuple[int, ...]:
        if name not in tensors or tensors[name].ndim != axes or not tensors[name].size:
            raise UserError(f"{file} has no {name} of {axes} axes: {EXPECTED}")
        return tensors[name].shape

    def count(start: str, end: str) -> int:
        return sum(name.startswith(start) and name.endswith(end) for name in tensors)

    vocab, encoder = shape("embedding.weight", 2)
    layers, last = count("encoder.convolutions.", ".0.conv.weight"), count("postnet.convolutions.", ".0.conv.weight")
    prenet = [
        shape(f"decoder.prenet.layers.{i}.linear_layer.weight", 2)
        for i in range(count("decoder.prenet.layers.", ".weight"))
    ]
    wide, bands, postnet_size = shape("postnet.convolutions.0.0.conv.weight", 3)
    group = shape("decoder.linear_projection.linear_layer.weight", 2)[0]
    filters, _, location_size = shape(LOCATION, 3)
    if layers < 1 or last < 2 or not prenet or group % bands or encoder % 2:
        raise UserError(f"{file} has layers of other numbers or sizes: {EXPECTED}")
    return Tacotron2Net(
        vocab=vocab, bands=bands, reduction=group // bands, encoder=encoder, encoder_layers=layers,
        encoder_size=shape("encoder.convolutions.0.0.conv.weight", 3)[2], prenet=tuple(width for width, _ in prenet),
        attention_rnn=shape("decoder.attention_rnn.weight_hh", 2)[1],
        attention=shape("decoder.attention_layer.query_layer.linear_layer.weight", 2)[0], location_filters=filters,
        location_size=location_size, decoder_rnn=shape("decoder.decoder_rnn.weight_hh", 2)[1], postnet=wide,
        postnet_layers=last, postnet_size=postnet_size,
    )  # fmt: skip


def _shapes(network: Tacotron2Net) -> Any:
    one = jnp.ones((1,), jnp.int32)
    frames = jnp.zeros((1, network.reduction, network.bands))
    masks = jnp.zeros((1, 1, sum(network.prenet)))
    return jax.eval_shape(network.init, jax.random.key(0), one[:, None], one, frames, one, masks)
