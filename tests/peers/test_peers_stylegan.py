"""Mapping, synthesis and critic of StyleGAN2 against PyTorch, with the published implementation's layout of weights.

The other side is a plain restatement of its semantics: per-example kernels in one grouped convolution, transposed
convolution before the filter, convolution in NCHW.
"""

import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")

import torch.nn.functional as F  # noqa: E402

from jaxgen.nets.stylegan2 import StyleGAN2Critic, StyleGAN2Generator  # noqa: E402

torch.set_num_threads(1)

W, BASE, MOST, CLASSES = 12, 128, 16, 3


def random_weights(shapes: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    """All from N(0, 1), also what starts at zero or one."""
    rng = np.random.default_rng(0)
    return {name: torch.tensor(rng.standard_normal(shape).astype(np.float32)) for name, shape in shapes.items()}


def width(size: int) -> int:
    return min(BASE // size, MOST)


def mapping_shapes(depth: int, inputs: int, out: int, classes: int, name: str = "mapping"):
    shapes = {f"{name}.embed.weight": (out, classes), f"{name}.embed.bias": (out,)} if classes else {}
    widths = [inputs + (out if classes else 0)] + [out] * depth
    for i in range(depth):
        shapes |= {f"{name}.fc{i}.weight": (widths[i + 1], widths[i]), f"{name}.fc{i}.bias": (widths[i + 1],)}
    return shapes


def synthesis_shapes(size: int, channels: int):
    shapes = {"b4.const": (width(4), 4, 4)}
    for res in [2**i for i in range(2, size.bit_length())]:
        convs = [("conv1", width(res), width(res))]
        convs += [("conv0", width(res // 2), width(res))] if res > 4 else []
        for name, i, o in convs:
            shapes |= {f"b{res}.{name}.weight": (o, i, 3, 3), f"b{res}.{name}.bias": (o,)}
            shapes |= {f"b{res}.{name}.noise_strength": ()}
            shapes |= {f"b{res}.{name}.affine.weight": (i, W), f"b{res}.{name}.affine.bias": (i,)}
        shapes |= {f"b{res}.torgb.weight": (channels, width(res), 1, 1), f"b{res}.torgb.bias": (channels,)}
        shapes |= {f"b{res}.torgb.affine.weight": (width(res), W), f"b{res}.torgb.affine.bias": (width(res),)}
    return shapes


# --- their side ---


def lrelu(x, gain=2**0.5):
    return F.leaky_relu(x, 0.2) * gain


def fc(weights, name, x, multiplier=1.0):
    weight, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
    return x @ (weight * multiplier / weight.shape[1] ** 0.5).T + bias * multiplier


def second_moment(x):
    return x * (x.square().mean(dim=1, keepdim=True) + 1e-8).rsqrt()


def mapping(weights, depth, z, c, name="mapping"):
    parts = [] if z is None else [second_moment(z)]
    if c is not None:
        parts.append(second_moment(fc(weights, f"{name}.embed", c)))
    x = torch.cat(parts, dim=1)
    for i in range(depth):
        x = lrelu(fc(weights, f"{name}.fc{i}", x, 0.01))
    return x


def filtered(x, pad, gain=1.0, down=1):
    """upfirdn2d with the filter [1, 3, 3, 1], padding (left, right, top, bottom)."""
    taps = torch.tensor([1.0, 3, 3, 1]) / 8
    kernel = (torch.outer(taps, taps) * gain)[None, None].repeat(x.shape[1], 1, 1, 1)
    return F.conv2d(F.pad(x, pad), kernel, stride=down, groups=x.shape[1])


def modulated(x, weight, styles, demodulate, up):
    own = weight[None] * styles[:, None, :, None, None]
    if demodulate:
        own = own * (own.square().sum(dim=(2, 3, 4), keepdim=True) + 1e-8).rsqrt()
    batch, out, size = x.shape[0], weight.shape[0], weight.shape[-1]
    x = x.reshape(1, -1, *x.shape[2:])
    if up:
        own = own.transpose(1, 2).reshape(-1, out, size, size)
        x = filtered(F.conv_transpose2d(x, own, stride=2, groups=batch), (1, 1, 1, 1), 4)
    else:
        x = F.conv2d(x, own.reshape(-1, *own.shape[2:]), padding=size // 2, groups=batch)
    return x.reshape(batch, out, *x.shape[2:])


def synthesis(weights, size, ws, noise):
    x = weights["b4.const"][None].repeat(len(ws), 1, 1, 1)
    image, used, maps = None, 0, iter(noise)
    for res in [2**i for i in range(2, size.bit_length())]:
        for name in ("conv0", "conv1")[res == 4 :]:
            at = f"b{res}.{name}"
            styles = fc(weights, f"{at}.affine", ws[:, used])
            x = modulated(x, weights[f"{at}.weight"], styles, True, name == "conv0")
            x = x + next(maps) * weights[f"{at}.noise_strength"]
            x = lrelu(x + weights[f"{at}.bias"][None, :, None, None])
            used += 1
        at = f"b{res}.torgb"
        styles = fc(weights, f"{at}.affine", ws[:, used]) / x.shape[1] ** 0.5
        y = modulated(x, weights[f"{at}.weight"], styles, False, False) + weights[f"{at}.bias"][None, :, None, None]
        if image is None:
            image = y
        else:
            stuffed = torch.zeros(*image.shape[:2], res, res)
            stuffed[..., ::2, ::2] = image
            image = filtered(stuffed, (2, 1, 2, 1), 4) + y
    return image


def conv_layer(weights, name, x, down=False, gain=2**0.5, activate=True):
    weight = weights[f"{name}.weight"]
    weight = weight / (weight.shape[1] * weight.shape[2] ** 2) ** 0.5
    size = weight.shape[-1]
    if down and size == 1:
        x = F.conv2d(filtered(x, (1, 1, 1, 1), down=2), weight)
    elif down:
        x = F.conv2d(filtered(x, (2, 2, 2, 2)), weight, stride=2)
    else:
        x = F.conv2d(x, weight, padding=size // 2)
    if f"{name}.bias" in weights:
        x = x + weights[f"{name}.bias"][None, :, None, None]
    return lrelu(x, gain) if activate else x * gain


def critic(weights, size, x, c, depth):
    x = conv_layer(weights, f"b{size}.fromrgb", x)
    for res in [2**i for i in range(size.bit_length() - 1, 2, -1)]:
        skip = conv_layer(weights, f"b{res}.skip", x, down=True, gain=0.5**0.5, activate=False)
        x = conv_layer(weights, f"b{res}.conv0", x)
        x = conv_layer(weights, f"b{res}.conv1", x, down=True, gain=1.0) + skip
    deviation = (x.var(dim=0, correction=0) + 1e-8).sqrt().mean()  # one group: the whole batch
    x = torch.cat([x, deviation.expand(len(x), 1, 4, 4)], dim=1)
    x = conv_layer(weights, "b4.conv", x)
    x = fc(weights, "b4.out", lrelu(fc(weights, "b4.fc", x.flatten(1))))
    if c is None:
        return x[:, 0]
    return (x * mapping(weights, depth, None, c)).sum(dim=1) / x.shape[1] ** 0.5


# --- ours from theirs ---


def numbers(weights, name):
    return jnp.asarray(weights[name].numpy())


def dense(weights, name):
    return {"kernel": numbers(weights, f"{name}.weight").T, "bias": numbers(weights, f"{name}.bias")}


def conv(weights, name):
    kernel = {"kernel": numbers(weights, f"{name}.weight").transpose(2, 3, 1, 0)}
    return kernel | ({"bias": numbers(weights, f"{name}.bias")} if f"{name}.bias" in weights else {})


def our_mapping(weights, depth, classes, name="mapping"):
    params = {f"EqualDense_{i}": dense(weights, f"{name}.fc{i}") for i in range(depth)}
    return params | ({"embed": dense(weights, f"{name}.embed")} if classes else {})


def our_synthesis(weights, size):
    params, layers = {"constant": numbers(weights, "b4.const").transpose(1, 2, 0)}, []
    for res in [2**i for i in range(2, size.bit_length())]:
        layers += [f"b{res}.{name}" for name in ("conv0", "conv1", "torgb")[res == 4 :]]
    for i, at in enumerate(layers):
        params[f"ModulatedConv_{i}"] = conv(weights, at) | {"style": dense(weights, f"{at}.affine")}
        if "torgb" not in at:
            params[f"ModulatedConv_{i}"]["noise"] = numbers(weights, f"{at}.noise_strength")
    return params


def same(ours, theirs):
    theirs = theirs.numpy()
    ours = np.moveaxis(np.asarray(ours), -1, 1) if theirs.ndim == 4 else np.asarray(ours)
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours, theirs, atol=1e-4 * max(1.0, np.abs(theirs).max()))


@pytest.mark.parametrize("classes", [pytest.param(0, marks=pytest.mark.slow), CLASSES])
def test_mapping_and_synthesis(classes):
    size, depth, num = 32, 3, 4
    rng = np.random.default_rng(1)
    weights = random_weights(mapping_shapes(depth, 10, W, classes) | synthesis_shapes(size, 3))
    # Published parameters of the mapping start a hundred times larger, for its rate is a hundredth.
    weights = {name: 100 * w if "fc" in name and w.ndim == 2 else w for name, w in weights.items()}
    generator = StyleGAN2Generator(W, depth, BASE, MOST)
    variables = {"params": {"mapping": our_mapping(weights, depth, classes), "synthesis": our_synthesis(weights, size)}}
    shape = (size, size, 3)
    z, y = rng.standard_normal((num, 10)).astype(np.float32), np.eye(3, dtype=np.float32)[[0, 2, 1, 1]]
    y = y if classes else None
    w = generator.apply(variables, jnp.asarray(z), y, method="styles")
    same(w, mapping(weights, depth, torch.tensor(z), None if y is None else torch.tensor(y)))

    ws = rng.standard_normal((num, generator.layers(shape), W)).astype(np.float32)
    noise = [rng.standard_normal((num, *s, 1)).astype(np.float32) for s in generator.noise_sizes(shape)]
    x = generator.apply(variables, jnp.asarray(ws), shape, tuple(map(jnp.asarray, noise)), method="synthesize")
    same(x, synthesis(weights, size, torch.tensor(ws), [torch.tensor(n).permute(0, 3, 1, 2) for n in noise]))


@pytest.mark.parametrize("classes", [0, CLASSES])
def test_critic(classes):
    size, depth, num, last = 16, 2, 4, width(4)
    shapes = {f"b{size}.fromrgb.weight": (width(size), 3, 1, 1), f"b{size}.fromrgb.bias": (width(size),)}
    for res in (16, 8):
        i, o = width(res), width(res // 2)
        shapes |= {f"b{res}.conv0.weight": (i, i, 3, 3), f"b{res}.conv0.bias": (i,)}
        shapes |= {
            f"b{res}.conv1.weight": (o, i, 3, 3),
            f"b{res}.conv1.bias": (o,),
            f"b{res}.skip.weight": (o, i, 1, 1),
        }
    shapes |= {"b4.conv.weight": (last, last + 1, 3, 3), "b4.conv.bias": (last,)}
    shapes |= {"b4.fc.weight": (last, last * 16), "b4.fc.bias": (last,)}
    shapes |= {"b4.out.weight": (last if classes else 1, last), "b4.out.bias": (last if classes else 1,)}
    weights = random_weights(shapes | (mapping_shapes(depth, 0, last, classes) if classes else {}))

    names = [f"b{size}.fromrgb", "b16.conv0", "b16.conv1", "b16.skip", "b8.conv0", "b8.conv1", "b8.skip", "b4.conv"]
    params = {f"EqualConv_{i}": conv(weights, name) for i, name in enumerate(names)}
    # Their rows are (channel, row, column), ours end in the channel.
    kernel = numbers(weights, "b4.fc.weight").reshape(last, last, 4, 4).transpose(2, 3, 1, 0).reshape(-1, last)
    params |= {"EqualDense_0": {"kernel": kernel, "bias": numbers(weights, "b4.fc.bias")}}
    params |= {"EqualDense_1": dense(weights, "b4.out")}
    if classes:
        params["Mapping_0"] = our_mapping(weights, depth, classes)
    rng = np.random.default_rng(1)
    x, y = rng.standard_normal((num, size, size, 3)).astype(np.float32), np.eye(3, dtype=np.float32)[[0, 2, 1, 1]]
    y = y if classes else None
    ours = StyleGAN2Critic(BASE, MOST, depth=depth).apply({"params": params}, jnp.asarray(x), y)
    theirs = critic(weights, size, torch.tensor(x).permute(0, 3, 1, 2), None if y is None else torch.tensor(y), depth)
    same(ours, theirs)
