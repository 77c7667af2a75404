"""The library's optimizer settings as PyTorch's optimizers."""

import math

import torch
from torch import nn


class Descent:
    """Steps of one optimizer on one network's parameters, and their average where one is kept."""

    def __init__(self, settings, params, ema_decay: float = 0.0):
        self.params, self.clip, self.ema_decay, self.steps = list(params), settings.clip, ema_decay, 0
        self.optimizer, self.scheduler = optimizer_of(settings, self.params)
        self.ema = [p.detach().clone() for p in self.params] if ema_decay else None

    def step(self, loss: torch.Tensor) -> None:
        """One step down `loss`, whose gradients by other parameters are not computed."""
        self.optimizer.zero_grad()
        loss.backward(inputs=self.params)
        if self.clip:
            nn.utils.clip_grad_norm_(self.params, self.clip)
        self.optimizer.step()
        if self.scheduler is not None:
            self.scheduler.step()
        if self.ema is not None:
            decay = min(self.ema_decay, (1 + self.steps) / (10 + self.steps))
            with torch.no_grad():
                torch._foreach_lerp_(self.ema, self.params, 1 - decay)
        self.steps += 1


def is_written(settings) -> bool:
    """Whether `optimizer_of` knows these settings."""
    return type(settings).__name__ == "Adam"


def optimizer_of(settings, params):
    """`torch.optim.Adam` or AdamW for a jaxgen.optim.Adam, and the scheduler of a rate that is not constant."""
    kwargs = {"lr": settings.lr, "betas": (settings.b1, settings.b2), "eps": settings.eps}
    if settings.weight_decay:
        optimizer = torch.optim.AdamW(params, weight_decay=settings.weight_decay, **kwargs)
    else:
        optimizer = torch.optim.Adam(params, **kwargs)
    if not settings.warmup and not settings.decay_steps:
        return optimizer, None

    def factor(step: int) -> float:
        if step < settings.warmup:
            return (step + 1) / settings.warmup
        if not settings.decay_steps:
            return 1.0
        progress = min(1.0, (step - settings.warmup) / max(1, settings.decay_steps - settings.warmup))
        return settings.final + (1 - settings.final) * 0.5 * (1 + math.cos(math.pi * progress))

    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
