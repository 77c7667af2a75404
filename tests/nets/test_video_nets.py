"""Networks of clips: frames of a new network are the image network's outputs; layers over time against slow ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.errors import UserError
from jaxgen.nets.dit import DiT, DiTBlock
from jaxgen.nets.unet import UNet
from jaxgen.nets.video import (
    ClipEncoder,
    StackedFrames,
    TemporalAttention,
    TemporalConv,
    VideoDiT,
    VideoDiTBlock,
    VideoUNet,
)

X = jnp.float32(np.random.default_rng(0).normal(size=(2, 3, 4, 4, 2)))
T, Y = jnp.array([10.0, 600.0]), jnp.eye(2)
CONTEXT = jnp.float32(np.random.default_rng(1).normal(size=(2, 3, 4)))
SETTINGS = {"width": 8, "mults": (1, 2), "blocks": 1, "attention": (2,), "head_dim": 8}
PAIRS = {
    "unet": (UNet(**SETTINGS), VideoUNet(**SETTINGS), None),
    "dit": (DiT(width=8, depth=2, heads=2, patch=2), VideoDiT(width=8, depth=2, heads=2, patch=2), CONTEXT),
}
"""Networks of images and of clips, and what they are told as a context."""
NEW = "emporal"


def randomised(shapes, old=()):
    """Random parameters; those that `old` has by the same path are its own, and what starts at zero does so still."""
    rng, given = np.random.default_rng(2), {jax.tree_util.keystr(p): a for p, a in old}

    def drawn(path, p):
        name = jax.tree_util.keystr(path)
        if "temporal_modulation" in name or ("Temporal" in name and "['out']" in name):
            return jnp.zeros(p.shape)
        return given[name] if name in given else jnp.float32(0.3 * rng.normal(size=p.shape))

    return jax.tree_util.tree_map_with_path(drawn, shapes)


@pytest.fixture(scope="module", params=PAIRS)
def pair(request):
    """Both networks as functions of parameters and x, and parameters: the image network's, and these with layers over
    time as they start."""
    images, clips, context = PAIRS[request.param]
    key = jax.random.key(0)
    params = randomised(jax.eval_shape(lambda: images.init(key, X[:, 0], T, 2, Y, context)))
    shapes = jax.eval_shape(lambda: clips.init(key, X, T, 2, Y, context))
    image, clip = (jax.jit(lambda p, x, net=net: net.apply(p, x, T, 2, Y, context)) for net in (images, clips))
    return image, clip, params, randomised(shapes, jax.tree_util.tree_leaves_with_path(params))


def test_a_clip_starts_as_its_images(pair):
    """Every frame is what the network of images makes of it; the parameters are those and layers over time."""
    image, clip, params, wider = pair
    out = clip(wider, X)
    assert out.shape == X.shape and np.abs(out).max() > 0.1
    for frame in range(3):
        np.testing.assert_allclose(out[:, frame], image(params, X[:, frame]), atol=1e-4)
    named = {jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(wider)}
    older = {jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)}
    assert older < named and all(NEW in name for name in named - older)


def test_layers_over_time_start_as_the_identity():
    """By their own initial parameters: the U-Net's change nothing, the DiT's block is that of images."""
    x = X.reshape(6, 4, 4, 2)
    for layer in (TemporalConv(3), TemporalAttention(2)):
        np.testing.assert_array_equal(layer.init_with_output(jax.random.key(0), x, 3)[0], x)
    tokens, embedding = x.reshape(6, 4, 8), X[..., 0].reshape(6, 16)[:, :8]
    block = VideoDiTBlock(heads=2)
    params = block.init(jax.random.key(0), tokens, embedding, jnp.zeros(3))["params"]
    older = {name: params[name] for name in ("modulation", "self_attention", "token_mlp")}
    older["modulation"] = jax.tree.map(lambda a: a + 0.1, older["modulation"])
    expected = DiTBlock(heads=2).apply({"params": older}, tokens, embedding)
    assert np.abs(expected - tokens).max() > 0.01
    got = block.apply({"params": {**params, **older}}, tokens, embedding, jnp.zeros(3))
    np.testing.assert_allclose(got, expected, atol=1e-6)


def test_frames_see_one_another_once_the_layers_over_time_have_learnt(pair):
    """And clips of a batch never do."""
    _, clip, _, wider = pair
    learnt = jax.tree.map(lambda a: jnp.where(jnp.all(a == 0), 0.1, a), wider)
    base, other = clip(learnt, X), clip(learnt, X.at[0, 2].add(1.0))
    assert np.abs(other - base)[0, 0].max() > 1e-4
    np.testing.assert_allclose(other[1], base[1], atol=1e-5)


def test_a_convolution_over_time_is_one_of_three_axes():
    """Against lax's, whose kernel has one pixel; in a clip of each length."""
    layer, rng = TemporalConv(3), np.random.default_rng(3)
    x = jnp.float32(rng.normal(size=(10, 2, 3, 4)))
    params = layer.init(jax.random.key(0), x, 5)["params"]
    kernel = rng.normal(size=params["out"]["kernel"].shape).astype(np.float32)
    params["out"]["kernel"] = jnp.asarray(kernel)
    got = layer.apply({"params": params}, x, 5) - x
    images = np.asarray(x, np.float64)
    groups = images.reshape(10, -1, 1, 4)  # one group: of four channels
    normal = (images - groups.mean((1, 3), keepdims=True)) / np.sqrt(groups.var((1, 3), keepdims=True) + 1e-6)
    active = normal / (1 + np.exp(-normal))
    clip = jnp.float32(active.reshape(2, 5, 2, 3, 4))
    dims = jax.lax.conv_dimension_numbers(clip.shape, (3, 1, 1, 4, 4), ("NDHWC", "DHWIO", "NDHWC"))
    expected = jax.lax.conv_general_dilated(
        clip, kernel.reshape(3, 1, 1, 4, 4), (1, 1, 1), [(1, 1), (0, 0), (0, 0)], dimension_numbers=dims
    )
    np.testing.assert_allclose(got, expected.reshape(x.shape), atol=2e-4)


def test_attention_over_time_is_of_each_pixel_and_of_distances_alone():
    """Frames in another order have other outputs, equal frames equal ones: nothing tells where in a clip they are."""
    layer, rng = TemporalAttention(4), np.random.default_rng(4)
    x = jnp.float32(rng.normal(size=(6, 2, 2, 4)))
    shapes = jax.eval_shape(lambda: layer.init(jax.random.key(0), x, 6))
    params = jax.tree.map(lambda p: jnp.float32(rng.normal(size=p.shape)), shapes)
    apply = jax.jit(lambda x: layer.apply(params, x, 6))
    # Statistics of the norm are of a whole frame; else pixels are not mixed, so that their rows may be exchanged.
    np.testing.assert_allclose(apply(x[:, ::-1])[:, ::-1], apply(x), atol=1e-4)
    order = jnp.array([1, 0, 2, 3, 4, 5])
    assert np.abs(apply(x[order])[order] - apply(x)).max() > 1e-3  # frames are no set
    same = apply(jnp.broadcast_to(x[:1], x.shape))
    np.testing.assert_allclose(same, jnp.broadcast_to(same[:1], x.shape), atol=1e-4)


def test_stacked_frames_are_channels():
    """Channel c of frame f is channel f C + c of an image, into the network and out of it."""
    told = (T, 3, Y)
    network = StackedFrames(network=UNet(4, (1,), 1, ()))
    params = randomised(jax.eval_shape(lambda: network.init(jax.random.key(0), X, *told)))
    inner = {"params": params["params"]["network"]}
    image = np.concatenate([np.asarray(X)[:, f] for f in range(3)], axis=-1)
    expected = network.network.apply(inner, image, T, 9, Y)
    got = network.apply(params, X, *told)
    assert got.shape == (2, 3, 4, 4, 3)
    for f in range(3):
        np.testing.assert_allclose(got[:, f], expected[..., 3 * f : 3 * f + 3], atol=1e-5)
    network.check((3, 4, 4, 2))
    with pytest.raises(UserError, match="cannot be halved"):
        StackedFrames(network=UNet(mults=(1, 2))).check((3, 5, 4, 2))


def test_features_of_a_clip_see_its_order():
    network = ClipEncoder(channels=(4, 4))
    clip = jnp.float32(np.random.default_rng(5).normal(size=(2, 5, 8, 8, 1)))
    out, params = jax.jit(lambda: network.init_with_output(jax.random.key(0), clip, (6,)))()
    assert out.shape == (2, 6)
    assert np.abs(network.apply(params, clip[:, ::-1], (6,)) - out).max() > 1e-3


def test_shapes_that_are_no_clips_are_refused():
    for _, clips, _ in PAIRS.values():
        clips.check((3, 4, 4, 2))
        with pytest.raises(UserError, match="are no clips"):
            clips.check((4, 4, 2))
        with pytest.raises(UserError, match="multiples of 2"):
            clips.check((3, 5, 4, 2))
    assert VideoUNet(attention=(4,)).told_texts((8, 16, 16, 1)).cross_attention == (4,)
