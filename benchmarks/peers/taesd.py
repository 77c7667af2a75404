"""TAEF2, a tiny autoencoder of the TAESD family, as PyTorch modules whose names are those of its files."""

from itertools import chain
from pathlib import Path

import numpy as np
import torch
from torch import nn

WIDTH, LATENT = 64, 32


def conv(inputs: int, outputs: int, stride: int = 1, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=bias)


class Block(nn.Module):
    def __init__(self, pool: bool):
        super().__init__()
        inner = (conv(WIDTH, WIDTH), nn.ReLU(), conv(WIDTH, WIDTH), nn.ReLU(), conv(WIDTH, WIDTH))
        self.conv = nn.Sequential(*inner)
        self.pool = None
        if pool:
            up, down = (nn.Conv2d(*widths, 1, bias=False) for widths in ((WIDTH, 4 * WIDTH), (4 * WIDTH, WIDTH)))
            self.pool = nn.Sequential(up, nn.GroupNorm(4, 4 * WIDTH), nn.ReLU(), down)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x if self.pool is None else x + self.pool(x)
        return torch.relu(x + self.conv(x))


class Clamp(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 3 * torch.tanh(x / 3)


def autoencoder(folder: Path) -> tuple[nn.Module, nn.Module]:
    """The encoder and the decoder of the files in a folder."""
    halve = [[conv(WIDTH, WIDTH, 2, bias=False), *(Block(i == 2) for _ in range(3))] for i in range(3)]
    double = [
        [*(Block(i == 0) for _ in range(3)), nn.Upsample(scale_factor=2), conv(WIDTH, WIDTH, bias=False)]
        for i in range(3)
    ]
    encoder = nn.Sequential(conv(3, WIDTH), Block(False), *chain(*halve), conv(WIDTH, LATENT))
    decoder = nn.Sequential(
        Clamp(), conv(LATENT, WIDTH), nn.ReLU(), *chain(*double), Block(False), conv(WIDTH, 3)
    )  # fmt: skip
    for part, network in (("encoder", encoder), ("decoder", decoder)):
        network.load_state_dict(torch.load(folder / f"taef2_{part}.pth", weights_only=True))
    return encoder.float(), decoder.float()


@torch.no_grad()
def round_trip(networks: tuple[nn.Module, nn.Module], images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Latents f32[B, h, w, 32] of uint8[B, H, W, 3], and what comes back in [0, 1]."""
    z = networks[0](torch.from_numpy(images / np.float32(255)).permute(0, 3, 1, 2))
    back = networks[1](z).clamp(0, 1)
    return z.permute(0, 2, 3, 1).numpy(), back.permute(0, 2, 3, 1).numpy()
