"""Image features from a network with published weights, batch by batch, on one device or a mesh."""

from typing import Any

import jax

from jaxgen.errors import UserError, nearest
from jaxgen.metrics.inputs import check_images
from jaxgen.nets.inception import RESIZE, InceptionV3
from jaxgen.nets.vgg import VGG16Features
from jaxgen.weights.store import Weights


class Features:
    """A compiled network from images, uint8[B, H, W, 1 or 3], to features by name, f32[B, D] each.

    weights: of kind inception (features `pool3`, `logits_unbiased`, `logits`) or vgg16_fc2 (feature `fc2`). resize:
    "tf1", or "clean", which only Inception has. The network is compiled once per batch shape. Features of images
    sharded over a mesh are sharded alike.
    """

    def __init__(self, weights: Weights, resize: str = "tf1"):
        """Raises UserError for weights of another network, or an unknown resize."""
        if weights.kind not in ("inception", "vgg16_fc2"):
            raise UserError(f"weights {weights.kind} give no features of whole images: use inception or vgg16_fc2")
        if resize not in (RESIZE if weights.kind == "inception" else ("tf1",)):
            raise UserError(f"resize is {resize!r}{nearest(resize, RESIZE)}: choose tf1, or clean with inception")
        network = InceptionV3(resize) if weights.kind == "inception" else VGG16Features()
        self.provenance: dict[str, Any] = {"weights": weights.provenance, "resize": resize}
        self.params = jax.device_put(weights.params)
        self._apply = jax.jit(lambda params, images: network.apply({"params": params}, images))

    def __call__(self, images: Any) -> dict[str, jax.Array]:
        """Raises UserError unless the images are uint8 in [0, 255] with 1 or 3 channels."""
        return self._apply(self.params, check_images(images))
