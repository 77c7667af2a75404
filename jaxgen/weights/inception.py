"""Inception-v3 from the PyTorch port of the TensorFlow graph: tensors `LAYER.conv.weight`, `LAYER.bn.*`, `fc.*`."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.nets.inception import InceptionV3
from jaxgen.weights.torch_layers import StateDict, kernel

PUBLISHED = {"6726825d": "pt_inception-2015-12-05-6726825d.pth"}
EPSILON = 1e-3  # of batch normalization


def template() -> dict[str, Any]:
    """The shapes of the parameters."""
    image = jnp.zeros((1, 8, 8, 3), jnp.uint8)
    return jax.eval_shape(InceptionV3().init, jax.random.key(0), image)["params"]


def convert(tensors: StateDict) -> dict[str, np.ndarray]:
    """The parameters by path, with each batch normalization folded into the convolution before it.

    With g = gamma / sqrt(var + epsilon), the kernel becomes g * kernel and the bias beta - g * mean, computed in f64.
    """
    tensors.ignore(".num_batches_tracked")
    out = {}
    for layer in tensors.layers(".conv.weight"):
        weight = tensors.take(f"{layer}.conv.weight").astype(np.float64)
        gamma, beta, mean, var = (
            tensors.take(f"{layer}.bn.{name}").astype(np.float64)
            for name in ("weight", "bias", "running_mean", "running_var")
        )
        # Checked here, as broadcasting would make arrays far larger than the file.
        if weight.ndim != 4 or any(v.shape != weight.shape[:1] for v in (gamma, beta, mean, var)):
            raise ValueError(f"batch normalization that does not fit {layer[:60]}")
        gain = gamma / np.sqrt(var + EPSILON)
        path = layer.replace(".", "/")
        out[f"{path}/kernel"] = kernel(weight * gain[:, None, None, None])
        out[f"{path}/bias"] = (beta - gain * mean).astype(np.float32)
    out["fc/kernel"], out["fc/bias"] = kernel(tensors.take("fc.weight")), tensors.take("fc.bias")
    return out
