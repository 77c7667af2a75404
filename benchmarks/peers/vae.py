"""The VAE of jaxgen.models.vae in eager PyTorch, with either pair of networks."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn

from jaxgen.models.vae import LOGVAR_BOUND, VAE
from jaxgen.nets import conv, mlp
from peers.layers import MLP, Conv, Linear, UpConv, channels_first, has_likelihood, mean, negative_log_likelihood


class ConvEncoder(nn.Module):
    """4x4 stride-2 convolutions with ReLU, then one linear layer."""

    def __init__(self, in_shape: tuple[int, int, int], channels: tuple[int, ...], outputs: int, cond: int = 0):
        super().__init__()
        widths = [in_shape[0] + cond, *channels]
        self.convs = nn.ModuleList(Conv(i, o, 4, 2) for i, o in pairwise(widths))
        self.small = (channels[-1], *(conv.halved(n, len(channels)) for n in in_shape[1:]))
        self.linear = Linear(self.small[0] * self.small[1] * self.small[2], outputs)

    def forward(self, x: torch.Tensor, y: torch.Tensor | None = None) -> torch.Tensor:
        if y is not None:
            x = torch.cat([x, y[:, :, None, None].expand(-1, -1, *x.shape[2:])], 1)
        for layer in self.convs:
            x = F.relu(layer(x))
        return self.linear(x.flatten(1))

    def from_flax(self, params) -> None:
        for i, layer in enumerate(self.convs):
            layer.from_flax(params[f"Conv_{i}"])
        dense = params["Dense_0"]
        self.linear.from_flax({"kernel": dense["kernel"][channels_first(self.small)], "bias": dense["bias"]})


class ConvDecoder(nn.Module):
    """One linear layer to the smallest map, then doublings by transposed convolutions, cropped."""

    def __init__(self, inputs: int, channels: tuple[int, ...], shape: tuple[int, int, int], cond: int = 0):
        super().__init__()
        self.shape = shape
        self.small = (channels[0], *(conv.halved(n, len(channels)) for n in shape[1:]))
        self.linear = Linear(inputs + cond, self.small[0] * self.small[1] * self.small[2])
        widths = [*channels, shape[0]]
        self.convs = nn.ModuleList(UpConv(i, o) for i, o in pairwise(widths))

    def forward(self, z: torch.Tensor, y: torch.Tensor | None = None) -> torch.Tensor:
        if y is not None:
            z = torch.cat([z, y], 1)
        h = F.relu(self.linear(z).view(-1, *self.small))
        for layer in self.convs[:-1]:
            h = F.relu(layer(h))
        return self.convs[-1](h)[:, :, : self.shape[1], : self.shape[2]]

    def from_flax(self, params) -> None:
        order = channels_first(self.small)
        dense = params["Dense_0"]
        self.linear.from_flax({"kernel": dense["kernel"][:, order], "bias": dense["bias"][order]})
        for i, layer in enumerate(self.convs):
            layer.from_flax(params[f"UpConv_{i}"])


class TorchVAE(nn.Module):
    """Encoder, decoder and loss of one `VAE`."""

    def __init__(self, model: VAE):
        super().__init__()
        self.model = model
        height_width, channels = model.shape[:-1], model.shape[-1]
        x_shape = (channels, *height_width)
        out_shape = (channels * model.likelihood.num_params, *height_width)
        cond, latent = model.num_classes, model.latent
        match model.encoder:
            case mlp.MLP(hidden=hidden):
                self.encoder = MLP(x_shape, hidden, (2 * latent,), cond)
            case conv.ConvEncoder(channels=widths):
                self.encoder = ConvEncoder(x_shape, widths, 2 * latent, cond)
        match model.decoder:
            case mlp.MLP(hidden=hidden):
                self.decoder = MLP((latent,), hidden, out_shape, cond)
            case conv.ConvDecoder(channels=widths):
                self.decoder = ConvDecoder(latent, widths, out_shape, cond)

    @staticmethod
    def has(model) -> bool:
        return (
            type(model) is VAE
            and type(model.encoder) in (mlp.MLP, conv.ConvEncoder)
            and type(model.decoder) in (mlp.MLP, conv.ConvDecoder)
            and has_likelihood(model.likelihood)
        )

    def from_flax(self, params) -> None:
        self.encoder.from_flax(params["encoder"])
        self.decoder.from_flax(params["decoder"])

    def label(self, cond: torch.Tensor | None) -> torch.Tensor | None:
        return F.one_hot(cond, self.model.num_classes).float() if self.model.num_classes else None

    def encode(self, x: torch.Tensor, y: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        mu, logvar = self.encoder(x, y).chunk(2, 1)
        return mu, LOGVAR_BOUND * torch.tanh(logvar / LOGVAR_BOUND)

    def loss(self, x: torch.Tensor, cond: torch.Tensor | None = None, step: int = 0, eps=None) -> torch.Tensor:
        model, y = self.model, self.label(cond)
        mu, logvar = self.encode(x, y)
        eps = torch.randn_like(mu) if eps is None else eps
        z = mu + torch.exp(0.5 * logvar) * eps
        reconstruction = negative_log_likelihood(model.likelihood, self.decoder(z, y), x)
        kl_each = 0.5 * (mu**2 + logvar.exp() - 1 - logvar)
        kl = kl_each.mean(0).clamp(min=model.free_bits).sum() if model.free_bits else kl_each.sum() / len(x)
        return reconstruction + model.beta * min(1.0, (step + 1) / max(1, model.kl_warmup)) * kl

    def sample(self, num: int, cond: torch.Tensor | None = None, device=None) -> torch.Tensor:
        z = torch.randn(num, self.model.latent, device=device)
        return mean(self.model.likelihood, self.decoder(z, self.label(cond)))
