"""What the PyTorch networks share: layers that copy Flax parameters, and the codecs and likelihoods of the library.

Images are f32[B, C, H, W] here. A Flax kernel is [in, out] (dense) or HWIO (convolution).
"""

import math
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from jaxgen import codecs
from jaxgen.ops import likelihood as likelihoods


def tensor(array) -> torch.Tensor:
    return torch.from_numpy(np.array(array, np.float32))


def copy(target: torch.Tensor, array) -> None:
    """Overwrites a parameter in place; the shapes must agree."""
    source = tensor(array)
    if target.shape != source.shape:
        raise ValueError(f"parameter is {tuple(target.shape)}, Flax has {tuple(source.shape)}")
    with torch.no_grad():
        target.copy_(source)


class Linear(nn.Linear):
    def from_flax(self, params) -> None:
        copy(self.weight, np.asarray(params["kernel"]).T)
        if self.bias is not None:
            copy(self.bias, params["bias"])


class Conv(nn.Module):
    """Square kernel, SAME padding as TensorFlow and Flax define it: the odd pixel goes after."""

    def __init__(self, inputs: int, features: int, size: int = 3, stride: int = 1, bias: bool = True):
        super().__init__()
        self.size, self.stride = size, stride
        self.conv = nn.Conv2d(inputs, features, size, stride, bias=bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pads = [max(0, (-(-n // self.stride) - 1) * self.stride + self.size - n) for n in x.shape[2:]]
        if pads[0] % 2 or pads[1] % 2:
            x = F.pad(x, (pads[1] // 2, pads[1] - pads[1] // 2, pads[0] // 2, pads[0] - pads[0] // 2))
            pads = [0, 0]
        padding = (pads[0] // 2, pads[1] // 2)
        return F.conv2d(x, self.conv.weight, self.conv.bias, self.stride, padding)

    def from_flax(self, params) -> None:
        copy(self.conv.weight, np.asarray(params["kernel"]).transpose(3, 2, 0, 1))
        if self.conv.bias is not None:
            copy(self.conv.bias, params["bias"])


class UpConv(nn.ConvTranspose2d):
    def __init__(self, inputs: int, features: int, bias: bool = True):
        super().__init__(inputs, features, 4, stride=2, padding=1, bias=bias)

    def from_flax(self, params) -> None:
        copy(self.weight, np.asarray(params["kernel"]).transpose(2, 3, 0, 1))
        if self.bias is not None:
            copy(self.bias, params["bias"])


class GroupNorm(nn.GroupNorm):
    """32 groups, or as many as divide a narrower layer into groups of at least four channels."""

    def __init__(self, channels: int):
        super().__init__(math.gcd(32, max(1, channels // 4)), channels, eps=1e-6)

    def from_flax(self, params) -> None:
        copy(self.weight, params["scale"])
        copy(self.bias, params["bias"])


class MLP(nn.Module):
    """Linear layers with ReLU between, over flattened examples; `shape` may be an image's (C, H, W)."""

    def __init__(self, in_shape: tuple[int, ...], hidden: tuple[int, ...], shape: tuple[int, ...], cond: int = 0):
        super().__init__()
        self.in_shape, self.shape = in_shape, shape
        widths = [math.prod(in_shape) + cond, *hidden, math.prod(shape)]
        self.layers = nn.ModuleList(Linear(i, o) for i, o in pairwise(widths))

    def forward(self, x: torch.Tensor, y: torch.Tensor | None = None) -> torch.Tensor:
        h = x.flatten(1)
        if y is not None:
            h = torch.cat([h, y], 1)
        for layer in self.layers[:-1]:
            h = F.relu(layer(h))
        return self.layers[-1](h).view(-1, *self.shape)

    def from_flax(self, params) -> None:
        for i, layer in enumerate(self.layers):
            kernel, bias = np.asarray(params[f"Dense_{i}"]["kernel"]), np.asarray(params[f"Dense_{i}"]["bias"])
            if i == 0:
                order = channels_first(self.in_shape)
                kernel = np.concatenate([kernel[order], kernel[len(order) :]])
            if i == len(self.layers) - 1:
                order = channels_first(self.shape)
                kernel, bias = kernel[:, order], bias[order]
            layer.from_flax({"kernel": kernel, "bias": bias})


def channels_first(shape: tuple[int, ...]) -> np.ndarray:
    """Where each element of a flattened example of `shape`, (C, H, W) or any other rank, stands in Flax's (H, W, C)."""
    if len(shape) != 3:
        return np.arange(math.prod(shape))
    channels, height, width = shape
    return np.arange(math.prod(shape)).reshape(height, width, channels).transpose(2, 0, 1).reshape(-1)


# --- codecs and likelihoods ---------------------------------------------------------------------------------------


class Codec:
    """The library's codec on data that already is f32 in [0, 255]."""

    def __init__(self, codec: codecs.Codec):
        self.codec = codec

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        match self.codec:
            case codecs.Pixels(low=low, high=high):
                return x / 255 * (high - low) + low
            case codecs.Binarize(dynamic=dynamic):
                return torch.bernoulli(x / 255) if dynamic else (x > 127.5).float()
            case codecs.Identity():
                return x

    def decode(self, x: torch.Tensor) -> torch.Tensor:
        match self.codec:
            case codecs.Pixels(low=low, high=high):
                return ((x - low) / (high - low)).clamp(0, 1).mul(255).round().to(torch.uint8)
            case codecs.Binarize():
                return x.clamp(0, 1).mul(255).round().to(torch.uint8)
            case codecs.Identity():
                return x


def has_codec(codec: codecs.Codec) -> bool:
    return type(codec) in (codecs.Pixels, codecs.Binarize, codecs.Identity)


def has_likelihood(likelihood: likelihoods.Likelihood) -> bool:
    return type(likelihood) in (likelihoods.Bernoulli, likelihoods.Gaussian, likelihoods.DiscretizedLogistic)


def negative_log_likelihood(likelihood: likelihoods.Likelihood, params: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """-log p(x | z) averaged over the batch, in nats."""
    match likelihood:
        case likelihoods.Bernoulli():
            return F.binary_cross_entropy_with_logits(params, x, reduction="sum") / len(x)
        case likelihoods.Gaussian(learned=False, std=std):
            constant = 0.5 * math.log(2 * math.pi) + math.log(std)
            return F.mse_loss(params, x, reduction="sum") / (2 * std**2 * len(x)) + constant * x[0].numel()
        case likelihoods.Gaussian(bound=bound):
            mu, raw = params.chunk(2, 1)
            logvar = bound * torch.tanh(raw / bound)
            total = math.log(2 * math.pi) + logvar + (x - mu) ** 2 * torch.exp(-logvar)
            return 0.5 * total.sum() / len(x)
        case likelihoods.DiscretizedLogistic(levels=levels, bound=bound):
            mu, raw = params.chunk(2, 1)
            inv, half = torch.exp(2.0 - bound * torch.tanh(raw / bound)), 1 / (levels - 1)
            upper, lower = (x - mu + half) * inv, (x - mu - half) * inv
            inside = F.logsigmoid(upper) + F.logsigmoid(-lower) + torch.log(-torch.expm1(-2 * half * inv))
            total = torch.where(x > 1 - half, F.logsigmoid(-lower), inside)
            return -torch.where(x < half - 1, F.logsigmoid(upper), total).sum() / len(x)


def mean(likelihood: likelihoods.Likelihood, params: torch.Tensor) -> torch.Tensor:
    match likelihood:
        case likelihoods.Bernoulli():
            return torch.sigmoid(params)
        case _:
            return params[:, : params.shape[1] // likelihood.num_params]
