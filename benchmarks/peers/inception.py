"""torch-fidelity's Inception-v3 with random weights, and the file that both it and our converter read."""

import importlib
from pathlib import Path

import jax
import numpy as np
import torch
from flax.traverse_util import flatten_dict

from jaxgen.weights import KINDS


def import_torchvision() -> None:
    """Imports torchvision where its wheel and PyTorch's are built for different devices.

    Its compiled operators do not load then, and the import stops at describing two of them; named here, they are there
    to be described. Nothing of ours calls them.
    """
    try:
        importlib.import_module("torchvision")
    except RuntimeError:
        library = torch.library.Library("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        import_torchvision.library = library  # the names go when it is collected
        importlib.import_module("torchvision")


def write_random_weights(path: Path, images: np.ndarray, seed: int = 0) -> None:
    """A state dict as the public file has it: kernels of He's scale, batch statistics those of uint8[B, H, W, 3].

    With other statistics a deep random network gives nearly the same features to every image; and with biases near 0
    instead of 2, where each ReLU cuts half of what comes in, it magnifies rounding errors a hundredfold.
    """
    rng = np.random.default_rng(seed)

    def normal(*shape: int, scale: float) -> torch.Tensor:
        return torch.from_numpy(scale * rng.standard_normal(shape, np.float32))

    state = {}
    for name, leaf in flatten_dict(KINDS["inception"].template(), sep=".").items():
        layer, _, part = name.rpartition(".")
        outputs = leaf.shape[-1]
        if layer == "fc":
            state[f"fc.{'weight' if part == 'kernel' else 'bias'}"] = normal(*leaf.shape[::-1], scale=0.1)
        elif part == "kernel":
            height, width, inputs, _ = leaf.shape
            scale = (2 / (inputs * height * width)) ** 0.5
            state[f"{layer}.conv.weight"] = normal(outputs, inputs, height, width, scale=scale)
            state[f"{layer}.bn.weight"] = 1 + normal(outputs, scale=0.1)
            state[f"{layer}.bn.bias"] = 2 + normal(outputs, scale=0.1)
            state[f"{layer}.bn.running_mean"], state[f"{layer}.bn.running_var"] = torch.zeros(2, outputs)
    torch.save(state, path)

    module = extractor(path)
    for part in module.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            part.momentum = None  # the mean over what has been seen
            part.reset_running_stats()
            part.train()
    with torch.no_grad():
        module(to_torch(images))
    torch.save(module.state_dict(), path)


def extractor(path: Path, features: tuple[str, ...] = ("2048", "logits_unbiased", "logits")) -> torch.nn.Module:
    """torch-fidelity's own feature extractor: uint8[B, 3, H, W] to a tuple of the named features."""
    import_torchvision()
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    return FeatureExtractorInceptionV3("inception-v3-compat", list(features), feature_extractor_weights_path=str(path))


def to_torch(images: np.ndarray | jax.Array) -> torch.Tensor:
    """uint8[B, H, W, 3] in PyTorch's order."""
    return torch.tensor(np.asarray(images)).movedim(-1, 1).contiguous()
