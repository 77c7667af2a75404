"""The same models in plain PyTorch, to compare speed with and to test against.

A peer is looked up by the types of the model and its networks, so every preset of a family that has one is compared.
They are written as one would write them in PyTorch: eager or by torch.compile, `torch.optim.Adam` as it comes, NCHW or
channels-last.
"""

import os
import shutil

import torch
from torch import nn

from jaxgen.data.text import Windows
from peers.ddpm import TorchDDPM
from peers.gan import GANTrainer, TorchGAN
from peers.gpt import TorchGPT
from peers.layers import Codec, has_codec
from peers.mlp import TorchRegression
from peers.nerf import TorchNeRF
from peers.optim import Descent, is_written
from peers.vae import TorchVAE

FAMILIES = (TorchVAE, TorchDDPM, TorchGAN, TorchGPT, TorchNeRF, TorchRegression)
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


class Peer:
    """Training and sampling of one experiment in PyTorch, from the same parameters.

    The data is kept in memory as f32, where the library gathers uint8; both encode it anew at each step.
    """

    def __init__(self, experiment, params, layout: str = "contiguous"):
        self.model, self.codec, self.batch_size = experiment.model, Codec(experiment.codec), experiment.batch_size
        self.module = module_of(self.model)
        self.module.from_flax(params)
        data = experiment.data.arrays("train")
        x = Tokens(data) if isinstance(data, Windows) else torch.tensor(data["x"], dtype=torch.float32)
        self.format = LAYOUTS[layout]
        if isinstance(x, torch.Tensor) and x.ndim == 4:
            self.module.to(memory_format=self.format)
            x = x.movedim(-1, 1).contiguous(memory_format=self.format)
        labelled, self.rays = getattr(self.model, "num_classes", 0), isinstance(self.module, TorchNeRF)
        self.x, self.cond = x, torch.tensor(data["cond"], dtype=torch.long) if labelled else None
        if self.rays:
            self.cond = torch.tensor(data["cond"])
        adversarial = isinstance(self.module, TorchGAN)
        self.trainer = GANTrainer(self.module) if adversarial else Trainer(self.module, self.model)

    def step(self) -> torch.Tensor:
        """One step of training on a random batch."""
        index = torch.randint(0, len(self.x), (self.batch_size,))
        cond = None if self.cond is None else self.cond[index]
        return self.trainer.step(self.codec.encode(self.x[index]), cond)

    def compiled(self) -> "Peer":
        """This peer with the loss and each network compiled; optimizers stay as they come."""
        if isinstance(self.trainer, GANTrainer):
            self.module.gen.compile()
            self.module.critic.compile()
        else:
            self.module.loss = torch.compile(self.module.loss)
            for network in self.module.children():
                network.compile()
        return self

    @torch.inference_mode()
    def sample(self, num: int) -> torch.Tensor:
        """`num` samples as raw data, of the classes in runs where the model has classes, or along the first rays."""
        self.module.eval()
        if self.rays:
            cond = self.cond[torch.arange(num) % len(self.cond)]
        else:
            cond = None if self.cond is None else torch.arange(num) * self.model.num_classes // num
        kwargs = {"memory_format": self.format} if isinstance(self.module, TorchDDPM) else {}
        return self.codec.decode(self.module.sample(num, cond, **kwargs))


class Tokens:
    """Windows of text in memory, by index: i64[B, block + 1]."""

    def __init__(self, data: Windows):
        self.tokens, self.stride, self.count = torch.tensor(data.tokens.astype("int64")), data.stride, len(data)
        self.window = torch.arange(data.block + 1)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: torch.Tensor) -> torch.Tensor:
        return self.tokens[index[:, None] * self.stride + self.window]


class Trainer:
    """Steps down one loss."""

    def __init__(self, module: nn.Module, model):
        self.module = module
        self.descent = Descent(model.optimizer, module.parameters(), model.ema_decay)

    def step(self, x: torch.Tensor, cond: torch.Tensor | None) -> torch.Tensor:
        loss = self.module.loss(x, cond, self.descent.steps)
        self.descent.step(loss)
        return loss.detach()


def use_all_cores() -> None:
    """As many threads as the library's own: one a core."""
    torch.set_num_threads(os.cpu_count() or 1)


def cannot_compile() -> str:
    """Why torch.compile cannot work here, "" if it may: inductor writes C++ for a CPU, and Triton for a GPU."""
    if torch.cuda.is_available() or shutil.which(os.environ.get("CXX", "g++")) or shutil.which("clang++"):
        return ""
    return "torch.compile needs a C++ compiler, none is here"


def layouts(experiment) -> tuple[str, ...]:
    """The memory formats worth trying: both for networks with convolutions."""
    modules = module_of(experiment.model).modules()
    return tuple(LAYOUTS) if any(isinstance(m, nn.Conv2d | nn.ConvTranspose2d) for m in modules) else ("contiguous",)


def has_peer(experiment) -> bool:
    """Whether every part of the experiment is written here."""
    model = experiment.model
    return (
        any(family.has(model) for family in FAMILIES)
        and is_written(model.optimizer)
        and has_codec(experiment.codec)
        and experiment.precision == "float32"
        and isinstance(experiment.data.arrays("train"), dict | Windows)
    )


def module_of(model) -> nn.Module:
    return next(family for family in FAMILIES if family.has(model))(model)
