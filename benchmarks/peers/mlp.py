"""The small regression of `cases.py` in eager PyTorch."""

import torch
import torch.nn.functional as F
from cases import Regression
from torch import nn

from peers.layers import MLP


class TorchRegression(nn.Module):
    def __init__(self, model: Regression):
        super().__init__()
        self.network = MLP((2,), model.network.hidden, (2,))

    @staticmethod
    def has(model) -> bool:
        return type(model) is Regression

    def from_flax(self, params) -> None:
        self.network.from_flax(params["network"])

    def loss(self, x: torch.Tensor, cond=None, step: int = 0) -> torch.Tensor:
        return F.mse_loss(self.network(x), torch.sin(3 * x))
