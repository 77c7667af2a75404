"""The multimodal diffusion transformer of Stable Diffusion 3, arXiv:2403.03206, section 4: tokens of the picture and of
the text have weights of their own, and attend to one another in one joint attention.

x: f32[B, H, W, C]; t: f32[B] on the scale of 0 to 1000; y: one-hot f32[B, K], all zeros for no class; context:
f32[B, L, D], embedded text tokens; context_mask: bool[B, L], false for padding, all True if None.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxgen.errors import UserError
from jaxgen.nets.dense import Dense
from jaxgen.nets.dit import DiT, modulate
from jaxgen.nets.transformer import MLP, XAVIER, BlockSettings
from jaxgen.nets.unet import ZERO
from jaxgen.ops.attention import attention

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


class MMDiT(DiT):
    """A DiT whose blocks have a stream for the picture's tokens and one for the text's: `MMDiTBlock`. What the last
    block returns for the text is not used."""

    def _blocks(
        self,
        tokens: jax.Array,
        embedding: jax.Array,
        context: jax.Array | None,
        context_mask: jax.Array | None,
        frames: int,
    ) -> jax.Array:
        if context is None:
            raise UserError("an MMDiT was given no text: use a DiT, or set --model.text")
        words = Dense(self.width, kernel_init=XAVIER, dtype=self.dtype, name="words")(context)
        mask = None
        if context_mask is not None:
            mask = jnp.concatenate([jnp.ones(tokens.shape[:2], bool), context_mask], axis=1)
        return self._scanned(MMDiTBlock, (tokens, words), embedding, mask)[0]
