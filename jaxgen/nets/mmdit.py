"""The multimodal diffusion transformer of Stable Diffusion 3, arXiv:2403.03206, section 4: tokens of the picture and of
the text have weights of their own, and attend to one another in one joint attention.

x: f32[B, H, W, C]; t: f32[B] on the scale of 0 to 1000; y: one-hot f32[B, K], all zeros for no class; context:
f32[B, L, D], embedded text tokens; context_mask: bool[B, L], false for padding, all True if None.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxgen.core.ranges import Depth, Size
from jaxgen.errors import UserError
from jaxgen.nets.dense import Dense
from jaxgen.nets.dit import SMALL, DiT, masked_mean, modulate
from jaxgen.nets.transformer import MLP, XAVIER, BlockSettings, sinusoids
from jaxgen.nets.unet import ZERO, time_embedding
from jaxgen.ops.attention import attention
from jaxgen.ops.patches import depth_to_space, space_to_depth

STREAMS = ("image", "text")


class MMDiTBlock(nn.Module):
    """Joint attention, then an MLP for each stream, with modulated inputs and output gates that start at zero: figure
    2b. Queries and keys are normalized by their root mean square, section 5.3.2.

    tokens: f32[B, T, C] of the picture and f32[B, L, C] of the text; embedding: f32[B, C] of time and mean text.
    """

    heads: int
    mlp_ratio: int = 4
    dtype: Any = None

    @nn.compact
    def __call__(
        self, tokens: tuple[jax.Array, jax.Array], embedding: jax.Array, mask: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """mask: bool[B, T + L], false for padding."""
        batch, _, channels = tokens[0].shape
        settings = BlockSettings(self.heads, self.mlp_ratio * channels, dtype=self.dtype)
        gains, parts = {}, []
        for name, h in zip(STREAMS, tokens):
            raw = Dense(6 * channels, kernel_init=ZERO, dtype=self.dtype, name=f"{name}_modulation")
            gains[name] = jnp.split(raw(nn.silu(embedding)), 6, axis=-1)
            qkv = settings.dense(3 * channels, f"{name}_qkv")(modulate(h, gains[name][0], gains[name][1], self.dtype))
            q, k, v = jnp.split(qkv.reshape(batch, -1, self.heads, 3 * channels // self.heads), 3, axis=-1)
            q, k = (nn.RMSNorm(1e-6, dtype=self.dtype, name=f"{name}_norm_{n}")(a) for n, a in (("q", q), ("k", k)))
            parts.append((q, k, v))
        q, k, v = (jnp.concatenate(both, axis=1) for both in zip(*parts))
        joint = attention(q, k, v, mask=None if mask is None else mask[:, None]).reshape(batch, -1, channels)
        out = []
        for name, h, new in zip(STREAMS, tokens, jnp.split(joint, [tokens[0].shape[1]], axis=1)):
            _, _, gate, shift, scale, gate_mlp = gains[name]
            h = h + gate[:, None] * settings.dense(channels, f"{name}_out")(new)
            mlp = MLP(settings, name=f"{name}_mlp")
            out.append(h + gate_mlp[:, None] * mlp(modulate(h, shift, scale, self.dtype)))
        return out[0], out[1]


class MMDiT(nn.Module):
    """`depth` blocks over tokens of `width` channels, one for each patch of `patch` x `patch` pixels and one for each
    token of the text. The blocks are one scanned block with stacked parameters, [depth, ...]; the last one's output for
    the text is not used. remat: the backward pass recomputes each block, which takes less memory.
    """

    width: Size = 384
    depth: Depth = 12
    heads: Size = 6
    patch: Size = 2
    remat: bool = False
    dtype: Any = None

    def check(self, shape: tuple[int, ...]) -> None:
        """Raises UserError if images of `shape` = (H, W, C) cannot be cut into patches, or the width into heads."""
        DiT(self.width, self.depth, self.heads, self.patch, parent=None).check(shape)

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        t: jax.Array,
        out: int,
        y: jax.Array | None = None,
        context: jax.Array | None = None,
        context_mask: jax.Array | None = None,
        train: bool = False,
    ) -> jax.Array:
        """f32[B, H, W, out]."""
        if context is None:
            raise UserError("an MMDiT was given no text: use a DiT, or set --model.text")
        dtype = self.dtype
        patches = space_to_depth(x, self.patch)
        batch, rows, columns, channels = patches.shape
        patches = patches.reshape(batch, rows * columns, channels)
        tokens = Dense(self.width, kernel_init=XAVIER, dtype=dtype, name="patches")(patches)
        tokens += jnp.asarray(sinusoids(rows, columns, self.width), tokens.dtype)[None]
        words = Dense(self.width, kernel_init=XAVIER, dtype=dtype, name="words")(context)

        embedding = Dense(self.width, kernel_init=SMALL, dtype=dtype, name="time_in")(time_embedding(t, 256))
        embedding = Dense(self.width, kernel_init=SMALL, dtype=dtype, name="time_out")(nn.silu(embedding))
        mean = masked_mean(context, context_mask)
        embedding += Dense(self.width, kernel_init=SMALL, dtype=dtype, name="context_mean")(mean)
        if y is not None:
            embedding += Dense(self.width, use_bias=False, kernel_init=SMALL, dtype=dtype, name="label")(y)

        mask = None
        if context_mask is not None:
            mask = jnp.concatenate([jnp.ones((batch, rows * columns), bool), context_mask], axis=1)
        block = nn.remat(MMDiTBlock, prevent_cse=False) if self.remat else MMDiTBlock
        stack = nn.scan(
            lambda block, both, *told: (block(both, *told), None), length=self.depth,
            in_axes=nn.broadcast,  # pyright: ignore[reportArgumentType]  # typed as int
            variable_axes={"params": 0}, split_rngs={"params": True},
        )  # fmt: skip
        (tokens, _), _ = stack(block(self.heads, dtype=dtype, name="blocks"), (tokens, words), embedding, mask)

        gains = Dense(2 * self.width, kernel_init=ZERO, dtype=dtype, name="out_modulation")(nn.silu(embedding))
        shift, scale = jnp.split(gains, 2, axis=-1)
        tokens = modulate(tokens, shift, scale, dtype)
        patches = Dense(self.patch**2 * out, kernel_init=ZERO, dtype=dtype, name="out")(tokens).astype(jnp.float32)
        return depth_to_space(patches.reshape(batch, rows, columns, -1), self.patch)
