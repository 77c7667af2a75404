"""Image metrics: which inputs are accepted, layers of their networks, and distances between images."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from PIL import Image

from jaxgen.errors import UserError
from jaxgen.metrics.features import Features
from jaxgen.metrics.image import PSNR, SSIM, psnr, ssim
from jaxgen.metrics.inputs import check_images, check_pair
from jaxgen.metrics.lpips import LPIPS, MeanLPIPS, distance
from jaxgen.metrics.ppl import PPL, LatentPath, lerp, path_lengths, slerp, slerp_unit
from jaxgen.nets import frozen
from jaxgen.ops.conv import DIMS
from jaxgen.ops.resize import clean_bicubic
from jaxgen.weights.lpips import ALEX
from jaxgen.weights.store import Weights
from jaxgen.weights.torchvision import alexnet_template

rng = np.random.default_rng(0)


def pictures(num: int, side: int) -> np.ndarray:
    return rng.integers(0, 256, (num, side, side, 3), dtype=np.uint8)


# --- input --------------------------------------------------------------------------------------------------------

GOOD = pictures(2, 8)
BAD = {
    "uint8 in .0, 255. is expected": (GOOD.astype(np.float32) / 127.5 - 1),
    r"float32 in \[-1, 1\]": np.linspace(-1, 1, 2 * 64 * 3, dtype=np.float32).reshape(2, 8, 8, 3),
    r"int32 in \[0, 255\]": np.linspace(0, 255, 2 * 64 * 3).astype(np.int32).reshape(2, 8, 8, 3),
    r"lie in \[0, 1\] though they are uint8": (GOOD > 127).astype(np.uint8),
    r"\[B, H, W, C\] is expected": GOOD[0],
    "with 4 channels.*grey or RGB": np.zeros((2, 8, 8, 4), np.uint8),
    "move axis 1 to the end": np.zeros((2, 3, 8, 8), np.uint8),
    "8 x 8 or more": GOOD[:, :7],
    "at least one image": GOOD[:0],
}


@pytest.mark.parametrize("message", BAD)
def test_bad_images(message):
    with pytest.raises(UserError, match=message):
        check_images(BAD[message], smallest=8)


def test_good_images():
    assert check_images(GOOD) is GOOD
    for grey in (GOOD[..., :1], jnp.asarray(GOOD[..., :1])):
        np.testing.assert_array_equal(check_images(grey), np.repeat(GOOD[..., :1], 3, axis=3))
    assert check_images(np.zeros((1, 8, 8, 3), np.uint8)).any() == False  # noqa: E712 (black is an image)


def test_metrics_check_first():
    """Before weights are used: here there are none."""
    inception = Features(Weights("inception", {}, "", "", "", False))
    heads = Weights("lpips_alex", {}, "", "", "", False)
    lpips = LPIPS(Weights("alexnet", {}, "", "", "", False), heads)
    floats = GOOD.astype(np.float32)
    for metric in (inception, lambda x: lpips(x, x), lambda x: psnr(x, x), lambda x: ssim(x, x)):
        with pytest.raises(UserError, match="float32"):
            metric(floats)
    with pytest.raises(UserError, match="31 x 31 or more"):
        lpips(GOOD, GOOD)
    with pytest.raises(UserError, match="11 x 11 or more"):
        ssim(GOOD, GOOD)
    with pytest.raises(UserError, match="equal shapes"):
        check_pair(GOOD, GOOD[:1])
    with pytest.raises(UserError, match="use lpips_alex with alexnet, lpips_vgg with vgg16"):
        LPIPS(Weights("vgg16", {}, "", "", "", False), heads)
    with pytest.raises(UserError, match="no features of whole images"):
        Features(heads)
    with pytest.raises(UserError, match="did you mean clean"):
        Features(Weights("inception", {}, "", "", "", False), resize="clen")


# --- layers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("height, width", [(28, 28), (40, 33), (400, 350)])
def test_clean_resize_is_pillows(height, width):
    """Upsampled, slightly downsampled, and both."""
    x = rng.uniform(0, 255, (1, height, width, 2)).astype(np.float32)
    side = 299
    channels = [Image.fromarray(x[0, :, :, i]).resize((side, side), Image.Resampling.BICUBIC) for i in range(2)]
    np.testing.assert_allclose(clean_bicubic(x, side)[0], np.stack(channels, axis=-1), rtol=0, atol=1e-4)


def windows(x, size, stride, pad, reduce):
    """A loop over the windows of x[H, W], padded with NaN, which `reduce` ignores."""
    x = np.pad(x, pad, constant_values=np.nan)
    out = [(n - size) // stride + 1 for n in x.shape]
    at = partial(np.multiply, stride)
    return np.array([
        [reduce(x[at(i) : at(i) + size, at(j) : at(j) + size]) for j in range(out[1])] for i in range(out[0])
    ])  # fmt: skip


@pytest.mark.parametrize("size, stride, pad", [(3, 2, 0), (3, 1, 1), (2, 2, 0)])
def test_pools(size, stride, pad):
    x = rng.normal(size=(1, 9, 8, 1)).astype(np.float32)
    expected = windows(x[0, :, :, 0], size, stride, pad, np.nanmax)
    np.testing.assert_array_equal(frozen.max_pool(x, size, stride, pad)[0, :, :, 0], expected)
    expected = windows(x[0, :, :, 0], 3, 1, 1, np.nanmean)
    np.testing.assert_allclose(frozen.mean_pool(x)[0, :, :, 0], expected, rtol=1e-5, atol=1e-6)


class Layer(nn.Module):
    size: tuple[int, int]
    stride: int
    pad: int | None

    @nn.compact
    def __call__(self, x):
        return frozen.conv("layer", x, 4, self.size, self.stride, self.pad)


@pytest.mark.parametrize(
    "size, stride, pad, pads",
    [((3, 3), 1, 0, (0, 0)), ((3, 3), 2, 0, (0, 0)), ((1, 7), 1, None, (0, 3)), ((5, 5), 1, None, (2, 2)),
     ((11, 11), 4, 2, (2, 2)), ((1, 1), 1, None, (0, 0))],
)  # fmt: skip
def test_convolutions(size, stride, pad, pads):
    """Including those that are computed by an equivalent convolution."""
    x = jnp.asarray(rng.normal(size=(2, 14, 13, 3)).astype(np.float32))
    kernel, bias = (jnp.asarray(rng.normal(size=s).astype(np.float32)) for s in ((*size, 3, 4), (4,)))
    found = Layer(size, stride, pad).apply({"params": {"layer": {"kernel": kernel, "bias": bias}}}, x)
    y = jax.lax.conv_general_dilated(x, kernel, (stride, stride), [(p, p) for p in pads], dimension_numbers=DIMS)
    np.testing.assert_allclose(found, nn.relu(y + bias[None, None, None]), rtol=0, atol=1e-5)


# --- distances ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lpips():
    params = jax.tree.map(lambda p: rng.normal(0, 0.1, p.shape).astype(np.float32), alexnet_template())
    heads = {f"lin{i}": jnp.full((n,), 0.1) for i, n in enumerate(ALEX)}
    return LPIPS(Weights("alexnet", params, "", "", "", False), Weights("lpips_alex", heads, "", "", "", False))


class Trunk(nn.Module):
    @nn.compact
    def __call__(self, x):
        return [frozen.conv("layer", x, 2, (3, 3))]


@pytest.mark.parametrize("bias", [-100.0, 1.0])
def test_lpips_has_gradients_where_features_vanish(bias):
    """A plain root gives NaN at 0, where all features of a pixel are 0."""
    params = {"layer": {"kernel": jnp.ones((3, 3, 3, 2)), "bias": jnp.array([bias, 2 * bias])}}
    x, y = jnp.zeros((1, 5, 5, 3)), jnp.ones((1, 5, 5, 3))
    grad = jax.grad(lambda x: jnp.sum(distance(Trunk(), params, {"lin0": jnp.ones(2)}, x, y)))(x)
    assert jnp.all(jnp.isfinite(grad))
    assert jnp.any(grad != 0) == (bias > 0)


def test_means_over_pairs(lpips):
    """For each metric, with a padded last batch; equal images score 0, infinity and 1."""
    x, y = pictures(3, 32), pictures(3, 32)
    mask = np.array([True, True, False])
    for metric, single in (
        (MeanLPIPS(capacity=5, metric=lpips), lpips), (PSNR(capacity=5), psnr), (SSIM(capacity=5), ssim),
    ):  # fmt: skip
        state = metric.update(metric.init(), (x, y))
        found = metric.compute(metric.update(state, (y, x), mask))
        expected = np.concatenate([single(x, y), np.asarray(single(y, x))[:2]])
        assert found["num"] == 5
        assert found[metric.name] == pytest.approx(np.mean(expected, dtype=np.float64))
    assert float(lpips(x, x)[0]) == 0
    assert float(psnr(x, x)[0]) == np.inf
    assert float(ssim(x, x)[0]) == pytest.approx(1)


def test_path_length_of_a_linear_generator():
    """With d = |x - y|^2 and G(w) = A w, the length is |A (b - a)|^2 everywhere."""
    a, b, matrix = (jnp.asarray(rng.normal(size=s).astype(np.float32)) for s in ((6, 4), (6, 4), (5, 4)))
    t = jnp.linspace(0, 0.9, 6)

    def apart(x, y):
        return jnp.sum((x - y) ** 2, axis=1)

    found = path_lengths(lambda w: w @ matrix.T, apart, LatentPath(a, b, lerp), t, eps=1e-2)
    np.testing.assert_allclose(found, np.sum(((b - a) @ matrix.T) ** 2, axis=1), rtol=1e-3)
    # On the unit sphere the speed is the angle between the ends.
    a, b = (v / jnp.linalg.norm(v, axis=1, keepdims=True) for v in (a, b))
    found = path_lengths(lambda z: z, apart, LatentPath(a, b, slerp), t, eps=1e-2)
    np.testing.assert_allclose(found, np.arccos(np.sum(a * b, axis=1)) ** 2, rtol=1e-3)


def test_interpolation_meets_its_ends():
    a, b = (jnp.asarray(rng.normal(size=(3, 4)).astype(np.float32)) for _ in range(2))
    for interpolate in (lerp, slerp):
        np.testing.assert_allclose(interpolate(a, b, jnp.zeros(3)), a, atol=1e-6)
        np.testing.assert_allclose(interpolate(a, b, jnp.ones(3)), b, atol=1e-6)
    np.testing.assert_allclose(slerp(a, 2 * a, jnp.full(3, 0.5)), 1.5 * a, rtol=1e-3)


def test_slerp_unit_is_stylegans_slerp_of_unit_vectors():
    """The textbook formula in float64, times sqrt(D)."""
    a, b = rng.normal(size=(2, 5, 8))
    t = np.linspace(0, 1, 5)
    u, v = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b))
    angle = np.arccos(np.sum(u * v, axis=1))
    expected = (np.sin((1 - t) * angle)[:, None] * u + np.sin(t * angle)[:, None] * v) / np.sin(angle)[:, None]
    got = slerp_unit(*(jnp.asarray(x, jnp.float32) for x in (a, b, t)))
    np.testing.assert_allclose(got, np.sqrt(8) * expected, atol=1e-5)


def test_path_lengths_are_trimmed():
    metric = PPL(capacity=200)
    values = np.full(200, 2.0, np.float32)
    values[:1], values[-1:] = -1e6, 1e6
    found = metric.compute(metric.update(metric.init(), jnp.asarray(values)))
    assert found == {"ppl": 2.0, "num": 200}
