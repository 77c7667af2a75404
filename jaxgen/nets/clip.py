"""The two networks of CLIP (arXiv:2103.00020): a vision transformer and a text transformer with a common output space.

They have the form of OpenAI's and open_clip's: pre-norm blocks, a class token whose output is the picture's, and the
output at the end token for the text's, each followed by a linear projection without bias.
"""

import math
from dataclasses import field
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from annotated_types import Ge, Le
from flax import linen as nn

from jaxgen.core.ranges import Size, Vocabulary
from jaxgen.errors import UserError
from jaxgen.nets.dense import Dense
from jaxgen.nets.transformer import Transformer
from jaxgen.nets.vit import check_patches
from jaxgen.ops.patches import space_to_depth

EPSILON = 1e-12  # in the root of a norm, whose gradient would be NaN at 0
MOST_SCALE = math.log(100)
"""Of the logarithm of the scale, section 2.5: training is unstable beyond."""


def tower(width: int, depth: int, heads: int, causal: bool = False, activation: Any = "quick_gelu") -> Transformer:
    """The body of one network. Kernels start from N(0, 1 / width), those that are added to the residual from
    N(0, 1 / (2 depth width)), as in the published code, where the first of two dense layers has half the variance."""
    return Transformer(
        width=width, depth=depth, heads=heads, causal=causal, std=width**-0.5, activation=activation
    )  # fmt: skip


class ImageTower(nn.Module):
    """f32[B, H, W, C] -> f32[B, width]: the output of the class token. Positions are learned."""

    patch: Size = 32
    body: Transformer = field(default_factory=lambda: tower(768, 12, 12))
    dtype: Any = None

    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        return self.tokens(x, train)[:, 0]

    @nn.compact
    def tokens(self, x: jax.Array, train: bool = False) -> jax.Array:
        """f32[B, 1 + h w, width]: the outputs of the class token and of each patch."""
        width = self.body.width
        init = nn.initializers.normal(width**-0.5)
        h = Dense(width, use_bias=False, dtype=self.dtype, name="patches")(space_to_depth(x, self.patch))
        h = h.reshape(x.shape[0], -1, width)
        start = self.param("class_token", init, (width,))
        h = jnp.concatenate([jnp.broadcast_to(start.astype(h.dtype), (x.shape[0], 1, width)), h], axis=1)
        h = h + self.param("positions", init, h.shape[1:]).astype(h.dtype)[None]
        h = nn.LayerNorm(1e-5, dtype=self.dtype, name="norm_in")(h)
        return self.body(h, train=train)


class TextTower(nn.Module):
    """Tokens i32[B, T], T <= window, to f32[B, width]: the output at the first end token, which each text has."""

    vocab: Vocabulary = 49_408
    window: Size = 77
    """Number of positions."""
    body: Transformer = field(default_factory=lambda: tower(512, 12, 8, causal=True))
    end: Annotated[int, Ge(-1), Le(1 << 24)] = -1
    """The end token; -1 for the largest token of each text, as in OpenAI's code."""
    dtype: Any = None

    @property
    def dropout(self) -> float:
        return self.body.dropout

    def __call__(self, text: jax.Array, mask: jax.Array | None = None, train: bool = False) -> jax.Array:
        """mask: bool[B, T], false for padding, which follows the end; all True if None."""
        h = self.features(text, mask, train)
        place = jnp.argmax(text if self.end < 0 else text == self.end, axis=1)
        return jnp.take_along_axis(h, place[:, None, None], axis=1)[:, 0]

    @nn.compact
    def features(self, text: jax.Array, mask: jax.Array | None = None, train: bool = False) -> jax.Array:
        """f32[B, T, width]: the output at each token."""
        table = self.param("tokens", nn.initializers.normal(0.02), (self.vocab, self.body.width))
        positions = self.param("positions", nn.initializers.normal(0.01), (self.window, self.body.width))
        h = table[jnp.clip(text, 0, self.vocab - 1)] + positions[None, : text.shape[1]]
        h = h if self.dtype is None else h.astype(self.dtype)
        # With causal attention the end token sees nothing that follows it, and fused attention takes no mask.
        seen = None if mask is None or self.body.causal else mask[:, None].repeat(text.shape[1], axis=1)
        return self.body(h, mask=seen, train=train)


class CLIPNetwork(nn.Module):
    """Pictures and texts to unit vectors f32[B, dim], and the scale (and bias) of their products."""

    image: ImageTower = field(default_factory=ImageTower)
    text: TextTower = field(default_factory=TextTower)
    dim: Size = 512
    scale: Annotated[float, Ge(-10), Le(MOST_SCALE)] = math.log(1 / 0.07)
    """The logarithm that the scale of logits starts from."""
    bias: float | None = None
    """What is added to logits starts from this, as for SigLIP; None adds nothing."""
    dtype: Any = None

    def check(self, shape: tuple[int, ...]) -> None:
        """Raises UserError for pictures of `shape` = (H, W, C) that cannot be cut into patches, or invalid sizes."""
        check_patches(self.image.patch, self.image.body, shape)
        self.text.body.check()
        for name, body in (("image", self.image.body), ("text", self.text.body)):
            if not body.final_norm:
                raise UserError(f"model.network.{name}.body.final_norm is False: the outputs of CLIP are normalized")
        if self.text.end >= self.text.vocab:
            raise UserError(f"model.network.text.end is {self.text.end}: below vocab = {self.text.vocab} is expected")

    def setup(self) -> None:
        self.image_projection = self._projection(self.image.body.width)
        self.text_projection = self._projection(self.text.body.width)
        self.logit_scale = self.param("logit_scale", nn.initializers.constant(self.scale), ())
        if self.bias is not None:
            self.logit_bias = self.param("logit_bias", nn.initializers.constant(self.bias), ())

    def _projection(self, width: int) -> Dense:
        return Dense(self.dim, use_bias=False, dtype=self.dtype, kernel_init=nn.initializers.normal(width**-0.5))

    def image_features(self, x: jax.Array, train: bool = False) -> jax.Array:
        """f32[B, dim] of any norm; x: f32[B, H, W, C], normalized."""
        return self.image_projection(self.image(x, train)).astype(jnp.float32)

    def patch_features(self, x: jax.Array, train: bool = False) -> jax.Array:
        """f32[B, h w, width]: the output of the image tower at each patch; x: f32[B, H, W, C], normalized."""
        return self.image.tokens(x, train)[:, 1:].astype(jnp.float32)

    def embed_images(self, x: jax.Array, train: bool = False) -> jax.Array:
        """f32[B, dim] of norm 1; x: as `image_features` takes it."""
        return unit(self.image_features(x, train))

    def embed_text(self, text: jax.Array, mask: jax.Array | None = None, train: bool = False) -> jax.Array:
        """f32[B, dim] of norm 1; text, mask: as `TextTower` takes them."""
        return unit(self.text_projection(self.text(text, mask, train)))

    def logits(self, images: jax.Array, texts: jax.Array) -> jax.Array:
        """exp(scale) images texts' + bias, f32[B, B'] of unit vectors f32[B, dim] and f32[B', dim]."""
        products = jnp.exp(self.logit_scale) * jnp.matmul(images, texts.T, precision=jax.lax.Precision.HIGHEST)
        return products if self.bias is None else products + self.logit_bias

    def __call__(self, x: jax.Array, text: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        """Logits f32[B, B'] of each picture and each text."""
        return self.logits(self.embed_images(x), self.embed_text(text, mask))


def unit(x: jax.Array) -> jax.Array:
    """x / |x| over the last axis, in f32; zero stays zero."""
    x = x.astype(jnp.float32)
    return x * jax.lax.rsqrt(jnp.sum(x**2, axis=-1, keepdims=True) + EPSILON)
