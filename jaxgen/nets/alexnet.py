"""The convolutions of AlexNet, arXiv:1404.5997, in torchvision's version: a feature network of LPIPS."""

import jax
from flax import linen as nn

from jaxgen.nets.frozen import conv, max_pool

SMALLEST = 31  # pixels a side that the poolings need at least


class AlexNet(nn.Module):
    """f32[B, H, W, 3], standardized, to the five ReLU outputs, of 64, 192, 384, 256 and 256 channels."""

    @nn.compact
    def __call__(self, x: jax.Array) -> list[jax.Array]:
        one = conv("conv1", x, 64, (11, 11), stride=4, pad=2)
        two = conv("conv2", max_pool(one), 192, (5, 5))
        three = conv("conv3", max_pool(two), 384, (3, 3))
        four = conv("conv4", three, 256, (3, 3))
        return [one, two, three, four, conv("conv5", four, 256, (3, 3))]
