"""The same models in plain PyTorch, to compare speed with and to test against.

A peer is looked up by the types of the model and its networks, so every preset of a family that has one is compared.
They are written as one would write them in PyTorch: eager, `torch.optim.Adam` as it comes, NCHW or channels-last.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

from jaxgen.models.ddpm import DDPM
from jaxgen.models.vae import VAE
from jaxgen.optim import Adam, Optimizer
from peers.ddpm import TorchDDPM
from peers.layers import MLP, Codec, has_codec
from peers.vae import TorchVAE

FAMILIES = (TorchVAE, TorchDDPM)
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


class Peer:
    """Training and sampling of one experiment in PyTorch.

    data: the experiment's arrays, kept as f32 in memory (the library gathers uint8), encoded anew at each step.
    """

    def __init__(self, experiment, params, data, layout: str = "contiguous"):
        model = experiment.compute_model
        self.module = module_of(model)
        self.module.from_flax(params)
        self.model, self.codec, self.batch_size = model, Codec(experiment.codec), experiment.batch_size
        self.format = LAYOUTS[layout] if data["x"].ndim == 4 else torch.contiguous_format
        if data["x"].ndim == 4:
            self.module.to(memory_format=self.format)
        x = torch.from_numpy(data["x"]).float()
        self.x = (x.movedim(-1, 1) if x.ndim == 4 else x).contiguous(memory_format=self.format)
        labelled = getattr(model, "num_classes", 0)
        self.cond = torch.from_numpy(data["cond"]).long() if labelled else None
        self.optimizer, self.scheduler = optimizer_of(model.optimizer, self.module.parameters())
        self.decay = model.ema_decay
        self.ema = [p.detach().clone() for p in self.module.parameters()] if self.decay else None
        self.steps = 0

    def step(self) -> torch.Tensor:
        """One step of training on a random batch."""
        index = torch.randint(0, len(self.x), (self.batch_size,))
        x = self.codec.encode(self.x[index])
        cond = None if self.cond is None else self.cond[index]
        loss = self.module.loss(x, cond, self.steps)
        self.optimizer.zero_grad()
        loss.backward()
        if self.model.optimizer.clip:
            nn.utils.clip_grad_norm_(self.module.parameters(), self.model.optimizer.clip)
        self.optimizer.step()
        if self.scheduler is not None:
            self.scheduler.step()
        if self.ema is not None:
            decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
            with torch.no_grad():
                torch._foreach_lerp_(self.ema, list(self.module.parameters()), 1 - decay)
        self.steps += 1
        return loss.detach()

    @torch.inference_mode()
    def sample(self, num: int) -> torch.Tensor:
        """`num` samples as raw data."""
        self.module.eval()
        cond = None if self.cond is None else torch.arange(num) * self.model.num_classes // num
        kwargs = {"memory_format": self.format} if isinstance(self.module, TorchDDPM) else {}
        return self.codec.decode(self.module.sample(num, cond, **kwargs))


def layouts(experiment) -> tuple[str, ...]:
    """The memory formats worth trying: both for networks with convolutions."""
    modules = module_of(experiment.compute_model).modules()
    return tuple(LAYOUTS) if any(isinstance(m, nn.Conv2d | nn.ConvTranspose2d) for m in modules) else ("contiguous",)


def has_peer(experiment) -> bool:
    """Whether every part of the experiment is written here."""
    model = experiment.compute_model
    return (
        any(family.has(model) for family in FAMILIES)
        and type(model.optimizer) is Adam
        and model.optimizer.accumulate == 1
        and has_codec(experiment.codec)
        and experiment.precision == "float32"
    )


def module_of(model) -> nn.Module:
    return next(family for family in FAMILIES if family.has(model))(model)


def optimizer_of(settings: Optimizer, params):
    """`torch.optim.Adam` or AdamW, and the scheduler of a rate that is not constant."""
    kind, kwargs = (torch.optim.AdamW, {"weight_decay": settings.weight_decay}) if settings.weight_decay else (torch.optim.Adam, {})
    optimizer = kind(params, lr=settings.lr, betas=(settings.b1, settings.b2), eps=settings.eps, **kwargs)
    if not settings.warmup and not settings.decay_steps:
        return optimizer, None

    def factor(step: int) -> float:
        if step < settings.warmup:
            return step / settings.warmup
        if not settings.decay_steps:
            return 1.0
        progress = min(1.0, (step - settings.warmup) / max(1, settings.decay_steps - settings.warmup))
        return settings.final + (1 - settings.final) * 0.5 * (1 + math.cos(math.pi * progress))

    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
