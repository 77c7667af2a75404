"""VGG-16, configuration D of arXiv:1409.1556, in torchvision's version: a feature network of LPIPS, and of precision
and recall."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxgen.nets.frozen import conv, dense, max_pool
from jaxgen.ops.resize import tf1_bilinear

STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
SIDE = 224
SMALLEST = 16  # pixels a side that the poolings need at least
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, in [0, 1]


class VGG16(nn.Module):
    """Layers `conv1_1` to `conv5_3`, `fc1` and `fc2`."""

    @nn.compact
    def __call__(self, x: jax.Array) -> list[jax.Array]:
        """f32[B, H, W, 3], standardized, to the last ReLU output of each stage: 64, 128, 256, 512, 512 channels."""
        outputs = []
        for i, widths in enumerate(STAGES, start=1):
            x = max_pool(x, size=2) if outputs else x
            for j, features in enumerate(widths, start=1):
                x = conv(f"conv{i}_{j}", x, features, (3, 3))
            outputs.append(x)
        return outputs


class VGG16Features(nn.Module):
    """uint8[B, H, W, 3] to `fc2`: f32[B, 4096], the second fully connected layer after ReLU.

    These are the features of improved precision and recall, section 3 of arXiv:1904.06991. Images are first resized to
    224 pixels by the bilinear resize of TensorFlow 1.
    """

    @nn.compact
    def __call__(self, x: jax.Array) -> dict[str, jax.Array]:
        x = tf1_bilinear(x.astype(jnp.float32), SIDE)
        x = (x / 255 - jnp.asarray(MEAN)[None, None, None]) / jnp.asarray(STD)[None, None, None]
        x = max_pool(VGG16(name="trunk")(x)[-1], size=2)
        x = nn.relu(dense("fc1", x.reshape(x.shape[0], -1), 4096))
        return {"fc2": nn.relu(dense("fc2", x, 4096))}
