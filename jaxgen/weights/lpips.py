"""The linear heads of LPIPS v0.1: tensors `linN.model.1.weight`, f32[1, C, 1, 1]."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.weights.torch_layers import StateDict

# The names of the files, `alex.pth` and `vgg.pth`, do not contain a hash.
ALEX_PUBLISHED = {"df73285e35b22355a2df87cdb6b70b343713b667eddbda73e1977e0c860835c0": "v0.1/alex.pth"}
VGG_PUBLISHED = {"a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868": "v0.1/vgg.pth"}
ALEX, VGG = (64, 192, 384, 256, 256), (64, 128, 256, 512, 512)


def template(widths: tuple[int, ...]) -> dict[str, Any]:
    """The shapes of the parameters: one weight per channel of each layer."""
    return {f"lin{i}": jax.ShapeDtypeStruct((n,), jnp.float32) for i, n in enumerate(widths)}


def convert(tensors: StateDict) -> dict[str, np.ndarray]:
    """The parameters by path."""
    ending = ".model.1.weight"
    return {name: tensors.take(name + ending).astype(np.float32).reshape(-1) for name in tensors.layers(ending)}
