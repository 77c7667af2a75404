"""The U-Net, loss and samplers of jaxgen.models.ddpm in eager PyTorch."""

import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from jaxgen.models.ddpm import DDPM
from jaxgen.nets import unet
from peers.layers import Conv, GroupNorm, Linear


def time_embedding(t: torch.Tensor, dim: int, longest: float = 10_000.0) -> torch.Tensor:
    frequency = torch.exp(-math.log(longest) / (dim // 2) * torch.arange(dim // 2, device=t.device))
    angle = t[:, None].float() * frequency[None]
    return torch.cat([angle.cos(), angle.sin()], 1)


class ResBlock(nn.Module):
    def __init__(self, inputs: int, features: int, embed_dim: int, dropout: float):
        super().__init__()
        self.norm0, self.conv0 = GroupNorm(inputs), Conv(inputs, features)
        self.time = Linear(embed_dim, features)
        self.norm1, self.conv1 = GroupNorm(features), Conv(features, features)
        self.dropout = nn.Dropout(dropout)
        self.skip = nn.Conv2d(inputs, features, 1) if inputs != features else None

    def forward(self, x: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        h = self.conv0(F.silu(self.norm0(x)))
        h = h + self.time(F.silu(embedding))[:, :, None, None]
        h = self.conv1(self.dropout(F.silu(self.norm1(h))))
        return (x if self.skip is None else self.skip(x)) + h

    def from_flax(self, params) -> None:
        for i, (norm, conv) in enumerate([(self.norm0, self.conv0), (self.norm1, self.conv1)]):
            norm.from_flax(params[f"GroupNorm_{i}"])
            conv.from_flax(params[f"Conv_{i}"])
        self.time.from_flax(params["Dense_0"])
        if self.skip is not None:
            with torch.no_grad():
                self.skip.weight.copy_(torch.from_numpy(np.array(params["skip"]["kernel"]).T[:, :, None, None]))
                self.skip.bias.copy_(torch.from_numpy(np.array(params["skip"]["bias"])))


class AttentionBlock(nn.Module):
    def __init__(self, channels: int, head_dim: int):
        super().__init__()
        self.heads = max(1, channels // head_dim)
        self.norm, self.qkv, self.out = GroupNorm(channels), Linear(channels, 3 * channels), Linear(channels, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, channels, height, width = x.shape
        h = self.norm(x).flatten(2).transpose(1, 2)
        qkv = self.qkv(h).view(batch, height * width, self.heads, 3 * channels // self.heads)
        q, k, v = qkv.transpose(1, 2).chunk(3, -1)
        h = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, height * width, channels)
        return x + self.out(h).transpose(1, 2).reshape(x.shape)

    def from_flax(self, params) -> None:
        self.norm.from_flax(params["GroupNorm_0"])
        self.qkv.from_flax(params["qkv"])
        self.out.from_flax(params["out"])


class UNet(nn.Module):
    """The network of `net`, a jaxgen.nets.unet.UNet, for images of `shape` = (H, W, C)."""

    def __init__(self, net: unet.UNet, shape: tuple[int, int, int], num_classes: int = 0):
        super().__init__()
        self.width = net.width
        embed_dim = 4 * net.width
        self.time0, self.time1 = Linear(net.width, embed_dim), Linear(embed_dim, embed_dim)
        self.label = Linear(num_classes, embed_dim, bias=False) if num_classes else None

        def block(inputs: int, features: int, height: int) -> nn.ModuleList:
            layers = [ResBlock(inputs, features, embed_dim, net.dropout)]
            if height in net.attention:
                layers.append(AttentionBlock(features, net.head_dim))
            return nn.ModuleList(layers)

        self.stem = Conv(shape[2], net.width)
        channels, skips, height = net.width, [net.width], shape[0]
        self.down = nn.ModuleList()
        for level, mult in enumerate(net.mults):
            blocks = nn.ModuleList()
            for _ in range(net.blocks):
                blocks.append(block(channels, net.width * mult, height))
                channels = net.width * mult
                skips.append(channels)
            shrink = None
            if level < len(net.mults) - 1:
                shrink = Conv(channels, channels, 3, 2)
                skips.append(channels)
                height //= 2
            self.down.append(nn.ModuleDict({"blocks": blocks} | ({"shrink": shrink} if shrink else {})))

        self.middle_in = ResBlock(channels, channels, embed_dim, net.dropout)
        self.middle_attention = AttentionBlock(channels, net.head_dim)
        self.middle_out = ResBlock(channels, channels, embed_dim, net.dropout)

        self.up = nn.ModuleList()
        for level, mult in reversed(list(enumerate(net.mults))):
            blocks = nn.ModuleList()
            for _ in range(net.blocks + 1):
                blocks.append(block(channels + skips.pop(), net.width * mult, height))
                channels = net.width * mult
            grow = None
            if level:
                grow = Conv(channels, channels)
                height *= 2
            self.up.append(nn.ModuleDict({"blocks": blocks} | ({"grow": grow} if grow else {})))
        self.out_norm, self.out = GroupNorm(channels), Conv(channels, shape[2])

    def forward(self, x: torch.Tensor, t: torch.Tensor, y: torch.Tensor | None = None) -> torch.Tensor:
        embedding = self.time1(F.silu(self.time0(time_embedding(t, self.width))))
        if y is not None:
            embedding = embedding + self.label(y)

        def run(block: nn.ModuleList, h: torch.Tensor) -> torch.Tensor:
            h = block[0](h, embedding)
            return block[1](h) if len(block) > 1 else h

        h = self.stem(x)
        skips = [h]
        for level in self.down:
            for block in level["blocks"]:
                h = run(block, h)
                skips.append(h)
            if "shrink" in level:
                h = level["shrink"](h)
                skips.append(h)
        h = self.middle_out(self.middle_attention(self.middle_in(h, embedding)), embedding)
        for level in self.up:
            for block in level["blocks"]:
                h = run(block, torch.cat([h, skips.pop()], 1))
            if "grow" in level:
                h = level["grow"](F.interpolate(h, scale_factor=2.0, mode="nearest"))
        return self.out(F.silu(self.out_norm(h)))

    def from_flax(self, params) -> None:
        self.time0.from_flax(params["Dense_0"])
        self.time1.from_flax(params["Dense_1"])
        if self.label is not None:
            self.label.from_flax(params["label"])
        self.stem.from_flax(params["Conv_0"])
        # Flax numbers its blocks in the order of use: the way down, then the way up; the middle has names.
        blocks = [block for level in (*self.down, *self.up) for block in level["blocks"]]
        for i, block in enumerate(blocks):
            block[0].from_flax(params[f"ResBlock_{i}"])
        for i, block in enumerate(block for block in blocks if len(block) > 1):
            block[1].from_flax(params[f"AttentionBlock_{i}"])
        for i, level in enumerate(self.down):
            if "shrink" in level:
                level["shrink"].from_flax(params[f"down{i}"])
        for i, level in zip(reversed(range(len(self.up))), self.up):
            if "grow" in level:
                level["grow"].from_flax(params[f"up{i}"])
        for name in ("middle_in", "middle_attention", "middle_out", "out_norm", "out"):
            getattr(self, name).from_flax(params[name])


class TorchDDPM(nn.Module):
    """Network, loss and sampler of one `DDPM`."""

    def __init__(self, model: DDPM):
        super().__init__()
        self.model = model
        self.network = UNet(model.network, model.shape, model.num_classes)
        alpha, sigma = model.schedule.table()
        self.register_buffer("alpha", torch.tensor(alpha, dtype=torch.float32), persistent=False)
        self.register_buffer("sigma", torch.tensor(sigma, dtype=torch.float32), persistent=False)

    @staticmethod
    def has(model) -> bool:
        """Whether `model` is the DDPM of arXiv:2006.11239 with none of the later options."""
        if type(model) is not DDPM or type(model.network) is not unet.UNet:
            return False
        net = model.network
        later = [net.scale_shift, net.resample_blocks, net.cross_attention, net.patch > 1]
        later += [model.class_dropout, model.min_snr]
        return not any(later) and (model.objective, model.kind) == ("simple", "eps") and not model.importance

    def from_flax(self, params) -> None:
        self.network.from_flax(params["network"])

    def label(self, cond: torch.Tensor | None) -> torch.Tensor | None:
        return F.one_hot(cond, self.model.num_classes).float() if self.model.num_classes else None

    def predict(self, x: torch.Tensor, t: torch.Tensor, y: torch.Tensor | None = None) -> torch.Tensor:
        return self.network(x, t * (1000 / self.model.schedule.num_steps), y)

    def loss(self, x: torch.Tensor, cond: torch.Tensor | None = None, step: int = 0, t=None, eps=None) -> torch.Tensor:
        t = torch.randint(0, len(self.alpha), (len(x),), device=x.device) if t is None else t
        eps = torch.randn_like(x) if eps is None else eps
        noisy = self.alpha[t][:, None, None, None] * x + self.sigma[t][:, None, None, None] * eps
        return F.mse_loss(self.predict(noisy, t, self.label(cond)), eps)

    def sample(
        self,
        num: int,
        cond: torch.Tensor | None = None,
        device=None,
        noise: Callable[[int], torch.Tensor] | None = None,
        memory_format: torch.memory_format = torch.contiguous_format,
    ) -> torch.Tensor:
        """`noise(i)` replaces the draw of step i (0 is the start) in tests."""
        height, width, channels = self.model.shape
        if noise is None:

            def noise(i: int) -> torch.Tensor:
                z = torch.randn(num, channels, height, width, device=device)
                return z.contiguous(memory_format=memory_format)

        sampler, schedule, y = self.model.sampler, self.model.schedule, self.label(cond)
        table = sampler.table(schedule)
        alpha, sigma = schedule.levels(table.t)
        rows = np.stack([alpha, sigma, table.a, table.b, table.c], 1).tolist()
        x = noise(0)
        for i, (t, (alpha, sigma, a, b, c)) in enumerate(zip(table.t.tolist(), rows)):
            eps = self.predict(x, torch.full((num,), t, device=device), y)
            x0 = (x - sigma * eps) / alpha
            if sampler.clip:
                x0 = x0.clamp(-sampler.clip, sampler.clip)
            x = a * x0 + b * x
            if table.c.any():
                x = x + c * noise(i + 1)
        return x
