"""Forward mode through every kind of layer that a diffusion network has: derivatives along a direction, and gradients
of them, against central differences."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.nets.autoencoder_kl import PixelAttention
from jaxgen.nets.conv import Conv, DoubleConv, UpConv
from jaxgen.nets.diffwave import DiffWaveNet
from jaxgen.nets.dit import DiT
from jaxgen.nets.mmdit import MMDiT
from jaxgen.nets.norm import BatchNorm, GroupNorm
from jaxgen.nets.prior import PriorTransformer
from jaxgen.nets.stylegan2 import ModulatedConv
from jaxgen.nets.time_mlp import TimeMLP
from jaxgen.nets.transformer import Transformer
from jaxgen.nets.unet import AttentionBlock, ResBlock, UNet
from jaxgen.nets.unet_sd import SDUNet
from jaxgen.nets.video import VideoDiT, VideoUNet
from jaxgen.nets.vit import PatchEncoder
from jaxgen.ops import attention_blocks
from jaxgen.ops.attention import FEW_ON_CPU, attention


def normal(*shape, seed=0):
    return jnp.float32(np.random.default_rng(seed).normal(size=shape))


X, T, Y = normal(2, 4, 4, 3), jnp.array([1.0, 7.0]), jnp.eye(2)
CLIP, WORDS = normal(2, 3, 4, 4, 3), normal(2, 3, 4, seed=1)
UNET: dict[str, Any] = {"width": 8, "mults": (1, 2), "blocks": 1, "attention": (2,), "head_dim": 8}
DIT: dict[str, Any] = {"width": 8, "depth": 2, "heads": 2, "patch": 2}
LAYERS: dict[str, tuple[Any, tuple, dict[str, Any]]] = {
    # The module, its arrays, and what else it is called with.
    "conv": (Conv(5, 3, 2), (X,), {}),
    "upconv": (UpConv(2), (X,), {}),
    "double": (DoubleConv(2), (X,), {}),
    "group_norm": (GroupNorm(2), (normal(2, 4, 4, 8),), {}),
    "batch_norm": (BatchNorm(use_running_average=True), (X,), {}),
    "pixel_attention": (PixelAttention(2), (normal(2, 3, 3, 8),), {}),
    "modulated": (ModulatedConv(4, up=True, linear=True), (X, normal(2, 5)), {}),
    "vit": (PatchEncoder(Transformer(width=8, depth=1, heads=2), 2), (X,), {"dim": 4}),
    "time_mlp": (TimeMLP(8, 1), (X, T), {"out": 3, "y": Y}),
    "residual": (ResBlock(8, scale_shift=True, resample=1), (X, normal(2, 6)), {}),
    "attention": (AttentionBlock(8), (normal(2, 2, 3, 8), WORDS), {}),
    "unet": (UNet(**UNET, scale_shift=True, resample_blocks=True), (X, T), {"out": 3, "y": Y}),
    "unet_words": (UNet(**UNET, patch=2, cross_attention=(1,), remat=True), (X, T), {"out": 3, "context": WORDS}),
    "dit": (DiT(**DIT, remat=True), (X, T), {"out": 3, "y": Y, "context": WORDS}),
    "mmdit": (MMDiT(**DIT), (X, T), {"out": 3, "context": WORDS}),
    "sd": (SDUNet((8, 16), (True, False), 1, heads=2, groups=4), (X, T), {"out": 3, "context": WORDS}),
    "prior": (PriorTransformer(Transformer(width=8, depth=1, heads=2, causal=True)), (normal(2, 6), T),
              {"out": 6, "context": WORDS, "embedding": normal(2, 6, seed=2)}),
    "diffwave": (DiffWaveNet(8, 2, 2), (normal(2, 12), T), {}),
    "video_unet": (VideoUNet(**UNET), (CLIP, T), {"out": 3}),
    "video_dit": (VideoDiT(**DIT), (CLIP, T), {"out": 3}),
}  # fmt: skip
SLOW = {"unet", "unet_words", "vit", "mmdit", "sd", "prior", "video_unet", "video_dit"}
KINKED = {"diffwave"}
"""Those with ReLUs, whose derivative along a direction jumps where parameters move."""
POINTS, WEIGHTS = jnp.array([-2.0, -1.0, 1.0, 2.0]), jnp.array([1 / 12, -2 / 3, 2 / 3, -1 / 12])
"""Of a difference that is exact for polynomials of degree four, so that a step may be long in f32."""


def difference(f, args, direction, h=0.01):
    """The derivative of f along `direction`."""
    values = jax.lax.map(lambda k: f(*jax.tree.map(lambda a, d: a + k * h * d, args, direction)), POINTS)
    return jnp.tensordot(WEIGHTS, values, 1) / h


def close(got, expected):
    scale = float(jnp.max(jnp.abs(expected)))
    assert scale > 1e-3
    np.testing.assert_allclose(got / scale, expected / scale, atol=3e-3)


def like(tree, seed, scale=1.0):
    leaves, structure = jax.tree.flatten(tree)
    return jax.tree.unflatten(structure, [scale * normal(*a.shape, seed=seed + i) for i, a in enumerate(leaves)])


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in LAYERS])
def test_derivatives_along_a_direction(name):
    module, arrays, told = LAYERS[name]
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), *arrays, **told))
    variables = jax.tree.map(jnp.abs, like(shapes, 3, 0.3)) if name == "batch_norm" else like(shapes, 3, 0.3)
    directions, moves = like(arrays, 50), like(variables, 60, 0.3)

    def of(variables, *arrays):
        y = module.apply(variables, *arrays, **told)
        return jax.tree.leaves(y)[-1]

    def along(variables, *arrays):
        return jax.jvp(lambda *arrays: of(variables, *arrays), arrays, directions)[1]

    @jax.jit
    def everything(variables):
        weight = like(jax.eval_shape(along, variables, *arrays), 90)
        size = lambda variables: jnp.sum(weight * along(variables, *arrays))  # noqa: E731
        slope = sum(jnp.sum(g * d) for g, d in zip(*map(jax.tree.leaves, (jax.grad(size)(variables), moves))))
        return (
            (along(variables, *arrays), difference(lambda *a: of(variables, *a), arrays, directions)),
            (slope, difference(size, (variables,), (moves,))),
        )

    first, second = everything(variables)
    close(*first)
    if name not in KINKED:
        close(*second)


@pytest.mark.parametrize("causal", [False, True])
def test_attention_in_blocks(causal, monkeypatch):
    """Both ways that blocks are taken, whose gradients compute them anew."""
    monkeypatch.setattr(attention_blocks, "BLOCK", 4)
    q, k, v = (normal(1, 10, 2, 3, seed=i) for i in range(3))
    directions = tuple(normal(1, 10, 2, 3, seed=i) for i in range(3, 6))
    for way in (attention_blocks.in_blocks, attention_blocks.in_blocks_by_head, attention_blocks.whole):
        f = jax.jit(lambda q, k, v, way=way: way(q, k, v, attention_blocks.Seen(causal)))
        close(jax.jvp(f, (q, k, v), directions)[1], difference(f, (q, k, v), directions))


def test_attention_of_many_queries():
    q, k, v = (normal(1, FEW_ON_CPU, 1, 2, seed=i) for i in range(3))
    directions = tuple(normal(1, FEW_ON_CPU, 1, 2, seed=i) for i in range(3, 6))
    f = jax.jit(attention)
    close(jax.jvp(f, (q, k, v), directions)[1], difference(f, (q, k, v), directions))
