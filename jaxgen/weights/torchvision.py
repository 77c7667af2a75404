"""AlexNet and VGG-16 from torchvision's files: tensors `features.N.weight`, `classifier.N.weight`, and biases."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.nets.alexnet import AlexNet
from jaxgen.nets.vgg import SIDE, STAGES, VGG16Features
from jaxgen.weights.torch_layers import StateDict, kernel

ALEXNET_PUBLISHED = {"7be5be79": "alexnet-owt-7be5be79.pth"}
VGG16_PUBLISHED = {"397923af": "vgg16-397923af.pth"}

ALEXNET = {"features.0": "conv1", "features.3": "conv2", "features.6": "conv3", "features.8": "conv4",
           "features.10": "conv5"}  # fmt: skip


def _vgg16_layers() -> dict[str, str]:
    """Our layer by torchvision's, which also counts ReLUs and pools."""
    names, place = {}, 0
    for i, widths in enumerate(STAGES, start=1):
        for j in range(1, len(widths) + 1):
            names[f"features.{place}"] = f"conv{i}_{j}"
            place += 2
        place += 1
    return names


def alexnet_template() -> dict[str, Any]:
    """The shapes of AlexNet's convolutions."""
    return jax.eval_shape(AlexNet().init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))["params"]


def vgg16_template() -> dict[str, Any]:
    """The shapes of VGG-16's convolutions."""
    return vgg16_fc2_template()["trunk"]


def vgg16_fc2_template() -> dict[str, Any]:
    """The shapes of VGG-16's convolutions and its first two fully connected layers."""
    return jax.eval_shape(VGG16Features().init, jax.random.key(0), jnp.zeros((1, 8, 8, 3), jnp.uint8))["params"]


def _convolutions(tensors: StateDict, names: dict[str, str]) -> dict[str, np.ndarray]:
    out = {}
    for theirs, ours in names.items():
        out[f"{ours}/kernel"] = kernel(tensors.take(f"{theirs}.weight"))
        out[f"{ours}/bias"] = tensors.take(f"{theirs}.bias").astype(np.float32)
    return out


def alexnet(tensors: StateDict) -> dict[str, np.ndarray]:
    """The convolutions by path; no metric uses the classifier."""
    tensors.ignore("classifier.")
    return _convolutions(tensors, ALEXNET)


def vgg16(tensors: StateDict) -> dict[str, np.ndarray]:
    """The convolutions by path, a ninth of the file."""
    tensors.ignore("classifier.")
    return _convolutions(tensors, _vgg16_layers())


def vgg16_fc2(tensors: StateDict) -> dict[str, np.ndarray]:
    """The convolutions and the first two fully connected layers by path, without the last layer, to classes."""
    tensors.ignore("classifier.6.")
    out = {f"trunk/{name}": array for name, array in _convolutions(tensors, _vgg16_layers()).items()}
    # The first layer takes the flattened feature map, channels first in PyTorch and channels last here.
    side, channels = SIDE // 2 ** len(STAGES), STAGES[-1][-1]
    first = tensors.take("classifier.0.weight")
    if first.ndim == 2 and first.shape[1] == channels * side * side:
        first = first.reshape(-1, channels, side, side).transpose(0, 2, 3, 1).reshape(len(first), -1)
    out["fc1/kernel"], out["fc2/kernel"] = kernel(first), kernel(tensors.take("classifier.3.weight"))
    out["fc1/bias"], out["fc2/bias"] = (tensors.take(f"classifier.{i}.bias").astype(np.float32) for i in (0, 3))
    return out
