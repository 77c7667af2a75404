"""The GAN of jaxgen.models.gan in eager PyTorch: fully connected and DCGAN networks, without classes."""

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn

from jaxgen.models.gan import GAN
from jaxgen.nets import gan as nets
from jaxgen.nets.conv import halved
from jaxgen.ops.gan import NonSaturating, Wasserstein
from peers.layers import Conv, Linear, UpConv, channels_first, copy
from peers.optim import Descent, is_written


class BatchNorm(nn.Module):
    def __init__(self, norm: nn.Module):
        super().__init__()
        self.norm = norm

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        return self.norm(h)

    def from_flax(self, params) -> None:
        copy(self.norm.weight, params["scale"])
        copy(self.norm.bias, params["bias"])


class MLPGenerator(nn.Module):
    """Linear layers with leaky ReLU, batch normalization in all but the first."""

    def __init__(self, net: nets.MLPGenerator, latent: int, shape: tuple[int, ...]):
        super().__init__()
        self.shape, self.squash = shape, net.squash
        widths = [latent, *net.hidden]
        normalized = [net.normalize and i > 0 for i in range(len(net.hidden))]
        self.layers = nn.ModuleList(
            Linear(i, o, bias=not norm) for (i, o), norm in zip(pairwise(widths), normalized, strict=True)
        )
        self.norms = nn.ModuleList(
            BatchNorm(nn.BatchNorm1d(o)) if norm else nn.Identity()
            for o, norm in zip(net.hidden, normalized, strict=True)
        )
        self.last = Linear(widths[-1], math.prod(shape))

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        for layer, norm in zip(self.layers, self.norms, strict=True):
            z = F.leaky_relu(norm(layer(z)), 0.2)
        x = self.last(z).view(-1, *self.shape)
        return torch.tanh(x) if self.squash else x

    def from_flax(self, params) -> None:
        norms = [norm for norm in self.norms if isinstance(norm, BatchNorm)]
        for i, norm in enumerate(norms):
            norm.from_flax(params[f"BatchNorm_{i}"])
        for i, layer in enumerate(self.layers):
            layer.from_flax(params[f"Dense_{i}"])
        last, order = params[f"Dense_{len(self.layers)}"], channels_first(self.shape)
        self.last.from_flax({"kernel": last["kernel"][:, order], "bias": last["bias"][order]})


class MLPCritic(nn.Module):
    """Linear layers with leaky ReLU and dropout."""

    def __init__(self, net: nets.MLPCritic, shape: tuple[int, ...]):
        super().__init__()
        self.shape, self.dropout = shape, nn.Dropout(net.dropout)
        self.layers = nn.ModuleList(Linear(i, o) for i, o in pairwise([math.prod(shape), *net.hidden]))
        self.head = Linear(net.hidden[-1], 1, bias=net.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = x.flatten(1)
        for layer in self.layers:
            h = self.dropout(F.leaky_relu(layer(h), 0.2))
        return self.head(h)[:, 0]

    def from_flax(self, params) -> None:
        for i, layer in enumerate(self.layers):
            dense = params[f"Dense_{i}"]
            kernel = dense["kernel"][channels_first(self.shape)] if i == 0 else dense["kernel"]
            layer.from_flax({"kernel": kernel, "bias": dense["bias"]})
        self.head.from_flax(params["Head_0"]["Dense_0"])


class DoubleConv(Conv):
    """Doubling by the nearest pixel, then a 3x3 convolution."""

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        return super().forward(F.interpolate(h, scale_factor=2, mode="nearest"))


class DCGANGenerator(nn.Module):
    """A linear layer to the smallest map, then doublings."""

    def __init__(self, net: nets.DCGANGenerator, latent: int, shape: tuple[int, int, int]):
        super().__init__()
        self.shape, self.slope = shape, net.slope
        self.small = (net.channels[0], *(halved(n, len(net.channels)) for n in shape[1:]))
        self.linear = Linear(latent, math.prod(self.small), bias=False)
        self.norms = nn.ModuleList(BatchNorm(nn.BatchNorm2d(n)) for n in net.channels)
        widths = list(pairwise([*net.channels, shape[0]]))
        up = UpConv if net.up == "transposed" else DoubleConv
        self.ups = nn.ModuleList(up(i, o, bias=n == len(widths) - 1) for n, (i, o) in enumerate(widths))

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        h = self.linear(z).view(-1, *self.small)
        for norm, up in zip(self.norms, self.ups, strict=True):
            h = up(F.leaky_relu(norm(h), self.slope))
        return torch.tanh(h[:, :, : self.shape[1], : self.shape[2]])

    def from_flax(self, params) -> None:
        self.linear.from_flax({"kernel": params["Dense_0"]["kernel"][:, channels_first(self.small)]})
        for i, (norm, up) in enumerate(zip(self.norms, self.ups, strict=True)):
            norm.from_flax(params[f"BatchNorm_{i}"])
            up.from_flax(params[f"Conv2D_{i}"])


class DCGANCritic(nn.Module):
    """Stride-2 convolutions with leaky ReLU, batch normalization in all but the first where it has any."""

    def __init__(self, net: nets.DCGANCritic, shape: tuple[int, int, int]):
        super().__init__()
        widths = [shape[0], *net.channels]
        normalized = [net.normalize and i > 0 for i in range(len(net.channels))]
        self.convs = nn.ModuleList(
            Conv(i, o, net.size, 2, bias=not norm) for (i, o), norm in zip(pairwise(widths), normalized, strict=True)
        )
        self.norms = nn.ModuleList(
            BatchNorm(nn.BatchNorm2d(o)) if norm else nn.Identity()
            for o, norm in zip(net.channels, normalized, strict=True)
        )
        self.dropout = nn.Dropout2d(net.dropout)
        self.small = (net.channels[-1], *(halved(n, len(net.channels)) for n in shape[1:]))
        self.head = Linear(math.prod(self.small), 1, bias=net.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = self.dropout(F.leaky_relu(norm(conv(x)), 0.2))
        return self.head(x.flatten(1))[:, 0]

    def from_flax(self, params) -> None:
        for i, conv in enumerate(self.convs):
            conv.from_flax(params[f"Conv2D_{i}"])
        for i, norm in enumerate(norm for norm in self.norms if isinstance(norm, BatchNorm)):
            norm.from_flax(params[f"BatchNorm_{i}"])
        head = params["Head_0"]["Dense_0"]
        self.head.from_flax({**head, "kernel": head["kernel"][channels_first(self.small)]})


GENERATORS = {nets.MLPGenerator: MLPGenerator, nets.DCGANGenerator: DCGANGenerator}
CRITICS = {nets.MLPCritic: MLPCritic, nets.DCGANCritic: DCGANCritic}


class TorchGAN(nn.Module):
    """Both networks and the two losses."""

    def __init__(self, model: GAN):
        super().__init__()
        self.model = model
        shape = (model.shape[-1], *model.shape[:-1])
        self.gen = GENERATORS[type(model.generator)](model.generator, model.latent, shape)
        self.critic = CRITICS[type(model.critic)](model.critic, shape)

    @staticmethod
    def has(model) -> bool:
        return (
            type(model) is GAN
            and type(model.generator) in GENERATORS
            and type(model.critic) in CRITICS
            and not (model.critic.spectral or model.num_classes or model.r1 or model.r2)
            and not (model.clip_weights or model.instance_noise)
            and model.objective in (NonSaturating(), Wasserstein())
            and is_written(model.critic_optimizer)
        )

    def from_flax(self, params) -> None:
        self.gen.from_flax(params["gen"])
        self.critic.from_flax(params["critic"])

    def latents(self, num: int) -> torch.Tensor:
        return torch.randn(num, self.model.latent)

    def critic_loss(self, real: torch.Tensor, fake: torch.Tensor, u: torch.Tensor | None = None) -> torch.Tensor:
        """u: f32[B] in [0, 1), where between fake and real the gradient is penalized; drawn when not given."""
        on_real, on_fake = self.critic(real), self.critic(fake)
        if self.model.objective == Wasserstein():
            loss = on_fake.mean() - on_real.mean()
        else:
            loss = F.softplus(-on_real).mean() + F.softplus(on_fake).mean()
        if not self.model.gradient_penalty:
            return loss
        u = (torch.rand(len(real)) if u is None else u).view(-1, *[1] * (real.ndim - 1))
        x = (fake + u * (real - fake)).requires_grad_()
        (grads,) = torch.autograd.grad(self.critic(x).sum(), x, create_graph=True)
        return loss + self.model.gradient_penalty * ((grads.flatten(1).norm(dim=1) - 1) ** 2).mean()

    def generator_loss(self, fake: torch.Tensor) -> torch.Tensor:
        logits = self.critic(fake)
        return -logits.mean() if self.model.objective == Wasserstein() else F.softplus(-logits).mean()

    def sample(self, num: int, cond=None) -> torch.Tensor:
        return self.gen(self.latents(num))


class GANTrainer:
    """`n_critic` steps of the critic, each on its own part of the batch, then one of the generator."""

    def __init__(self, module: TorchGAN):
        self.module, model = module, module.model
        self.gen = Descent(model.optimizer, module.gen.parameters(), model.ema_decay)
        self.critic = Descent(model.critic_optimizer, module.critic.parameters())

    def step(self, x: torch.Tensor, cond=None) -> torch.Tensor:
        module = self.module
        for real in x.chunk(module.model.n_critic):
            with torch.no_grad():
                fake = module.gen(module.latents(len(real)))
            loss = module.critic_loss(real, fake)
            self.critic.step(loss)
        self.gen.step(module.generator_loss(module.gen(module.latents(len(real)))))
        return loss.detach()
