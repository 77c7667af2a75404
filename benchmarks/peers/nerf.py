"""The radiance field of arXiv:2003.08934 in eager PyTorch: the network, both passes along rays, the loss."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from jaxgen.models.nerf import NeRF
from jaxgen.nets.nerf import NeRFMLP
from peers.layers import Linear

FLOOR = 1e-5


class TorchNeRF(nn.Module):
    """`cond` are rays f32[B, 9], the examples' colours in [0, 1] lie over the model's background."""

    def __init__(self, model: NeRF):
        super().__init__()
        self.model = model
        self.networks = nn.ModuleDict({name: Network(model.network) for name in model.networks()})
        self.register_buffer("background", torch.tensor(model.background))

    @staticmethod
    def has(model) -> bool:
        plain = type(model) is NeRF and type(model.network) is NeRFMLP and model.box and not model.shared
        return plain and not (
            model.cone or model.occupancy.resolution or model.disparity or model.random_background
            or model.distortion_weight
        )  # fmt: skip

    def from_flax(self, params) -> None:
        for name, network in self.networks.items():
            network.from_flax(params[name])

    def ends(self, rays: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Where rays are in the box, f32[B] twice."""
        origin, direction, near, far = rays[:, :3], rays[:, 3:6], rays[:, 6], rays[:, 7]
        slope = torch.where(direction.abs() < 1e-9, torch.full_like(direction, 1e-9), direction)
        one, two = (-self.model.bound - origin) / slope, (self.model.bound - origin) / slope
        enters = torch.maximum(torch.minimum(one, two).amax(-1), near)
        leaves = torch.minimum(torch.maximum(one, two).amin(-1), far)
        met = enters < leaves
        return torch.where(met, enters, far), torch.where(met, leaves, far)

    def along(self, name: str, rays: torch.Tensor, s: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Weights f32[B, N] and colours f32[B, 3] of the intervals with the edges s."""
        near, far = self.ends(rays)
        t = near[:, None] + (far - near)[:, None] * s
        middle = (t[:, 1:] + t[:, :-1]) / 2
        x = (rays[:, None, :3] + rays[:, None, 3:6] * middle[..., None]) / self.model.bound
        sigma, rgb = self.networks[name](x, rays[:, None, 3:6].expand_as(x))
        tau = sigma * torch.diff(t, dim=-1)
        w = -torch.expm1(-tau) * torch.exp(-F.pad(torch.cumsum(tau, -1)[:, :-1], (1, 0)))
        return w, (w[..., None] * rgb).sum(1) + (1 - w.sum(-1))[:, None] * self.background

    def passes(self, rays: torch.Tensor, random: bool) -> list[torch.Tensor]:
        """The colours of each pass, f32[B, 3], the one that counts last."""
        num, fine = self.model.coarse, self.model.fine
        place = torch.arange(num + 1.0).expand(len(rays), -1)
        if random:
            place = (place + torch.rand(len(rays), num + 1) - 0.5).clamp(0, num)
        s = place / num
        if not fine:
            return [self.along("field", rays, s)[1]]
        w, first = self.along("coarse", rays, s)
        s = torch.cat([s, resample(s, w.detach(), fine + 1, random)], -1).sort(-1).values
        return [first, self.along("fine", rays, s)[1]]

    def loss(self, x: torch.Tensor, cond: torch.Tensor, step: int = 0) -> torch.Tensor:
        *others, last = self.passes(cond, True)
        return F.mse_loss(last, x) + self.model.coarse_weight * sum(F.mse_loss(rgb, x) for rgb in others)

    def sample(self, num: int, cond: torch.Tensor) -> torch.Tensor:
        """Colours along rays, `chunk` of them at a time."""
        return torch.cat([self.passes(rays, False)[-1] for rays in cond.split(self.model.chunk)])


class Network(nn.Module):
    def __init__(self, net: NeRFMLP):
        super().__init__()
        self.net = net
        place, direction = 3 + 6 * net.position_frequencies, 3 + 6 * net.direction_frequencies
        inputs = [place] + [net.width + place * (i == net.skip) for i in range(1, net.depth)]
        self.layers = nn.ModuleList(Linear(i, net.width) for i in inputs)
        self.density, self.feature = Linear(net.width, 1), Linear(net.width, net.width)
        self.colour = nn.ModuleList([Linear(net.width + direction, net.width // 2), Linear(net.width // 2, 3)])

    def forward(self, x: torch.Tensor, d: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        place = encoded(x, self.net.position_frequencies)
        h = place
        for i, layer in enumerate(self.layers, 1):
            h = F.relu(layer(h))
            if i == self.net.skip and i < self.net.depth:
                h = torch.cat([h, place], -1)
        sigma = F.softplus(self.density(h)[..., 0] + self.net.shift)
        h = torch.cat([self.feature(h), encoded(d, self.net.direction_frequencies)], -1)
        return sigma, torch.sigmoid(self.colour[1](F.relu(self.colour[0](h))))

    def from_flax(self, params) -> None:
        for i, layer in enumerate(self.layers):
            layer.from_flax(params[f"Dense_{i}"])
        self.density.from_flax(params["density"])
        self.feature.from_flax(params["feature"])
        for i, layer in enumerate(self.colour):
            layer.from_flax(params["Colour_0"][f"Dense_{i}"])


def encoded(x: torch.Tensor, num: int) -> torch.Tensor:
    scale = math.pi * 2.0 ** torch.arange(num)
    angles = (x[..., None, :] * scale[:, None]).flatten(-2)
    return torch.cat([x, angles.sin(), angles.cos()], -1)


def resample(s: torch.Tensor, w: torch.Tensor, num: int, random: bool) -> torch.Tensor:
    """f32[B, num] places with the density of w on the edges s, by the inverse of its distribution function."""
    pdf = w + FLOOR
    cdf = F.pad(torch.cumsum(pdf / pdf.sum(-1, keepdim=True), -1).clamp(max=1.0), (1, 0))
    cdf[:, -1] = 1.0
    offset = torch.rand(len(s), num) if random else torch.full((len(s), num), 0.5)
    u = (torch.arange(num) + offset) / num
    above = torch.searchsorted(cdf, u, right=True).clamp(1, s.shape[-1] - 1)
    low, high, start, end = (a.gather(-1, i) for a in (cdf, s) for i in (above - 1, above))
    return start + ((u - low) / (high - low).clamp(min=1e-12)).clamp(0, 1) * (end - start)
