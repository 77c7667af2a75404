"""GPT in eager PyTorch, as one writes it, with fused attention; and transformers' GPT-2 with the same weights."""

import contextlib
import os
import tempfile
import warnings
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from jaxgen.models.gpt import GPT
from jaxgen.nets.transformer import Transformer
from jaxgen.weights import gpt2
from peers.inception import import_torchvision
from peers.layers import Linear, copy


class Block(nn.Module):
    """Attention and an MLP, before or after a layer norm."""

    def __init__(self, body: Transformer):
        super().__init__()
        width, hidden = body.width, body.hidden or 4 * body.width
        self.heads, self.pre_norm, self.dropout = body.heads, body.pre_norm, body.dropout
        self.norm_self, self.norm_mlp = (nn.LayerNorm(width, bias=body.bias) for _ in range(2))
        self.qkv, self.out = Linear(width, 3 * width, body.bias), Linear(width, width, body.bias)
        self.up, self.down = Linear(width, hidden, body.bias), Linear(hidden, width, body.bias)

    def attend(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, width = x.shape
        # (head, which of three, channel), as the library has them.
        q, k, v = self.qkv(x).view(batch, length, self.heads, 3, -1).permute(3, 0, 2, 1, 4)
        dropout = self.dropout if self.training else 0.0
        h = F.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=dropout)
        return self.out(h.transpose(1, 2).reshape(batch, length, width))

    def mlp(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(F.gelu(self.up(x), approximate="tanh"))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for norm, part in ((self.norm_self, self.attend), (self.norm_mlp, self.mlp)):
            h = F.dropout(part(norm(x) if self.pre_norm else x), self.dropout, self.training)
            x = x + h if self.pre_norm else norm(x + h)
        return x

    def from_flax(self, params, i: int) -> None:
        for name in ("norm_self", "norm_mlp"):
            from_norm(getattr(self, name), {key: array[i] for key, array in params[name].items()})
        for part, names in (("self_attention", ("qkv", "out")), ("token_mlp", ("up", "down"))):
            for name in names:
                getattr(self, name).from_flax({key: array[i] for key, array in params[part][name].items()})


class TorchGPT(nn.Module):
    """Network and loss of one `GPT` of text."""

    def __init__(self, model: GPT):
        super().__init__()
        net = model.network
        body = net.body
        self.tokens, self.positions = nn.Embedding(net.vocab, body.width), nn.Embedding(net.window, body.width)
        self.blocks = nn.ModuleList(Block(body) for _ in range(body.depth))
        self.norm = nn.LayerNorm(body.width, bias=body.bias)
        self.head = self.tokens.weight if net.tied else nn.Parameter(torch.empty(net.vocab, body.width))
        self.dropout = body.dropout

    @staticmethod
    def has(model) -> bool:
        if type(model) is not GPT or model.from_start:
            return False
        body = model.network.body
        plain = not (body.rms or body.swiglu or body.rotary) and body.final_norm
        return plain and body.groups in (0, body.heads)

    def from_flax(self, params) -> None:
        params = params["network"]
        copy(self.tokens.weight, params["tokens"])
        copy(self.positions.weight, params["positions"])
        if "head" in params:
            copy(self.head, params["head"])
        for i, block in enumerate(self.blocks):
            block.from_flax(params["body"]["blocks"], i)
        from_norm(self.norm, params["body"]["norm"])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.tokens(x) + self.positions.weight[: x.shape[1]]
        h = F.dropout(h, self.dropout, self.training)
        for block in self.blocks:
            h = block(h)
        return F.linear(self.norm(h), self.head)

    def loss(self, x: torch.Tensor, cond=None, step: int = 0) -> torch.Tensor:
        logits = self(x[:, :-1])
        return F.cross_entropy(logits.flatten(0, 1), x[:, 1:].flatten())


def from_norm(norm: nn.LayerNorm, params) -> None:
    copy(norm.weight, params["scale"])
    if norm.bias is not None:
        copy(norm.bias, params["bias"])


def hugging_face(model: GPT, params):
    """transformers' GPT2LMHeadModel, which reads a file of these parameters, in evaluation mode."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing here is fetched
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its own imports
        with contextlib.suppress(ImportError):
            import_torchvision()
        from transformers import GPT2LMHeadModel
        from transformers.utils import logging

        logging.disable_progress_bar()
        with tempfile.TemporaryDirectory() as folder:
            gpt2.write(Path(folder) / "model.safetensors", model.network, params)
            return GPT2LMHeadModel.from_pretrained(folder).eval()


@torch.inference_mode()
def generate(theirs, prompt: np.ndarray, tokens: int) -> np.ndarray:
    """Its cached greedy text after prompts of one length, i64[N, P + tokens]."""
    ids = torch.tensor(prompt, dtype=torch.long)
    out = theirs.generate(
        ids, attention_mask=torch.ones_like(ids), do_sample=False, use_cache=True, max_new_tokens=tokens,
        min_new_tokens=tokens, eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    return out.cpu().numpy()
