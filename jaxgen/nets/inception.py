"""Inception-v3 as the Fréchet Inception distance uses it: the network of the TensorFlow graph of 2015-12-05.

It differs from arXiv:1512.00567 as published: average pooling leaves the padding out of the mean, the last block uses
max pooling, and there are 1008 logits. Batch normalization (epsilon 1e-3) is folded into kernels and biases.

Layer names are those of the public PyTorch port, which `jaxgen.weights` converts.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxgen.nets.frozen import EXACT, Affine, conv, max_pool, mean_pool, pointwise
from jaxgen.ops.resize import clean_bicubic, tf1_bilinear

SIDE = 299
RESIZE = {"tf1": tf1_bilinear, "clean": clean_bicubic}


class Mixed5(nn.Module):
    """[B, 35, 35, C] -> [B, 35, 35, 224 + pool]."""

    pool: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        one, five, three, pool = pointwise(x, branch1x1=64, branch5x5_1=48, branch3x3dbl_1=64, branch_pool=self.pool)
        five = conv("branch5x5_2", nn.relu(five), 64, (5, 5))
        three = conv("branch3x3dbl_2", nn.relu(three), 96, (3, 3))
        three = conv("branch3x3dbl_3", three, 96, (3, 3))
        # This pooling commutes with a 1x1 convolution and its bias, and is cheaper after it, where channels are fewer.
        return jnp.concatenate([nn.relu(one), five, three, nn.relu(mean_pool(pool))], axis=-1)


class Mixed6a(nn.Module):
    """[B, 35, 35, 288] -> [B, 17, 17, 768]."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        three = conv("branch3x3", x, 384, (3, 3), stride=2, pad=0)
        double = conv("branch3x3dbl_1", x, 64)
        double = conv("branch3x3dbl_2", double, 96, (3, 3))
        double = conv("branch3x3dbl_3", double, 96, (3, 3), stride=2, pad=0)
        return jnp.concatenate([three, double, max_pool(x)], axis=-1)


class Mixed6(nn.Module):
    """[B, 17, 17, 768] -> the same shape, by 7x7 convolutions factored into one-dimensional ones."""

    width: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        c = self.width
        one, seven, double, pool = pointwise(x, branch1x1=192, branch7x7_1=c, branch7x7dbl_1=c, branch_pool=192)
        seven = conv("branch7x7_2", nn.relu(seven), c, (1, 7))
        seven = conv("branch7x7_3", seven, 192, (7, 1))
        double = conv("branch7x7dbl_2", nn.relu(double), c, (7, 1))
        double = conv("branch7x7dbl_3", double, c, (1, 7))
        double = conv("branch7x7dbl_4", double, c, (7, 1))
        double = conv("branch7x7dbl_5", double, 192, (1, 7))
        return jnp.concatenate([nn.relu(one), seven, double, nn.relu(mean_pool(pool))], axis=-1)


class Mixed7a(nn.Module):
    """[B, 17, 17, 768] -> [B, 8, 8, 1280]."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        three, seven = pointwise(x, branch3x3_1=192, branch7x7x3_1=192)
        three = conv("branch3x3_2", nn.relu(three), 320, (3, 3), stride=2, pad=0)
        seven = conv("branch7x7x3_2", nn.relu(seven), 192, (1, 7))
        seven = conv("branch7x7x3_3", seven, 192, (7, 1))
        seven = conv("branch7x7x3_4", seven, 192, (3, 3), stride=2, pad=0)
        return jnp.concatenate([three, seven, max_pool(x)], axis=-1)


class Mixed7(nn.Module):
    """[B, 8, 8, C] -> [B, 8, 8, 2048]. max_pooled: use max pooling, as the last block does."""

    max_pooled: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        heads = {"branch1x1": 320, "branch3x3_1": 384, "branch3x3dbl_1": 448}
        if self.max_pooled:
            one, three, double = pointwise(x, **heads)
            pool = conv("branch_pool", max_pool(x, stride=1, pad=1), 192)
        else:
            one, three, double, pool = pointwise(x, **heads, branch_pool=192)
            pool = nn.relu(mean_pool(pool))
        three = nn.relu(three)
        double = conv("branch3x3dbl_2", nn.relu(double), 384, (3, 3))
        three = [conv("branch3x3_2a", three, 384, (1, 3)), conv("branch3x3_2b", three, 384, (3, 1))]
        double = [conv("branch3x3dbl_3a", double, 384, (1, 3)), conv("branch3x3dbl_3b", double, 384, (3, 1))]
        return jnp.concatenate([nn.relu(one), *three, *double, pool], axis=-1)


class InceptionV3(nn.Module):
    """uint8[B, H, W, 3] to `pool3`: f32[B, 2048], and `logits_unbiased` and `logits`: f32[B, 1008].

    resize: "tf1" is the bilinear resize of TensorFlow 1 that published scores use; "clean" is the antialiased bicubic
    one of arXiv:2104.11222. FID, KID, precision and recall use `pool3`. The Inception score uses `logits_unbiased`, the
    logits without their bias, as its authors' graph did.
    """

    resize: str = "tf1"

    @nn.compact
    def __call__(self, x: jax.Array) -> dict[str, jax.Array]:
        x = (RESIZE[self.resize](x.astype(jnp.float32), SIDE) - 128) / 128
        x = conv("Conv2d_1a_3x3", x, 32, (3, 3), stride=2, pad=0)
        x = conv("Conv2d_2a_3x3", x, 32, (3, 3), pad=0)
        x = max_pool(conv("Conv2d_2b_3x3", x, 64, (3, 3)))
        x = conv("Conv2d_3b_1x1", x, 80)
        x = max_pool(conv("Conv2d_4a_3x3", x, 192, (3, 3), pad=0))
        for name, pool in (("Mixed_5b", 32), ("Mixed_5c", 64), ("Mixed_5d", 64)):
            x = Mixed5(pool, name=name)(x)
        x = Mixed6a(name="Mixed_6a")(x)
        for name, width in (("Mixed_6b", 128), ("Mixed_6c", 160), ("Mixed_6d", 160), ("Mixed_6e", 192)):
            x = Mixed6(width, name=name)(x)
        x = Mixed7a(name="Mixed_7a")(x)
        x = Mixed7(name="Mixed_7b")(x)
        x = Mixed7(max_pooled=True, name="Mixed_7c")(x)
        pool3 = jnp.mean(x, axis=(1, 2))
        kernel, bias = Affine((2048, 1008), name="fc")()
        logits = jnp.dot(pool3, kernel, precision=EXACT)
        return {"pool3": pool3, "logits_unbiased": logits, "logits": logits + bias[None]}
